"""Latency of beam search against catalogue size: ours with and without the constraint, and the
usual implementation, Hugging Face T5 `generate` with a Python dict trie in
`prefix_allowed_tokens_fn`.

    python benchmarks/decode.py --json=out.json --plot=out.png   # everything
    python benchmarks/decode.py --quick --json=out.json          # a smaller matrix, under a minute
    python benchmarks/decode.py --device=cuda --json=out.json    # on a GPU

Items are random codes of L=4 levels and K=256 codewords. All three networks have the same width,
layers and heads (ours has its short convolutions as well), random weights, and a history of 50
tokens per request. A latency is the median of several calls for one batch, encoder included.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import hardware
import torch
from hardware import median_seconds

from recbole_mscgrec.network.model import CodeNetwork, Sizes
from recbole_mscgrec.semantic_ids.code_table import CodeTable
from recbole_mscgrec.semantic_ids.item_filter import AllowedItems, ExcludedItems
from recbole_mscgrec.semantic_ids.prefix_tree import PrefixTree

N_LEVELS, N_CODEWORDS, LENGTH = 4, 256, 50
SIZES = Sizes(
    hidden_size=128,
    inner_size=256,
    n_heads=4,
    n_encoder_layers=3,
    n_decoder_layers=1,
    conv_kernel_size=4,
    dropout_prob=0.0,
    n_distance_buckets=32,
    max_distance=128,
    modality_mask_prob=0.0,
)


def random_codes(n_items: int) -> torch.Tensor:
    """(N, 4) distinct random codes in random order."""
    generator = torch.Generator().manual_seed(n_items)
    keys = torch.randint(
        N_CODEWORDS**N_LEVELS, (n_items + n_items // 100 + 64,), generator=generator
    )
    keys = keys.unique()
    keys = keys[torch.randperm(len(keys), generator=generator)[:n_items]]
    digits = [keys // N_CODEWORDS**i % N_CODEWORDS for i in reversed(range(N_LEVELS))]
    return torch.stack(digits, dim=1).to(torch.uint8)


def build_network(codes: torch.Tensor, device: torch.device | str = "cpu") -> CodeNetwork:
    """The network over a catalogue of these codes, in one modality."""
    padding = torch.full((1, N_LEVELS), -1, dtype=torch.int16)
    table = CodeTable(
        {"collaborative": torch.cat([padding, codes.short()])},
        {"collaborative": [N_CODEWORDS] * N_LEVELS},
        "collaborative",
    )
    torch.manual_seed(0)
    return CodeNetwork(table, SIZES).eval().to(device)


def free_beams(network: CodeNetwork, encoded: torch.Tensor, limit: torch.Tensor, beam: int) -> Any:
    """Beam search over all codes, whether an item has them or not."""
    device = limit.device
    step, row = network.decoder_step(encoded, limit), torch.arange(len(encoded), device=device)
    scores, codes, parents = torch.zeros(len(encoded), 1, device=device), None, None
    for level in range(N_LEVELS):
        nodes = torch.zeros_like(row)  # a free beam stands at none, and no node has a vector here
        log_probs = step(level, row, nodes, codes, parents).log_softmax(-1)  # (B*W, K)
        grown = (log_probs + scores.view(-1, 1)).view(len(encoded), -1)
        scores, chosen = grown.topk(min(beam, grown.size(1)), dim=1)
        width = len(row) // len(encoded)
        row = torch.arange(len(encoded), device=device).repeat_interleave(scores.size(1))
        parents, codes = (
            row * width + chosen.flatten() // N_CODEWORDS,
            chosen.flatten() % N_CODEWORDS,
        )
    return scores


def measure_ours(network: CodeNetwork, batch: int, beam: int, budget: float) -> dict[str, float]:
    """Seconds per batch with and without the constraint, and with item filters; and the operations
    of the matrix products with the constraint."""
    n_items, device = network.tree.n_items, network.start.device
    generator = torch.Generator().manual_seed(1)
    history = torch.randint(1, n_items + 1, (batch, LENGTH), generator=generator).to(device)
    limit = torch.full((batch, 1), LENGTH - 1, device=device)
    half = torch.rand(n_items + 1, generator=generator) < 0.5

    def constrained(restriction: Any = None) -> Any:
        return network.beams(network.encode(history), limit, beam, restriction)

    def in_bfloat16() -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            return constrained()

    in_stock = AllowedItems(network.tree, half)

    def unconstrained() -> Any:
        return free_beams(network, network.encode(history), limit, beam)

    def with_seen_excluded() -> Any:
        return constrained(ExcludedItems(network.tree, history))

    calls = {
        "constrained": constrained,
        "unconstrained": unconstrained,
        "constrained_bfloat16": in_bfloat16,
        "half_allowed": lambda: constrained(in_stock),
        "seen_excluded": with_seen_excluded,
    }
    seconds = {name: median_seconds(call, budget, device) for name, call in calls.items()}
    return {**seconds, "constrained_flops": hardware.flops_of(constrained)}


def measure_hugging_face(
    codes: torch.Tensor, batch: int, beam: int, device: torch.device
) -> dict[str, float]:
    """Seconds per batch of T5 `generate` with a dict trie, with the size of our network."""
    from transformers import T5Config, T5ForConditionalGeneration

    trie: dict = {}
    offset = 2  # 0 is padding and start, 1 is end of sequence
    for row in codes.tolist():
        node = trie
        for level, code in enumerate(row):
            node = node.setdefault(offset + level * N_CODEWORDS + code, {})

    def allowed(_: int, prefix: torch.Tensor) -> list[int]:
        node = trie
        for token in prefix.tolist()[1:]:
            node = node.get(token, {})
        return list(node) or [1]

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=offset + N_LEVELS * N_CODEWORDS,
        d_model=SIZES.hidden_size,
        d_kv=SIZES.hidden_size // SIZES.n_heads,
        d_ff=SIZES.inner_size,
        num_heads=SIZES.n_heads,
        num_layers=SIZES.n_encoder_layers,
        num_decoder_layers=SIZES.n_decoder_layers,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=1,
    )
    model = T5ForConditionalGeneration(config).eval().to(device)
    history = torch.randint(offset, config.vocab_size, (batch, LENGTH)).to(device)

    def generate() -> Any:
        return model.generate(
            input_ids=history,
            attention_mask=torch.ones_like(history),
            num_beams=beam,
            num_return_sequences=beam,
            min_new_tokens=N_LEVELS,
            max_new_tokens=N_LEVELS,
            prefix_allowed_tokens_fn=allowed,
        )

    start = time.perf_counter()
    generate()
    budget = 3 * (time.perf_counter() - start)
    single = median_seconds(generate, budget, device)
    model.bfloat16()
    return {
        "hugging_face": single,
        "hugging_face_bfloat16": median_seconds(generate, budget, device),
    }


def memory_table() -> list[dict[str, Any]]:
    """Bytes at serving time: ours (tree, codes of the history, network) and SASRec's item table."""
    rows = []
    for n_items in (10**4, 10**5, 10**6, 10**7, 10**8):
        row: dict[str, Any] = {"items": n_items, "sasrec_mb": n_items * 64 * 4 / 2**20}
        if n_items <= 10**7:
            network = build_network(random_codes(n_items))
            weights = sum(p.numel() * p.element_size() for p in network.parameters())
            index = network.history.item_index.numel() * network.history.item_index.element_size()
            row |= {
                "measured": True,
                "tree_mb": network.tree.n_bytes / 2**20,
                "history_codes_mb": index / 2**20,
                "weights_mb": weights / 2**20,
            }
        else:  # per-item parts grow with the catalogue, the weights do not
            last = rows[-1]
            factor = n_items / last["items"]
            row |= {
                "measured": False,
                "tree_mb": last["tree_mb"] * factor,
                "history_codes_mb": last["history_codes_mb"] * factor,
                "weights_mb": last["weights_mb"],
            }
        row["ours_mb"] = row["tree_mb"] + row["history_codes_mb"] + row["weights_mb"]
        rows.append({k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()})
    return rows


