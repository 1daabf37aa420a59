"""Evaluation settings that cannot work together are refused before anything is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny import in_processes, protocol

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.config.protocol import check_processes, check_protocol, complete_eval_args
from recbole_mscgrec.storage.errors import UserError

OURS = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}


@pytest.mark.parametrize(
    "given, mode",
    [({"mode": "uni20"}, "uni20"), ({"order": "RO"}, "full"), ({}, "full")]
    + [({"group_by": group}, "full") for group in ("user", "none", "None", None)],
)
def test_a_part_of_eval_args_leaves_the_others_as_they_are(given: dict, mode: str) -> None:
    assert complete_eval_args(given, OURS) == {**OURS, **given, "mode": mode}


def test_naming_a_mode_keeps_the_split(rule_folder: Any) -> None:
    settings = protocol(rule_folder, eval_args={"mode": "uni20"})
    made = Config("BPR", "rule", config_dict=settings)["eval_args"]
    assert made == {**OURS, "mode": {"valid": "uni20", "test": "uni20"}}


@pytest.mark.parametrize(
    "given, told",
    [
        ("full", "must be a dict"),
        ({"modus": 1}, "'modus'"),
        ({"split": {}}, r"split \({}\) must be a dict with one of LS, RS and TS"),
        ({"split": None}, r"split \(None\) must be"),
        ({"split": {"LS": "valid_and_test", "RS": [8, 1, 1]}}, "split .* must be a dict with one"),
        ({"split": {"XX": [8, 1, 1]}}, "split .* must be a dict with one"),
        ({"split": {"LS": "valid"}}, "split .* must be a dict with one"),
        *(
            ({"split": {kind: shares}}, "with the shares of training, validation and test")
            for kind in ("RS", "TS")
            for shares in (0.8, [8, 2], [8, 1, 1, 1], [0.8, -0.1, 0.3], ["8", "1", "1"], [0, 0, 1])
        ),
        ({"order": "to"}, r"order \('to'\) must be TO \(by time\) or RO"),
        ({"split": {"TS": [8, 1, 1]}, "order": "RO"}, "TS.* by time, and order RO .*'order': 'TO'"),
        ({"group_by": "item"}, r"group_by \('item'\) must be user or none"),
        ({"group_by": 3}, r"group_by \(3\) must be user or none"),
    ],
)
def test_eval_args_of_another_form(given: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        complete_eval_args(given, OURS)


def settings_with(**changes: Any) -> dict[str, Any]:
    mode = changes.pop("mode", "full")
    plain = {"metrics": ["Recall", "NDCG"], "topk": [5, 10], "valid_metric": "NDCG@10"}
    return {**plain, **changes, "eval_args": {**OURS, "mode": mode}}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"topk": 10},
        {"mode": "pop5"},
        {"mode": {"valid": "uni100", "test": "full"}},
        {"metrics": ["auc", "LogLoss"], "valid_metric": "AUC", "mode": "labeled"},
        {"metrics": "AUC", "valid_metric": "AUC", "mode": "uni10"},
        {"metrics": ["Recall", "GAUC"], "valid_metric": "gauc"},
        {"valid_metric": "ndcg@5"},
    ],
)
def test_what_works_together(changes: dict) -> None:
    check_protocol(settings_with(**changes))


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"metrics": ["NDGC"], "valid_metric": "NDGC@5"}, "'NDGC' is not a metric .* mean ndcg"),
        ({"metrics": ["Recall", "AUC"]}, r"one kind: .*\['Recall'\].*\['AUC'\]"),
        ({"metrics": []}, "one kind"),
        ({"topk": [0]}, r"topk \(\[0\]\) must be a list of whole numbers from 1"),
        ({"topk": [True]}, "topk"),
        ({"topk": ["ten"]}, "topk"),
        ({"valid_metric": "MRR@10"}, r"valid_metric \(MRR@10\) is not measured"),
        ({"valid_metric": "NDCG@20"}, r"valid_metric \(NDCG@20\) is not measured"),
        ({"valid_metric": "NDCG@x"}, r"valid_metric \(NDCG@x\) is not measured"),
        ({"valid_metric": "ndcg"}, r"valid_metric \(ndcg\) .* topk \(\[5, 10\]\): .* ndcg@10"),
        ({"valid_metric": "NDCG@"}, r"valid_metric \(NDCG@\) is measured at each k"),
        (
            {"metrics": "AUC", "valid_metric": "AUC@10", "mode": "uni10"},
            r"valid_metric \(AUC@10\) is measured without @k: use AUC",
        ),
        ({"metrics": ["GAUC"], "valid_metric": "GAUC@10"}, r"without @k: use GAUC"),
        ({"mode": "labeled"}, "mode labeled .* ranks nothing: metrics .* AUC and LogLoss"),
        ({"metrics": ["AUC"], "valid_metric": "AUC"}, "set the mode to labeled, or to uniN"),
        ({"mode": "uni"}, "mode .'uni'. must be full, labeled, or uniN"),
        ({"mode": "uni0"}, "mode .'uni0'. must be"),
        ({"mode": {"valid": "full", "test": 3}}, "mode .3. must be"),
        ({"mode": {"validation": "uni100"}}, "has a part 'validation'; its parts are valid and te"),
    ],
)
def test_what_does_not(changes: dict, told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_protocol(settings_with(**changes))


@pytest.mark.parametrize("model", ["SASRec", "BPR", "MSCGRec"])
def test_every_model_is_checked(model: str, rule_folder: Any) -> None:
    chosen = protocol(rule_folder, metrics=["AUC"], valid_metric="AUC")
    with pytest.raises(UserError, match="set the mode to labeled"):
        Config(model, "rule", config_dict=chosen)


def test_settings_of_several_processes(rule_folder: Any) -> None:
    check_processes({"nproc": 1}, {"world_size": -1})
    with pytest.raises(UserError, match=r"nproc is 2, but 1 process.es. run here"):
        Config("SASRec", "rule", config_dict=protocol(rule_folder, nproc=2))
    for key in ("world_size", "local_rank", "offset"):
        with pytest.raises(UserError, match=f"{key} .2. is set by torchrun"):
            Config("SASRec", "rule", config_dict=protocol(rule_folder, **{key: 2}))


def test_use_gpu_chooses_the_device(rule_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """RecBole takes a GPU in any case."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for use_gpu, kind in ((True, "cuda"), (False, "cpu")):
        config = Config("SASRec", "rule", config_dict=protocol(rule_folder, use_gpu=use_gpu))
        assert config["device"].type == kind


