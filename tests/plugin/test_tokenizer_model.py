"""`--model=MSCGRecTokenizer`: the codes alone, through the same command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import Trained
from tiny import settings

from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.semantic_ids.code_table import CodeTable
from recbole_mscgrec.storage import files
from recbole_mscgrec.storage.errors import UserError


def test_reports_the_health_and_saves_the_table(rule_folder: Path) -> None:
    chosen = settings(rule_folder)
    result = run("MSCGRecTokenizer", "rule", config_dict=chosen)
    health = result["code_health"]
    assert result["test_result"]["alone_share@text"] == health["text"]["alone_share"]
    level = health["collaborative"]["levels"][1]["perplexity"]
    assert result["test_result"]["perplexity@collaborative_1"] == level
    (file,) = (rule_folder / "saved").glob("MSCGRecTokenizer-rule-*.pth")
    plain = torch.load(file, weights_only=True)["other_parameter"]["code_state"]["table"]
    assert CodeTable.from_plain(plain).n_items == 31


def test_its_stages_are_those_of_mscgrec(rule_folder: Path) -> None:
    chosen = settings(rule_folder)
    run("MSCGRecTokenizer", "rule", config_dict=chosen)
    before = {p.name: p.stat().st_mtime_ns for p in (rule_folder / "cache").glob("*.safetensors")}
    run("MSCGRec", "rule", config_dict=chosen)
    after = {p.name: p.stat().st_mtime_ns for p in (rule_folder / "cache").glob("*.safetensors")}
    assert before == after and len(before) == 3


def written(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in (folder / "saved" / "codes" / "rule").iterdir()}


def test_writes_codes_health_and_pages(rule_folder: Path) -> None:
    result = run("MSCGRecTokenizer", "rule", config_dict=settings(rule_folder))
    files = written(rule_folder)
    names = {f"codes_{m}.{kind}" for m in ("collaborative", "text") for kind in ("json", "html")}
    assert set(files) == names | {"health.json"}
    assert json.loads(files["health.json"]) == result["code_health"]
    assert "name7 fives1 thirds1" in files["codes_text.html"]


def test_its_codes_can_be_given_as_codes_made_elsewhere(rule_folder: Path) -> None:
    run("MSCGRecTokenizer", "rule", config_dict=settings(rule_folder))
    folder = rule_folder / "saved" / "codes" / "rule"
    given = {m: str(folder / f"codes_{m}.json") for m in ("collaborative", "text")}
    other = rule_folder / "other"
    chosen = settings(rule_folder, codes_file=given, codes_dir=str(other))
    run("MSCGRecTokenizer", "rule", config_dict=chosen)
    for name in given:
        file = f"codes_{name}.json"
        assert json.loads((other / file).read_text()) == json.loads((folder / file).read_text())


def test_shows_the_codes_of_a_saved_model(trained: Trained) -> None:
    file = str(trained.model_file)
    chosen = {**trained.settings, "model_file": file, "result_file": None, "codes_dir": "shown"}
    result = run("MSCGRecTokenizer", "rule", config_dict=chosen)
    assert result["code_health"] == trained.result["code_health"]
    codes = json.loads(Path("shown/codes_collaborative.json").read_text())
    table = torch.load(file, weights_only=True)["other_parameter"]["code_state"]["table"]
    assert sorted(codes.values()) == sorted(table["codes"]["collaborative"][1:].tolist())


def test_a_folder_that_cannot_be_written_is_refused_before_training(rule_folder: Path) -> None:
    (rule_folder / "file").write_text("")
    chosen = settings(rule_folder, codes_dir=str(rule_folder / "file" / "codes"))
    with pytest.raises(ValueError, match=r"Cannot write in .*file/codes \(codes_dir\)"):
        run("MSCGRecTokenizer", "rule", config_dict=chosen)
    assert not list((rule_folder / "cache").glob("*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, *args: object, **kwargs: object) -> None:
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UserError, match=r"Cannot write .*page.html: .*No space left.*Free space"):
        files.write_text(tmp_path / "page.html", "text")
    assert list(tmp_path.iterdir()) == []
