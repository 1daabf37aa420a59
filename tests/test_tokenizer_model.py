"""`--model=MSCGRecTokenizer`: the codes alone, through the same command."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny import settings

from recbole_mscgrec.codes import CodeTable
from recbole_mscgrec.quick_start import run


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
