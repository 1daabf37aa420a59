"""The export folder: all that a trained model needs to recommend items, readable without RecBole
and without the data set.

    manifest.json       names and checksums of the other files, settings, generation
    model.safetensors   weights of the sequence model
    codes.safetensors   codes of all items in all modalities, popularity, removed items
    items.txt           item tokens, one per line, in the order of their ids
    titles.txt          their titles, if the data set has any
    encoder.pt2, ...    programs of torch.export, with `--format torch` (exported_programs.py)

The manifest also names further files, which only `add-items` reads. The files of a later generation
have its number in their names (codes-2.safetensors). The manifest is written last and replaces the
old one atomically, so a reader never sees a half-written export.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from recbole_mscgrec.network.learned_vectors import checked_items
from recbole_mscgrec.network.model import Sizes
from recbole_mscgrec.semantic_ids.code_table import CodeTable
from recbole_mscgrec.serving.export_files import (
    FORMAT,
    MANIFEST,
    Content,
    Part,
    read_lines,
    read_manifest,
    read_tensors,
    write_file,
)
from recbole_mscgrec.storage import digest, files, schema
from recbole_mscgrec.storage.errors import UserError, one_line
from recbole_mscgrec.storage.schema import Maybe, Numbers
from recbole_mscgrec.transitions.model import Transitions

Tensor = torch.Tensor
_SMALLEST = ((torch.uint8, 1 << 8), (torch.int16, 1 << 15), (torch.int32, 1 << 31))
_CODES = {
    "popularity": Numbers("i", (None,)),
    "removed": Numbers("b", (None,)),
    "added_in": Numbers("i", (None,)),
    "learned": Maybe(Numbers("i", (None,))),
}


@dataclass
class Export:
    """The content of an export folder, with N items including the padding item 0.

    Attributes:
        table: codes of all items, including those added after training and those removed.
        network: hyper-parameters of the sequence model.
        weights: its state_dict.
        items: tokens of the items 1..N-1.
        titles: their titles; '' where an item has none. None if no item has one.
        popularity: (N,) interactions of each item in the train split.
        removed: bool (N,) items that must no longer be recommended. Their codes stay reserved.
        added_in: (N,) the generation in which an item was added; 0 for items of the training.
        vectors: modality -> half (N, D_m), if `history_vectors` was set; else empty.
        learned: (n,) ascending ids of the items with a learned vector; None: all items or none.
        transitions: item-to-item transitions in the train split; None if they are not used.
        transition_weight: weight of the transitions at every code level, from 0 to 1.
        beam_size, constrained: decoding, as in training and evaluation.
        max_history: number of items at the end of a history that the model reads.
        cold_share: share of each list that is reserved for items added after training.
        generation: number of this version of the folder, from 1.
        history: one entry per generation: what was done, when, by which version.
        settings: those of the training run.
        new_items: how new items are encoded; empty if none can be added. The tensors for it are in
            further files.
    """

    table: CodeTable
    network: Sizes
    weights: dict[str, Tensor]
    items: list[str]
    titles: list[str] | None
    popularity: Tensor
    removed: Tensor
    added_in: Tensor
    vectors: dict[str, Tensor]
    beam_size: int
    constrained: bool
    max_history: int
    learned: Tensor | None = None
    transitions: Transitions | None = None
    transition_weight: float = 0.0
    cold_share: float = 0.0
    generation: int = 1
    history: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    made_by: dict[str, Any] = field(default_factory=dict)
    new_items: dict[str, Any] = field(default_factory=dict)


def next_generation(export: Export, what: str, **more: Any) -> Export:
    """The export as the next generation, ready for `write`, with a new entry in its history: what
    was done, the details `more`, the number of items that are not removed, date and version."""
    entry = {
        "generation": export.generation + 1,
        "what": what,
        **more,
        "n_items": len(export.items) - int(export.removed.sum()),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **digest.made_by(),
    }
    return replace(export, generation=entry["generation"], history=[*export.history, entry])


def write(
    folder: str | Path,
    export: Export,
    further: Mapping[str, Content] | None = None,
    unchanged: Iterable[str] = (),
) -> None:
    """Write an export, as the next generation if the folder holds one. Even if the program is
    stopped, the folder holds either the old generation or the new one.

    Args:
        export: its `generation` must be that of the folder plus 1, or 1 for a new folder.
        further: name -> content of further files; `read_further` reads those that hold tensors.
        unchanged: names of files (model, items, further ones) to keep from the old generation.

    Raises:
        UserError: a file cannot be written, a token has a line break, or the generation is not the
            next one.
    """
    folder = Path(folder)
    files.check_folder(folder, "--out")
    old = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    before = old["generation"] if old else 0
    if export.generation != before + 1:
        raise UserError(
            f"{folder} holds generation {before}, so generation {export.generation} cannot be "
            "written: another program has changed the folder. Run the command again."
        )
    kept: dict[str, Part] = {name: old["files"][name] for name in unchanged} if old else {}
    number = f"-{export.generation}" if old else ""
    made = {
        name: write_file(folder / f"{name}{number}{_suffix(content)}", content)
        for name, content in {**_contents(export), **(further or {})}.items()
        if name not in kept
    }
    files.write_json(folder / MANIFEST, _manifest(export, {**made, **kept}))
    used = {part["name"] for part in (*made.values(), *kept.values())}
    for part in old["files"].values() if old else ():
        if part["name"] not in used:
            (folder / Path(part["name"]).name).unlink(missing_ok=True)


def read(folder: str | Path) -> Export:
    """The export in a folder. Every file is verified against its checksum.

    Raises:
        UserError: the folder holds no export, or one that is damaged or from a later version.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    try:
        return _read(folder, manifest)
    except UserError:
        again = read_manifest(folder)
        if again == manifest:
            raise
        return _read(folder, again)  # a new generation was written meanwhile


