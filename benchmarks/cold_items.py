"""How well are items recommended that training never saw?

A tenth of the items, drawn at random, is taken out of the data with all their interactions. A model
is trained without them, exported, and the items are added with `add-items`. Then the last items of
all users are predicted (the items before them choose `cold_share`); some of these are cold.

    python benchmarks/cold_items.py split --dataset=amazon-scientific --seed=2020
    python run_recbole_mscgrec.py --dataset=amazon-scientific-cold-2020 --data_path=saved/cold \
        --seed=2020
    python benchmarks/cold_items.py measure --dataset=amazon-scientific --seed=2020 \
        --model_file=saved/MSCGRec-amazon-scientific-cold-2020-HASH.pth --csv=saved/cold.csv
    python benchmarks/cold_items.py table --csv=saved/cold.csv

`measure` appends its figures, one row per method, protocol and group of targets; `table` writes
mean and standard deviation over seeds to results/cold_items.csv.
"""

from __future__ import annotations

import argparse
import csv
import math
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import torch

from recbole_mscgrec.cli import main as command
from recbole_mscgrec.features.text_columns import clean_text
from recbole_mscgrec.features.tfidf import fit_tfidf
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.recommender import Recommender
from recbole_mscgrec.serving.requests import mixed

TOP = 10
SHARES = (0.0, 0.1, 0.2, 0.3, 0.5)
BATCH = 256
COLUMNS = "dataset seed method protocol group targets recall@10 ndcg@10 note".split()
RANKED, EXCLUDED = "seen ranked", "seen excluded"


class Case(NamedTuple):
    """A history and the item that comes next."""

    history: list[str]
    target: str
    drawn: bool  # among the users that figures over all targets are computed on


# --- split ----------------------------------------------------------------------------------------


def rows_of(file: Path) -> tuple[str, list[str]]:
    """The header of an atomic file, and its rows."""
    header, *rows = file.read_text(encoding="utf-8").splitlines()
    return header, rows


def column(header: str, name: str) -> int:
    """The place of a column."""
    return [field.partition(":")[0] for field in header.split("\t")].index(name)


def split(dataset: str, data_path: Path, out: Path, seed: int, share: float) -> list[str]:
    """Write OUT/NAME/NAME.inter and NAME.item without a drawn share of the items, and
    OUT/NAME/cold.item with them; NAME is DATASET-cold-SEED. Returns the cold items."""
    name = f"{dataset}-cold-{seed}"
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    header, rows = rows_of(data_path / dataset / f"{dataset}.inter")
    at = column(header, "item_id")
    items = sorted({row.split("\t")[at] for row in rows})
    cold = set(random.Random(seed).sample(items, round(share * len(items))))
    warm = [row for row in rows if row.split("\t")[at] not in cold]
    (folder / f"{name}.inter").write_text("\n".join([header, *warm]) + "\n", encoding="utf-8")
    header, rows = rows_of(data_path / dataset / f"{dataset}.item")
    at = column(header, "item_id")
    for file, keep in ((f"{name}.item", False), ("cold.item", True)):
        chosen = [row for row in rows if (row.split("\t")[at] in cold) == keep]
        (folder / file).write_text("\n".join([header, *chosen]) + "\n", encoding="utf-8")
    return sorted(cold)


# --- measure --------------------------------------------------------------------------------------


def cases_of(options: argparse.Namespace, cold: set[str]) -> tuple[list[Case], list[Case]]:
    """The cases for validation (the item before the last one of a user) and test (the last one) in
    the complete data: all whose target is cold, and those of some users drawn at random."""
    dataset, data_path = options.dataset, options.data_path
    header, rows = rows_of(data_path / dataset / f"{dataset}.inter")
    places = [column(header, name) for name in ("user_id", "item_id", "timestamp")]
    users: dict[str, list[tuple[float, str]]] = {}
    for row in rows:
        cells = row.split("\t")
        user, item, time = (cells[place] for place in places)
        users.setdefault(user, []).append((float(time), item))
    valid, test = list[Case](), list[Case]()
    n_drawn = min(options.users, len(users))
    drawn = set(random.Random(options.seed).sample(sorted(users), n_drawn))
    for user, events in users.items():
        items = [item for _, item in sorted(events, key=lambda event: event[0])]
        for cases, end in ((valid, len(items) - 2), (test, len(items) - 1)):
            if end > 0 and (user in drawn or items[end] in cold):
                cases.append(Case(items[:end], items[end], user in drawn))
    return valid, test


Lists = list[list[str]]


