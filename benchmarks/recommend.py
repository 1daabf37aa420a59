"""One request to an export folder: latency against catalogue size, seconds to load, memory.

    python benchmarks/recommend.py --json=recommend.json          # about two minutes
    python benchmarks/recommend.py --items 10000 --seconds 0.5    # a few seconds
    python benchmarks/recommend.py --items 10000 100000 --transitions

Items have random unique codes of four levels of 256 codewords, in one modality. The network has the
default sizes and random weights. A request is one call of `Recommender.recommend` with histories of
50 tokens: ids, encoder, constrained beam search of 20, tokens. Each catalogue is measured in a
process of its own, on one thread. With `--transitions` each item has 200 rules at random and a text
vector of 256 numbers, which take part in the search. On a busy machine, `--cpu_time` counts CPU
time instead of wall time: about what a request takes where nothing else runs.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

BEAM, LENGTH, LEAST = 20, 50, 5
N_RULES, TEXT_WIDTH = 200, 256  # of an item, with --transitions


def write_export(folder: Path, n_items: int, transitions: bool = False) -> int:
    """An export folder of a network with random weights. Returns its size in bytes."""
    import decode

    from recbole_mscgrec.semantic_ids.code_table import CodeTable
    from recbole_mscgrec.serving import export_folder
    from recbole_mscgrec.serving.export_folder import Export

    codes = decode.random_codes(n_items)
    sizes = {"collaborative": [decode.N_CODEWORDS] * decode.N_LEVELS}
    padding = torch.full((1, decode.N_LEVELS), -1)
    export = Export(
        table=CodeTable({"collaborative": torch.cat([padding, codes])}, sizes, "collaborative"),
        network=decode.SIZES,
        weights=decode.build_network(codes).state_dict(),
        items=[f"B{i:09d}" for i in range(n_items)],
        titles=None,
        popularity=torch.zeros(n_items + 1, dtype=torch.int32),
        removed=torch.zeros(n_items + 1, dtype=torch.bool),
        added_in=torch.zeros(n_items + 1, dtype=torch.int32),
        vectors={},
        beam_size=BEAM,
        constrained=True,
        max_history=LENGTH,
        transitions=random_transitions(n_items + 1) if transitions else None,
        transition_weight=0.7 if transitions else 0.0,
    )
    export_folder.write(folder, export)
    return sum(file.stat().st_size for file in folder.iterdir())


def random_transitions(n_items: int) -> Any:
    """Rules of N items, the padding item included, with equal weights; random texts."""
    from recbole_mscgrec.transitions.model import Transitions

    count = torch.full((n_items,), N_RULES)
    count[0] = 0
    start = torch.cat([torch.zeros(1, dtype=torch.long), count.cumsum(0)])
    text = torch.nn.functional.normalize(torch.randn(n_items, TEXT_WIDTH), dim=1).half()
    text[0] = 0
    popularity = torch.ones(n_items) / (n_items - 1)
    popularity[0] = 0
    item = torch.randint(1, n_items, (int(start[-1]),), dtype=torch.int32)
    weight, share = torch.full((len(item),), 0.5 / N_RULES), torch.full((n_items,), 0.5)
    return Transitions(start, item, weight, popularity, text, share)


def measure(
    folder: Path, seconds: float, clock: Callable[[], float], precision: str
) -> dict[str, Any]:
    """Seconds to load an export, milliseconds per request, and the peak memory of this process."""
    before = peak_megabytes()
    from recbole_mscgrec.serving.recommender import Recommender

    start = clock()
    model = Recommender.load(folder, precision=precision)
    found: dict[str, Any] = {"load_seconds": clock() - start}
    draw = random.Random(0)
    half = draw.sample(model.items, len(model.items) // 2)
    for batch in (1, 64):
        rows = [draw.choices(model.items, k=LENGTH) for _ in range(batch)]
        for name, options in requests(model, half).items():
            call = lambda: model.recommend(rows, top=BEAM, **options)  # noqa: B023, E731
            found[f"{name}, {batch}"] = percentiles(call, seconds, clock)
    return {**found, "peak_mb": peak_megabytes(), "torch_mb": before}


def requests(model: Any, half: list[str]) -> dict[str, dict[str, Any]]:
    """Further arguments of `recommend`, by the name of the column."""
    return {
        "plain": {},
        "seen excluded": {"exclude_seen": True},
        "half allowed": {"allowed": model.sub_catalogue(half)},
        "half allowed, as tokens": {"allowed": half},
    }


def percentiles(
    call: Callable[[], Any], budget: float, clock: Callable[[], float]
) -> dict[str, float]:
    """Median and 99th percentile, in milliseconds, of as many calls as fit into the budget."""
    call()
    taken: list[float] = []
    while len(taken) < LEAST or sum(taken) < budget:
        start = clock()
        call()
        taken.append(clock() - start)
    last = sorted(taken)[min(len(taken) - 1, int(0.99 * len(taken)))]
    return {"p50": 1000 * statistics.median(taken), "p99": 1000 * last, "calls": len(taken)}


def peak_megabytes() -> float:
    """The largest memory that this process has had. (On Linux `ru_maxrss` begins with that of the
    parent process.)"""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return int(found[0] if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024


def in_a_process(n_items: int, options: argparse.Namespace) -> dict[str, Any]:
    """The measurements of one catalogue."""
    with tempfile.TemporaryDirectory() as folder:
        n_bytes = write_export(Path(folder), n_items, options.transitions)
        command = [sys.executable, __file__, "--folder", folder]
        command += ["--seconds", str(options.seconds), "--precision", options.precision]
        command += ["--cpu_time"] if options.cpu_time else []
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {"items": n_items, "mb_on_disk": n_bytes / 1e6, **json.loads(done.stdout)}


def table(rows: list[dict[str, Any]]) -> str:
    """The measurements as Markdown: latencies, then the rest."""
    columns = [name for name, value in rows[0].items() if isinstance(value, dict)]
    lines = ["| milliseconds, p50 / p99 | " + " | ".join(columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for row in rows:
        cells = [f"{row[name]['p50']:.1f} / {row[name]['p99']:.1f}" for name in columns]
        lines.append(f"| {row['items']:,} items | " + " | ".join(cells) + " |")
    lines += [
        "",
        "| items | seconds to load | MB on disk | peak memory, MB | after importing torch |",
    ]
    lines.append("|---|---|---|---|---|")
    for row in rows:
        lines.append(
            f"| {row['items']:,} | {row['load_seconds']:.2f} | {row['mb_on_disk']:.1f} | "
            f"{row['peak_mb']:.0f} | {row['torch_mb']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--seconds", type=float, default=5.0, help="per column")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--transitions", action="store_true", help="with random transitions")
    parser.add_argument("--cpu_time", action="store_true", help="count CPU time, not wall time")
    parser.add_argument("--json", type=Path, help="file for all measurements")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)  # of a child process
    options = parser.parse_args()
    if options.folder:
        torch.set_num_threads(1)
        clock = time.process_time if options.cpu_time else time.perf_counter
        print(json.dumps(measure(options.folder, options.seconds, clock, options.precision)))
        return
    rows = [in_a_process(n, options) for n in options.items]
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
