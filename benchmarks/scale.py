"""How the pipeline grows with the catalogue: seconds and peak memory of each stage.

    python benchmarks/scale.py --items 10000 100000 --csv=scale.csv

For each size, data with structure are generated: users who like two clusters of items, item texts,
and vectors of 95 % of the items in a memory-mapped file. Then a new process runs all stages on
them: data, tokenizer (SASRec, TF-IDF, given vectors, codes), some training steps, evaluation of
some users, checkpoint, export. The memory of that process is sampled while it runs.

Up to 100,000 items, RecBole's own SASRec is measured in another process: its data, and some
training steps at its batch size of 2,048 rows. At a million items the logits of one batch take
8 GB, and their softmax and gradient as much again each.

`cpu_seconds` is the CPU time of all threads together. With several sizes, `exponent` is fitted for
each stage: seconds ~ items ** exponent. Training and evaluation have the same number of batches at
each size. Sizes that the CSV file already has from an earlier call are kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

NAME, WIDTH, PER_CLUSTER, WITH_VECTOR = "scale", 64, 100, 0.95
USERS_AT_ONCE = 50_000
STOCK_UP_TO, STOCK_STEPS = 100_000, 5  # items and training steps of RecBole's SASRec
ADJECTIVES = (
    "red blue green warm cold large small light dark quick quiet heavy soft old new".split()
)
SETTINGS = {  # of both models
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "MAX_ITEM_LIST_LENGTH": 20,
    "eval_batch_size": 256,
    "topk": [10],
    "metrics": ["Recall", "NDCG"],
    "valid_metric": "NDCG@10",
    "user_inter_num_interval": "[0,inf)",
    "item_inter_num_interval": "[0,inf)",
    "show_progress": False,
    "use_gpu": False,
}
OF_MSCGREC = {"n_levels": 3, "collaborative_epochs": 1, "train_batch_size": 64, "beam_size": 20}


def generate(folder: Path, n_items: int, n_users: int, length: int, seed: int = 0) -> None:
    """Write the data set `scale` and its item vectors into `folder`."""
    draw, n_clusters = np.random.default_rng(seed), max(4, n_items // PER_CLUSTER)
    place = folder / NAME
    place.mkdir(parents=True, exist_ok=True)
    with (place / f"{NAME}.inter").open("w", encoding="utf-8") as file:
        file.write("user_id:token\titem_id:token\ttimestamp:float\n")
        for start in range(0, n_users, USERS_AT_ONCE):
            users = np.arange(start, min(start + USERS_AT_ONCE, n_users))
            liked = draw.integers(n_clusters, size=(len(users), 2))
            cluster = np.take_along_axis(liked, draw.integers(2, size=(len(users), length)), 1)
            # A few items of each cluster are popular; items of cluster c are c, c + C, c + 2 C, ...
            rank = (draw.random(cluster.shape) ** 2 * (n_items // n_clusters)).astype(np.int64)
            rows = zip(users.tolist(), (cluster + rank * n_clusters).tolist(), strict=True)
            for user, items in rows:
                file.writelines(f"u{user}\ti{item}\t{t}\n" for t, item in enumerate(items))
    with (place / f"{NAME}.item").open("w", encoding="utf-8") as file:
        file.write("item_id:token\ttitle:token_seq\n")
        for item in range(n_items):
            cluster = item % n_clusters
            adjective = ADJECTIVES[item // n_clusters % len(ADJECTIVES)]
            words = f"kind{cluster} family{cluster % 97} {adjective} model{item % 1009}"
            file.write(f"i{item}\t{words}\n")
    with_vector = np.sort(draw.permutation(n_items)[: int(WITH_VECTOR * n_items)])
    shape = (len(with_vector), WIDTH)
    vectors = np.lib.format.open_memmap(folder / "image.npy", "w+", np.float32, shape)
    centres = draw.standard_normal((n_clusters, WIDTH), dtype=np.float32)
    for start in range(0, len(with_vector), USERS_AT_ONCE):
        items = with_vector[start : start + USERS_AT_ONCE]
        noise = draw.standard_normal((len(items), WIDTH), dtype=np.float32)
        vectors[start : start + USERS_AT_ONCE] = centres[items % n_clusters] + 0.5 * noise
    vectors.flush()
    tokens = "".join(f"i{item}\n" for item in with_vector)
    (folder / "image.tokens.txt").write_text(tokens, encoding="utf-8")


class Measured:
    """Seconds and peak memory of stages of this process."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure this block. A stage may have several."""
        process, over = psutil.Process(), threading.Event()
        peak = [process.memory_info().rss]

        def sample() -> None:
            while not over.wait(0.02):
                peak[0] = max(peak[0], process.memory_info().rss)

        sampler = threading.Thread(target=sample, daemon=True)
        sampler.start()
        start, worked = time.perf_counter(), time.process_time()
        yield
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
        over.set()
        sampler.join()
        row = {"stage": name, "seconds": round(seconds, 2), "cpu_seconds": round(worked, 2)}
        row["peak_mb"] = peak[0] >> 20
        if before := self.rows.get(name):
            row |= {k: round(row[k] + before[k], 2) for k in ("seconds", "cpu_seconds")}
            row["peak_mb"] = max(row["peak_mb"], before["peak_mb"])
        self.rows[name] = row
        print(json.dumps(row), file=sys.stderr, flush=True)


