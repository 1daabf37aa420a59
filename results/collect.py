"""Add result files to results/runs.csv, one row per run, and the users' ranks to results/ranks/.

    python results/collect.py --table=ml-100k saved/tiled/MSCGRec_*.json
    python results/collect.py --table=ml-100k --row="MSCGRec with TiledGRU4Rec" \
        saved/seen/both-ranked_*.json

`--table` is the group of rows that a page compares. A row is named by `--row`, or by the file's
name up to the last "_". NAME_SEED.npz beside a file (`--per_user_file`) gives the ranks,
NAME_SEED.log the epochs. Results of version 0.1 do not record the code that made them: they need
`--commit` and `--version`. A run with the same table, row, protocol and seed is replaced.
Afterwards `python results/tables.py --significance` brings comparisons and pages up to date.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recbole_mscgrec.experiments.job import read_result
from recbole_mscgrec.runner import user_ranks
from recbole_mscgrec.storage.files import read_csv, write_csv

HERE = Path(__file__).resolve().parent
KEY = ("table", "row", "protocol", "seed")
_ACCURACY = [f"{name}@{k}" for name in ("recall", "ndcg", "mrr") for k in (1, 5, 10, 20)]
_DIVERSITY = [
    f"{name}@{k}"
    for name in ("itemcoverage", "giniindex", "tailpercentage")
    for k in (1, 5, 10, 20)
]
_STAGES = ("data", "collaborative", "text", "image", "transitions", "codes", "train", "test")
_PACKAGES = ("python", "torch", "recbole", "transformers", "numpy")
COLUMNS = [
    *("table", "row", "protocol", "seed", "model", "dataset", "version", "commit", "settings"),
    *("epochs_trained", "best_epoch"),
    *(f"valid {name}" for name in _ACCURACY),
    *(f"test {name}" for name in (*_ACCURACY, *_DIVERSITY)),
    *(f"seconds {stage}" for stage in _STAGES),
    *("peak_memory_mb", "peak_gpu_memory_mb", "n_parameters"),
    *("level_share", "invalid_share", "perplexity", "alone_share"),
    *_PACKAGES,
    "ranks",
]
# They have their own columns, or concern only the machine.
_NO_SETTING = ("seed", "exclude_seen", "seen_items", "test_metrics")


def protocol(settings: dict[str, Any]) -> str:
    """The protocol of a run, from current settings or those of version 0.1."""
    excluded = settings.get("exclude_seen") or "none"
    if excluded is True:
        excluded = settings.get("seen_items", "all")
    names = {"none": "seen ranked", "all": "seen excluded", "history": "seen history excluded"}
    return names[str(excluded).lower()]


def portable(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run, without the folders of the machine."""
    kept = {k: v for k, v in sorted(settings.items()) if k not in _NO_SETTING}
    return {k: _without_folder(v) for k, v in kept.items()}


def _without_folder(value: Any) -> Any:
    return Path(value).name if isinstance(value, str) and "/" in value else value


def record(result: dict[str, Any], log: str = "") -> dict[str, str]:
    """One run as a row of the CSV, without table, row, version, commit and ranks."""
    settings = result.get("settings") or {}
    found: dict[str, Any] = {k: result.get(k) for k in COLUMNS if k in result}
    found |= {"protocol": protocol(settings), "settings": _json(portable(settings))}
    found |= _epochs(log)
    for kind in ("valid", "test"):
        metrics = result["best_valid_result" if kind == "valid" else "test_result"] or {}
        found |= {f"{kind} {name}": value for name, value in metrics.items()}
    found |= {f"seconds {stage}": value for stage, value in result["seconds"].items()}
    found |= {name: result.get("versions", {}).get(name) for name in _PACKAGES}
    health = result.get("code_health") or {}
    levels = {m: [level["perplexity"] for level in h["levels"]] for m, h in health.items()}
    alone = {m: h["alone_share"] for m, h in health.items()}
    shares = result.get("level_share")
    found |= {"perplexity": _json(levels), "alone_share": _json(alone)}
    found["level_share"] = " ".join(map(str, shares)) if shares else ""
    unknown = sorted(set(found) - set(COLUMNS))
    if unknown:
        raise ValueError(f"no column for {unknown}: add them to COLUMNS.")
    return {k: "" if v is None else str(v) for k, v in found.items()}


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=True) if value else ""


