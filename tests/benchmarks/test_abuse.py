"""The abuse benchmark: it tells a clear refusal from a failure."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest


@pytest.fixture
def abuse(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("abuse")


@pytest.mark.parametrize(
    ("expect", "status", "output", "outcome"),
    [
        ("refused clearly", 1, "log\nerror: epochs (0) must be\n", "refused clearly"),
        ("refused clearly", 1, "error: something else\n", "failed"),
        ("refused clearly", 0, "epochs (0)", "failed"),
        ("refused clearly", 1, "error: epochs (0)\nTraceback (most", "failed"),
        ("refused clearly", 1, "error: epochs (0)\nerror: epochs (0)\n", "failed"),
        ("refused clearly", -11, "error: epochs (0)\n", "failed"),
        ("survived", 0, "epochs (0)", "survived"),
        ("survived", 1, "error: epochs (0)", "failed"),
        ("survived", None, "epochs (0)", "failed"),
    ],
)
def test_the_outcome_of_a_case(
    abuse: ModuleType, expect: str, status: int | None, output: str, outcome: str
) -> None:
    case = abuse.Case("", expect=expect, says="epochs (0)")
    assert abuse.judge(case, status, output)[0] == outcome
    assert abuse.judge(case, status, output, "the code ran")[0] == "failed"


def test_every_number_of_the_yaml_file_is_abused_and_names_are_unique(abuse: ModuleType) -> None:
    groups = abuse.cases()
    tried = {case.name.partition("=")[0] for case in groups["settings out of range"]}
    assert {"epochs", "n_levels", "collaborative_epochs", "learner", "dropout_prob"} <= tried
    for group, members in groups.items():
        names = [case.name for case in members]
        assert names and len(set(names)) == len(names), group


def test_some_cases_from_the_command_line(
    abuse: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert abuse.main(["--only=settings out of range: epochs="]) == 0
    assert "| all | 4 | 4 | 0 | 0 |" in capsys.readouterr().out
