"""Training speed and memory of MSCGRec, TiledSASRec and RecBole's own SASRec in one run.

    python benchmarks/train.py --json=out.json
    python benchmarks/train.py --dataset=ml-1m --data_path=../shared/dataset --models TiledSASRec
    python benchmarks/train.py --device=cuda --models MSCGRec TiledSASRec

Each model runs in a process of its own, so its peak memory is its own. An epoch is timed after one
warm-up epoch, or after --warm_up batches for SASRec, whose epochs take minutes. Of the paper's form
of MSCGRec (MSCGRec-paper), whose epochs take longer still, --batches batches are timed and the
epoch is computed from them. The share of the device's measured peak in float32 counts matrix
products only. A target is one next item to predict: RecBole's SASRec has one per row,
a tiled row has one per position.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import statistics
import sys
import time
from typing import Any

RECBOLE_SASREC, PAPER = "SASRec", "MSCGRec-paper"


def measure(name: str, settings: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Epoch seconds of one model: the median over epochs; runs in the calling process."""
    import hardware
    import torch
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    from recbole_mscgrec.config.config import Config, properties_folder

    logging.disable(logging.WARNING)
    sys.argv = sys.argv[:1]
    dataset = settings.pop("dataset")
    model = "MSCGRec" if name == PAPER else name
    files = [str(properties_folder() / "model" / f"{PAPER}.yaml")] if name == PAPER else []
    config = Config(model, dataset, files, {**settings, "show_progress": False})
    torch.set_float32_matmul_precision(config["matmul_precision"])
    init_seed(config["seed"], config["reproducibility"])
    train, _, _ = data_preparation(config, create_dataset(config))
    network = get_model(model)(config, train._dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], model)(config, network)
    rows = train._dataset.inter_feat
    field = f"{config['ITEM_ID_FIELD']}_target{config['LIST_SUFFIX']}"
    n_targets = int((rows[field] != 0).sum()) if field in rows else len(rows)

    epochs, batches, device = args.epochs, len(train), config["device"]
    if name in (RECBOLE_SASREC, PAPER):
        trainer._train_epoch(_First(train, args.warm_up), 0)
        epochs, batches = 1, args.batches if name == PAPER else batches
    else:
        trainer._train_epoch(train, 0)
    seconds = []
    for epoch in range(1, epochs + 1):
        hardware.wait_for(device)
        start = time.perf_counter()
        trainer._train_epoch(_First(train, batches), epoch)
        hardware.wait_for(device)
        seconds.append((time.perf_counter() - start) * len(train) / batches)
    median = statistics.median(seconds)
    flops, peak = flops_of_epoch(network, train, device), hardware.peak_flops(device)
    return {
        "device": hardware.name_of(device),
        "epoch_seconds": round(median, 2),
        "all_epochs": [round(s, 2) for s in seconds],
        "batches_timed": batches,
        "batches": len(train),
        "rows": len(rows),
        "targets": n_targets,
        "targets_per_second": round(n_targets / median),
        "flops_of_epoch": flops,
        "peak_flops": peak,
        "share_of_peak": flops / median / peak,
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def flops_of_epoch(network: Any, train: Any, device: Any) -> int:
    """Operations of the matrix products of an epoch, forward and backward, as those of its first
    batch: torch does not count them in compiled code."""
    import hardware
    import torch

    batch = next(iter(train)).to(device)
    with torch.compiler.set_stance("force_eager"):
        flops = hardware.flops_of(lambda: network.train().calculate_loss(batch).backward())
    return round(flops * len(train._dataset.inter_feat) / len(batch))


class _First:
    """The first batches of a loader, for warming up."""

    def __init__(self, loader: Any, batches: int) -> None:
        self.loader, self.batches, self.shuffle = loader, batches, loader.shuffle

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Any:
        for index, batch in enumerate(self.loader):
            if index == self.batches:
                return
            yield batch


def main() -> None:
    """Measure every model, print a table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--models", nargs="+", default=["MSCGRec", PAPER, "TiledSASRec", RECBOLE_SASREC]
    )
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data_path", default="dataset/")
    parser.add_argument("--length", type=int, default=50, help="MAX_ITEM_LIST_LENGTH of all models")
    parser.add_argument("--matmul_precision", help="of all models")
    parser.add_argument("--amp_dtype", choices=["bf16", "fp16"], help="of all models")
    parser.add_argument("--compile", choices=["True", "False"], help="of MSCGRec")
    parser.add_argument("--epochs", type=int, default=3, help="timed epochs of the tiled models")
    parser.add_argument("--warm_up", type=int, default=3, help="warm-up batches of the slow ones")
    parser.add_argument("--batches", type=int, default=10, help="timed batches of MSCGRec-paper")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--train_batch_size", type=int, help="rows per step of all models")
    parser.add_argument("--collaborative_epochs", type=int, help="of the codes, before the clock")
    parser.add_argument("--json", help="where to write the measurements")
    args = parser.parse_args()
    settings = {
        "dataset": args.dataset,
        "data_path": args.data_path,
        "MAX_ITEM_LIST_LENGTH": args.length,
        "matmul_precision": args.matmul_precision,
        "amp_dtype": args.amp_dtype,
        "use_gpu": args.device == "cuda",
    }
    if args.train_batch_size:
        settings["train_batch_size"] = args.train_batch_size
    context = multiprocessing.get_context("spawn")
    results = {}
    for model in args.models:
        own = dict(settings)
        if model in ("MSCGRec", PAPER):
            own["compile"] = args.compile
        if model in ("MSCGRec", PAPER) and args.collaborative_epochs:
            own["collaborative_epochs"] = args.collaborative_epochs
        with context.Pool(1) as pool:
            results[model] = pool.apply(measure, (model, own, args))
        print(f"{model:12} {results[model]}", flush=True)
    report = {
        "dataset": args.dataset,
        "length": args.length,
        "epoch_seconds": {m: r["epoch_seconds"] for m, r in results.items()},
        "models": results,
    }
    if RECBOLE_SASREC in results:
        base = results[RECBOLE_SASREC]["epoch_seconds"]
        report["speedup_over_recbole_sasrec"] = {
            m: round(base / r["epoch_seconds"], 1) for m, r in results.items()
        }
    print(json.dumps(report, indent=2))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=2)


if __name__ == "__main__":
    main()