def plot(cells: list[dict[str, Any]], path: str) -> None:
    """Latency against catalogue size at batch 64, beam 20, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    chosen = [c for c in cells if c["batch"] == 64 and c["beam"] == 20]
    names = ("constrained", "unconstrained", "half_allowed", "seen_excluded", "hugging_face")
    for name in names:
        points = [(c["items"], 1000 * c[name]) for c in chosen if name in c]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=name.replace("_", " "))
    axes.set(
        xscale="log", yscale="log", xlabel="items in the catalogue", ylabel="ms per batch of 64"
    )
    axes.set_title("Beam 20, batch 64, L=4, K=256")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Measure the matrix, print the ratios, write JSON and PNG."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", help="where to write every measurement")
    parser.add_argument("--plot", help="where to write the plot (pip install -e .[plots])")
    parser.add_argument("--quick", action="store_true", help="a smaller matrix, under a minute")
    parser.add_argument("--device", type=torch.device, default="cpu", help="cpu, cuda, cuda:1")
    parser.add_argument("--budget", type=float, help="seconds per measurement (default 2, .5)")
    args = parser.parse_args()
    sizes = [10**4, 10**5, 10**6] if args.quick else [10**4, 10**5, 10**6, 10**7]
    batches, beams = ([64], [20]) if args.quick else ([1, 64, 512], [20, 100])
    budget = args.budget or (0.5 if args.quick else 2.0)

    cells: list[dict[str, Any]] = []
    builds: list[dict[str, Any]] = []
    with torch.inference_mode():
        for n_items in sizes:
            codes = random_codes(n_items)
            start = time.perf_counter()
            tree = PrefixTree(codes)
            seconds = time.perf_counter() - start
            builds.append(
                {"items": n_items, "seconds": seconds, "bytes_per_item": tree.n_bytes / n_items}
            )
            del tree
            network = build_network(codes, args.device)
            for batch in batches:
                for beam in beams:
                    cell = {"items": n_items, "batch": batch, "beam": beam}
                    cell |= measure_ours(network, batch, beam, budget)
                    small = n_items <= (10**4 if args.quick else 10**6)
                    if small and beam == 20 and batch <= 64:
                        cell |= measure_hugging_face(codes, batch, beam, args.device)
                    cells.append(cell)
                    print(json.dumps(cell), flush=True)
    peak = {
        str(dtype).removeprefix("torch."): hardware.peak_flops(args.device, dtype)
        for dtype in (torch.float32, torch.bfloat16)
    }
    report = {
        "device": hardware.name_of(args.device),
        "peak_flops": peak,
        **ratios(cells, peak["float32"]),
        "builds": builds,
        "cells": cells,
    }
    if not args.quick and args.device.type == "cpu":  # the same bytes on every device
        report["memory"] = memory_table()
    print(json.dumps({k: v for k, v in report.items() if k != "cells"}, indent=2))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)
    if args.plot:
        plot(cells, args.plot)


def ratios(cells: list[dict[str, Any]], peak: float) -> dict[str, Any]:
    """The figures of the README, at batch 64 and beam 20; `peak` in operations per second."""
    main_cells = {c["items"]: c for c in cells if c["batch"] == 64 and c["beam"] == 20}
    overheads = [c["constrained"] / c["unconstrained"] for c in main_cells.values()]
    first, last = main_cells[min(main_cells)], main_cells[max(main_cells)]
    name = {10**7: "10m", 10**6: "1m"}[last["items"]]
    report = {
        "constraint_overhead": max(overheads),
        "constraint_overhead_by_items": dict(zip(main_cells, overheads, strict=True)),
        f"latency_ratio_{name}_to_10k": last["constrained"] / first["constrained"],
        "share_of_peak_by_items": {
            n: c["constrained_flops"] / c["constrained"] / peak for n, c in main_cells.items()
        },
    }
    for precision in ("", "_bfloat16"):
        factors = {
            c["items"]: c["hugging_face" + precision] / c["constrained" + precision]
            for c in main_cells.values()
            if "hugging_face" in c
        }
        report["speedup_over_hf" + precision] = min(factors.values())
        report[f"speedup_over_hf{precision}_by_items"] = factors
    return report


if __name__ == "__main__":
    main()
