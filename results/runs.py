"""The runs of runs.csv, the ranks of their users, and comparisons between them."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from recbole_mscgrec.experiments import report, significance
from recbole_mscgrec.runner.user_ranks import Ranks
from recbole_mscgrec.storage import files

HERE = Path(__file__).resolve().parent
RANKED, EXCLUDED, HISTORY = "seen ranked", "seen excluded", "seen history excluded"
METRICS = ("ndcg@10", "recall@10")
COMPARED = ("table", "protocol", "first", "other", "metric")
_FOUND = ("seeds", "n_users", "difference", "low", "high", "p", "ranks")

RECURRENT = "MSCGRec, recurrent encoder and learned vectors"
DROPOUT_2, DROPOUT_5, WIDE = (
    f"TiledSASRec {x}" for x in ("dropout 0.2", "dropout 0.5", "width 128")
)
WITH_SASREC, LEARNED = "MSCGRec with TiledSASRec", "MSCGRec, learned vectors"
GRU, RULES = "TiledGRU4Rec", "SequentialRules"
BSAREC, WIDE_BSAREC = "TiledBSARec tuned", "TiledBSARec width 128"
TUNED, WITH_TUNED = f"{GRU} tuned", f"MSCGRec with tuned {GRU}"
NETWORK = "MSCGRec, network alone"
LENGTH_200, ON_GPU = "ml-1m length 200", "ml-1m length 200 on a GPU"
PRESENT = ("MSCGRec, present default", "MSCGRec, present default, network alone")


@functools.cache
def read(name: str) -> tuple[dict[str, str], ...]:
    """The rows of a CSV file in this folder."""
    return tuple(files.read_csv(HERE / name))


def runs_of(table: str, row: str, protocol: str) -> list[dict[str, str]]:
    """The runs in runs.csv that form one row of a table, one per seed."""
    names = (table, row, protocol)
    return [r for r in read("runs.csv") if (r["table"], r["row"], r["protocol"]) == names]


def read_ranks(name: str, dataset: str) -> Ranks:
    """Ranks stored by collect.py."""
    users = (HERE / "ranks" / f"{dataset}.users.txt").read_text(encoding="utf-8").splitlines()
    with np.load(HERE / "ranks" / name, allow_pickle=False) as stored:
        tokens = np.array(users)[stored["users"]]
        return Ranks(tokens, stored["ranks"].astype(np.int32), int(stored["depth"]))


def measured(table: str, row: str, protocol: str, with_ranks: bool = False) -> report.Measured:
    """One row of a table with its seeds, as experiments.report takes it.

    Raises:
        ValueError: there is no run of this table, row and protocol.
    """
    runs = runs_of(table, row, protocol)
    if not runs:
        raise ValueError(f"runs.csv has no run of {(table, row, protocol)}.")
    results = {int(r["seed"]): _result(r) for r in runs}
    kept = [r for r in runs if with_ranks and r["ranks"]]
    ranks = {int(r["seed"]): read_ranks(r["ranks"], r["dataset"]) for r in kept}
    return report.Measured(row, runs[0]["model"], "", results, ranks, {})


def _result(run: dict[str, str]) -> dict:
    """A run as in its result file, as far as needed."""

    def numbers(kind: str) -> dict[str, float]:
        return {
            name.partition(" ")[2]: float(value)
            for name, value in run.items()
            if name.startswith(f"{kind} ") and value
        }

    return {
        "dataset": run["dataset"],
        "best_valid_result": numbers("valid"),
        "test_result": numbers("test"),
        "seconds": numbers("seconds"),
        "peak_memory_mb": float(run["peak_memory_mb"]),
        "n_parameters": int(run["n_parameters"]),
    }


def comparisons() -> list[tuple[str, str, str, str]]:
    """Table, protocol, first and other of every comparison whose ranks are kept."""
    wanted = []
    for protocol in (RANKED, EXCLUDED):
        for first in ("MSCGRec", NETWORK):
            wanted += [("ml-100k", protocol, first, x) for x in (DROPOUT_5, GRU, "BERT4Rec")]
        for table in ("ml-100k", "amazon-scientific", "amazon-office"):
            wanted += [(table, protocol, "MSCGRec", x) for x in (TUNED, RULES, NETWORK)]
        wanted.append(("ml-100k", protocol, "MSCGRec", BSAREC))
        wanted.append(("amazon-scientific", protocol, "MSCGRec", WIDE_BSAREC))
        wanted += [("ml-1m-times", protocol, "MSCGRec", x) for x in (GRU, RULES, NETWORK)]
        wanted.append((LENGTH_200, protocol, PRESENT[0], RULES))
        for first in (LEARNED, RECURRENT, f"{LEARNED}, with TiledSASRec"):
            wanted.append((ON_GPU, protocol, first, "TiledSASRec"))
    return wanted


def compare(table: str, protocol: str, first: str, other: str) -> list[dict[str, str]]:
    """One comparison, a row per metric, from the ranks."""
    one, two = (measured(table, row, protocol, with_ranks=True) for row in (first, other))
    found = report.compare(one, two, significance.N_RESAMPLES)
    rows = []
    for metric in METRICS:
        values = {k: f"{v:.6f}" for k, v in found["metrics"][metric].items()}
        seeds = " ".join(map(str, found["seeds"]))
        keys = dict(zip(COMPARED, (table, protocol, first, other, metric), strict=True))
        rows.append(
            keys | values | {"seeds": seeds, "n_users": str(found["n_users"]), "ranks": "kept"}
        )
    return rows


def write_significance() -> None:
    """Compute the rows of significance.csv whose ranks are kept; keep its other rows."""
    rows = [row for row in read("significance.csv") if row["ranks"] != "kept"]
    for names in comparisons():
        rows += compare(*names)
    rows.sort(key=lambda row: [row[k] for k in COMPARED])
    files.write_csv(HERE / "significance.csv", [*COMPARED, *_FOUND], rows)
    read.cache_clear()