def read_further(folder: str | Path, name: str) -> dict[str, Tensor] | None:
    """The tensors of a further file of an export; None if there is no such file. Raises
    UserError."""
    folder = Path(folder)
    part = read_manifest(folder)["files"].get(name)
    return None if part is None else read_tensors(folder, part)


def _contents(export: Export) -> dict[str, Content]:
    """Name -> content of the files of an export, except further ones."""
    codes = {
        f"codes.{name}": _smallest(codes, max(export.table.sizes[name]))
        for name, codes in export.table.codes.items()
    }
    codes |= {f"vectors.{name}": vectors.half() for name, vectors in export.vectors.items()}
    codes |= {"popularity": export.popularity.int(), "removed": export.removed}
    codes["added_in"] = export.added_in.int()
    if export.learned is not None:
        codes["learned"] = export.learned.int()
    if export.transitions is not None:
        codes |= {
            f"transitions.{name}": part for name, part in export.transitions._asdict().items()
        }
    contents: dict[str, Content] = {"model": export.weights, "codes": codes}
    contents["items"] = export.items
    if broken := [item for item in export.items if "\n" in item or "\r" in item]:
        raise UserError(f"The item token {broken[0]!r} has a line break: rename the item.")
    if export.titles is not None:
        contents["titles"] = [" ".join(title.split()) for title in export.titles]
    return contents


def _smallest(codes: Tensor, largest: int) -> Tensor:
    """Codes plus one, so that MISSING (-1) becomes 0, in the smallest integer type that fits."""
    kind = next(kind for kind, bound in _SMALLEST if largest < bound)
    return (codes + 1).to(kind)


def _suffix(content: Content) -> str:
    if isinstance(content, bytes):
        return ".pt2"
    return ".txt" if isinstance(content, list) else ".safetensors"


def _manifest(export: Export, parts: dict[str, Part]) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "generation": export.generation,
        "n_items": len(export.items),
        "n_removed": int(export.removed.sum()),
        "files": parts,
        "network": asdict(export.network),
        "target": export.table.target,
        "sizes": export.table.sizes,
        **{name: getattr(export, name) for name in _AS_THEY_ARE if name != "generation"},
    }


def _read(folder: Path, manifest: dict[str, Any]) -> Export:
    parts = manifest["files"]
    for name in ("model", "codes", "items"):
        if name not in parts:
            raise UserError(f"{folder / MANIFEST} is damaged: it names no file for {name}.")
    stored, sizes = read_tensors(folder, parts["codes"]), manifest["sizes"]
    rule = {**_CODES, **{f"codes.{name}": Numbers("i", (None, None)) for name in sizes}}
    has_transitions = manifest["transition_weight"] > 0
    if has_transitions:
        rule |= {f"transitions.{name}": part for name, part in schema.TRANSITIONS.items()}
    schema.check(stored, rule, folder / parts["codes"]["name"], "codes of an export")
    try:
        codes = {name: stored[f"codes.{name}"].long() - 1 for name in sizes}
        table = CodeTable(codes, sizes, manifest["target"])
        network = _sizes(manifest["network"], table.n_items - 1)
    except (UserError, TypeError) as error:
        raise UserError(f"{folder} is damaged: {one_line(error)}") from error
    export = Export(
        table=table,
        network=network,
        weights=read_tensors(folder, parts["model"]),
        items=read_lines(folder, parts["items"]),
        titles=read_lines(folder, parts["titles"]) if "titles" in parts else None,
        popularity=stored["popularity"],
        removed=stored["removed"],
        added_in=stored["added_in"],
        vectors={k.removeprefix("vectors."): v for k, v in stored.items() if k[:7] == "vectors"},
        learned=checked_items(stored.get("learned"), table.n_items, folder),
        transitions=_transitions(stored, table.n_items, folder) if has_transitions else None,
        **{name: manifest[name] for name in _AS_THEY_ARE},
    )
    _check_lengths(export, folder)
    return export


def _sizes(stored: Mapping[str, Any], n_items: int) -> Sizes:
    """The hyper-parameters in a manifest. In format 2, either all items had a learned vector or
    none."""
    all_or_none = {"learned_items": n_items} if stored.get("learned_vectors") else {}
    return Sizes(**{**all_or_none, **{k: v for k, v in stored.items() if k in _SIZES}})


_SIZES = {each.name for each in fields(Sizes)}
_AS_THEY_ARE = (
    "beam_size constrained max_history transition_weight cold_share generation history settings"
    " made_by new_items"
).split()


def _transitions(stored: Mapping[str, Tensor], n_items: int, folder: Path) -> Transitions:
    parts = {name: stored[f"transitions.{name}"] for name in Transitions._fields}
    return Transitions.of(parts, n_items, folder)


def _check_lengths(export: Export, folder: Path) -> None:
    n_items = export.table.n_items
    tables = (export.popularity, export.removed, export.added_in, *export.vectors.values())
    lines = (export.items, export.titles or export.items)
    if any(len(t) != n_items for t in tables) or any(len(t) != n_items - 1 for t in lines):
        raise UserError(f"{folder} is damaged: its files hold different numbers of items.")
