"""How well are items recommended that training never saw?

Two steps, with a training between them:

    python benchmarks/cold_items.py split --dataset amazon-scientific --data_path ../shared/dataset --seed 2020
    python run_recbole_mscgrec.py --dataset=amazon-scientific-cold-2020 --data_path=saved/cold --seed=2020
    python benchmarks/cold_items.py measure --dataset ... --model_file saved/...pth

`split` draws a tenth of the items at random (the cold items) and writes two data sets' worth of files: one without the
cold items and their interactions, for training, and the .item rows of the cold items.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path


def split(dataset: str, data_path: Path, out: Path, seed: int, share: float) -> list[str]:
    """Write OUT/NAME/NAME.inter and NAME.item without a drawn share of the items, and
    OUT/NAME/cold.item with them; NAME is DATASET-cold-SEED. Returns the cold items."""
    name = f"{dataset}-cold-{seed}"
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    header, *rows = (data_path / dataset / f"{dataset}.inter").read_text().splitlines()
    columns = [column.partition(":")[0] for column in header.split("\t")]
    at = columns.index("item_id")
    items = sorted({row.split("\t")[at] for row in rows})
    cold = set(random.Random(seed).sample(items, round(share * len(items))))
    warm = [row for row in rows if row.split("\t")[at] not in cold]
    (folder / f"{name}.inter").write_text("\n".join([header, *warm]) + "\n")
    header, *rows = (data_path / dataset / f"{dataset}.item").read_text().splitlines()
    for file, keep in ((f"{name}.item", False), ("cold.item", True)):
        chosen = [row for row in rows if (row.split("\t")[0] in cold) == keep]
        (folder / file).write_text("\n".join([header, *chosen]) + "\n")
    return sorted(cold)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=["split", "measure"])
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_path", type=Path, default=Path("../shared/dataset"))
    parser.add_argument("--out", type=Path, default=Path("saved/cold"))
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--share", type=float, default=0.1)
    options = parser.parse_args()
    cold = split(options.dataset, options.data_path, options.out, options.seed, options.share)
    print(f"{len(cold)} cold items")


if __name__ == "__main__":
    main()
