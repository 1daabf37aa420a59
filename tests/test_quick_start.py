"""Whole runs through the command line and `run`: results, saved models, interruptions, errors."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Trained
from recbole.model.sequential_recommender.gru4rec import GRU4Rec
from recbole.model.sequential_recommender.sasrec import SASRec
from tiny import protocol, rule_sequences, settings, write_dataset

import recbole_mscgrec
from recbole_mscgrec.mscgrec import MSCGRec
from recbole_mscgrec.quick_start import main, parse, run
from recbole_mscgrec.tiled_sasrec import TiledSASRec

README = Path(recbole_mscgrec.__file__).resolve().parent.parent / "README.md"
NAMED = {"SASRec", "GRU4Rec", "BERT4Rec", "Pop", "TiledSASRec"}


def arguments(chosen: dict[str, Any]) -> list[str]:
    """Settings as a user types them."""
    return [f"--{key}={value}" for key, value in chosen.items()]


def best_file(folder: Path, model: str) -> Path:
    (file,) = [p for p in folder.glob(f"{model}-*.pth") if not p.name.endswith(".last.pth")]
    return file


# --- results --------------------------------------------------------------------------------------


def test_result_file_holds_what_run_returns(trained: Trained) -> None:
    stored = json.loads((trained.folder / "result.json").read_text())
    assert stored == trained.result
    expected = "model dataset seed settings best_valid_result test_result seconds peak_memory_mb"
    expected += " peak_memory_mb_after peak_gpu_memory_mb n_parameters versions code_health"
    assert set(stored) >= set(expected.split())
    assert (stored["model"], stored["dataset"], stored["seed"]) == ("MSCGRec", "rule", 2020)
    assert {"data", "collaborative", "text", "codes", "train", "test"} <= set(stored["seconds"])
    assert {"python", "torch", "recbole"} <= set(stored["versions"])
    for health in stored["code_health"].values():
        assert {"levels", "collision_rate", "alone_share", "max_items_per_code"} <= set(health)
        assert {"codebook_size", "used", "perplexity"} == set(health["levels"][0])
    state = torch.load(trained.model_file, weights_only=True)["state_dict"]
    assert stored["n_parameters"] == sum(v.numel() for v in state.values())


def test_same_seed_same_result(rule_folder: Path) -> None:
    results = [
        run("MSCGRec", "rule", config_dict=settings(rule_folder, cache_dir=str(rule_folder / name)))
        for name in ("first", "second")
    ]
    assert results[0]["test_result"] == results[1]["test_result"]


@pytest.mark.parametrize("model", sorted(NAMED))
def test_every_model_named_in_the_readme_trains_saves_and_loads(
    rule_folder: Path, model: str
) -> None:
    chosen = protocol(rule_folder)
    result = run(model, "rule", config_dict=chosen)
    test = result["test_result"]
    assert set(test) == {f"{m}@{k}" for m in ("recall", "ndcg", "mrr") for k in (1, 5, 10)}
    assert 0 <= test["recall@1"] <= test["recall@5"] <= test["recall@10"] <= 1
    file = best_file(rule_folder / "saved", model)
    again = run(model, "rule", config_dict={**chosen, "model_file": str(file)})
    assert again["test_result"] == test


def test_readme_names_exactly_these_models() -> None:
    named = set(re.findall(r"--model=(\w+)", README.read_text(encoding="utf-8")))
    assert named - {"MSCGRec", "MSCGRecTokenizer"} == NAMED


@pytest.mark.parametrize("model", ["SASRec", "TiledSASRec"])
def test_baselines_learn_the_rule_too(rule_folder: Path, model: str) -> None:
    """The protocol gives stock models what they need: they are no straw men."""
    sizes = {"hidden_size": 32, "inner_size": 64, "n_layers": 1, "hidden_dropout_prob": 0.1}
    chosen = protocol(rule_folder, **sizes, attn_dropout_prob=0.1, learning_rate=0.01)
    chosen |= {"epochs": 60, "train_batch_size": 256 if model == "SASRec" else 16}
    assert run(model, "rule", config_dict=chosen)["test_result"]["recall@1"] > 0.9


# --- saved models ---------------------------------------------------------------------------------


def test_saved_model_gives_the_same_metrics_to_the_last_digit(
    trained: Trained, tmp_path: Path
) -> None:
    """With its own codes: the cache of the training is not needed."""
    chosen = {**trained.settings, "model_file": str(trained.model_file)}
    chosen |= {"cache_dir": str(tmp_path / "cache"), "result_file": None, "metric_decimal_place": 6}
    before = trained.model_file.read_bytes()
    result = run("MSCGRec", "rule", config_dict=chosen)
    assert result["test_result"] == trained.result["test_result"]
    assert result["best_valid_result"] == trained.result["best_valid_result"]
    assert result["code_health"] == trained.result["code_health"]
    assert not (tmp_path / "cache").exists() and trained.model_file.read_bytes() == before


def test_damaged_model_file_is_refused_before_training(rule_folder: Path) -> None:
    (rule_folder / "bad.pth").write_bytes(b"\x80\x04 not a checkpoint")
    for model, sizes in (("MSCGRec", settings), ("SASRec", protocol)):
        with pytest.raises(ValueError, match="bad.pth is damaged or not a checkpoint"):
            run(model, "rule", config_dict=sizes(rule_folder, model_file="bad.pth"))
        with pytest.raises(ValueError, match="nowhere.pth.* does not exist"):
            run(model, "rule", config_dict=sizes(rule_folder, model_file="nowhere.pth"))
    assert not (rule_folder / "cache").exists()


def test_model_of_other_items_is_refused(trained: Trained, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", "rule", rule_sequences(n_items=25))
    chosen = {**trained.settings, "data_path": str(tmp_path / "data"), "result_file": None}
    with pytest.raises(ValueError, match="other items than the 25 of this data"):
        run("MSCGRec", "rule", config_dict={**chosen, "model_file": str(trained.model_file)})


def test_model_file_of_another_model_is_refused(rule_folder: Path, trained: Trained) -> None:
    chosen = protocol(rule_folder, model_file=str(trained.model_file))
    with pytest.raises(ValueError, match="MSCGRec, not SASRec"):
        run("SASRec", "rule", config_dict=chosen)


def test_model_file_of_other_sizes_is_refused(trained: Trained) -> None:
    """The file says which settings it was trained with; torch alone would list every tensor."""
    chosen = {**trained.settings, "model_file": str(trained.model_file), "result_file": None}
    with pytest.raises(ValueError, match="hidden_size"):
        run("MSCGRec", "rule", config_dict={**chosen, "hidden_size": 64})


# --- a modality left out of the test --------------------------------------------------------------


def test_saved_model_is_tested_once_more_without_a_modality(
    trained: Trained, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = str(tmp_path / "result.json")
    chosen = {**trained.settings, "model_file": str(trained.model_file), "result_file": file}
    result = run("MSCGRec", "rule", config_dict={**chosen, "eval_drop_modality": "collaborative"})
    for key in ("test_result", "best_valid_result"):
        assert result[key] == trained.result[key]
    without = result["test_without"]["collaborative"]
    assert set(result["test_without"]) == {"collaborative"} and set(without) == set(
        result["test_result"]
    )
    assert without["ndcg@10"] < result["test_result"]["ndcg@10"]
    assert json.loads(Path(file).read_text()) == result
    assert "test_without" not in trained.result


def test_training_is_the_same_with_a_test_without_a_modality(rule_folder: Path) -> None:
    chosen = settings(rule_folder, epochs=2)
    first = run("MSCGRec", "rule", config_dict=chosen)
    second = run("MSCGRec", "rule", config_dict={**chosen, "eval_drop_modality": "text"})
    for key in ("test_result", "best_valid_result"):
        assert first[key] == second[key]
    assert len(list((rule_folder / "saved").glob("MSCGRec-*.last.pth"))) == 1  # one name for both
    assert set(second["test_without"]["text"]) == set(first["test_result"])


def test_modality_that_cannot_be_left_out_is_refused_before_training(
    rule_folder: Path, trained: Trained
) -> None:
    for changes, message in (
        ({"eval_drop_modality": "smell"}, r"eval_drop_modality \(smell\) must be one of"),
        (
            {"eval_drop_modality": "collaborative", "modalities": ["collaborative"]},
            r"eval_drop_modality \(collaborative\) must be one of several",
        ),
        # in the list of modalities, but no item has it
        ({"eval_drop_modality": "image"}, r"eval_drop_modality \(image\) must be one of several"),
    ):
        with pytest.raises(ValueError, match=message):
            run("MSCGRec", "rule", config_dict=settings(rule_folder, **changes))
    assert not list((rule_folder / "saved").glob("*.pth"))
    chosen = {**trained.settings, "model_file": str(trained.model_file), "result_file": None}
    with pytest.raises(ValueError, match=r"eval_drop_modality \(audio\) must be one of several"):
        run("MSCGRec", "rule", config_dict={**chosen, "eval_drop_modality": "audio"})


# --- interruptions --------------------------------------------------------------------------------


def interrupt(monkeypatch: pytest.MonkeyPatch, model: type, call: int) -> None:
    """Press Ctrl-C in the given call of calculate_loss."""
    calls, original = [0], model.calculate_loss

    def calculate_loss(self: Any, interaction: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise KeyboardInterrupt
        return original(self, interaction)

    monkeypatch.setattr(model, "calculate_loss", calculate_loss)


@pytest.mark.parametrize(
    ("model", "call"),
    [(MSCGRec, 8), (MSCGRec, 14), (TiledSASRec, 5), (SASRec, 4), (GRU4Rec, 3)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_resumed_training_equals_an_uninterrupted_one(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, model: type, call: int
) -> None:
    """The stop comes in the second epoch or later, after some of its batches."""
    name = model.__name__
    sizes = settings if model is MSCGRec else protocol
    chosen = sizes(rule_folder, epochs=6, learning_rate=0.01)
    if model is not MSCGRec:
        chosen |= {"train_batch_size": 20 if model is TiledSASRec else 150}
    expected = run(name, "rule", config_dict={**chosen, "checkpoint_dir": str(rule_folder / "a")})
    with monkeypatch.context() as patch:
        interrupt(patch, model, call)
        with pytest.raises(KeyboardInterrupt, match=r"last finished epoch.*--resume=True"):
            run(name, "rule", config_dict=chosen)
    result = run(name, "rule", config_dict={**chosen, "resume": True})
    assert result["test_result"] == expected["test_result"]
    assert result["best_valid_result"] == expected["best_valid_result"]
    last = [next((rule_folder / f).glob("*.last.pth")) for f in ("a", "saved")]
    one, two = (torch.load(file, weights_only=True) for file in last)
    assert one["epoch"] == two["epoch"] == 5
    for key, value in one["state_dict"].items():
        assert torch.equal(value, two["state_dict"][key]), key


def test_best_model_so_far_can_be_evaluated_after_an_interruption(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(rule_folder, epochs=6)
    with monkeypatch.context() as patch:
        interrupt(patch, MSCGRec, 8)
        with pytest.raises(KeyboardInterrupt) as stop:
            run("MSCGRec", "rule", config_dict=chosen)
    (named,) = re.findall(r"--model_file=(\S+\.pth)", str(stop.value))
    result = run("MSCGRec", "rule", config_dict={**chosen, "model_file": named})
    assert 0 <= result["test_result"]["recall@10"] <= 1
    assert Path(named) == best_file(rule_folder / "saved", "MSCGRec")


def test_stop_before_the_first_epoch_says_so(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(monkeypatch, MSCGRec, 2)
    with pytest.raises(KeyboardInterrupt, match="before its first epoch"):
        run("MSCGRec", "rule", config_dict=settings(rule_folder))


def test_resuming_a_finished_training_evaluates_its_best_model(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = settings(rule_folder, epochs=3)
    first = run("MSCGRec", "rule", config_dict=chosen)
    interrupt(monkeypatch, MSCGRec, 1)  # any further training would stop
    again = run("MSCGRec", "rule", config_dict={**chosen, "resume": True})
    assert again["test_result"] == first["test_result"]
    assert again["best_valid_result"] == first["best_valid_result"]


def test_nothing_to_resume_is_an_error_with_the_way_out(rule_folder: Path) -> None:
    run("MSCGRec", "rule", config_dict=settings(rule_folder))
    with pytest.raises(ValueError, match="resume: .*last.pth does not exist.*repeat its settings"):
        run("MSCGRec", "rule", config_dict=settings(rule_folder, resume=True, learning_rate=0.5))


# --- command line ---------------------------------------------------------------------------------


def test_parse(tmp_path: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("{}")
    known, chosen = parse(
        ["--model=SASRec", "--dataset", "d", "--epochs=3", "--config_files", "a.yaml", "b.yaml"]
    )
    assert (known.model, known.dataset) == ("SASRec", "d")
    assert known.config_files == ["a.yaml", "b.yaml"] and chosen == {"epochs": "3"}
    assert parse(["--config_files=a.yaml", "b.yaml"])[0].config_files == ["a.yaml", "b.yaml"]
    assert parse(["--config_files=a.yaml b.yaml"])[0].config_files == ["a.yaml", "b.yaml"]
    assert parse(["--x=a=b"])[1] == {"x": "a=b"}
    known = vars(parse(["--seed=3"])[0])  # not short for --seed_list
    assert (known.pop("model"), known.pop("dataset")) == ("MSCGRec", "ml-100k")
    assert known.pop("config_files") == [] and set(known.values()) == {None}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--epochs", "3"], "--key=value"),
        (["epochs=3"], "--key=value"),
        (["--config_files", "gone.yaml"], "gone.yaml does not exist"),
    ],
)
def test_what_cannot_be_parsed(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(argv)
    assert stop.value.code == 2 and message in capsys.readouterr().err


def test_command_line_equals_run(rule_folder: Path) -> None:
    chosen = settings(rule_folder, epochs=2)
    expected = run("MSCGRec", "rule", config_dict=chosen)
    argv = ["--model=MSCGRec", "--dataset=rule", "--result_file=out/result.json"]
    (rule_folder / "more.yaml").write_text("hidden_size: 16\nepochs: 9\n")
    program = list(sys.argv)
    assert main([*argv, "--config_files", "more.yaml", *arguments(chosen)]) == 0
    assert sys.argv == program
    stored = json.loads(Path("out/result.json").read_text())
    assert stored["test_result"] == expected["test_result"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beam_size": 5}, "beam_size (5) must be at least max(topk) (10)"),
        ({"beem_size": 5}, "beem_size is not a setting"),
        ({"hidden_size": "x"}, "hidden_size must be"),
        ({"codebook_size": 99}, "codebook_size (99)"),
        ({"text_columns": "['nope']"}, "['nope']"),
        ({"data_path": "elsewhere"}, "elsewhere"),
        ({"modalities": "['smell']"}, "smell"),
        ({"n_heads": 3}, "n_heads (3)"),
        ({"resume": True}, "resume"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_bad_settings_end_in_one_line_and_status_one(
    rule_folder: Path, capsys: pytest.CaptureFixture[str], changes: dict, message: str
) -> None:
    chosen = settings(rule_folder, **changes)
    assert main(["--model=MSCGRec", "--dataset=rule", *arguments(chosen)]) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error: ")]
    assert message in line


def test_unknown_model_is_refused_by_name(
    rule_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model=MSCGRek", "--dataset=rule", *arguments(protocol(rule_folder))]
    assert main(argv) == 1
    assert "MSCGRek" in capsys.readouterr().err


def test_interruption_ends_with_status_130_and_how_to_go_on(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupt(monkeypatch, MSCGRec, 8)
    argv = ["--model=MSCGRec", "--dataset=rule", *arguments(settings(rule_folder, epochs=4))]
    assert main(argv) == 130
    assert "--resume=True" in capsys.readouterr().err


def test_options_of_another_program_are_not_settings(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run` inside a script that has options of its own, or under `pytest --durations=5`."""
    monkeypatch.setattr(sys, "argv", ["script.py", "--color=red", "--epochs=7"])
    result = run("TiledSASRec", "rule", config_dict=protocol(rule_folder, epochs=1))
    (file,) = (rule_folder / "saved").glob("*.last.pth")
    assert torch.load(file, weights_only=True)["epoch"] == 0 and result["test_result"]


def test_data_set_without_a_properties_file_or_settings_of_its_own(rule_folder: Path) -> None:
    """Nothing about its columns is said, in a file or on the command line."""
    chosen = settings(rule_folder)
    del chosen["load_col"]
    result = run("MSCGRec", "rule", config_dict=chosen)
    assert set(result["code_health"]) == {"collaborative", "text"}
