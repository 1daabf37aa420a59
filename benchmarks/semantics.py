"""How well image codes predict genres: micro-F1 of a leave-one-out 10-nearest-neighbour prediction.

    python benchmarks/semantics.py --data_path=../shared/dataset --dataset=ml-1m --json=out.json
    python benchmarks/semantics.py --table=out.json --plot=out.png

The second command prints such a report as markdown and plots DINO's loss.

Compared, with the same code sizes: RQ-DINO; k-means residual quantization of the same backbone's
vectors before training, and after DINO without quantization; random codes. Items are compared by
the vectors that their codes represent. Stages use the cache of the package, so RQ-DINO is trained
only if no run has trained it yet. Any setting can be passed: --image_epochs=5 --seed=1.

Genres are all words of the .item column --label_column. A genre is predicted for an item if at
least t of its 10 nearest other items have it. All rows use the t that is best for the backbone
before training, so it cannot favour RQ-DINO. Ties in distance are broken in one random order.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

Tensor = torch.Tensor
N_NEIGHBOURS = 10
N_DRAWS = 5  # of random codes
N_RESAMPLES = 2000
NAMES = {
    "rq_dino": "RQ-DINO",
    "before_training": "k-means of the backbone before training",
    "dino_then_kmeans": "k-means after DINO without quantization",
    "random": "random codes",
}


def genres(config: Any, dataset: Any, items: Tensor, column: str) -> tuple[list[str], Tensor]:
    """Names of the G genres, and which of the n `items` has which: float (n, G)."""
    from recbole_mscgrec.data.atomic_files import first_of_each, read_atomic_file

    key, file = dataset.iid_field, Path(config["data_path"]) / f"{config['dataset']}.item"
    read = read_atomic_file(file, config["field_separator"], config["encoding"], [key, column])
    frame = first_of_each(read, key).frame
    words = dict(zip(frame[key], frame[column].str.split(), strict=True))
    of_item = [words[t] for t in dataset.id2token(dataset.iid_field, items.numpy())]
    names = sorted({word for own in of_item for word in own})
    table = torch.tensor([[name in own for name in names] for own in of_item])
    return names, table.float()


def votes(vectors: Tensor, labels: Tensor) -> Tensor:
    """How many of each item's 10 nearest other items have each genre: (n, G)."""
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))
    v, g = vectors[order].double(), labels[order]
    distance = torch.cdist(v, v, compute_mode="donot_use_mm_for_euclid_dist")
    distance.fill_diagonal_(torch.inf)
    nearest = distance.topk(N_NEIGHBOURS, largest=False).indices
    counts = torch.empty_like(labels)
    counts[order] = g[nearest].sum(dim=1)
    return counts


def parts(counts: Tensor, labels: Tensor, threshold: int) -> Tensor:
    """Per item twice the hits, and genres predicted plus genres it has: (n, 2)."""
    predicted = (counts >= threshold).float()
    return torch.stack([2 * (predicted * labels).sum(1), predicted.sum(1) + labels.sum(1)], dim=1)


def micro_f1(part: Tensor) -> Tensor:
    """Of parts (..., n, 2): (...)."""
    total = part.sum(dim=-2)
    return total[..., 0] / total[..., 1]


def bootstrap(part: Tensor, other: Tensor) -> dict[str, float]:
    """Standard error of the F1, and of its lead over another, over resamples of the items."""
    generator = torch.Generator().manual_seed(0)
    draws = [
        torch.randint(len(part), (len(part),), generator=generator) for _ in range(N_RESAMPLES)
    ]
    one, two = (torch.stack([micro_f1(p[d]) for d in draws]) for p in (part, other))
    return {"standard_error": float(one.std()), "standard_error_of_lead": float((one - two).std())}


def codes_health(codes: Tensor, sizes: list[int]) -> list[dict[str, float]]:
    from recbole_mscgrec.rq_dino.quantizer import perplexities

    counts = [torch.bincount(codes[:, i], minlength=size) for i, size in enumerate(sizes)]
    return [
        {"codebook_size": len(c), "used": int((c > 0).sum()), "perplexity": round(p, 2)}
        for c, p in zip(counts, perplexities(counts), strict=True)
    ]


