"""Training steps of the network alone against catalogue size: targets per second, and how much of
the device's measured peak they use.

    python benchmarks/train_steps.py --json=out.json
    python benchmarks/train_steps.py --device=cuda --items 1000000 10000000 --rows 64 512

Items are random codes of 4 levels of 256 codewords, as in decode.py. A step is the forward pass,
the backward pass and Adam for --rows full windows of --length items, every position of which is a
target. Reading batches and validation are not included; train.py measures whole epochs.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import decode
import hardware
import torch

from recbole_mscgrec.semantic_ids.precision import matmul_precision

PRECISIONS = {"float32": "highest", "tf32": "high", "bfloat16": "highest"}


def measure(
    network: Any, rows: int, length: int, precision: str, compiled: bool = False
) -> dict[str, Any]:
    """Seconds per step, and the rates that follow."""
    device = network.start.device
    generator = torch.Generator().manual_seed(1)
    shape = (rows, length + 1)
    items = torch.randint(1, network.tree.n_items + 1, shape, generator=generator).to(device)
    history, targets = items[:, :-1], items[:, 1:].flatten()
    limit = torch.arange(length, device=device).unsqueeze(0)
    place = torch.arange(len(targets), device=device)
    adam = torch.optim.Adam(network.parameters(), lr=1e-3)
    half = precision == "bfloat16"

    def loss() -> torch.Tensor:
        with torch.autocast(device.type, torch.bfloat16) if half else nullcontext():
            encoded = network.encode(history)
            return -network.level_log_probs(encoded, limit, targets, place).sum(0).mean()

    loss_of_step = torch.compile(loss, dynamic=False) if compiled else loss

    def step() -> None:
        adam.zero_grad()
        loss_of_step().backward()
        adam.step()

    with matmul_precision(PRECISIONS[precision]):
        flops = hardware.flops_of(lambda: loss().backward())
        seconds = hardware.median_seconds(step, 3.0, device, most=100)
        peak = hardware.peak_flops(device, torch.bfloat16 if half else torch.float32)
    memory = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {
        "step_seconds": seconds,
        "targets_per_second": round(len(targets) / seconds),
        "flops": flops,
        "peak_flops": peak,
        "share_of_peak": flops / seconds / peak,
        "gpu_memory_mb": memory and round(memory / 2**20),
    }


def main() -> None:
    """Measure every combination, print a line each, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--items", type=int, nargs="+", default=[3416, 10**6])
    parser.add_argument("--rows", type=int, nargs="+", default=[64], help="windows per step")
    parser.add_argument("--length", type=int, default=50, help="items per window")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32"])
    parser.add_argument("--compile", action="store_true", help="the loss, with torch.compile")
    parser.add_argument("--json", help="where to write the measurements")
    args = parser.parse_args()
    decode.SIZES = replace(decode.SIZES, dropout_prob=0.2)
    results = []
    for n_items in args.items:
        network = decode.build_network(decode.random_codes(n_items), args.device).train()
        for rows in args.rows:
            for precision in args.precisions:
                cell = {"items": n_items, "rows": rows, "precision": precision}
                cell |= measure(network, rows, args.length, precision, args.compile)
                results.append(cell)
                print(json.dumps(cell), flush=True)
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            report = {"device": hardware.name_of(args.device), "length": args.length}
            report["compiled"] = args.compile
            json.dump({**report, "steps": results}, file, indent=2)


if __name__ == "__main__":
    main()