def _epochs(log: str) -> dict[str, int]:
    """The number of epochs in a training log, and the best one; RecBole counts from 0."""
    trained = re.findall(r"epoch (\d+) training", log)
    best = re.findall(r"best eval result in epoch (\d+)", log)
    found = {"epochs_trained": int(trained[-1]) + 1} if trained else {}
    return found | ({"best_epoch": int(best[-1]) + 1} if best else {})


def write_runs(file: Path, runs: Iterable[dict[str, str]]) -> None:
    """Write runs sorted by KEY; a later one replaces an earlier one of the same key."""
    unique = {tuple(run[k] for k in KEY): run for run in runs}
    write_csv(file, COLUMNS, (unique[key] for key in sorted(unique)))


def ranks_file(run: dict[str, str]) -> str:
    """Name of the file of ranks of a run."""
    parts = [run[k] for k in ("table", "row", "protocol", "seed")]
    return re.sub(r"[^\w.+-]+", "-", "_".join(parts)) + ".npz"


def save_ranks(folder: Path, name: str, dataset: str, ranks: user_ranks.Ranks) -> None:
    """Ranks as uint16, users as indices into the sorted list that all runs of a data set share.

    Raises:
        ValueError: a user is not in the list.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shared = folder / f"{dataset}.users.txt"
    if not shared.is_file():
        shared.write_text("\n".join(sorted(ranks.users)) + "\n", encoding="utf-8")
    users = np.array(shared.read_text(encoding="utf-8").split("\n")[:-1])
    where = np.searchsorted(users, ranks.users)
    if (users[np.minimum(where, len(users) - 1)] != ranks.users).any():
        raise ValueError(f"{name} has users that {shared.name} lacks: not the same data.")
    order = np.argsort(where)
    values = {"users": where[order], "ranks": ranks.ranks[order], "depth": ranks.depth}
    np.savez_compressed(folder / name, **{k: np.uint16(v) for k, v in values.items()})


def collect(
    files: Sequence[Path],
    folder: Path,
    table: str,
    row: str | None,
    commit: str | None = None,
    version: str | None = None,
) -> list[dict[str, str]]:
    """Add result files to folder/runs.csv and folder/ranks. Returns the new rows.

    Raises:
        ValueError: a file does not say what made it, and `commit` and `version` are not given.
    """
    new = []
    for file in files:
        result, log = read_result(file), file.with_suffix(".log")
        text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
        run = dict.fromkeys(COLUMNS, "") | record(result, text)
        run |= {"table": table, "row": row or file.stem.rpartition("_")[0]}
        run |= _made_by(result, file, commit, version)
        if file.with_suffix(".npz").is_file():
            run["ranks"] = ranks_file(run)
            ranks = user_ranks.load(file.with_suffix(".npz"))
            save_ranks(folder / "ranks", run["ranks"], run["dataset"], ranks)
        new.append(run)
    runs = folder / "runs.csv"
    write_runs(runs, [*(read_csv(runs) if runs.is_file() else []), *new])
    return new


def _made_by(
    result: dict[str, Any], file: Path, commit: str | None, version: str | None
) -> dict[str, str]:
    """Commit and version of a run: those given, or else those in its result file."""
    given = {k: v for k, v in (("commit", commit), ("version", version)) if v}
    made_by = {"commit": None, "version": None} | (result.get("made_by") or {}) | given
    missing = [f"--{key}" for key, value in made_by.items() if not value]
    if missing:
        raise ValueError(f"{file} does not say what made it: give {' and '.join(missing)}.")
    return made_by


def main(argv: list[str] | None = None) -> int:
    """Read the command line, add the runs and print them. Returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="NAME_SEED.json")
    parser.add_argument("--table", required=True, help="group of rows that a page compares")
    parser.add_argument("--row", help="name of the row; default: the file's name without the seed")
    parser.add_argument("--commit", help="commit of the runs; default: as in the file")
    parser.add_argument("--version", help="version of the runs; default: as in the file")
    parser.add_argument("--folder", type=Path, default=HERE)
    options = parser.parse_args(argv)
    try:
        new = collect(
            options.files,
            options.folder,
            options.table,
            options.row,
            options.commit,
            options.version,
        )
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    for run in new:
        sys.stdout.write(f"{run['table']}: {run['row']}, {run['protocol']}, seed {run['seed']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
