"""Checkpoints of plain tensors, numbers, strings, lists and dicts. They are written atomically and
read with `weights_only=True`, so loading one runs no code."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from recbole_mscgrec.storage import digest, files, nesting, schema
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.files import written_whole

_MOST_VALUES = 10_000_000  # in the lists and dicts of a checkpoint
_ARRAY, _SPARSE = "__numpy__", "__csr__"


def to_plain(value: Any) -> Any:
    """A copy of `value` in types that torch.load(weights_only=True) accepts; other types become
    strings."""
    if value is None or isinstance(value, (bool, int, float, str, torch.Tensor)):
        return float(value) if isinstance(value, np.floating) else value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {k if isinstance(k, (str, int)) else str(k): to_plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [to_plain(v) for v in value]
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return {_ARRAY: torch.from_numpy(np.ascontiguousarray(value))}
    if scipy.sparse.issparse(value):
        csr = value.tocsr()
        return {
            _SPARSE: [to_plain(a) for a in (csr.data, csr.indices, csr.indptr)],
            "shape": list(csr.shape),
        }
    return str(value)


def from_plain(value: Any) -> Any:
    """Restore numpy arrays and sparse matrices from the result of `to_plain`."""
    if isinstance(value, dict):
        if _ARRAY in value:
            return value[_ARRAY].numpy()
        if _SPARSE in value:
            parts = tuple(from_plain(a) for a in value[_SPARSE])
            return scipy.sparse.csr_matrix(parts, shape=tuple(value["shape"]))
        return {k: from_plain(v) for k, v in value.items()}
    return value


def save(path: str | Path, state: dict[str, Any], setting: str = "checkpoint_dir") -> None:
    """Write a checkpoint with a digest of its content. If the program is stopped, the old file
    remains. `setting` is the setting that names the folder, for the error. Raises CannotWrite."""
    with written_whole(path, setting) as temporary:
        torch.save({**state, digest.KEY: digest.digest_of(state)}, temporary)


def load(
    path: str | Path,
    device: torch.device | str = "cpu",
    rule: schema.Rule = schema.SAVED_MODEL,
    key: str = "model_file",
) -> dict[str, Any]:
    """Read a checkpoint without running code from it. `key` is the setting that names it.

    Raises:
        UserError: the file is missing or damaged, holds something other than plain values, has
            changed since it was written, or does not follow `rule`.
    """
    if not Path(path).is_file():
        raise UserError(f"{key} ({path}) does not exist: check the path.")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many types for a damaged or pickled file
        raise UserError(
            f"{path} is damaged or not a checkpoint of plain tensors ({type(error).__name__}). "
            "Checkpoints of stock RecBole hold pickled objects and are not loaded, because that "
            "could run code: train again with this command."
        ) from error
    schema.check(state, dict, path, "such a checkpoint")
    check_size(state, path)
    if digest.changed(state) or (digest.KEY not in state and not _is_whole(path)):
        raise UserError(
            f"{path} is damaged: its content differs from the checksum that was written with it. "
            "Restore the file from a copy, or train again."
        )
    schema.check(state, rule, path, "such a checkpoint")
    state.pop(digest.KEY, None)
    return state


def _is_whole(path: str | Path) -> bool:
    """Whether torch's own checksums are right. Files written by older versions have no others."""
    if not zipfile.is_zipfile(path):
        return True  # torch's format before 2020 has no checksums
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile raises many types for a damaged archive
        return False


def check_size(state: dict[str, Any], path: Any) -> None:
    """Raise UserError if a small file expands to content that does not fit into memory."""
    try:
        if nesting.n_values(state) > _MOST_VALUES or any(map(_is_spread, _tensors(state))):
            raise UserError(f"{path} is not used: its content is far larger than the file.")
    except RecursionError as error:
        raise UserError(f"{path} is not used: its content is nested too deeply.") from error


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (dict, list, tuple)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _tensors(part)


def _is_spread(tensor: torch.Tensor) -> bool:
    """Whether elements of the tensor share memory, as in an expanded row."""
    if tensor.layout != torch.strided:
        return False
    return tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def load_partial(
    path: Path,
    device: torch.device | str,
    rule: schema.Rule,
    fault: Callable[[dict[str, Any]], str],
) -> dict[str, Any] | None:
    """The state of an interrupted stage, or None. `fault` returns why a state does not fit, or ''.
    A file that cannot be used is set aside with a warning, because the stage can start again."""
    if not path.is_file():
        return None
    try:
        state = load(path, device, rule)
        reason = fault(state)
    except UserError as error:
        reason = str(error).partition(". Checkpoints of stock")[0]
    if reason:
        files.set_aside(path, reason, "the stage starts again")
        return None
    return state


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """`optimizer.load_state_dict`, but with the step counters on the CPU, where torch keeps them
    unless the optimizer is fused. On a GPU, every step would synchronize with the host."""
    plain = {
        index: {k: v.cpu() if k == "step" and torch.is_tensor(v) else v for k, v in held.items()}
        for index, held in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": plain})


def random_state(train_data: Any = None) -> dict[str, Any]:
    """The state of all random generators used in training, including those of the loader
    `train_data`."""
    drawn = np.random.get_state(legacy=False)
    kind, keys, position = drawn["bit_generator"], drawn["state"]["key"], drawn["state"]["pos"]
    numpy = [kind, torch.from_numpy(keys.astype(np.int64)), position]
    state = {
        "torch": torch.get_rng_state(),
        "numpy": [*numpy, drawn["has_gauss"], drawn["gauss"]],
        "python": [random.getstate()[0], list(random.getstate()[1]), random.getstate()[2]],
    }
    if train_data is not None:
        state["loader"] = [generator.get_state() for generator in _generators(train_data)]
    if torch.cuda.is_available():
        state["cuda"] = [torch.cuda.get_rng_state()]  # a process uses one GPU
    return state


def set_random_state(state: dict[str, Any], train_data: Any = None) -> None:
    """Restore the result of `random_state`.

    Raises:
        UserError: `state` is not such a result.
    """
    try:
        _set_random_state(state, train_data)
    except Exception as error:  # torch, numpy and Python raise many types
        raise UserError(f"The state of the random generators is damaged ({error}).") from error


def _set_random_state(state: dict[str, Any], train_data: Any) -> None:
    torch.set_rng_state(state["torch"].cpu())
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    if train_data is not None:
        held = state["loader"]
        # Up to version 0.2, the state was that of a single generator.
        states = [held] if isinstance(held, torch.Tensor) else held
        for generator, drawn in zip(_generators(train_data), states, strict=True):
            generator.set_state(drawn.cpu())
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0].cpu())


def _generators(loader: Any) -> list[torch.Generator]:
    """The generators of a loader or of its parts: RecBole's loader for knowledge graphs has one
    loader for interactions and one for triples."""
    if hasattr(loader, "generator"):
        return [loader.generator]
    return [part.generator for part in vars(loader).values() if hasattr(part, "generator")]
