"""Every model of RecBole, one epoch each through this project's command line: does it run?

    python benchmarks/recbole_models.py                      # all, about five minutes
    python benchmarks/recbole_models.py --models FM CKE      # prints the lines, writes no file

Each model runs in a process of its own on a generated data set of the kind that it needs: `plain`,
with users, items, times and ratings, features of users and items, a knowledge graph and vectors of
its entities; or `labelled`, the same with a column of labels. Writes results/recbole_models.csv and
results/recbole-models.md.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import importlib.util
import io
import multiprocessing
import os
import pkgutil
import random
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from recbole_mscgrec.cli import main as command_line

RESULTS = Path(__file__).resolve().parent.parent / "results"
FAMILIES = {
    "general": "general",
    "sequential": "sequential",
    "context_aware": "context-aware",
    "knowledge_aware": "knowledge",
    "exlib": "decision trees",
}
N_USERS, N_ITEMS, LENGTH = 60, 60, 12

# What a user has to say beside --model and --dataset, for the models that need more than data.
_VECTORS = {"additional_feat_suffix": ["ent"], "preload_weight": {"ent_id": "ent_emb"}}
_VECTORS |= {"alias_of_entity_id": ["ent_id"]}
_RELATIONS = {"additional_feat_suffix": ["ent", "rel"], "alias_of_relation_id": ["rel_id"]}
_RELATIONS |= {"preload_weight": {"ent_id": "ent_emb", "rel_id": "rel_emb"}}
_ONE = {"pretrain_epochs": 1, "save_step": 1}
# Model -> the settings of its runs, one after the other. {saved}: the checkpoint of the run before.
STAGES: dict[str, list[dict[str, Any]]] = {
    "GRU4RecKG": [_VECTORS],
    "KSR": [_VECTORS | _RELATIONS],
    "S3Rec": [_ONE, {"train_stage": "finetune", "pre_model_path": "{saved}"}],
    "RaCT": [
        _ONE,
        _ONE | {"train_stage": "critic_pretrain", "pre_model_path": "{saved}"},
        {"train_stage": "finetune", "pre_model_path": "{saved}"},
    ],
    "KD_DAGFM": [
        {},
        {"phase": "distillation", "warm_up": "{saved}"},
        {"phase": "finetuning", "warm_up": "{saved}"},
    ],
}

_PAGE = """# All models of RecBole

{runs} of RecBole's {all} models run with this project's command line. Each was trained for one
epoch on made-up data of {users} users and {items} items: the table shows whether a model runs,
not how good it is. The data include features, labels and a knowledge graph for the models that need
them.
Models with several training stages (S3Rec, RaCT, KD_DAGFM) ran all of them, each from the
checkpoint of the previous stage. The models that need another package run once it is installed:
tested with faiss-cpu 1.15, torch-scatter 2.1, lightgbm 4.7 and xgboost 3.2.

```bash
python benchmarks/recbole_models.py
```

