"""Files that RecBole's models begin at are written and read without pickle."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.trainer import Trainer
from recbole.utils import get_trainer
from tiny import best_file, build, protocol, write_table

from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.storage import checkpoint, processes
from recbole_mscgrec.storage.errors import UserError


class Touch:
    """Writes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("touched"),))


@pytest.fixture
def chosen(rule_folder: Path) -> dict[str, Any]:
    """Settings of a run on the rule data set with the column `class`."""
    rows = [f"i{i} c{i % 3}" for i in range(30)]
    write_table(rule_folder / "data", "rule", "item", "item_id:token class:token_seq", rows)
    settings = protocol(rule_folder)
    del settings["load_col"]
    return settings


def test_s3rec_goes_on_from_its_first_stage(chosen: dict, rule_folder: Path) -> None:
    chosen |= {"pretrain_epochs": 2, "save_step": 5}
    result = run("S3Rec", "rule", config_dict=chosen)
    file = best_file(rule_folder / "saved", "S3Rec")  # although no epoch was a fifth one
    assert result["best_valid_result"] is None and result["test_result"]["recall@10"] >= 0
    state = torch.load(file, weights_only=True)
    assert state["epoch"] == 1
    second = {**chosen, "train_stage": "finetune", "pre_model_path": str(file)}
    begun = build("S3Rec", "rule", second).model.state_dict()
    assert all(torch.equal(weights, begun[name]) for name, weights in state["state_dict"].items())
    assert run("S3Rec", "rule", config_dict=second)["best_valid_result"]["ndcg@10"] > 0


def test_every_step_of_a_first_stage_is_plain(chosen: dict, rule_folder: Path) -> None:
    built = build("S3Rec", "rule", {**chosen, "pretrain_epochs": 2, "save_step": 1})
    trainer = get_trainer(built.config["MODEL_TYPE"], "S3Rec")(built.config, built.model)
    trainer.fit(built.train, built.valid)
    files = [rule_folder / "saved" / f"S3Rec-rule-{n}.pth" for n in (1, 2)]
    assert [torch.load(f, weights_only=True)["epoch"] for f in files] == [0, 1]
    assert trainer.saved_model_file == str(files[1])


BEGIN_AT = [
    ("ConvNCF", {"train_method": "after_pretrain"}, ["pre_model_path"]),
    ("NAIS", {}, ["pretrain_path"]),
    ("NeuMF", {"use_pretrain": True}, ["mf_pretrain_path", "mlp_pretrain_path"]),
    ("RaCT", {"train_stage": "finetune"}, ["pre_model_path"]),
    ("S3Rec", {"train_stage": "finetune"}, ["pre_model_path"]),
    ("KD_DAGFM", {"phase": "distillation"}, ["warm_up"]),
]


@pytest.mark.parametrize(("model", "settings", "keys"), BEGIN_AT)
def test_a_pickled_file_is_refused_and_runs_nothing(
    model: str, settings: dict, keys: list[str], chosen: dict
) -> None:
    torch.save({"state_dict": Touch()}, "stock.pth")
    with pytest.raises(UserError, match=r"stock.pth is damaged or not a checkpoint of plain"):
        build(model, "rule", {**chosen, **settings, **dict.fromkeys(keys, "stock.pth")})
    assert not Path("touched").exists()
    with pytest.raises(UserError, match=rf"{keys[0]}.* \(gone.pth\) does not exist"):
        build(model, "rule", {**chosen, **settings, **dict.fromkeys(keys, "gone.pth")})
    if model not in ("NAIS", "ConvNCF"):  # NAIS begins at nothing then, and ConvNCF asserts a path
        with pytest.raises(UserError, match=rf"{keys[0]}.* is not set"):
            build(model, "rule", {**chosen, **settings})


@pytest.mark.parametrize(
    ("model", "settings", "key", "first", "weights"),
    [
        ("ConvNCF", {"train_method": "after_pretrain"}, "pre_model_path", "BPR", "user_embedding"),
        ("NAIS", {}, "pretrain_path", "FISM", "item_src_embedding"),
    ],
)
def test_a_model_begins_at_another_one(
    model: str, settings: dict, key: str, first: str, weights: str, chosen: dict, rule_folder: Path
) -> None:
    run(first, "rule", config_dict=chosen)
    file = best_file(rule_folder / "saved", first)
    begun = build(model, "rule", {**chosen, **settings, key: str(file)}).model.state_dict()
    expected = checkpoint.load(file)["state_dict"][f"{weights}.weight"]
    assert torch.equal(begun[f"{weights}.weight"], expected)


def test_neumf_is_made_of_its_parts(chosen: dict) -> None:
    parts = {"mf_pretrain_path": "mf.pth", "mlp_pretrain_path": "mlp.pth"}
    for off in ("mlp_train", "mf_train"):
        build("NeuMF", "rule", {**chosen, **parts, off: False}).model.dump_parameters()
    built = build("NeuMF", "rule", {**chosen, **parts, "use_pretrain": True})
    mf = torch.load("mf.pth", weights_only=True)["state_dict"]
    assert torch.equal(built.model.user_mf_embedding.weight, mf["user_mf_embedding.weight"])


def test_vectors_of_ldiffrec_are_numbers(chosen: dict, rule_folder: Path) -> None:
    file = rule_folder / "data" / "rule" / "item_emb.npy"
    np.save(file, np.array([Touch()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="item_emb.npy must be an array of numbers"):
        build("LDiffRec", "rule", {**chosen, "n_cate": 2})
    assert not Path("touched").exists()


@pytest.mark.parametrize("rank, written", [(0, True), (1, False)])
def test_one_of_several_processes_writes(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, rank: int, written: bool
) -> None:
    built = build("SASRec", "rule", protocol(rule_folder))
    trainer = get_trainer(built.config["MODEL_TYPE"], "SASRec")(built.config, built.model)
    monkeypatch.setattr(processes, "rank", lambda: rank)
    trainer._save_checkpoint(0, verbose=False)
    assert Path(trainer.saved_model_file).is_file() is written


@pytest.mark.parametrize("model", ["SASRec", "TiledSASRec", "BPR"])
def test_recbole_finds_all_that_it_reads_of_a_checkpoint(rule_folder: Path, model: str) -> None:
    """Without this package, as torch loads it by default."""
    run(model, "rule", config_dict=protocol(rule_folder))
    state = torch.load(best_file(rule_folder / "saved", model), weights_only=True)
    read = set(re.findall(r'checkpoint(?:\[|\.get\()"(\w+)"', inspect.getsource(Trainer)))
    assert {"config", "state_dict", "other_parameter", "optimizer", "epoch"} <= read <= set(state)
    assert state["config"]["model"] == model
