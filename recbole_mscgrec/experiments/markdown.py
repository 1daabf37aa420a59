"""Renders the content of a table (report.table) as markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_SHOWN = ("ndcg@10", "recall@10", "ndcg@20", "recall@20", "mrr@10")
_DIVERSITY = ("itemcoverage", "giniindex", "tailpercentage")


def markdown(table: dict[str, Any]) -> str:
    """Tables of accuracy, significance, cost, diversity and failures; empty ones are left out."""
    rows = table["rows"]
    measured = [row for row in rows if row["seeds"]]
    parts = [f"# {', '.join(table['datasets']) or 'No result'}"]
    if measured:
        parts += [_accuracy(rows, table["valid_metric"]), *_significance(table), _cost(measured)]
        parts += _diversity(measured)
    parts += [*_failures(rows), *_notes(rows)]
    return "\n\n".join(parts) + "\n"


def _accuracy(rows: list[dict], valid_metric: str) -> str:
    names = _metrics(rows)
    head = ["row", "model", "seeds", f"valid {valid_metric}", *(f"test {n}" for n in names)]
    lines = []
    for row in rows:
        cells = [row["name"], row["model"], ", ".join(map(str, row["seeds"])) or "none"]
        cells.append(_spread(row["valid"].get(valid_metric)))
        lines.append([*cells, *(_spread(row["test"].get(name)) for name in names)])
    return f"{table_of(head, lines)}\n\nMean ± standard deviation over seeds (n - 1)."


def _metrics(rows: list[dict]) -> list[str]:
    """The usual metrics if they were measured, else all metrics."""
    there = list(dict.fromkeys(name for row in rows for name in row["test"]))
    return [n for n in _SHOWN if n in there] or [n for n in there if not _is_diversity(n)]


def _significance(table: dict[str, Any]) -> list[str]:
    rows, how = table["rows"], table["significance"]
    compared = [r for r in rows if r.get("first_against_this", {}).get("metrics")]
    if not compared:
        return []
    names = [n for n in _metrics(rows) if n in compared[0]["first_against_this"]["metrics"]][:2]
    head = [f"{rows[0]['name']} minus", "users", "seeds"]
    head += [title for name in names for title in (name, f"{how['level']:.0%} interval", "p")]
    lines = []
    for row in compared:
        found = row["first_against_this"]
        cells = [row["name"], str(found["n_users"]), ", ".join(map(str, found["seeds"]))]
        for name in names:
            cells += _comparison(found["metrics"].get(name), how["resamples"])
        lines.append(cells)
    text = (
        f"Paired bootstrap over users, {how['resamples']:,} resamples (random seed "
        f"{how['random_seed']}); a user's metric is the mean over the seeds that both rows have. "
        "p is two-sided and not corrected for the number of rows. It covers the variation over "
        "users, not over seeds; for that see the standard deviations. table.json has all metrics."
    )
    return [f"## Is the difference more than chance?\n\n{table_of(head, lines)}\n\n{text}"]


def _comparison(found: dict[str, float] | None, n_resamples: int) -> list[str]:
    if found is None:
        return ["", "", ""]
    least = 1 / (n_resamples + 1)
    p = f"{found['p']:.4f}" if found["p"] > max(least, 5e-5) else f"< {max(least, 1e-4):.4f}"
    return [f"{found['difference']:+.4f}", f"{found['low']:+.4f} to {found['high']:+.4f}", p]


def _cost(rows: list[dict]) -> str:
    stages = list(dict.fromkeys(stage for row in rows for stage in row["seconds"]))
    on_gpu = any(row["peak_gpu_memory_mb"] for row in rows)
    marks = list(dict.fromkeys(mark for row in rows for mark in row["peak_memory_mb_after"]))
    head = ["row", "parameters", "seconds", *stages, "peak MB", *(f"after {m}" for m in marks)]
    head += ["GPU MB"] if on_gpu else []
    lines = []
    for row in rows:
        seconds = {stage: value["mean"] for stage, value in row["seconds"].items()}
        cells = [row["name"], _whole(row["n_parameters"], ","), f"{sum(seconds.values()):.0f}"]
        cells += [f"{seconds[s]:.1f}" if s in seconds else "" for s in stages]
        cells.append(_whole(row["peak_memory_mb"]))
        cells += [_whole(row["peak_memory_mb_after"].get(mark)) for mark in marks]
        lines.append([*cells, f"{row['peak_gpu_memory_mb']:.0f}"] if on_gpu else cells)
    text = (
        "Seconds: the mean over seeds; for a stage found in the cache, the time to read it. "
        "Memory: the peak resident memory of the process by the end of a stage, the maximum over "
        "seeds."
    )
    return f"## Seconds and memory\n\n{table_of(head, lines)}\n\n{text}"


def _diversity(rows: list[dict]) -> list[str]:
    there = dict.fromkeys(name for row in rows for name in row["test"])
    names = [n for n in there if _is_diversity(n)]
    names = [n for n in names if n.endswith("@10")] or names
    if not names:
        return []
    lines = [[row["name"], *(_spread(row["test"].get(name)) for name in names)] for row in rows]
    text = (
        "itemcoverage: share of items that are recommended to at least one user. giniindex: 0 if "
        "all items are recommended equally often, 1 if one item always is. tailpercentage: share "
        "of recommendations among the least popular tenth of the items."
    )
    return [f"## Diversity\n\n{table_of(['row', *names], lines)}\n\n{text}"]


def _is_diversity(name: str) -> bool:
    return name.partition("@")[0] in _DIVERSITY


def _failures(rows: list[dict]) -> list[str]:
    lines = [[row["name"], seed, error] for row in rows for seed, error in row["errors"].items()]
    return [f"## Without a result\n\n{table_of(['row', 'seed', 'why'], lines)}"] if lines else []


def _notes(rows: list[dict]) -> list[str]:
    """The note on each row and the modalities that it used, since the data may lack one."""
    if not any(row["note"] or row["modalities"] for row in rows):
        return []
    lines = [[row["name"], row["note"], ", ".join(row["modalities"])] for row in rows]
    return [f"## Rows\n\n{table_of(['row', 'what it is', 'has codes of'], lines)}"]


def _spread(value: dict[str, Any] | None) -> str:
    if value is None:
        return ""
    sd = "" if value["sd"] is None else f" ± {value['sd']:.4f}"
    return f"{value['mean']:.4f}{sd}"


def _whole(value: float | None, separator: str = "") -> str:
    return "" if value is None else f"{value:{separator}.0f}"


def table_of(head: list[str], lines: Iterable[list[str]]) -> str:
    """A markdown table with the header `head`; cells become plain text."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(map(_one_line, cells)) + " |" for cells in rows)


def _one_line(cell: str) -> str:
    """A cell as plain text: row names and errors must not become markup."""
    text = re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(cell.split()))
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", re.sub(r"&(?=#?\w+;)", "&amp;", text))
