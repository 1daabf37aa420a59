"""Checkpoints of plain values: what goes in comes out, and nothing else gets in."""

from __future__ import annotations

import pickle
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse
import torch
from conftest import Trained

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.storage import checkpoint
from recbole_mscgrec.storage.errors import UserError


class Touch:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


def test_plain_values_survive_as_they_are(tmp_path: Path) -> None:
    config = {"model": "M", "dataset": "d", "a": 1, "b": [1.5, None, "x", True]}
    state = {"config": config, "state_dict": {"w": torch.ones(2)}, "epoch": 3}
    checkpoint.save(tmp_path / "new" / "c.pth", state)
    again = checkpoint.load(tmp_path / "new" / "c.pth")
    assert torch.equal(again["state_dict"].pop("w"), torch.ones(2))
    assert again == {**state, "state_dict": {}}
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["c.pth"]


def test_arrays_sparse_matrices_and_numpy_numbers_make_the_round_trip(tmp_path: Path) -> None:
    matrix = scipy.sparse.random(5, 7, density=0.4, random_state=0, format="csr")
    original = {"a": np.arange(6).reshape(2, 3), "m": matrix, "n": np.float64(0.1), "t": (1, 2)}
    torch.save(checkpoint.to_plain(original), tmp_path / "c.pth")
    plain = torch.load(tmp_path / "c.pth", weights_only=True)
    again = checkpoint.from_plain(plain)
    assert np.array_equal(again["a"], original["a"]) and again["a"].dtype == original["a"].dtype
    assert (again["m"] != matrix).nnz == 0 and again["m"].shape == (5, 7)
    assert again["n"] == 0.1 and again["t"] == [1, 2]


def test_other_objects_become_strings() -> None:
    assert checkpoint.to_plain({"d": torch.device("cpu"), 3: Path("x")}) == {"d": "cpu", 3: "x"}


def test_a_trained_models_file_loads_with_weights_only(trained: Trained) -> None:
    state = torch.load(trained.model_file, weights_only=True)
    assert state["config"]["model"] == "MSCGRec"
    last = torch.load(trained.model_file.with_suffix(".last.pth"), weights_only=True)
    assert last["best_valid_result"] == trained.result["best_valid_result"]
    assert last["best_valid_result"] == trained.result["best_valid_result"]
    assert {"optimizer", "random", "training"} <= set(last)


def test_a_malicious_file_is_refused_and_does_not_run(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    bait = {"config": Touch(target), "state_dict": {}, "epoch": 0}
    torch.save(bait, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(bait))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(ValueError, match=f"{name} is damaged or not a checkpoint of plain"):
            checkpoint.load(tmp_path / name)
    assert not target.exists()
    torch.load(tmp_path / "zip.pth", weights_only=False)
    assert target.exists()  # the bait does bite where pickles are trusted


def test_a_checkpoint_of_stock_recbole_is_refused(rule_folder: Path) -> None:
    config = Config("SASRec", "rule", config_dict={"data_path": str(rule_folder / "data")})
    torch.save({"config": config, "state_dict": {}, "epoch": 0}, "stock.pth")
    with pytest.raises(ValueError, match="stock RecBole.*train again"):
        checkpoint.load("stock.pth")


def test_truncated_missing_and_incomplete_files_are_named(trained: Trained, tmp_path: Path) -> None:
    content = trained.model_file.read_bytes()
    for share in (0, 0.5, 0.99):
        (tmp_path / "cut.pth").write_bytes(content[: int(share * len(content))])
        with pytest.raises(ValueError, match="cut.pth is damaged"):
            checkpoint.load(tmp_path / "cut.pth")
    with pytest.raises(ValueError, match="gone.pth.* does not exist"):
        checkpoint.load(tmp_path / "gone.pth")
    torch.save({"epoch": 1}, tmp_path / "half.pth")
    with pytest.raises(ValueError, match="half.pth is not such.*it lacks config, state_dict"):
        checkpoint.load(tmp_path / "half.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="list.pth is not such a checkpoint"):
        checkpoint.load(tmp_path / "list.pth")


def test_a_write_that_fails_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.pth"
    checkpoint.save(path, {"n": 1})

    def full_disk(state: object, name: Path) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(UserError, match=r"c.pth: No space left.*set checkpoint_dir"):
        checkpoint.save(path, {"n": 2})
    assert torch.load(path, weights_only=True)["n"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["c.pth"]


def test_random_state_makes_the_round_trip(tmp_path: Path) -> None:
    loader = SimpleNamespace(generator=torch.Generator().manual_seed(4))

    def draw() -> list[float]:
        return [
            float(torch.rand(())),
            float(np.random.rand()),
            float(np.random.randn()),
            random.random(),
            random.gauss(0, 1),
            float(torch.rand((), generator=loader.generator)),
        ]

    draw()
    torch.save(checkpoint.random_state(loader), tmp_path / "r.pth")
    first = draw()
    draw()
    checkpoint.set_random_state(torch.load(tmp_path / "r.pth", weights_only=True), loader)
    assert draw() == first


def test_every_generator_of_a_loader_of_loaders_makes_the_round_trip() -> None:
    parts = [SimpleNamespace(generator=torch.Generator().manual_seed(s)) for s in (4, 5)]
    loader = SimpleNamespace(rows=parts[0], triples=parts[1], other=None)
    state = checkpoint.random_state(loader)
    first = [float(torch.rand((), generator=p.generator)) for p in parts]
    checkpoint.set_random_state(state, loader)
    assert [float(torch.rand((), generator=p.generator)) for p in parts] == first
    one = {**state, "loader": state["loader"][1]}  # as version 0.2 wrote it
    checkpoint.set_random_state(one, parts[0])
    assert float(torch.rand((), generator=parts[0].generator)) == first[1]
