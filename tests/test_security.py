"""SECURITY.md: no file that we read runs code. Each way in is tried with a payload."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Trained
from tiny import (
    arguments,
    dino_settings,
    interrupt,
    protocol,
    rule_sequences,
    settings,
    write_dataset,
)

import recbole_mscgrec
from recbole_mscgrec.cli import main
from recbole_mscgrec.experiments.report import main as report
from recbole_mscgrec.features.given_files import given_codes, given_vectors
from recbole_mscgrec.plugin.mscgrec import MSCGRec
from recbole_mscgrec.rq_dino.backbone import make_backbone
from recbole_mscgrec.runner import user_ranks
from recbole_mscgrec.runner.quick_start import load_data_and_model, run
from recbole_mscgrec.storage.errors import UserError

PAGE = Path(recbole_mscgrec.__file__).resolve().parent.parent / "SECURITY.md"
PYTHON = "__import__('pathlib').Path('PWNED').touch()"
YAML = "!!python/object/apply:os.system ['touch PWNED']"
HTML = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"


class Payload:
    """Unpickling this creates the file PWNED."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("PWNED"),))


@pytest.fixture(autouse=True)
def _nothing_was_run() -> Iterator[None]:
    yield
    assert not Path("PWNED").exists()


def pickled(file: Path, how: str) -> Path:
    """A file whose careless loading runs the payload: torch's archive, or a bare pickle."""
    content = {"config": Payload(), "state_dict": {}, "teacher": Payload(), "epoch": 0}
    file.unlink(missing_ok=True)
    if how == "archive":
        torch.save(content, file)
    else:
        file.write_bytes(pickle.dumps(content))
    return file


def test_the_payload_works_where_pickles_are_trusted(tmp_path: Path) -> None:
    for how in ("archive", "pickle"):
        file = pickled(tmp_path / "x.pth", how)
        torch.load(file, weights_only=False) if how == "archive" else pickle.loads(
            file.read_bytes()
        )
        assert Path("PWNED").exists()
        Path("PWNED").unlink()


@pytest.mark.parametrize("how", ["archive", "pickle"])
@pytest.mark.parametrize("key", ["model_file", "initial_model", "rescore_model"])
def test_saved_models(trained: Trained, tmp_path: Path, key: str, how: str) -> None:
    chosen = {**trained.settings, "result_file": None, "checkpoint_dir": str(tmp_path), "epochs": 1}
    with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
        run("MSCGRec", "rule", config_dict={**chosen, key: str(pickled(tmp_path / "x.pth", how))})


@pytest.mark.parametrize("how", ["archive", "pickle"])
def test_a_saved_model_loaded_in_python(tmp_path: Path, how: str) -> None:
    with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
        load_data_and_model(str(pickled(tmp_path / "x.pth", how)))


@pytest.mark.parametrize("how", ["archive", "pickle"])
def test_the_checkpoint_of_an_interrupted_training(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    chosen = settings(rule_folder, epochs=3)
    with monkeypatch.context() as patch:
        interrupt(patch, MSCGRec, 8)
        with pytest.raises(KeyboardInterrupt):
            run("MSCGRec", "rule", config_dict=chosen)
    pickled(next((rule_folder / "saved").glob("*.last.pth")), how)
    with pytest.raises(UserError, match="not a checkpoint of plain tensors"):
        run("MSCGRec", "rule", config_dict={**chosen, "resume": True})


def test_a_saved_model_sets_no_attribute_of_the_network(trained: Trained, tmp_path: Path) -> None:
    state = torch.load(trained.model_file, weights_only=True)
    state["other_parameter"]["recommend"] = "other code"
    del state["digest"]
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x.pth\) holds \['recommend'\], which a MSCGRec does not"):
        load_data_and_model(str(tmp_path / "x.pth"))


