"""Vectors and codes made elsewhere: files with one row per item token, checked and sorted by
RecBole's item ids.

| file | rows | tokens |
|---|---|---|
| .json | {token: [numbers]} | its keys |
| .npz | array `vectors` or `codes` (n, D) | array `tokens` (n,) |
| .npy | the array (n, D) | NAME.tokens.txt beside NAME.npy, one per line |
| .safetensors | tensor `vectors` or `codes` (n, D) | NAME.tokens.txt beside it, one per line |
"""

from __future__ import annotations

from collections import Counter
from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from recbole_mscgrec.semantic_ids.code_table import MISSING
from recbole_mscgrec.storage import arrays, files
from recbole_mscgrec.storage.errors import UserError, one_line

Tensor = torch.Tensor
_LARGEST_CODEBOOK = 1 << 16  # larger numbers are item ids or hashes, not codes
_READABLE = (".json", ".npz", ".npy", ".safetensors")
_DAMAGED = (OSError, ValueError, MemoryError, OverflowError, safetensors.SafetensorError)
_NAMED = 3  # number of wrong items that an error names


def given_vectors(path: str, modality: str, dataset: Any) -> tuple[Tensor, Tensor]:
    """Vectors float32 (N, D) from a file, and which items have one: bool (N,).

    Raises:
        UserError: the file is not as in the table above, repeats an item, has no item of the data
            set, or contains NaN or infinity.
    """
    where = f"vectors of {modality} ({path})"
    tokens, rows = _read(Path(path), "vectors", where)
    items, tokens, rows = _known(tokens, rows, dataset, where)
    rows = rows.float()
    _refuse(~torch.isfinite(rows).all(1), tokens, where, "hold NaN or infinity")
    table = torch.zeros(dataset.item_num, rows.size(1))
    table[items] = rows
    present = torch.zeros(dataset.item_num, dtype=torch.bool)
    present[items] = True
    return table, present


def given_codes(path: str, modality: str, dataset: Any) -> tuple[Tensor, Tensor]:
    """Codes long (N, L) from a file, MISSING for items that are not in it, and the number of
    codewords of each level (L,), one more than its largest code.

    Raises:
        UserError: see `given_vectors`; or a code is not an integer from 0 to 65,535.
    """
    where = f"codes of {modality} ({path})"
    tokens, rows = _read(Path(path), "codes", where)
    if rows.is_floating_point():
        raise UserError(f"{where} must be integers, not {rows.dtype}: codes number codewords.")
    items, tokens, rows = _known(tokens, rows.long(), dataset, where)
    outside = ((rows < 0) | (rows >= _LARGEST_CODEBOOK)).any(1)
    rule = f"have a code outside 0 to {_LARGEST_CODEBOOK - 1}; leave out items that have none"
    _refuse(outside, tokens, where, rule)
    table = torch.full((dataset.item_num, rows.size(1)), MISSING)
    table[items] = rows
    return table, rows.amax(0) + 1


def _refuse(wrong: Tensor, tokens: list[str], where: str, what: str) -> None:
    if wrong.any():
        named = ", ".join(tokens[i] for i in wrong.nonzero().flatten()[:_NAMED].tolist())
        raise UserError(f"{where}: {int(wrong.sum())} items {what}: first {named}.")


def _known(
    tokens: list[str], rows: Tensor, dataset: Any, where: str
) -> tuple[Tensor, list[str], Tensor]:
    """Ids, tokens and rows of the items that are in the data set."""
    twice = [token for token, n in Counter(tokens).items() if n > 1]
    if twice:
        named = ", ".join(twice[:_NAMED])
        raise UserError(f"{where}: {len(twice)} items occur more than once: first {named}.")
    ids = dataset.field2token_id[dataset.iid_field]
    items = torch.tensor([ids.get(token, 0) for token in tokens])  # 0: unknown, as it is padding
    known = items > 0
    n_known, n_items = int(known.sum()), dataset.item_num - 1
    if n_known == 0:
        raise UserError(
            f"{where} describe none of the data set's {n_items} items: the file's first tokens are "
            f"{tokens[:_NAMED]}, the data set's are {[str(t) for t in list(ids)[1 : 1 + _NAMED]]}."
        )
    getLogger().info(
        f"{where}: {n_known} of {n_items} items; {len(tokens) - n_known} tokens are unknown."
    )
    return items[known], [t for t, k in zip(tokens, known.tolist(), strict=True) if k], rows[known]


