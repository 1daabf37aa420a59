"""Result files of several seeds as one markdown table: mean and standard deviation per model.

    python benchmarks/table.py results/*.json

Files that share a model and a file name up to its last "_" (the seed) are one row. The standard
deviation is that of the sample (n - 1); with one seed there is none.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path

METRICS = ("ndcg@10", "recall@10", "ndcg@20", "recall@20", "mrr@10")


def spread(values: list[float]) -> str:
    """Mean and standard deviation, four places."""
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def main(files: list[str]) -> None:
    """Print the table."""
    rows: dict[str, list[dict]] = defaultdict(list)
    for file in sorted(files):
        rows[Path(file).stem.rpartition("_")[0]].append(json.loads(Path(file).read_text()))
    print(
        "| run | model | seeds | valid ndcg@10 | " + " | ".join(f"test {m}" for m in METRICS),
        end="",
    )
    print(" | seconds | peak MB |")
    print("|" + "---|" * (len(METRICS) + 6))
    for name, results in rows.items():
        seeds = ", ".join(str(r["seed"]) for r in results)
        cells = [spread([r["best_valid_result"]["ndcg@10"] for r in results])]
        cells += [spread([r["test_result"][m] for r in results]) for m in METRICS]
        seconds = statistics.mean(sum(r["seconds"].values()) for r in results)
        peak = max(r["peak_memory_mb"] for r in results)
        print(f"| {name} | {results[0]['model']} | {seeds} | {' | '.join(cells)}", end="")
        print(f" | {seconds:.0f} | {peak:.0f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
