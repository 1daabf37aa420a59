"""Settings: precedence, names, types, and no key that nobody reads or nobody explains."""

from __future__ import annotations

import importlib
import inspect
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import fields
from pathlib import Path

import pytest
import recbole
import yaml
from recbole.model.abstract_recommender import AbstractRecommender

import recbole_mscgrec
from recbole_mscgrec.config.config import (
    Config,
    check_model_name,
    check_type,
    known_settings,
    properties_folder,
)
from recbole_mscgrec.config.parsing import read_settings
from recbole_mscgrec.config.settings import (
    CodeSettings,
    CollaborativeSettings,
    DecodingSettings,
    EvaluationSettings,
    ImageSettings,
    PageSettings,
    RunSettings,
    TextSettings,
    TrainingSettings,
)
from recbole_mscgrec.network.model import Sizes
from recbole_mscgrec.rq_dino.settings import CONFIGURABLE

PROJECT = Path(recbole_mscgrec.__file__).resolve().parent.parent
PACKAGE = PROJECT / "recbole_mscgrec"
OURS = {
    p.relative_to(PACKAGE).as_posix(): p.read_text(encoding="utf-8") for p in PACKAGE.rglob("*.py")
}
RECBOLE = Path(recbole.__file__).parent
READ = re.compile(r"""config(?:_dict)?\[\s*f?["'](\w+)["']\s*\]""")


def keys_of(path: Path) -> set[str]:
    return set(yaml.safe_load(path.read_text(encoding="utf-8")) or {})


def read_by_recbole() -> set[str]:
    text = "\n".join(p.read_text(encoding="utf-8") for p in RECBOLE.rglob("*.py"))
    return set(READ.findall(text))


def read_here() -> set[str]:
    text = "\n".join(OURS.values())
    images = {f"image_{name}" for name in CONFIGURABLE}
    groups = {
        f"{prefix}{field.name}"
        for prefix, group in (
            ("", RunSettings),
            ("", CodeSettings),
            ("text_", TextSettings),
            ("image_", ImageSettings),
            ("collaborative_", CollaborativeSettings),
            ("", TrainingSettings),
            ("", DecodingSettings),
            ("", EvaluationSettings),
            ("codes_", PageSettings),
        )
        for field in fields(group)
    }
    derived = {"level_sizes", "history_vectors_chosen", "text_columns_chosen", "image_rq_dino"}
    derived.add("modes")  # from eval_args
    assert derived <= groups
    return (
        set(READ.findall(text))
        | {field.name for field in fields(Sizes)}
        | images
        | groups - derived
    )


@pytest.mark.parametrize("name", ["overall.yaml", "model/MSCGRec.yaml", "model/TiledSASRec.yaml"])
def test_every_yaml_key_is_read_somewhere(name: str) -> None:
    nobody = keys_of(properties_folder() / name) - read_here() - read_by_recbole()
    assert nobody == set()


def test_every_key_of_a_data_set_file_is_read_somewhere() -> None:
    for path in (properties_folder() / "dataset").glob("*.yaml"):
        assert keys_of(path) - read_here() - read_by_recbole() == set(), path.name


def test_every_key_read_here_stands_in_a_yaml() -> None:
    files = [p for p in properties_folder().rglob("*.yaml") if p.parent.name != "ablation"]
    ours = set().union(*(keys_of(p) for p in files))
    theirs = set().union(*(keys_of(p) for p in (RECBOLE / "properties").rglob("*.yaml")))
    made_by_recbole = {"model", "dataset", "device", "MODEL_TYPE", "eval_type", "single_spec"}
    optional = {"benchmark_filename", "encoding"}
    assert optional <= read_by_recbole()
    unknown = read_here() - ours - theirs - made_by_recbole - optional
    assert unknown == set()


@pytest.mark.parametrize("name", ["overall.yaml", "model/MSCGRec.yaml", "model/TiledSASRec.yaml"])
def test_every_key_says_its_type_and_meaning(name: str) -> None:
    text = (properties_folder() / name).read_text(encoding="utf-8")
    for line in text.splitlines():
        if re.match(r"\w", line):
            assert re.search(
                r"# \((int|float|str|bool|list|dict|int or list|str or list)(, [^)]+)?\) \S", line
            ), line


def config(**changes: object) -> Config:
    return Config("MSCGRec", "no-such-data", config_dict=changes)


def test_defaults_are_the_stated_protocol() -> None:
    made = config()
    assert made["topk"] == [1, 5, 10, 20] and made["metrics"] == ["Recall", "NDCG", "MRR"]
    assert made["valid_metric"].upper() == "NDCG@10"
    assert made["eval_args"]["split"] == {"LS": "valid_and_test"}
    assert made["eval_args"]["mode"] == {"valid": "full", "test": "full"}
    assert made["train_neg_sample_args"]["distribution"] == "none"


@pytest.mark.parametrize("model", ["SASRec", "GRU4Rec", "BERT4Rec", "Pop", "TiledSASRec"])
def test_every_model_runs_under_the_same_protocol(model: str) -> None:
    ours, theirs = config(), Config(model, "no-such-data", config_dict={})
    keys = "eval_args topk metrics valid_metric repeatable seed metric_decimal_place".split()
    assert {k: theirs[k] for k in keys} == {k: ours[k] for k in keys}


