"""The rows of a table: models by name, or named overrides from a YAML file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from recbole_mscgrec.config.config import check_model_name, properties_folder
from recbole_mscgrec.config.parsing import read_settings
from recbole_mscgrec.storage.errors import UserError

_KEYS = {"name", "model", "settings", "note"}
# Set by the table itself, so neither the command line nor a row may set them.
RESERVED = {
    "seed": "name the seeds with --seed_list",
    "result_file": "results are in --table_dir",
    "per_user_file": "ranks are in --table_dir",
    "resume": "repeat the command without it: every cell resumes where it stopped",
    "model_file": "evaluate a saved model in a separate run",
}


class Row(NamedTuple):
    """One row: a model, the settings of this row, and a note."""

    name: str
    model: str
    settings: dict[str, Any]
    note: str = ""

    @property
    def slug(self) -> str:
        """The name as part of a file name."""
        return re.sub(r"[^\w.+-]+", "-", self.name).strip("-")


def rows_of_models(models: list[str]) -> list[Row]:
    """One row per model, with its default settings.

    Raises:
        UserError: there is no model, one occurs twice, or one is unknown.
    """
    if not models:
        raise UserError("model_list is empty: name models, as in --model_list=MSCGRec,SASRec.")
    rows = [Row(model, model, {}) for model in models]
    _check_rows(rows, "model_list")
    return rows


def read_rows(file: str | Path, model: str) -> list[Row]:
    """The rows of a YAML list of {name, model, settings, note}; `model` is used for rows without a
    model.

    If `file` does not exist, it is looked up among the files that come with this project.

    Raises:
        UserError: an entry is not a valid row; its position in the list is given.
    """
    path = _find(file)
    content = read_settings(path)
    if not isinstance(content, list) or not content:
        raise UserError(f"ablation: {path} must hold a list of rows; the first is the base.")
    rows = [_row(entry, f"{path}, row {n}", model) for n, entry in enumerate(content, 1)]
    _check_rows(rows, str(path))
    return rows


def select_rows(rows: list[Row], names: str) -> list[Row]:
    """The rows that a comma-separated list names, in the order of `rows`. A row whose name has a
    comma is given by its name in file names.

    Raises:
        UserError: no row has this name.
    """
    wanted = {name.strip().lower() for name in names.split(",") if name.strip()}
    chosen = [row for row in rows if wanted & {row.name.lower(), row.slug.lower()}]
    found = {name.lower() for row in chosen for name in (row.name, row.slug)}
    if wanted - found or not chosen:
        strange = ", ".join(sorted(wanted - found)) or "nothing"
        there = ", ".join(row.slug if "," in row.name else row.name for row in rows)
        raise UserError(f"rows ({names}): {strange} is not a row; the rows are {there}.")
    return chosen


def _find(file: str | Path) -> Path:
    ours = properties_folder() / "ablation"
    for path in (Path(file), ours / Path(file).name, ours / f"{file}.yaml"):
        if path.is_file():
            return path
    there = ", ".join(sorted(p.stem for p in ours.glob("*.yaml")))
    raise UserError(f"ablation: {file} does not exist, here or in {ours} (there: {there}).")


def _row(entry: Any, place: str, model: str) -> Row:
    if not isinstance(entry, dict) or not entry.get("name"):
        raise UserError(f"ablation: {place} must be a mapping with a name, not {entry!r}.")
    unknown = sorted(set(entry) - _KEYS)
    if unknown:
        raise UserError(f"ablation: {place} has {unknown}; a row holds {sorted(_KEYS)}.")
    settings = entry.get("settings") or {}
    if not isinstance(settings, dict):
        raise UserError(f"ablation: {place}: settings must be a mapping, not {settings!r}.")
    check_reserved(settings, f"ablation: {place}: ")
    note = str(entry.get("note") or "")
    return Row(str(entry["name"]), str(entry.get("model") or model), dict(settings), note)


def check_reserved(settings: Iterable[str], place: str = "") -> None:
    """Raise UserError for a key that the table sets itself."""
    for key in settings:
        if key in RESERVED:
            raise UserError(f"{place}{key} cannot be set for a table: {RESERVED[key]}.")


def _check_rows(rows: list[Row], place: str) -> None:
    for field in ("name", "slug"):
        counts = Counter(getattr(row, field).lower() for row in rows)
        twice = [name for name, n in counts.items() if n > 1]
        if twice:
            raise UserError(f"{place}: {', '.join(twice)} occurs twice; name each row once.")
    for row in rows:
        if not row.slug:
            raise UserError(f"{place}: the name {row.name!r} holds no letter or digit.")
        try:
            check_model_name(row.model)
        except UserError as error:
            raise UserError(f"{place}: row {row.name:.60}: {error}") from error