| model | family | outcome | seconds |
"""


class Outcome(NamedTuple):
    """A line of the table."""

    model: str
    family: str
    outcome: str  # runs | refused: REASON | needs PACKAGE | fails: ERROR
    seconds: float


def models() -> Iterator[tuple[str, str]]:
    """Name and family of every model of RecBole, those that lack a package included."""
    for folder, family in FAMILIES.items():
        package = f"recbole.model.{folder}_recommender"
        (path,) = importlib.util.find_spec("recbole.model").submodule_search_locations  # type: ignore
        for module in pkgutil.iter_modules([f"{path}/{folder}_recommender"]):
            if folder == "exlib":  # their package may be missing
                yield {"xgboost": "XGBoost", "lightgbm": "LightGBM"}[module.name], family
                continue
            known = vars(importlib.import_module(f"{package}.{module.name}"))
            (name,) = [n for n, v in known.items() if n.lower() == module.name and _is_model(v)]
            yield name, family


def _is_model(value: Any) -> bool:
    from recbole.model.abstract_recommender import AbstractRecommender

    return isinstance(value, type) and issubclass(value, AbstractRecommender)


def write_data(folder: Path) -> None:
    """The data sets `plain` and `labelled`."""
    for name in ("plain", "labelled"):
        draw = random.Random(0)
        (folder / name).mkdir(parents=True)

        table = partial(_write_table, folder / name / name)
        rows = [
            [f"u{u}", f"i{(7 * u + n) % N_ITEMS}", draw.randint(1, 5), 1_700_000_000 + 9 * n]
            for u in range(N_USERS)
            for n in range(LENGTH)
        ]
        header = "user_id:token item_id:token rating:float timestamp:float"
        if name == "labelled":
            rows, header = [[*row, int(row[2] > 2)] for row in rows], f"{header} label:float"
        table("inter", header, rows)
        users = [[f"u{u}", u % 3, draw.choice("ab")] for u in range(N_USERS)]
        table("user", "user_id:token age:token gender:token", users)
        words = ["comedy", "drama", "western"]
        items = [
            [f"i{i}", " ".join(draw.sample(words, 2)), i % 7, draw.randint(1, 9)]
            for i in range(N_ITEMS)
        ]
        table("item", "item_id:token class:token_seq brand:token price:float", items)
        triples = [[f"e{i}", f"r{n}", f"e{(3 * i + n) % 90}"] for i in range(90) for n in range(3)]
        table("kg", "head_id:token relation_id:token tail_id:token", triples)
        table("link", "item_id:token entity_id:token", [[f"i{i}", f"e{i}"] for i in range(N_ITEMS)])
        for suffix, first, number in (("ent", "e", 90), ("rel", "r", 3)):
            vectors = [
                [f"{first}{i}", " ".join(f"{draw.gauss(0, 1):.3f}" for _ in range(64))]
                for i in range(number)
            ]
            table(suffix, f"{suffix}_id:token {suffix}_emb:float_seq", vectors)


def _write_table(file: Path, suffix: str, header: str, rows: list[list[Any]]) -> None:
    lines = ["\t".join(map(str, row)) for row in [header.split(), *rows]]
    file.with_suffix(f".{suffix}").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(model: str, family: str, data: Path, **also: Any) -> str:
    """The outcome of a model with these settings, in the process and folder of the caller."""
    dataset = "labelled" if family in ("context-aware", "decision trees") else "plain"
    fixed = {"model": model, "dataset": dataset, "data_path": data, "epochs": 1}
    fixed |= {"show_progress": False, "use_gpu": False, "gpu_id": ""}
    for settings in STAGES.get(model, [{}]):
        saved = [f for f in Path("saved").glob("*.pth") if not f.name.endswith(".last.pth")]
        last = str(max(saved, key=os.path.getmtime, default=""))
        more = {key: last if value == "{saved}" else value for key, value in settings.items()}
        errors, printed = io.StringIO(), io.StringIO()
        with redirect_stderr(errors), redirect_stdout(printed):
            status = command_line(
                [f"--{key}={value}" for key, value in {**fixed, **more, **also}.items()]
            )
        told = [line for line in errors.getvalue().splitlines() if line.strip()]
        if status == 0:
            continue
        if told[-1].startswith("error: ") and "Traceback" not in errors.getvalue():
            reason = told[-1].removeprefix("error: ")
            needs = reason.partition("pip install ")[2]
            return f"needs {needs}" if needs else f"refused: {reason}"
        return f"fails: {told[-1]}"
    return "runs"


def in_a_process(task: Callable[[], str], timeout: float) -> tuple[str, float]:
    """The outcome of `task` in a process and a folder of its own, and its seconds."""
    context = multiprocessing.get_context("fork")  # what is imported need not be imported again
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        try:
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                theirs.send(task())
        except BaseException as error:
            traceback.print_exc()
            theirs.send(f"fails: {type(error).__name__}: {error}")

    began = time.perf_counter()
    process = context.Process(target=work)
    process.start()
    theirs.close()
    try:
        outcome = ours.recv() if ours.poll(timeout) else f"fails: no end after {timeout:.0f} s"
    except EOFError:
        outcome = "fails: the process died"
    process.kill()
    process.join()
    return outcome, time.perf_counter() - began


def write(outcomes: list[Outcome]) -> None:
    """The CSV file and the page."""
    with (RESULTS / "recbole_models.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Outcome._fields)
        writer.writerows([*o[:3], f"{o.seconds:.1f}"] for o in outcomes)
    (RESULTS / "recbole-models.md").write_text(page(outcomes), encoding="utf-8")


def page(outcomes: list[Outcome]) -> str:
    """The page for these outcomes."""
    runs = sum(o.outcome == "runs" for o in outcomes)
    rows = [f"| {o.model} | {o.family} | {o.outcome} | {o.seconds:.1f} |" for o in outcomes]
    text = _PAGE.format(runs=runs, all=len(outcomes), users=N_USERS, items=N_ITEMS)
    return "\n".join([text + "| --- | --- | --- | --- |", *rows]) + "\n"


def main() -> int:
    """Run them all, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", help="only these, without writing files")
    parser.add_argument("--timeout", type=float, default=300, help="seconds per model")
    args = parser.parse_args()
    chosen = [(m, f) for m, f in models() if not args.models or m in args.models]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        write_data(data)
        outcomes = []
        for model, family in chosen:
            outcome, seconds = in_a_process(partial(run, model, family, data), args.timeout)
            outcomes.append(Outcome(model, family, outcome, seconds))
            print(f"{model:12} {seconds:6.1f} s  {outcome}", flush=True)
    if not args.models:
        write(outcomes)
    return int(any(o.outcome.startswith("fails") for o in outcomes))


if __name__ == "__main__":
    sys.exit(main())