def test_later_sources_win(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("hidden_size: 32\ninner_size: 48\nbeam_size: 30\n")
    second.write_text("inner_size: 64\nbeam_size: 40\n")
    made = Config("MSCGRec", "ml-100k", [str(first), str(second)], {"beam_size": 50})
    assert (made["hidden_size"], made["inner_size"], made["beam_size"]) == (32, 64, 50)
    assert made["user_inter_num_interval"] == "[5,inf)"  # properties/dataset/ml-100k.yaml
    assert made["n_encoder_layers"] == 3  # properties/model/MSCGRec.yaml


def test_data_set_without_a_file_keeps_its_timestamps() -> None:
    """RecBole's sample.yaml would load user and item only, and no sequence could be made."""
    loaded = (config()["load_col"] or {"inter": None})["inter"]
    assert loaded is None or "timestamp" in loaded


@pytest.mark.parametrize(
    ("key", "near"),
    [("hiden_size", "hidden_size"), ("beamsize", "beam_size"), ("train_batchsize", "train_batch")],
)
def test_unknown_key_is_refused_with_the_nearest_name(key: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"{key} is not a setting.*did you mean {near}"):
        config(**{key: 1})


def test_known_settings_are_those_of_the_model_of_recbole_and_of_the_project() -> None:
    pop, ours = (known_settings(model, "ml-100k") for model in ("Pop", "MSCGRec"))
    assert {"epochs", "topk", "test_metrics", "text_columns"} <= pop & ours
    assert "codebook_size" in ours - pop


def test_settings_files_are_read_as_recbole_reads_them(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("learning_rate: 1e-3\ntopk: [5]\n")
    assert read_settings(tmp_path / "a.yaml") == {"learning_rate": 0.001, "topk": [5]}
    (tmp_path / "b.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="b.yaml is not YAML"):
        read_settings(tmp_path / "b.yaml")


def test_unknown_key_in_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("codebok_size: 3\n")
    with pytest.raises(ValueError, match="codebok_size.*did you mean codebook_size"):
        Config("MSCGRec", "no-such-data", [str(file)], {})


def test_every_model_class_of_recbole_is_a_known_name() -> None:
    families = "general context_aware knowledge_aware sequential".split()
    names: set[str] = set()
    for family in families:
        module = importlib.import_module(f"recbole.model.{family}_recommender")
        names |= {
            name
            for name, kind in vars(module).items()
            if inspect.isclass(kind) and issubclass(kind, AbstractRecommender)
        }
    assert len(names) > 80
    refused = []
    for name in sorted(names):
        try:
            check_model_name(name)
        except ValueError:
            refused.append(name)
    assert refused == []


def test_a_key_of_another_model_is_refused() -> None:
    with pytest.raises(ValueError, match="codebook_size is not a setting of RecBole or of SASRec"):
        Config("SASRec", "no-such-data", config_dict={"codebook_size": 3})


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("hidden_size", "wide", "a whole number"),
        ("hidden_size", 1.5, "a whole number"),
        ("learning_rate", "fast", "a number"),
        ("learned_items", True, "a whole number"),
        ("history_vectors", "yes please", "True or False"),
        ("epochs", True, "a whole number"),
        ("text_encoder", 3, "a string"),
        ("eval_args", "full", "a mapping"),
    ],
)
def test_wrong_type_is_refused(key: str, value: object, kind: str) -> None:
    with pytest.raises(ValueError, match=rf"{key} \({re.escape(repr(value))}\) must be {kind}"):
        config(**{key: value})


def test_right_types_are_taken() -> None:
    check_type("learning_rate", 1, 0.001)
    check_type("codebook_size", [4, 8], 64)
    check_type("codebook_size", 8, 64)
    check_type("topk", 10, [1, 5])
    check_type("result_file", "x.json", None)
    check_type("history_vectors", True, False)


def test_a_missing_properties_folder_raises(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from recbole_mscgrec.config import config as module

    monkeypatch.setattr(module, "__file__", str(tmp_path / "recbole_mscgrec" / "config.py"))
    with pytest.raises(FileNotFoundError, match="overall.yaml.*reinstall"):
        properties_folder()


@pytest.mark.slow
def test_the_wheel_holds_the_yaml_files(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("recbole_mscgrec", "properties"):
        shutil.copytree(PROJECT / name, source / name)
    for name in ("setup.py", "pyproject.toml", "README.md", "run_recbole_mscgrec.py"):
        shutil.copy(PROJECT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "-w", str(tmp_path), str(source)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    for path in (PROJECT / "properties").rglob("*.yaml"):
        relative = path.relative_to(PROJECT / "properties").as_posix()
        assert f"recbole_mscgrec/properties/{relative}" in held
    assert {f"recbole_mscgrec/{name}" for name in OURS} <= held
    templates = [p.name for p in (PACKAGE / "tokenizer" / "templates").iterdir()]
    held_there = {f"recbole_mscgrec/tokenizer/templates/{name}" for name in templates}
    assert templates and held_there <= held and "recbole_mscgrec/py.typed" in held
    assert "recbole_mscgrec/properties/ablation/components.yaml" in held
    unpacked = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(unpacked)
    text = (unpacked / "recbole_mscgrec" / "properties" / "overall.yaml").read_text()
    assert text == (PROJECT / "properties" / "overall.yaml").read_text()
