"""Where tests run, and the data sets and trained models that several of them share."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny
import torch
from tiny import Built, build, item_texts, randomize, rule_sequences, settings

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.runner.quick_start import run

# Tests run on the CPU also where there is a GPU: after work on a GPU no process can be forked, as
# `tiny.in_processes` does. CUDA_VISIBLE_DEVICES=0 in front of the command runs them on the GPU.
if not os.environ.get("CUDA_VISIBLE_DEVICES"):
    torch.cuda.is_available = lambda: False


def write_dataset(
    folder: Path, name: str, rows: list[tuple[int, int, float]], texts: dict[str, str] | None = None
) -> None:
    """<folder>/<name>/ with (user number, item number, timestamp) rows in this order."""
    tiny.write_inter(folder, name, [(f"u{user}", f"i{item}", time) for user, item, time in rows])
    if texts is not None:
        tiny.write_item(folder, name, texts)


def make_config(model: str, dataset: str = "ring", **changes: Any) -> Config:
    """Config of a tiny model for a data set under `scratch`."""
    here = Path.cwd()
    sizes = settings if model.startswith("MSCGRec") else tiny.protocol
    chosen = {"data_path": str(here / "dataset"), "MAX_ITEM_LIST_LENGTH": 20, **changes}
    return Config(model, dataset, config_dict=sizes(here, **chosen))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """The test's own working directory."""
    return tmp_path


@pytest.fixture
def ring(scratch: Path) -> str:
    """Name of the data set of `rule_sequences`, written to scratch/dataset."""
    tiny.write_dataset(scratch / "dataset", "ring", rule_sequences(), item_texts())
    return "ring"


@pytest.fixture(scope="session", autouse=True)
def _one_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """RecBole writes log/ and log_tensorboard/ into the working directory: keep them out of here.

    Nothing here is big enough for a second thread to pay.
    """
    before, threads, arguments = os.getcwd(), torch.get_num_threads(), sys.argv
    os.chdir(tmp_path_factory.mktemp("session"))
    torch.set_num_threads(1)
    sys.argv = arguments[:1]  # RecBole's Config takes pytest's own --options for settings
    yield
    sys.argv = arguments
    torch.set_num_threads(threads)
    os.chdir(before)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test works in its own folder and leaves the root logger and Ctrl-C as they were:
    torch's launcher of processes takes Ctrl-C for itself."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    interrupt = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, interrupt)
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def rule_folder(tmp_path: Path) -> Path:
    """A folder whose data/rule is the data set of `rule_sequences`, with texts."""
    tiny.write_dataset(tmp_path / "data", "rule", rule_sequences(), item_texts())
    return tmp_path


class Trained(NamedTuple):
    """A finished run: its folder, settings, result and best model's file."""

    folder: Path
    settings: dict[str, Any]
    result: dict[str, Any]
    model_file: Path


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """MSCGRec trained on the rule data set until it knows the rule. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("trained")
    tiny.write_dataset(folder / "data", "rule", rule_sequences(), item_texts())
    chosen = settings(
        folder,
        hidden_size=32,
        inner_size=64,
        epochs=40,
        learning_rate=0.01,
        ema_decay=0.9,
        dropout_prob=0.1,
        collaborative_epochs=5,
        result_file=str(folder / "result.json"),
        metrics=["Recall", "NDCG", "MRR", "ItemCoverage", "GiniIndex"]
        + ["AveragePopularity", "TailPercentage"],
    )
    result = run("MSCGRec", "rule", config_dict=chosen)
    (model_file,) = [f for f in (folder / "saved").glob("*.pth") if ".last" not in f.name]
    return Trained(folder, chosen, result, model_file)


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """MSCGRec with random weights on the rule data set, in eval mode. Not to be changed."""
    folder = tmp_path_factory.mktemp("random")
    tiny.write_dataset(folder / "data", "rule", rule_sequences(), item_texts())
    built = build("MSCGRec", "rule", settings(folder))
    randomize(built.model)
    built.model.eval()
    return built
