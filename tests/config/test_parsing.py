"""Settings from text: what a text stands for, and that no text is ever evaluated."""

from __future__ import annotations

import ast
import datetime
from pathlib import Path
from typing import Any

import pytest
import recbole.config
import torch
import yaml
from tiny import arguments, protocol

import recbole_mscgrec
from recbole_mscgrec.cli import main, parse
from recbole_mscgrec.config.config import Config, properties_folder
from recbole_mscgrec.config.parsing import FastLoader, Loader, parse_value, read_settings
from recbole_mscgrec.experiments import grid
from recbole_mscgrec.runner.quick_start import load_data_and_model

PROJECT = Path(recbole_mscgrec.__file__).resolve().parent.parent
PAYLOAD = "__import__('pathlib').Path('PWNED').touch() or 'tfidf'"


@pytest.fixture(autouse=True)
def _nothing_was_run() -> Any:
    """No test here may have run the payload."""
    yield
    assert not Path("PWNED").exists()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1", -1),
        ("1e-3", 0.001),
        (".5", 0.5),
        ("None", None),
        ("True", True),
        ("false", False),
        ("[1,5]", [1, 5]),
        ("(1, 5)", (1, 5)),
        ("{'mode': 'full'}", {"mode": "full"}),
        ("{'split': {'LS': 'valid_and_test'}, 'order': 'TO'}",)
        + ({"split": {"LS": "valid_and_test"}, "order": "TO"},),
        ("'5'", "5"),
        # YAML, which needs no quotes
        ("[text, image]", ["text", "image"]),
        (
            "{inter: [user_id, item_id], item: None}",
            {"inter": ["user_id", "item_id"], "item": None},
        ),
        ("[1e-3, 'None']", [0.001, "None"]),
        # what stays the text that it is
        ("", ""),
        ("key", "key"),
        ("re.json", "re.json"),
        ("1/0", "1/0"),
        ("2-1", "2-1"),
        ("saved/a b/x.pth", "saved/a b/x.pth"),
        ("NDCG@10", "NDCG@10"),
        ("007", "007"),
        ("{1, 2}", "{1, 2}"),
        ("b'x'", "b'x'"),
        ("1+2j", "1+2j"),
        ("[" * 5000, "[" * 5000),
        (PAYLOAD, PAYLOAD),
        ("!!python/object/apply:os.system [ls]", "!!python/object/apply:os.system [ls]"),
        ("[!!python/object/apply:os.getcwd []]", "[!!python/object/apply:os.getcwd []]"),
    ],
)
def test_what_a_text_stands_for(text: str, value: Any) -> None:
    found = parse_value("some_key", text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("text", ["[5,inf)", "[5,10]", "(0,10)", "(0,1];[3,4)", "[5,inf]"])
def test_intervals_stay_text(text: str) -> None:
    assert parse_value("user_inter_num_interval", text) == text
    assert parse_value("val_interval", f"{{'rating': '{text}'}}") == {"rating": text}
    assert parse_value("item_inter_num_interval", "None") is None


@pytest.mark.parametrize("value", [3, None, 2.5, ["'x'"], {"a": "1"}, datetime.date(2026, 1, 2)])
def test_what_is_no_text_stays_as_it_is(value: Any) -> None:
    assert parse_value("some_key", value) is value


def test_arguments_that_are_also_python_code(rule_folder: Path) -> None:
    """`key` and `re` are names inside RecBole's function; `1/0` is a division."""
    for text in ("key", "re.json", "1/0", "param"):
        made = Config("Pop", "rule", config_dict={"result_file": text, "checkpoint_dir": text})
        assert (made["result_file"], made["checkpoint_dir"]) == (text, text)
    chosen = protocol(rule_folder, result_file="1/0/re.json", checkpoint_dir="os.path")
    assert main(["--model=Pop", "--dataset=rule", *arguments(chosen)]) == 0
    assert Path("1/0/re.json").is_file() and Path("os.path").is_dir()


# --- every way in ---------------------------------------------------------------------------------


def test_a_value_of_a_python_dict() -> None:
    assert Config("MSCGRec", "x", config_dict={"text_encoder": PAYLOAD})["text_encoder"] == PAYLOAD


def test_a_value_given_to_recboles_own_config() -> None:
    made = recbole.config.Config(
        "BPR", "ml-100k", config_dict={"embedding_size": "8", "x": PAYLOAD}
    )
    assert made["embedding_size"] == 8 and made["x"] == PAYLOAD


@pytest.mark.parametrize("model", ["MSCGRec", "Pop"])
def test_a_value_on_the_command_line(rule_folder: Path, model: str) -> None:
    chosen = protocol(rule_folder, valid_metric=PAYLOAD)
    assert main([f"--model={model}", "--dataset=rule", *arguments(chosen)]) == 1


@pytest.mark.parametrize("text", [PAYLOAD, "!!python/object/apply:os.system ['touch PWNED']"])
def test_a_value_of_a_config_file(rule_folder: Path, text: str) -> None:
    Path("mine.yaml").write_text(f"valid_metric: {text}\n")
    argv = ["--model=Pop", "--dataset=rule", *arguments(protocol(rule_folder))]
    assert main([*argv, "--config_files", "mine.yaml"]) == 1


def test_a_value_of_an_ablation_file(rule_folder: Path) -> None:
    rows = [{"name": "a", "model": "Pop", "settings": {"valid_metric": PAYLOAD}}]
    Path("rows.yaml").write_text(yaml.safe_dump(rows))
    argv = ["--ablation=rows.yaml", "--dataset=rule", *arguments(protocol(rule_folder))]
    assert main(argv) == 1
    rows[0]["settings"] = {"log_wandb": False, "wandb_project": PAYLOAD}
    Path("rows.yaml").write_text(yaml.safe_dump(rows))
    known, chosen = parse(argv)
    assert grid.plan(known, chosen)[0].config()["wandb_project"] == PAYLOAD


@pytest.mark.slow
def test_a_value_of_an_ablation_file_in_the_process_of_its_cell(rule_folder: Path) -> None:
    chosen = {"log_wandb": False, "wandb_project": PAYLOAD}
    rows = [{"name": "a", "model": "Pop", "settings": chosen}]
    Path("rows.yaml").write_text(yaml.safe_dump(rows))
    argv = ["--ablation=rows.yaml", "--dataset=rule", *arguments(protocol(rule_folder))]
    assert main([*argv, "--table_dir=out"]) == 0


def test_a_checkpoint(trained: Any) -> None:
    state = torch.load(trained.model_file, weights_only=True)
    for part in ("chosen", "settings", "config"):
        state[part]["text_encoder"] = PAYLOAD
    state.pop("digest")  # as whoever changes a file would do
    torch.save(state, "shared.pth")
    config = load_data_and_model("shared.pth")[0]
    assert config["text_encoder"] == PAYLOAD


def test_the_teacher_of_kd_dagfm() -> None:
    from recbole.model.context_aware_recommender import kd_dagfm

    assert kd_dagfm.eval("CrossNet") is kd_dagfm.CrossNet
    for name in (PAYLOAD, "torch", "nn"):
        with pytest.raises(ValueError, match="CrossNet or CIN"):
            kd_dagfm.eval(name)


def test_the_choices_of_hyper_tuning() -> None:
    from recbole.trainer import hyper_tuning

    assert hyper_tuning.eval("[0.1,0.2]") == [0.1, 0.2]
    assert hyper_tuning.eval(PAYLOAD) == PAYLOAD


def test_settings_of_a_table_are_parsed_once(rule_folder: Path) -> None:
    """A quoted '5' on the command line is a text, and stays one in the run's own process."""
    argv = ["--model_list=Pop", "--dataset=rule", *arguments(protocol(rule_folder))]
    known, chosen = parse([*argv, "--wandb_project='5'", "--topk=[5]", "--valid_metric=NDCG@5"])
    (cell,) = grid.plan(known, chosen)
    assert cell.config()["wandb_project"] == "5" and cell.config()["topk"] == [5]
    assert cell.settings["wandb_project"] == "5"


@pytest.mark.parametrize("text", ["- 1\n", "text\n", "a: [\n"])
def test_a_config_file_that_holds_no_settings(text: str) -> None:
    Path("mine.yaml").write_text(text)
    with pytest.raises(ValueError, match="mine.yaml"):
        Config("Pop", "x", ["mine.yaml"])


def test_numbers_in_files_are_read_as_recbole_reads_them() -> None:
    Path("a.yaml").write_text("a: 1e-3\nb: 2E5\nc: -1.5e+2\nd: 3\ne: 1e\nf: .5e1\n")
    expected = {"a": 0.001, "b": 200000.0, "c": -150.0, "d": 3, "e": "1e", "f": 5.0}
    assert read_settings("a.yaml") == expected


# --- the source -----------------------------------------------------------------------------------

_CALLS = {"eval", "exec", "compile", "__import__"}
_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
_NAMES = {"FullLoader", "UnsafeLoader", "Loader", "unsafe_load", "full_load"}


@pytest.mark.parametrize(
    "file",
    [
        *sorted((PROJECT / "recbole_mscgrec").rglob("*.py")),
        *sorted((PROJECT / "benchmarks").rglob("*.py")),
        PROJECT / "run_recbole_mscgrec.py",
    ],
    ids=lambda path: str(path.relative_to(PROJECT)),
)
def test_the_source_evaluates_nothing_and_unpickles_nothing(file: Path) -> None:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in _CALLS, f"line {node.lineno}"
        if isinstance(node, ast.Import):
            assert not {name.name.split(".")[0] for name in node.names} & _MODULES
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").split(".")[0] not in _MODULES
        if isinstance(node, ast.Attribute) and getattr(node.value, "id", "") == "yaml":
            assert node.attr not in _NAMES, f"line {node.lineno}"
        if isinstance(node, ast.keyword) and node.arg in ("weights_only", "allow_pickle"):
            safe = node.arg == "weights_only"
            assert getattr(node.value, "value", None) is safe, f"line {node.value.lineno}"
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "load":
            library = getattr(getattr(node.func, "value", None), "id", "")
            wanted = {"torch": "weights_only", "np": "allow_pickle", "yaml": "Loader"}.get(library)
            assert wanted is None or wanted in [k.arg for k in node.keywords], f"line {node.lineno}"


def test_the_loader_in_c_reads_what_the_other_reads() -> None:
    folders = (Path(recbole.__file__).parent / "properties", properties_folder())
    files = [file for folder in folders for file in folder.rglob("*.yaml")]
    assert len(files) > 100
    texts = [file.read_text(encoding="utf-8") for file in files]
    texts += ["a: 1e-3", "a: -1.5E+4", "a: .5e3", "a: 1e3x", "a: [1e-3, 'b', ~, yes, 2020-01-02]"]
    for text in texts:
        assert repr(yaml.load(text, FastLoader)) == repr(yaml.load(text, Loader))
