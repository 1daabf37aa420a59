"""The content of a table over rows and seeds: mean and standard deviation, significance, cost,
diversity.

    python -m recbole_mscgrec.experiments.report [--first=NAME] [--table_dir=FOLDER] RESULT.json ...

Result files with the same name up to the last "_" (the seed) form one row. The ranks of each are
expected in an .npz file beside it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from recbole_mscgrec.experiments import significance
from recbole_mscgrec.experiments.job import read_result
from recbole_mscgrec.experiments.markdown import markdown
from recbole_mscgrec.runner import user_ranks
from recbole_mscgrec.runner.user_ranks import Ranks
from recbole_mscgrec.storage import files
from recbole_mscgrec.storage.errors import UserError


class Measured(NamedTuple):
    """One row of a table, with the results of its seeds."""

    name: str
    model: str
    note: str
    results: dict[int, dict[str, Any]]  # seed -> content of the result file
    ranks: dict[int, Ranks]
    errors: dict[int, str]  # seed -> reason why it has no result


def table(
    rows: Sequence[Measured],
    valid_metric: str = "ndcg@10",
    n_resamples: int = significance.N_RESAMPLES,
) -> dict[str, Any]:
    """The content of table.json. The first row is compared with each of the others.

    Standard deviations are those of a sample (n - 1); null with one seed.
    """
    summaries = [_summary(row) for row in rows]
    for row, summary in zip(rows[1:], summaries[1:], strict=True):
        summary["first_against_this"] = compare(rows[0], row, n_resamples)
    return {
        "datasets": sorted({r["dataset"] for row in rows for r in row.results.values()}),
        "valid_metric": valid_metric,
        "significance": {
            "method": "paired bootstrap over users",
            "resamples": n_resamples,
            "random_seed": significance.SEED,
            "level": significance.LEVEL,
        },
        "rows": summaries,
    }


def _summary(row: Measured) -> dict[str, Any]:
    results = list(row.results.values())
    return {
        "name": row.name,
        "model": row.model,
        "note": row.note,
        "settings": _shared(results, "chosen"),
        "modalities": sorted({m for r in results for m in r.get("code_health") or {}}),
        "seeds": list(row.results),
        "valid": _spreads(results, "best_valid_result"),
        "test": _spreads(results, "test_result"),
        "seconds": _spreads(results, "seconds"),
        "peak_memory_mb": _largest(results, "peak_memory_mb"),
        "peak_memory_mb_after": _highest(results),
        "peak_gpu_memory_mb": max((r.get("peak_gpu_memory_mb") or 0 for r in results), default=0),
        "n_parameters": _largest(results, "n_parameters"),
        "errors": {str(seed): error for seed, error in row.errors.items()},
    }


def _shared(results: list[dict], key: str) -> dict[str, Any]:
    """The values under `key` that all results share, without the seed."""
    dicts = [r.get(key) or {} for r in results]
    first = dicts[0] if dicts else {}
    return {k: v for k, v in first.items() if all(d.get(k) == v for d in dicts) and k != "seed"}


def _spreads(results: list[dict], key: str) -> dict[str, dict[str, Any]]:
    """Name -> mean, standard deviation and number of results that have it."""
    names = dict.fromkeys(name for r in results for name in r.get(key) or {})
    return {name: _spread([r[key][name] for r in results if name in r[key]]) for name in names}


def _spread(values: list[float]) -> dict[str, Any]:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "n": len(values)}


def _largest(results: list[dict], key: str) -> float | None:
    return max((r[key] for r in results if r.get(key) is not None), default=None)


def _highest(results: list[dict]) -> dict[str, float]:
    stages = dict.fromkeys(s for r in results for s in r.get("peak_memory_mb_after") or {})
    return {s: max(r["peak_memory_mb_after"].get(s, 0) for r in results) for s in stages}


# --- significance ---------------------------------------------------------------------------------


def compare(first: Measured, other: Measured, n_resamples: int) -> dict[str, Any]:
    """Difference, interval and p of every metric, over the users and seeds that both rows share.

    A user's metric is the mean over these seeds. Returns {"reason": ...} if nothing can be paired.
    """
    seeds = [seed for seed in first.ranks if seed in other.ranks]
    if not seeds:
        return {"reason": "no seed with user ranks for both rows"}
    users = sorted(
        set.intersection(*(set(r.ranks[s].users) for r in (first, other) for s in seeds))
    )
    if not users:
        return {"reason": "no user in common"}
    lists = [row.ranks[seed] for row in (first, other) for seed in seeds]
    names = [n for n in _metrics(first, other) if all(ranks.gives(n) for ranks in lists)]
    if not names:
        return {"reason": "no metric in common"}
    one, two = (_per_user(row, seeds, users, names) for row in (first, other))
    found = significance.paired_bootstrap(one, two, n_resamples)
    columns = zip(names, *(values.tolist() for values in found), strict=True)
    keys = significance.Comparison._fields
    metrics = {name: dict(zip(keys, values, strict=True)) for name, *values in columns}
    return {"seeds": seeds, "n_users": len(users), "metrics": metrics}


def _metrics(first: Measured, other: Measured) -> list[str]:
    """The metrics that all results of both rows have."""
    results = [*first.results.values(), *other.results.values()]
    return [n for n in results[0]["test_result"] if all(n in r["test_result"] for r in results)]


def _per_user(row: Measured, seeds: list[int], users: list[str], names: list[str]) -> np.ndarray:
    """Metrics of the given users, in this order, averaged over the seeds: (U, M)."""
    total = np.zeros((len(users), len(names)))
    for seed in seeds:
        ranks = row.ranks[seed]
        order = np.argsort(ranks.users)
        where = order[np.searchsorted(ranks.users, users, sorter=order)]
        total += np.stack([ranks.metric(name)[where] for name in names], axis=1)
    return total / len(seeds)


# --- files ----------------------------------------------------------------------------------------


def write(content: dict[str, Any], folder: str | Path) -> None:
    """Write table.json and table.md into `folder`."""
    files.write_json(Path(folder) / "table.json", content)
    files.write_text(Path(folder) / "table.md", markdown(content))


def read_rows(files: Sequence[str], first: str | None = None) -> list[Measured]:
    """The rows of result files, in the order of the files. `first` names the row to put first.

    Raises:
        UserError: there is no file, a file is not a result, or no row is named `first`.
    """
    rows: dict[str, Measured] = {}
    for file in map(Path, files):
        result, name = read_result(file), file.stem.rpartition("_")[0] or file.stem
        row = rows.setdefault(name, Measured(name, result["model"], "", {}, {}, {}))
        if result["seed"] in row.results:
            raise UserError(f"{file}: row {name} has seed {result['seed']} twice.")
        row.results[result["seed"]] = result
        if file.with_suffix(".npz").is_file():
            row.ranks[result["seed"]] = user_ranks.load(file.with_suffix(".npz"))
    if not rows or (first is not None and first not in rows):
        raise UserError(f"first ({first}) must be one of the rows {list(rows)}.")
    return sorted(rows.values(), key=lambda row: row.name != first)


def main(argv: list[str] | None = None) -> int:
    """Print a table of existing result files or write it to a folder. Returns the exit status."""
    parser = argparse.ArgumentParser(description="A table of result files, NAME_SEED.json.")
    parser.add_argument("files", nargs="+", metavar="NAME_SEED.json")
    parser.add_argument("--first", help="row to compare with the others; default: the first")
    parser.add_argument("--table_dir", help="where to write table.md and table.json")
    options = parser.parse_args(argv)
    try:
        content = table(read_rows(options.files, options.first))
        if options.table_dir:
            write(content, options.table_dir)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stdout.write(markdown(content))
    return 0


if __name__ == "__main__":
    sys.exit(main())
