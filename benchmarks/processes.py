"""Seconds of training and evaluation in one and in several processes on this machine.

    python benchmarks/processes.py --json=processes.json
    python benchmarks/processes.py --dataset=ml-1m --data_path=DATA --epochs=3 --cache_dir=CACHE
    python benchmarks/processes.py --processes 1 4 8 --threads 0 --seed=7

Each row of the table is a run of the command line. Its epoch seconds are the median over the epochs
but the first; the seconds of an evaluation likewise. The CPU seconds are those of the whole run in
all of its processes, and depend less on what else the machine does. One process is also run with as
many threads as the largest number of processes. `--threads 0` leaves the number of threads to
torch. On a machine with GPUs each process takes one; use --use_gpu False for the CPU. Further
settings are passed on.

The item codes of MSCGRec are made before, in a run that is not measured, and then reused by all.
With --cache_dir they are kept for the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
_TRAINED = re.compile(r"epoch \d+ training.*time.*?: ([\d.]+)s")
_EVALUATED = re.compile(r"epoch \d+ evaluating.*time.*?: ([\d.]+)s")


HEADER = (
    "| processes | threads of each | CPU seconds of all processes | seconds per epoch "
    "| seconds per evaluation |\n|---|---|---|---|---|"
)


def row(one: dict[str, Any]) -> str:
    """A measurement as a row of the table in docs/scale.md."""
    threads = one["threads"] or "torch's choice"
    seconds = (one[f"{what}_seconds"] for what in ("cpu", "epoch", "evaluation"))
    return f"| {one['processes']} | {threads} | " + " | ".join(f"{s:.1f}" for s in seconds) + " |"


def median_of(pattern: re.Pattern[str], log: str) -> float:
    """The median of the seconds in a log, without the first."""
    seconds = [float(found) for found in pattern.findall(log)]
    return statistics.median(seconds[1:] or seconds)


def measure(n: int, threads: int, settings: list[str], folder: str) -> dict[str, Any]:
    """The seconds of a run in n processes, each with this number of threads."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    environment.pop("OMP_NUM_THREADS", None)
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    result = Path(folder, "result.json")
    command = [sys.executable, "-m", "recbole_mscgrec", *settings, f"--nproc={n}"]
    command += [f"--result_file={result}", f"--checkpoint_dir={folder}/{n}-{threads}"]
    before = _cpu_seconds()
    log = run(command, environment)
    return {
        "processes": n,
        "threads": threads,
        "epoch_seconds": median_of(_TRAINED, log),
        "evaluation_seconds": median_of(_EVALUATED, log),
        "cpu_seconds": round(_cpu_seconds() - before, 1),
        "test_result": json.loads(result.read_text(encoding="utf-8"))["test_result"],
    }


def run(command: list[str], environment: dict[str, str]) -> str:
    """What a command prints, without colours. If it fails, so does this script."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)


def make_codes(settings: list[str], folder: str) -> None:
    """Fill the cache with the item codes, in one process with torch's own number of threads."""
    others = [setting for setting in settings if not setting.startswith("--model=")]
    command = [sys.executable, "-m", "recbole_mscgrec", "--model=MSCGRecTokenizer", *others]
    command.append(f"--checkpoint_dir={folder}/codes")
    run(command, {**os.environ, "PYTHONPATH": str(PROJECT)})


def _cpu_seconds() -> float:
    """Of all processes that were started here and have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure, print a table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--threads", type=int, default=1, help="of each process; 0: torch's choice")
    parser.add_argument("--model", default="MSCGRec")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default="dataset/")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--use_gpu", default="True")
    parser.add_argument("--cache_dir", help="where the item codes are kept; default: nowhere")
    parser.add_argument("--json", help="where to write the measurements")
    args, more = parser.parse_known_args()
    names = ("model", "dataset", "data_path", "epochs", "use_gpu")
    settings = [f"--{name}={getattr(args, name)}" for name in names]
    settings += ["--show_progress=False", *more]
    runs = [(n, args.threads) for n in args.processes]
    if args.threads:
        runs.append((1, args.threads * max(args.processes)))
    results = []
    with tempfile.TemporaryDirectory() as folder:
        settings.append(f"--log_dir={folder}")
        if args.model == "MSCGRec":
            settings.append(f"--cache_dir={args.cache_dir or folder}")
            make_codes(settings, folder)
        print(
            f"{os.cpu_count()} cores, load average before the first run {os.getloadavg()[0]:.1f}\n"
        )
        print(HEADER, flush=True)
        for n, threads in runs:
            one = measure(n, threads, settings, folder)
            results.append(one)
            print(row(one), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