class First:
    """The first batches of a loader."""

    def __init__(self, loader: Any, n_batches: int) -> None:
        self.loader, self.n_batches = loader, n_batches

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    @property  # type: ignore[misc]
    def __class__(self) -> Any:  # RecBole asks which kind of loader it is
        return type(self.loader)

    def __len__(self) -> int:
        return min(self.n_batches, len(self.loader))

    def __iter__(self) -> Iterator[Any]:
        for _, batch in zip(range(self.n_batches), self.loader, strict=False):
            yield batch


def places_of(folder: Path) -> dict[str, Any]:
    """The settings of both models, with the data and the places of files in `folder`."""
    (folder / "saved").mkdir(exist_ok=True)
    places = {"data_path": "", "checkpoint_dir": "saved", "log_dir": "log"}
    return SETTINGS | {key: str(folder / name) for key, name in places.items()}


def stock(folder: Path) -> list[dict[str, Any]]:
    """Data and training steps of RecBole's SASRec in this process."""
    measured, sys.argv = Measured(), sys.argv[:1]
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    from recbole_mscgrec.config.config import Config

    config = Config("SASRec", NAME, config_dict=places_of(folder))
    init_seed(config["seed"], config["reproducibility"])
    with measured.stage("RecBole's SASRec: data"):
        train, _, _ = data_preparation(config, create_dataset(config))
    model = get_model("SASRec")(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "SASRec")(config, model)
    with measured.stage(f"RecBole's SASRec: {STOCK_STEPS} steps"):
        trainer._train_epoch(First(train, STOCK_STEPS), 0)
    return list(measured.rows.values())


def take_through(folder: Path, args: argparse.Namespace) -> list[dict[str, Any]]:
    """All stages in this process."""
    measured, sys.argv = Measured(), sys.argv[:1]  # RecBole takes options for settings
    import torch
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    from recbole_mscgrec.config.config import Config
    from recbole_mscgrec.deployment.export import export_of_loaded
    from recbole_mscgrec.serving import export_folder
    from recbole_mscgrec.tokenizer import pipeline

    chosen = {
        **places_of(folder),
        **OF_MSCGREC,
        "codebook_size": args.codebook_size,
        "vectors_file": {"image": str(folder / "image.npy")},
        "cache_dir": str(folder / "cache"),
    }
    config = Config("MSCGRec", NAME, config_dict=chosen)
    init_seed(config["seed"], config["reproducibility"])
    with measured.stage("data"):
        train, valid, _ = data_preparation(config, create_dataset(config))

    @contextmanager
    def timed(_: dict[str, float], stage: str) -> Iterator[None]:
        with measured.stage(f"tokenizer: {stage}"):
            yield

    pipeline.timed = timed
    with measured.stage("tokenizer and network"):
        model = get_model("MSCGRec")(config, train._dataset)
    trainer = get_trainer(config["MODEL_TYPE"], "MSCGRec")(config, model)
    steps, eval_batches = args.steps, args.eval_batches
    with measured.stage(f"train, {steps} steps"):
        trainer._train_epoch(First(train, steps), 0)
    trainer.eval_collector.data_collect(train)
    with measured.stage(f"evaluation, {eval_batches} batches"):
        trainer.evaluate(First(valid, eval_batches), load_best_model=False)
    with measured.stage("metrics of all users"):
        n_users, size = train._dataset.user_num - 1, config["eval_batch_size"]
        lists = torch.randint(1, train._dataset.item_num, (size, max(config["topk"])))
        rows = torch.arange(size)
        for _ in range(0, n_users, size):  # as in an evaluation, without the beam search
            trainer.eval_collector.eval_batch_collect(lists, None, rows, lists[:, 0])
        trainer.evaluator.evaluate(trainer.eval_collector.get_data_struct())
    with measured.stage("checkpoint"):
        trainer._save_checkpoint(0, verbose=False)
    with measured.stage("export"):
        export_folder.write(folder / "export", export_of_loaded(config, model, train._dataset))
    return list(measured.rows.values())


