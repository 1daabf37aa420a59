"""Recommendations as rows, and the files and tables they are written to."""

from __future__ import annotations

import csv
import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from recbole_mscgrec.deployment.asked import Asked
from recbole_mscgrec.deployment.loading import TrainedModel
from recbole_mscgrec.serving.recommender import Recommendation
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.files import written_whole

COLUMNS = ("user", "rank", "item", "title", "score", "code")
SHARED = "shared_levels"
_LONGEST_TITLE = 50  # characters in a table on the screen
_MOST_SHARED = 3  # history items named for a recommendation on the screen


class Answer(NamedTuple):
    """The recommendations for one history."""

    asked: Asked
    items: list[Recommendation]


def rows_of(answer: Answer, model: TrainedModel, explain: bool) -> list[dict[str, Any]]:
    """One row per recommendation, with the columns `COLUMNS`. With `explain` also `shared_levels`:
    history items, each with the number of leading levels that its code shares ("50:2 172:1")."""
    rows = []
    for rank, found in enumerate(answer.items, 1):
        row: dict[str, Any] = {
            "user": answer.asked.name,
            "rank": rank,
            "item": found.item,
            "title": model.title(found.item),
            "score": round(found.score, 6),
            "code": ".".join(map(str, found.code)),
        }
        if explain:
            shared = model.recommender.explain(answer.asked.history, found.item)
            row[SHARED] = " ".join(f"{each.item}:{each.n_levels}" for each in shared)
        rows.append(row)
    return rows


def table(answer: Answer, model: TrainedModel, explain: bool) -> str:
    """The recommendations as a table for the screen."""
    rows = rows_of(answer, model, explain=False)
    if not rows:
        return "Nothing is left to recommend: allow more items, or exclude fewer."
    columns = [c for c in COLUMNS[1:] if c != "title" or any(row["title"] for row in rows)]
    cells = [[_cell(row[column]) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
    lines = [_line(columns, widths)]
    for row, found in zip(cells, answer.items, strict=True):
        lines.append(_line(row, widths))
        if explain:
            lines += _explanation(answer.asked.history, found, model)
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST_TITLE else text[: _LONGEST_TITLE - 3] + "..."


def _line(cells: Iterable[str], widths: list[int]) -> str:
    return "  ".join(c.ljust(width) for c, width in zip(cells, widths, strict=True)).rstrip()


def _explanation(history: list[str], found: Recommendation, model: TrainedModel) -> list[str]:
    shared = model.recommender.explain(history, found.item)
    if not shared:
        return ["      shares no level with the history"]
    return [
        f"      shares {each.n_levels} of {len(each.code)} levels with {each.item} "
        f"{_cell(model.title(each.item))}".rstrip()
        for each in shared[:_MOST_SHARED]
    ]


# --- files ----------------------------------------------------------------------------------------


def writer_of(file: Path) -> Callable[[Path, Iterable[dict[str, Any]], list[str]], None]:
    """The function that writes rows to a file, by the ending of its name.

    Raises:
        UserError: the ending is not .csv, .jsonl or .parquet, or pyarrow is missing.
    """
    writers = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
    if file.suffix not in writers:
        raise UserError(f"--out ({file}) must end in one of {', '.join(writers)}.")
    if file.suffix == ".parquet":
        _parquet()
    return writers[file.suffix]


def write(file: Path, rows: Iterable[dict[str, Any]], explain: bool) -> None:
    """Write rows to a .csv, .jsonl or .parquet file, completely or not at all. Raises UserError."""
    writer = writer_of(file)
    with written_whole(file, "--out") as temporary:
        writer(temporary, rows, [*COLUMNS, SHARED] if explain else list(COLUMNS))


def _write_csv(file: Path, rows: Iterable[dict[str, Any]], columns: list[str]) -> None:
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _write_jsonl(file: Path, rows: Iterable[dict[str, Any]], columns: list[str]) -> None:
    with file.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_parquet(file: Path, rows: Iterable[dict[str, Any]], columns: list[str]) -> None:
    arrow, parquet = _parquet()
    kinds = {"rank": arrow.int32(), "score": arrow.float64()}
    schema = arrow.schema([(name, kinds.get(name, arrow.string())) for name in columns])
    with parquet.ParquetWriter(file, schema) as out:
        for block in _blocks(rows):
            out.write_table(arrow.Table.from_pylist(block, schema=schema))


def _blocks(rows: Iterable[dict[str, Any]], size: int = 1 << 16) -> Iterator[list[dict[str, Any]]]:
    block: list[dict[str, Any]] = []
    for row in rows:
        block.append(row)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block


def _parquet() -> tuple[Any, Any]:
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise UserError(
            "Parquet files need pyarrow: pip install 'recbole-mscgrec[parquet]', or choose a .csv "
            "or .jsonl file."
        ) from error