def learned(config: Any, train: Any, tokenizer: str, quantize: bool = True) -> dict[str, Any]:
    """Features and history of the image stage, and the seconds it took, which are few if it was
    cached."""
    from recbole_mscgrec.config.settings import MSCGRecSettings
    from recbole_mscgrec.storage import cache
    from recbole_mscgrec.tokenizer.modalities import Absent, stage_of

    settings = MSCGRecSettings.of(config, train)
    dino = replace(settings.images.rq_dino, quantize=quantize)
    images = replace(settings.images, tokenizer=tokenizer, rq_dino=dino)
    stage = stage_of("image", replace(settings, images=images), train)
    if isinstance(stage, Absent):
        raise SystemExit(f"No item has {stage.reason}.")
    wall, cpu = time.perf_counter(), time.process_time()
    features = stage.make()
    took = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    file = cache.path(config["cache_dir"], "image", stage.key).with_suffix(".history.json")
    history = json.loads(file.read_text()) if file.is_file() else None
    return {"features": features, "history": history, "seconds": took}


def compare(config: Any, dataset: Any, column: str) -> dict[str, Any]:
    """All four kinds of codes on the items that have an image."""
    from recbole_mscgrec.config.validation import level_sizes
    from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer

    sizes, seed = list(level_sizes(config["n_levels"], config["codebook_size"])), config["seed"]
    runs = {
        "rq_dino": learned(config, dataset, "rq_dino"),
        "dino_then_kmeans": learned(config, dataset, "rq_dino", quantize=False),
        "before_training": learned(config, dataset, "features"),
    }
    items = runs["rq_dino"]["features"].present.nonzero().flatten()
    names, labels = genres(config, dataset, items, column)
    codes, quantized, continuous = {}, {}, {}
    for name, run in runs.items():
        features = run["features"]
        continuous[name] = votes(features.vectors[items], labels)
        if features.codes is None:
            quantizer = ResidualQuantizer(sizes, config["quantizer_iterations"], seed)
            codes[name] = quantizer.fit(features.vectors[items])
            quantized[name] = votes(quantizer.decode(codes[name]), labels)
        else:
            codes[name] = features.codes[items]
            quantized[name] = votes(features.quantized[items], labels)
    curve = [float(micro_f1(parts(quantized["before_training"], labels, t))) for t in range(1, 11)]
    threshold = 1 + max(range(10), key=curve.__getitem__)
    reference = parts(quantized["before_training"], labels, threshold)
    rows = {}
    for name, run in runs.items():
        part = parts(quantized[name], labels, threshold)
        rows[name] = {
            "name": NAMES[name],
            "micro_f1": float(micro_f1(part)),
            **bootstrap(part, reference),
            "micro_f1_of_vectors_before_quantization": float(
                micro_f1(parts(continuous[name], labels, threshold))
            ),
            "micro_f1_per_threshold": [
                float(micro_f1(parts(quantized[name], labels, t))) for t in range(1, 11)
            ],
            "health": codes_health(codes[name], sizes),
            "distinct_codes": len(codes[name].unique(dim=0)),
            "stage_seconds": run["seconds"],
            "history": run["history"],
        }
    rows["random"] = random_codes(sizes, labels, threshold)
    return {"n_items": len(items), "genres": names, "threshold": threshold, "codes": rows}


def random_codes(sizes: list[int], labels: Tensor, threshold: int) -> dict[str, Any]:
    """Uniformly random codes with Gaussian codewords: the mean over several draws."""
    f1 = []
    for seed in range(N_DRAWS):
        generator = torch.Generator().manual_seed(seed)
        books = [torch.randn(size, 64, generator=generator) for size in sizes]
        codes = [torch.randint(size, (len(labels),), generator=generator) for size in sizes]
        vectors = torch.stack([b[c] for b, c in zip(books, codes, strict=True)]).sum(0)
        f1.append(float(micro_f1(parts(votes(vectors, labels), labels, threshold))))
    return {"name": NAMES["random"], "micro_f1": sum(f1) / len(f1), "draws": f1}


