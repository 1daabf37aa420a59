"""How long does it take to add many items to a large export, and in how much memory?

    python benchmarks/add_items.py --known 1000000 --new 100000 --target fused

Makes an export of a model with random weights, whose items have generated texts, in a temporary
folder, and runs `recbole-mscgrec add-items` on it in one thread. With `--target fused`, as on
sparse data, codes are made from 256 text dimensions and 64 collaborative ones; with
`--target collaborative`, a new item's code is made from the five items nearest by text.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import decode
import torch

from recbole_mscgrec.features.fusion import comparable
from recbole_mscgrec.features.tfidf import fit_tfidf
from recbole_mscgrec.network.model import CodeNetwork
from recbole_mscgrec.semantic_ids.code_table import FUSED, MISSING, CodeTable
from recbole_mscgrec.semantic_ids.collisions import add_collision_level
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.export_folder import Export

Tensor = torch.Tensor
# The command, which tells its peak memory at the end: that of a child process would include what
# this process had when it was started.
COMMAND = """
import re, sys
from recbole_mscgrec.cli import main
assert main(sys.argv[1:]) == 0
kilobytes = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
print(f"Peak memory: {int(kilobytes) / 1e6:.2f} GB")
"""
N_WORDS, N_TOPICS, TEXT_SIZE, SIZE, SAMPLE = 5000, 2000, 256, 64, 20_000


def texts(n: int, seed: int) -> list[str]:
    """Texts of 12 words: most from the 30 of a topic, some from all."""
    topics, draw = random.Random(0), random.Random(seed)
    words = [f"word{i}" for i in range(N_WORDS)]
    of_topic = [topics.sample(words, 30) for _ in range(N_TOPICS)]
    return [
        " ".join(draw.choices(of_topic[draw.randrange(N_TOPICS)], k=8) + draw.choices(words, k=4))
        for _ in range(n)
    ]


def quantized(vectors: Tensor, sizes: list[int]) -> tuple[Tensor, Tensor]:
    """Codes (N, L) of vectors (N, D), from codebooks (sum of K_l, D) of a sample."""
    quantizer = ResidualQuantizer(sizes, n_iterations=5)
    quantizer.fit(vectors[:SAMPLE])
    return quantizer.encode(vectors), torch.cat(quantizer.codebooks)


def write_export(folder: Path, n: int, target: str, codebook_size: int) -> None:
    """The export of n items."""
    described = texts(n, 1)
    tfidf = fit_tfidf(described[:SAMPLE], TEXT_SIZE, 0)[0]
    text = torch.cat([tfidf.vectors(described[i : i + SAMPLE]) for i in range(0, n, SAMPLE)])
    text = torch.cat([torch.zeros(1, text.size(1)), text])
    draw = torch.Generator().manual_seed(0)
    collaborative = text @ torch.randn(text.size(1), SIZE, generator=draw)
    collaborative += 0.5 * torch.randn(n + 1, SIZE, generator=draw)
    present = torch.arange(n + 1) > 0
    vectors = {"collaborative": collaborative, "text": text}
    if target == FUSED:
        parts = [comparable(v, present) for v in vectors.values()]
        vectors[FUSED] = torch.cat(parts, dim=1)
    sizes, books, codes = [codebook_size] * 3, dict[str, Tensor](), dict[str, Tensor]()
    all_sizes = {name: sizes for name in vectors}
    for name in vectors:
        made, books[f"codebook.{name}"] = quantized(vectors[name][1:], sizes)
        if name == target:
            made = add_collision_level(made, torch.arange(n))
            all_sizes[name] = [*sizes, int(made[:, -1].max()) + 1]
        codes[name] = torch.cat([torch.full((1, made.size(1)), MISSING), made])
    table = CodeTable(codes, all_sizes, target)
    size = decode.SIZES
    plan = {
        "item_column": "item_id",
        "title_column": "title",
        "separator": "\t",
        "encoding": "utf-8",
        "modalities": {"text": "text"},
        "widths": {"collaborative": SIZE, "text": text.size(1)},
        "content_levels": {name: 3 for name in vectors},
        "text": {"columns": ["title"], "encoder": "tfidf", "batch_size": 1, "max_length": 1},
    }
    made_export = Export(
        table=table,
        network=size,
        weights=CodeNetwork(table, size).state_dict(),
        items=[f"i{i}" for i in range(n)],
        titles=described,
        popularity=torch.zeros(n + 1, dtype=torch.int32),
        removed=torch.zeros(n + 1, dtype=torch.bool),
        added_in=torch.zeros(n + 1, dtype=torch.int32),
        vectors={},
        beam_size=20,
        constrained=True,
        max_history=50,
        new_items=plan,
    )
    encoders = {**books, "mean.text": text[1:].mean(dim=0)}
    encoders |= {f"text.{name}": tensor for name, tensor in tfidf.to_tensors().items()}
    further = {"encoders": encoders}
    if target != FUSED:
        further["features"] = {f"vectors.{name}": v.half() for name, v in vectors.items()}
        further["features"] |= {f"present.{name}": present.clone() for name in vectors}
    export_folder.write(folder, made_export, further)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--known", type=int, default=1_000_000, help="items of the export")
    parser.add_argument("--new", type=int, default=100_000, help="items to add")
    parser.add_argument("--target", choices=[FUSED, "collaborative"], default=FUSED)
    parser.add_argument("--codebook_size", type=int, default=256)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder, file = Path(place, "export"), Path(place, "new.item")
        write_export(folder, options.known, options.target, options.codebook_size)
        rows = [f"n{i}\t{text}" for i, text in enumerate(texts(options.new, 2))]
        file.write_text("\n".join(["item_id:token\ttitle:token_seq", *rows]) + "\n")
        sizes = export_folder.read(folder).table.sizes[options.target]
        command = [sys.executable, "-c", COMMAND, "add-items"]
        start = time.perf_counter()
        subprocess.run(
            [*command, "--export", str(folder), "--items", str(file)],
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{options.new:,} items to {options.known:,} ({options.target}, codes {sizes}): "
        f"{seconds:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of one core)"
    )


if __name__ == "__main__":
    main()