# --- reading --------------------------------------------------------------------------------------


def _read(path: Path, part: str, where: str) -> tuple[list[str], Tensor]:
    """Tokens (n) and rows (n, D), in the order of the file."""
    if not path.is_file() or path.suffix not in _READABLE:
        what = f"must be one of {', '.join(_READABLE)}" if path.is_file() else "does not exist"
        raise UserError(f"{where}: the file {what}.")
    try:
        if path.suffix == ".json":
            tokens, rows = _from_json(path, where)
        elif path.suffix == ".npz":
            tokens, rows = _from_npz(path, part, where)
        else:
            tokens = _tokens_beside(path, where)
            rows = _array(path, part, where, len(tokens))
    except UserError as error:
        raise error if str(error).startswith(where) else UserError(f"{where}: {error}") from error
    except _DAMAGED as error:
        raise UserError(f"{where}: the file is damaged ({one_line(error)}).") from error
    if rows.dim() != 2 or len(rows) != len(tokens) or rows.numel() == 0:
        raise UserError(
            f"{where} must have one row of numbers for each of the {len(tokens)} tokens, but their "
            f"shape is {tuple(rows.shape)}."
        )
    return tokens, rows


def _from_json(path: Path, where: str) -> tuple[list[str], Tensor]:
    pairs = files.read_json(path, pairs=True)  # a dict would hide duplicate items
    if not isinstance(pairs, tuple) or not pairs:
        raise UserError(f"{where} must be a JSON object of item token: [numbers].")
    tokens, rows = [token for token, _ in pairs], [row for _, row in pairs]
    width = len(rows[0]) if isinstance(rows[0], list) else 0
    wrong = [not _is_row(row, width) for row in rows]
    if any(wrong):
        first = [f"{t}: {r}" for t, r, w in zip(tokens, rows, wrong, strict=True) if w][:_NAMED]
        raise UserError(
            f"{where}: {sum(wrong)} items do not have a list of {width or 'some'} numbers; all "
            f"lists must be as long as the first one: {'; '.join(first)[:200]}."
        )
    return tokens, _tensor(np.array(rows), where)


def _is_row(row: Any, width: int) -> bool:
    return (
        isinstance(row, list)
        and len(row) == width > 0
        and all(type(number) in (int, float) for number in row)
    )


def _from_npz(path: Path, part: str, where: str) -> tuple[list[str], Tensor]:
    stored = arrays.read_npz(path, ("tokens", part))
    tokens = stored["tokens"]
    if tokens.dtype.kind == "S":
        tokens = np.char.decode(tokens, "utf-8")
    return [str(token) for token in tokens.ravel().tolist()], _tensor(stored[part], where)


def _array(path: Path, part: str, where: str, n_tokens: int) -> Tensor:
    if path.suffix == ".npy":
        return _tensor(arrays.read_npy(path, n_tokens), where)
    with safetensors.safe_open(path, framework="pt") as stored:
        if part not in stored.keys():
            raise UserError(f"{where} lacks the tensor {part!r}; it holds {stored.keys()}.")
        rows = stored.get_tensor(part)
    if rows.dtype == torch.bool or rows.is_complex():
        raise UserError(f"{where} must be numbers, not {rows.dtype}.")
    return rows


def _tensor(array: np.ndarray, where: str) -> Tensor:
    if array.dtype.kind not in "iuf":
        raise UserError(f"{where} must be numbers, not {array.dtype}.")
    kind = np.int64 if array.dtype.kind in "iu" else np.float32
    with np.errstate(over="ignore"):  # infinity is refused below
        return torch.from_numpy(array.astype(kind))


def _tokens_beside(path: Path, where: str) -> list[str]:
    file = path.with_suffix(".tokens.txt")
    if not file.is_file():
        raise UserError(f"{where}: {file} with one item token per line is missing.")
    return file.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")