def measure(args: argparse.Namespace, n_items: int) -> list[dict[str, Any]]:
    """The rows of one size, from a new process."""
    folder = Path(args.folder) / str(n_items)
    n_users = args.users or n_items
    generate(folder, n_items, n_users, args.length)
    same = ("steps", "eval_batches", "codebook_size")
    options = [f"--{name.replace('_', '-')}={getattr(args, name)}" for name in same]
    rows = []
    for kind in [[], ["--stock"]] if n_items <= STOCK_UP_TO else [[]]:
        command = [sys.executable, __file__, f"--of={folder}", *options, *kind]
        ran = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows += json.loads(ran.stdout.splitlines()[-1])
    return [{"items": n_items, "users": n_users, **row} for row in rows]


def exponents(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Stage -> e of the fit seconds ~ items ** e, for stages that take a tenth of a second. The
    seconds are those of the processor: other programs do not add to them."""
    found = {}
    for stage in dict.fromkeys(row["stage"] for row in rows):
        own = [r for r in rows if r["stage"] == stage and float(r["cpu_seconds"]) >= 0.1]
        if len(own) > 1:
            items, seconds = ([float(r[k]) for r in own] for k in ("items", "cpu_seconds"))
            found[stage] = round(float(np.polyfit(np.log(items), np.log(seconds), 1)[0]), 2)
    return found


def with_earlier(rows: list[dict[str, Any]], file: Path) -> list[dict[str, Any]]:
    """The rows, those of other sizes in the CSV file, and the exponents of all."""
    sizes = {str(row["items"]) for row in rows}
    if file.is_file():
        with file.open(encoding="utf-8", newline="") as stream:
            rows = rows + [row for row in csv.DictReader(stream) if row["items"] not in sizes]
    rows = sorted(rows, key=lambda row: int(row["items"]))
    fits = exponents(rows)
    return [row | {"exponent": fits.get(row["stage"], "")} for row in rows]


def main() -> None:
    """Measure each size, print tables, write the CSV file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--users", type=int, help="default: as many as items")
    parser.add_argument("--length", type=int, default=10, help="interactions per user")
    parser.add_argument("--steps", type=int, default=200, help="training steps")
    parser.add_argument("--eval-batches", type=int, default=20, help="batches of 256 users")
    parser.add_argument("--codebook-size", type=int, default=64, help="codewords a level, of three")
    parser.add_argument("--folder", default="scale", help="where data and files are written")
    parser.add_argument("--csv", help="where to write every measurement")
    parser.add_argument("--of", help=argparse.SUPPRESS)  # in the new process: the folder
    parser.add_argument("--stock", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.of:
        folder = Path(args.of)
        print(json.dumps(stock(folder) if args.stock else take_through(folder, args)))
        return
    rows = [row for n_items in args.items for row in measure(args, n_items)]
    rows = with_earlier(rows, Path(args.csv or ""))
    for row in rows:
        print("| " + " | ".join(f"{value}" for value in row.values()) + " |")
    if args.csv:
        with open(args.csv, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