def test_precision_follows_the_device(rule_folder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for chosen, expected in (
        ({"use_gpu": False}, ("highest", False, False)),
        ({"use_gpu": True}, ("high", False, False)),  # TF32
        ({"use_gpu": True, "matmul_precision": "highest"}, ("highest", False, False)),
        ({"use_gpu": False, "amp_dtype": "bf16", "enable_scaler": True}, ("highest", True, False)),
        ({"use_gpu": True, "amp_dtype": "fp16"}, ("high", True, True)),
        ({"use_gpu": False, "enable_amp": True}, ("highest", True, False)),  # RecBole's own
    ):
        config = Config("SASRec", "rule", config_dict=protocol(rule_folder, **chosen))
        names = ("matmul_precision", "enable_amp", "enable_scaler")
        assert tuple(config[name] for name in names) == expected, chosen


def test_a_model_trained_in_float16_on_a_gpu_can_be_tested_without_one(rule_folder: Any) -> None:
    told = {"amp_dtype": "fp16", "use_gpu": False}
    with pytest.raises(UserError, match="amp_dtype .fp16. needs a GPU"):
        Config("SASRec", "rule", config_dict=protocol(rule_folder, **told))
    Config("SASRec", "rule", config_dict=protocol(rule_folder, **told, model_file="a.pth"))


def test_a_config_in_several_processes(rule_folder: Any) -> None:
    def told() -> dict[str, Any]:
        chosen = protocol(rule_folder, nproc=2, show_progress=True)
        config = Config("SASRec", "rule", config_dict=chosen)
        names = "single_spec local_rank world_size show_progress device".split()
        return {name: config[name] for name in names}

    common = {"single_spec": False, "world_size": 2, "device": torch.device("cpu")}
    assert in_processes(2, told) == [
        {**common, "local_rank": 0, "show_progress": True},
        {**common, "local_rank": 1, "show_progress": False},
    ]