def markdown(report: dict[str, Any]) -> str:
    """Tables of F1, health and losses."""
    rows = report["codes"]
    lines = [
        f"{report['n_items']} items, {len(report['genres'])} genres, seed {report['seed']}; a "
        f"genre is predicted where at least {report['threshold']} of {N_NEIGHBOURS} neighbours "
        "have it.",
        "",
        "| codes | micro-F1 | lead over before training | vectors before quantization |",
        "|---|---|---|---|",
    ]
    reference = rows["before_training"]["micro_f1"]
    for row in rows.values():
        lead, before = f"{row['micro_f1'] - reference:+.4f}", ""
        error = ""
        if "standard_error" in row:
            error = f" ± {row['standard_error']:.4f}"
            lead += f" ± {row['standard_error_of_lead']:.4f}"
            before = f"{row['micro_f1_of_vectors_before_quantization']:.4f}"
        lines.append(f"| {row['name']} | {row['micro_f1']:.4f}{error} | {lead} | {before} |")
    lines += ["", "| codes | used per level | perplexity per level | distinct codes |"]
    lines.append("|---|---|---|---|")
    for row in (r for r in rows.values() if "health" in r):
        used = ", ".join(f"{v['used']}/{v['codebook_size']}" for v in row["health"])
        perplexity = ", ".join(f"{v['perplexity']:.1f}" for v in row["health"])
        lines.append(f"| {row['name']} | {used} | {perplexity} | {row['distinct_codes']} |")
    trained = [row for row in rows.values() if row.get("history")]
    for row in trained:
        history = row["history"]
        lines += [
            "",
            f"{row['name']}: {history['seconds']:.0f} seconds, "
            f"{history['images_per_second']:.0f} images per second.",
        ]
    lines += ["", "| epoch | " + " | ".join(f"DINO loss, {row['name']}" for row in trained) + " |"]
    lines.append("|---|" + "---|" * len(trained))
    curves = [[e["dino_loss"] for e in row["history"]["epochs"]] for row in trained]
    for epoch, losses in enumerate(zip(*curves, strict=True), start=1):
        lines.append(f"| {epoch} | " + " | ".join(f"{loss:.3f}" for loss in losses) + " |")
    lines.append(f"\nA collapsed student's loss is {trained[0]['history']['log_out_dim']:.3f}.")
    return "\n".join(lines)


def plot(report: dict[str, Any], path: Path) -> None:
    """DINO's loss per epoch of the trained rows, and that of a collapsed student, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2))
    for row in (r for r in report["codes"].values() if r.get("history")):
        losses = [epoch["dino_loss"] for epoch in row["history"]["epochs"]]
        axes.plot(range(1, len(losses) + 1), losses, marker="o", label=row["name"])
        collapsed = row["history"]["log_out_dim"]
    axes.axhline(collapsed, color="gray", linestyle="--", label="collapsed: log(out_dim)")
    axes.set(xlabel="epoch", ylabel="DINO loss", ylim=(0, None))
    axes.set_title(f"Student against teacher, images of {report['dataset']}")
    axes.grid(True, alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    """Make or read a report; print it, write JSON and PNG."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--label_column", default="genre")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", type=Path, help="print this report instead of making one")
    parser.add_argument("--plot", type=Path, help="where to write the curve of DINO's loss")
    options, rest = parser.parse_known_args()
    if options.table:
        report = json.loads(options.table.read_text(encoding="utf-8"))
        print(markdown(report))
        if options.plot:
            plot(report, options.plot)
        return
    settings = dict(argument.removeprefix("--").split("=", 1) for argument in rest)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.argv = sys.argv[:1]
    from recbole.data import create_dataset

    from recbole_mscgrec.config.config import Config

    config = Config("MSCGRecTokenizer", options.dataset, config_dict=settings)
    torch.set_float32_matmul_precision(config["matmul_precision"])
    train = create_dataset(config).build()[0]
    report = {
        "command": " ".join(["python benchmarks/semantics.py", *rest]),
        "dataset": options.dataset,
        "seed": config["seed"],
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "settings": {
            k: v for k, v in config.final_config_dict.items() if k.startswith("image_") and v
        },
    }
    report |= compare(config, train, options.label_column)
    print(f"{report['n_items']} items, a genre is predicted from {report['threshold']} of 10 on")
    for row in report["codes"].values():
        error = f" +- {row['standard_error']:.4f}" if "standard_error" in row else ""
        print(f"{row['name']:45s} micro-F1 {row['micro_f1']:.4f}{error}")
    if options.plot:
        plot(report, options.plot)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