def ours(model: Recommender, cases: list[Case], cold: list[str], seen: bool) -> tuple[list, list]:
    """For each case (item, score) pairs: the best of all items, and the best cold ones."""
    best, added = [], []
    for start in range(0, len(cases), BATCH):
        histories = [case.history for case in cases[start : start + BATCH]]
        everything = model.recommend(histories, TOP, exclude_seen=seen, cold_share=0.0)
        only_cold = model.recommend(histories, TOP, exclude_seen=seen, allowed=cold, cold_share=0.0)
        best += [[(e.item, e.score) for e in row] for row in everything]
        added += [[(e.item, e.score) for e in row] for row in only_cold]
    return best, added


def text_neighbours(
    texts: dict[str, str], size: int, seed: int
) -> Callable[[list[Case], list[str], bool], Lists]:
    """Rankings by the cosine of TF-IDF vectors to the mean of the history's."""
    _, vectors = fit_tfidf(list(texts.values()), size, seed)
    place = {item: n for n, item in enumerate(texts)}

    def lists(cases: list[Case], among: list[str], seen: bool) -> Lists:
        rows = torch.tensor([place[item] for item in among])
        found = []
        for case in cases:
            mine = vectors[[place[item] for item in case.history if item in place]].sum(0)
            scores = vectors[rows] @ mine
            if seen:
                gone = set(case.history)
                scores[[n for n, item in enumerate(among) if item in gone]] = -torch.inf
            found.append([among[n] for n in scores.topk(min(TOP, len(among))).indices.tolist()])
        return found

    return lists


def scores(lists: Iterable[list[str]], cases: list[Case], chosen: set[str] | None = None) -> dict:
    """Recall@10 and NDCG@10 over the cases whose target is among `chosen`; None: over the users
    drawn."""
    ranks = [
        found.index(case.target) if case.target in found else None
        for found, case in zip(lists, cases, strict=True)
        if (case.drawn if chosen is None else case.target in chosen)
    ]
    gains = [1 / math.log2(r + 2) for r in ranks if r is not None]
    n = max(len(ranks), 1)
    return {"targets": len(ranks), "recall@10": len(gains) / n, "ndcg@10": sum(gains) / n}


def items_of(pairs: list[list[tuple[str, float]]]) -> Lists:
    return [[item for item, _ in row] for row in pairs]


def mixture(best: list, added: list, share: float) -> Lists:
    """Lists in which a share of the places goes to cold items, as `cold_share` does."""
    return [[item for item, _ in mixed(a, b, TOP, share)] for a, b in zip(best, added, strict=True)]


def with_permuted_codes(model: Recommender, cold: list[str], seed: int) -> Recommender:
    """The same model, with the target codes of the cold items dealt out among them at random."""
    export = model.export
    table = export.table
    codes = table.codes[table.target].clone()
    ids = torch.tensor([model.tokens.id_of[item] for item in cold])
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed))
    codes[ids] = codes[ids[order]]
    return Recommender(
        replace(export, table=replace(table, codes={**table.codes, table.target: codes}))
    )


def measure(options: argparse.Namespace) -> list[dict]:
    """All rows of one data set and seed."""
    folder = options.out / f"{options.dataset}-cold-{options.seed}"
    exported = folder / "export"
    shutil.rmtree(exported, ignore_errors=True)
    given = [f"--data_path={options.out}", f"--cache_dir={options.cache_dir}"]
    _run(["export", "--model_file", str(options.model_file), "--out", str(exported), *given])
    header, rows = rows_of(folder / "cold.item")
    drawn = [row.split("\t")[column(header, "item_id")] for row in rows]
    _run(["add-items", "--export", str(exported), "--items", str(folder / "cold.item")])
    model = Recommender(export_folder.read(exported))
    cold = [item for item in drawn if item in model.tokens.id_of]
    valid, test = cases_of(options, set(cold))
    texts = texts_of(options.data_path / options.dataset / f"{options.dataset}.item", model)
    nearest = text_neighbours(texts, options.tfidf_size, options.seed)
    made: list[dict] = []
    for protocol, seen in ((RANKED, False), (EXCLUDED, True)):
        made += _rows(model, valid, test, cold, nearest, protocol, seen, options.seed)
    common = {"dataset": options.dataset, "seed": options.seed}
    return [{**common, **row} for row in made]