@pytest.mark.parametrize("how", ["archive", "pickle"])
def test_the_cache_and_half_trained_stages(
    rule_folder: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    chosen = settings(rule_folder)
    expected = run("MSCGRec", "rule", config_dict=chosen)
    whole = list((rule_folder / "cache").glob("*.safetensors"))
    assert {file.name.split("-")[0] for file in whole} == {"collaborative", "text", "codes"}
    for file in whole:
        pickled(file, how)
        pickled(file.with_suffix(".partial.pth"), how)
    assert run("MSCGRec", "rule", config_dict=chosen)["test_result"] == expected["test_result"]
    assert caplog.text.count("is not used, because") >= len(whole) + 1


@pytest.mark.parametrize("how", ["archive", "pickle"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_image_weights(tmp_path: Path, suffix: str, how: str) -> None:
    file = pickled(tmp_path / f"x{suffix}", how)
    with pytest.raises(UserError, match="is damaged or holds more than plain tensors"):
        make_backbone(dino_settings(weights=str(file)))


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".json", ".safetensors"])
def test_vectors_and_codes(tmp_path: Path, suffix: str) -> None:
    rows, file = np.array([[Payload(), Payload()]] * 2, dtype=object), tmp_path / f"x{suffix}"
    (tmp_path / "x.tokens.txt").write_text("a\nb\n")
    if suffix == ".npy":
        np.save(file, rows, allow_pickle=True)
    elif suffix == ".npz":
        np.savez(file, tokens=np.array(["a", "b"]), vectors=rows, codes=rows)
    else:
        file.write_bytes(pickle.dumps(Payload()))
    for read in (given_vectors, given_codes):
        with pytest.raises(UserError, match=f"x{suffix}"):
            read(str(file), "text", None)


@pytest.mark.parametrize("option", ["--config_files", "--ablation"])
@pytest.mark.parametrize("value", [PYTHON, YAML])
def test_settings_and_ablations(rule_folder: Path, option: str, value: str) -> None:
    text = f"valid_metric: {value}\n"
    if option == "--ablation":
        text = f"- name: a\n  model: Pop\n  settings: {{}}\n  note: {value}\n- {value}\n"
    Path("mine.yaml").write_text(text)
    argv = ["--model=Pop", "--dataset=rule", *arguments(protocol(rule_folder))]
    assert main([*argv, option, "mine.yaml"]) == 1


def test_a_table_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ranks with objects, results that are pickles, and values that are code."""
    np.savez(tmp_path / "a_1.npz", users=np.array([Payload()] * 2), ranks=[1, 2], depth=10)
    with pytest.raises(UserError, match="a_1.npz.*Python objects"):
        user_ranks.load(tmp_path / "a_1.npz")
    result = {"model": PYTHON, "dataset": PYTHON, "seed": 1, "test_result": {PYTHON: 0.5}}
    (tmp_path / "b_1.json").write_text(json.dumps(result))
    assert report([str(tmp_path / "b_1.json")]) == 0
    assert PYTHON in capsys.readouterr().out
    pickled(tmp_path / "c_1.json", "pickle")
    assert report([str(tmp_path / "c_1.json")]) == 1


@pytest.mark.parametrize("text", [PYTHON, YAML, HTML])
def test_atomic_files_and_titles(rule_folder: Path, text: str) -> None:
    """In ids and titles of the data; the pages of the codes show them as text."""
    sequences = {f"{u} {text}": [f"{i}{text}" for i in v] for u, v in rule_sequences().items()}
    titles = {item: f"{item} {text}" for items in sequences.values() for item in items}
    write_dataset(rule_folder / "data", "rule", sequences, titles)
    chosen = settings(rule_folder, codes_dir=str(rule_folder / "codes"), codebook_size=3)
    run("MSCGRecTokenizer", "rule", config_dict=chosen)
    pages = list((rule_folder / "codes").glob("*.html"))
    assert len(pages) == 2
    for page in pages:
        content = page.read_text(encoding="utf-8")
        assert content.count("<script") == content.count("</script>") == 2 and "<img" not in content


# --- the page -------------------------------------------------------------------------------------


def test_every_row_of_the_page_names_a_test_here() -> None:
    """The table of what is safe to load names the test of each row."""
    rows = re.findall(r"^\| .* \| `(test_\w+)` \|$", PAGE.read_text(encoding="utf-8"), re.M)
    assert len(rows) >= 9
    for name in rows:
        assert callable(globals()[name])


def test_the_page_speaks_of_the_limits() -> None:
    text = PAGE.read_text(encoding="utf-8")
    for word in ("text_encoder", "image_weights=hub", "digest", "signature"):
        assert word in text
