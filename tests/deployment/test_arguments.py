"""Settings among the options of a command."""

from __future__ import annotations

import argparse

import pytest

from recbole_mscgrec.deployment.arguments import settings_of


def test_settings_are_read_like_those_of_a_run() -> None:
    rest = ["--data_path=a=b", "--topk=[1, 5]", "--use_gpu=False"]
    expected = {"data_path": "a=b", "topk": [1, 5], "use_gpu": False}
    assert settings_of(rest, argparse.ArgumentParser()) == expected


@pytest.mark.parametrize("wrong", ["file.pth", "--no_such_option", "-x=1"])
def test_anything_else_ends_with_the_usage(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        settings_of([wrong], argparse.ArgumentParser(prog="program"))
    assert stop.value.code == 2
    assert f"{wrong}: no such option; a setting is written --key=value" in capsys.readouterr().err