def _rows(
    model: Recommender,
    valid: list[Case],
    test: list[Case],
    cold: list[str],
    nearest: Callable[[list[Case], list[str], bool], Lists],
    protocol: str,
    seen: bool,
    seed: int,
) -> list[dict]:
    is_cold, rows = set(cold), []

    def add(method: str, lists: Lists, among_cold: Lists | None, note: str = "") -> None:
        groups: list[tuple[str, Lists, set[str] | None]] = [
            ("cold targets, all items", lists, is_cold)
        ]
        if any(case.target not in is_cold for case in test):
            groups.append(("all targets, all items", lists, None))
        if among_cold is not None:
            groups.append(("cold targets, cold items", among_cold, is_cold))
        for group, found, chosen in groups:
            figures = scores(found, test, chosen)
            named = {"method": method, "protocol": protocol, "group": group, "note": note}
            rows.append({**named, **figures})

    best, added = ours(model, valid, cold, seen)
    found = {share: scores(mixture(best, added, share), valid) for share in SHARES}
    # The share that costs nothing over all targets, or else the one with the best Recall@10.
    chosen = max(SHARES, key=lambda share: (found[share]["recall@10"], found[share]["ndcg@10"]))
    best, added = ours(model, test, cold, seen)
    add("MSCGRec", items_of(best), items_of(added))
    for share in SHARES[1:]:
        note = "chosen on validation" if share == chosen else ""
        add(f"MSCGRec, cold_share {share}", mixture(best, added, share), None, note)
    everything, cold_only = nearest(test, model.items, seen), nearest(test, cold, seen)
    add("cosine of text vectors", everything, cold_only)
    random_codes = with_permuted_codes(model, cold, seed)
    test = [case for case in test if case.target in is_cold]
    best, added = ours(random_codes, test, cold, seen)
    add("MSCGRec, random codes", items_of(best), items_of(added))
    return rows


def texts_of(file: Path, model: Recommender) -> dict[str, str]:
    """The text of every item of the model, from all columns of an .item file but the token."""
    header, rows = rows_of(file)
    at = column(header, "item_id")
    texts = {}
    for row in rows:
        cells = row.split("\t")
        if cells[at] in model.tokens.id_of:
            texts[cells[at]] = " ".join(clean_text(c) for n, c in enumerate(cells) if n != at)
    return {item: texts.get(item, "") or "none" for item in model.items}


def _run(arguments: list[str]) -> None:
    if command(arguments):
        raise SystemExit(f"recbole-mscgrec {' '.join(arguments)} failed.")


# --- table ----------------------------------------------------------------------------------------


def table(sources: list[Path]) -> list[dict[str, str]]:
    """Mean and standard deviation over seeds: one row per data set, protocol and method, with two
    metrics for each group of targets."""
    rows: list[dict[str, str]] = []
    for source in sources:
        with source.open(encoding="utf-8", newline="") as stream:
            rows += csv.DictReader(stream)
    groups: dict[tuple[str, ...], dict[str, list[dict[str, str]]]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("dataset", "protocol", "method"))
        groups.setdefault(key, {}).setdefault(row["group"], []).append(row)
    made = []
    for key, by_group in groups.items():
        line = dict(zip(("dataset", "protocol", "method"), key, strict=True))
        line["seeds"] = str(max(len(members) for members in by_group.values()))
        for group, members in by_group.items():
            for metric, title in (("recall@10", "Recall@10"), ("ndcg@10", "NDCG@10")):
                values = [float(member[metric]) for member in members]
                spread = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
                line[f"{group}: {title}"] = f"{mean(values):.4f}{spread}"
        made.append(line)
    return made


TABLE = ["dataset", "protocol", "method", "seeds"] + [
    f"{group}: {title}"
    for group in ("cold targets, all items", "cold targets, cold items", "all targets, all items")
    for title in ("Recall@10", "NDCG@10")
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=["split", "measure", "table"])
    parser.add_argument("--dataset", help="name of the complete data set")
    parser.add_argument("--data_path", type=Path, default=Path("../shared/dataset"))
    parser.add_argument("--out", type=Path, default=Path("saved/cold"), help="the split data sets")
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--share", type=float, default=0.1, help="of items that are cold")
    parser.add_argument(
        "--users", type=int, default=2000, help="drawn for figures over all targets"
    )
    parser.add_argument("--model_file", type=Path)
    parser.add_argument("--cache_dir", type=Path, default=Path("saved/cache"))
    parser.add_argument("--tfidf_size", type=int, default=256, help="of the text baseline")
    parser.add_argument("--csv", type=Path, default=Path("saved/cold.csv"))
    parser.add_argument("--more", type=Path, nargs="*", default=[], help="further files of figures")
    parser.add_argument("--table", type=Path, default=Path("results/cold_items.csv"))
    options = parser.parse_args()
    if options.step == "split":
        name = (options.dataset, options.data_path, options.out, options.seed, options.share)
        print(f"{len(split(*name))} cold items")
    elif options.step == "measure":
        rows, new = measure(options), not options.csv.exists()
        with options.csv.open("a", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
            if new:
                writer.writeheader()
            for row in rows:
                shown = {k: f"{v:.6f}" if isinstance(v, float) else v for k, v in row.items()}
                writer.writerow(shown)
    else:
        with options.table.open("w", encoding="utf-8", newline="") as out:
            table_writer = csv.DictWriter(out, TABLE, restval="", lineterminator="\n")
            table_writer.writeheader()
            table_writer.writerows(table([options.csv, *options.more]))


if __name__ == "__main__":
    main()
