"""Load test of `recbole-mscgrec serve` over loopback: latency, throughput, and every answer
compared with the known one.

    python benchmarks/serve.py --out serve.csv              # about 3 minutes
    python benchmarks/serve.py --seconds 2 --items 3416     # a short run

The models have random weights and random unique codes of 4 levels of 256 codewords. The service
runs in a process of its own with `--threads` threads for the model; all clients run in this
process. A client sends its next request when it has the answer to the last one, on one connection.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import psutil

TOP, LENGTH, N_HISTORIES = 10, 50, 256
NEAR = 1e-3  # of log-probabilities; the last digits depend on the shape of a batch
OVERLOAD = ("--queue=16", "--max_batch=16")
COLUMNS = (
    "items clients requests requests_per_s cpu_ms p50_ms p99_ms status_503 wrong lost"
).split()


class Reply(NamedTuple):
    """What came back for one request: status 0 if the connection broke."""

    history: int
    status: int
    seconds: float
    body: bytes


def write_export(folder: Path, n_items: int, generation: int = 1) -> None:
    """An export of a model of random weights over so many items, each with a title. All
    generations are the same model."""
    import torch
    from decode import SIZES, build_network, random_codes

    from recbole_mscgrec.semantic_ids.code_table import CodeTable
    from recbole_mscgrec.serving import export_folder

    codes = random_codes(n_items)
    network = build_network(codes)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # weights as they are at first give all items nearly the same score
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    padding = torch.full((1, codes.size(1)), -1)
    table = CodeTable(
        {"collaborative": torch.cat([padding, codes.long()])},
        {"collaborative": [256] * codes.size(1)},
        "collaborative",
    )
    export = export_folder.Export(
        table=table,
        network=SIZES,
        weights=network.state_dict(),
        items=[f"item-{n}" for n in range(n_items)],
        titles=[f"The title of item {n}" for n in range(n_items)],
        popularity=torch.zeros(n_items + 1, dtype=torch.int32),
        removed=torch.zeros(n_items + 1, dtype=torch.bool),
        added_in=torch.zeros(n_items + 1, dtype=torch.int32),
        vectors={},
        beam_size=20,
        constrained=True,
        max_history=LENGTH,
        generation=generation,
    )
    export_folder.write(folder, export)


async def _client(port: int, bodies: Sequence[bytes], first: int, until: float) -> list[Reply]:
    """One client on one connection, which takes the histories in turn."""
    replies: list[Reply] = []
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    number = first
    while time.perf_counter() < until:
        number = (number + 1) % len(bodies)
        begin = time.perf_counter()
        try:
            writer.write(bodies[number])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            status = int(head.split(b" ", 2)[1])
            length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
            content = await reader.readexactly(length)
        except (OSError, EOFError):
            replies.append(Reply(number, 0, time.perf_counter() - begin, b""))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            continue
        replies.append(Reply(number, status, time.perf_counter() - begin, content))
        if status == 503:  # sooner than Retry-After asks for, so that the load stays high
            await asyncio.sleep(0.02)
    writer.close()
    return replies


def load(port: int, bodies: Sequence[bytes], n_clients: int, seconds: float) -> list[Reply]:
    """All replies to so many clients in so many seconds."""

    async def clients() -> list[list[Reply]]:
        until = time.perf_counter() + seconds
        starts = [n * len(bodies) // n_clients for n in range(n_clients)]
        return await asyncio.gather(*(_client(port, bodies, start, until) for start in starts))

    return [reply for replies in asyncio.run(clients()) for reply in replies]


def is_right(ranked: Sequence[dict[str, Any]], known: Sequence[Any]) -> bool:
    """Whether a list is the known one. Items of equal score, up to the last digits, may have
    changed places."""
    scores = {r.item: r.score for r in known}
    if len(ranked) != len(known) or len({r["item"] for r in ranked}) != len(ranked):
        return False
    for given, expected in zip(ranked, known, strict=True):
        if abs(given["score"] - expected.score) > NEAR:
            return False
        # An item that is not in the known list may stand only where the known list ends.
        own = scores.get(given["item"], known[-1].score)
        if abs(given["score"] - own) > NEAR:
            return False
    return True


def summary(replies: Sequence[Reply], known: Sequence[Sequence[Any]], seconds: float) -> dict:
    """The figures of one load; latencies and throughput are those of answered requests."""
    answered = [reply for reply in replies if reply.status == 200]
    wrong = sum(
        not is_right(json.loads(r.body)["recommendations"][0], known[r.history]) for r in answered
    )
    n_refused = sum(reply.status == 503 for reply in replies)
    times = sorted(reply.seconds for reply in answered) or [float("nan")]
    return {
        "requests": len(replies),
        "requests_per_s": round(len(answered) / seconds, 1),
        "p50_ms": round(1000 * times[len(times) // 2], 1),
        "p99_ms": round(1000 * times[int(0.99 * (len(times) - 1))], 1),
        "status_503": n_refused,
        "wrong": wrong,
        "lost": len(replies) - len(answered) - n_refused,
    }


def body_of(history: Sequence[str]) -> bytes:
    """A whole request, as bytes."""
    content = json.dumps({"histories": [list(history)], "top": TOP}).encode()
    head = f"POST /recommend HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


@contextmanager
def serving(folder: Path, threads: int, *options: str) -> Iterator[tuple[int, int]]:
    """The service in a process of its own: its port and process id."""
    command = [sys.executable, "-m", "recbole_mscgrec", "serve", str(folder), "--port=0"]
    command += [f"--threads={threads}", *options]
    process = subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline()
        found = re.search(r":(\d+)$", line.strip())
        if not found:
            raise SystemExit(f"The service did not start: {line!r}")
        yield int(found[1]), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        if process.wait(60):
            print(f"The service ended with status {process.returncode}.", file=sys.stderr)


def load_and_export(port: int, bodies: Sequence[bytes], folder: Path, n_items: int) -> list[Reply]:
    """All replies to 8 clients until the service has taken over a new generation."""
    writer = get_context("spawn").Process(target=write_export, args=(folder, n_items, 2))
    writer.start()
    replies: list[Reply] = []
    limit = time.perf_counter() + 120
    while not replies or b'"generation": 2' not in replies[-1].body:
        if time.perf_counter() > limit:
            raise SystemExit("The service has not taken over the new export within 120 seconds.")
        replies += load(port, bodies, 8, 1.0)
    writer.join()
    return replies


def cpu_seconds(process: int) -> float:
    """What a process has used of the processor so far, which other programs hardly change."""
    times = psutil.Process(process).cpu_times()
    return times.user + times.system


def measure(folder: Path, n_clients: Sequence[int], seconds: float, threads: int) -> list[dict]:
    """A row for each number of clients, one for 256 clients of a service with a short queue, and
    one for a new export during a load."""
    import torch

    from recbole_mscgrec.serving.recommender import Recommender

    torch.set_num_threads(threads)
    recommender = Recommender.load(folder)
    draw = random.Random(0)
    histories = [draw.choices(recommender.items, k=LENGTH) for _ in range(N_HISTORIES)]
    known = [recommender.recommend([history], top=TOP)[0] for history in histories]
    bodies, n_items = [body_of(history) for history in histories], len(recommender.items)
    del recommender
    rows: list[dict] = []

    def add(label: str, process: int, call: Callable[[], list[Reply]]) -> None:
        begin, used = time.perf_counter(), cpu_seconds(process)
        replies = call()
        elapsed = time.perf_counter() - begin  # with the answers that came after the last request
        milliseconds = 1000 * (cpu_seconds(process) - used) / len(replies)
        row = {"items": n_items, "clients": label, **summary(replies, known, elapsed)}
        rows.append({**row, "cpu_ms": round(milliseconds, 1)})
        print(json.dumps(rows[-1]), file=sys.stderr, flush=True)

    for options, counts in (((), n_clients), (OVERLOAD, (256,))):
        with serving(folder, threads, *options) as (port, process):
            for count in counts:
                load(port, bodies, count, min(seconds, 1.0))  # warm up
                label = f"{count}, `{' '.join(options)}`" if options else str(count)
                add(label, process, partial(load, port, bodies, count, seconds))
            if not options:
                reload = partial(load_and_export, port, bodies, folder, n_items)
                add("8, a new export meanwhile", process, reload)
    return rows


def markdown(rows: Sequence[dict]) -> str:
    """The rows as a table."""
    names = [name.replace("_per_", "/").replace("_", " ") for name in COLUMNS]
    lines = [f"| {' | '.join(names)} |", "|---" * len(COLUMNS) + "|"]
    for row in rows:
        cells = [f"{row[name]:,}" if name != "clients" else row[name] for name in COLUMNS]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Print the table; status 1 if an answer was wrong or lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, nargs="+", default=[3416, 10**6], help="of each model")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64], help="at once")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each load")
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--out", help="CSV file for the rows")
    args = parser.parse_args()
    rows: list[dict] = []
    for n_items in args.items:
        with tempfile.TemporaryDirectory() as folder:
            write_export(Path(folder), n_items)
            rows += measure(Path(folder), args.clients, args.seconds, args.threads)
    print(f"load average at the end: {os.getloadavg()[0]:.1f}", file=sys.stderr)
    print(markdown(rows))
    if args.out:
        with open(args.out, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
    return int(any(row["wrong"] or row["lost"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
