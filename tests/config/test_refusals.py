"""What RecBole refuses is an error of the user, what we do wrong is a bug."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
from recbole.data.interaction import Interaction
from tiny import arguments, protocol

from recbole_mscgrec.cli import main
from recbole_mscgrec.config import refusals
from recbole_mscgrec.config.refusals import ends_told_to_the_user, told_to_the_user
from recbole_mscgrec.runner import quick_start
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.storage.errors import UserError


def test_an_exception_of_recbole_is_told_to_the_user() -> None:
    with pytest.raises(UserError, match=r"RecBole refuses this \(ValueError: .*int.*\)\. --debug"):
        with told_to_the_user():
            Interaction(3)


def test_other_exceptions_stay_what_they_are() -> None:
    for kind in (ValueError, RuntimeError, ZeroDivisionError, UserError):
        with pytest.raises(kind, match="^mine$"), told_to_the_user():
            raise kind("mine")


def test_settings_that_recbole_does_not_take(rule_folder: Path) -> None:
    chosen = {"split": {"LS": "valid_and_test"}, "order": "RO", "mode": "full"}
    with pytest.raises(UserError, match=r"RecBole refuses this \(ValueError: .*has to be 'TO'"):
        run("SASRec", "rule", config_dict=protocol(rule_folder, eval_args=chosen))


def test_an_assertion_of_recbole_is_a_refusal(rule_folder: Path) -> None:
    with pytest.raises(UserError, match=r"AssertionError: no reason given"):
        run("ConvNCF", "rule", config_dict=protocol(rule_folder, train_method="after_pretrain"))


def test_one_line_for_the_user_and_a_traceback_with_debug(
    rule_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["--model=Pop", "--dataset=rule", *arguments(protocol(rule_folder)), "--epochs=x"]
    assert main(argv) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert main([*argv, "--debug"]) == 1
    errors = capsys.readouterr().err
    assert "Traceback" in errors and errors.splitlines()[-1].startswith("error: epochs ('x') must")


def test_a_bug_keeps_its_traceback_and_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(quick_start, "run", lambda *args: {}["gone"])
    assert main(["--model=Pop"]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("This is a bug of recbole-mscgrec or of RecBole. Please report it")
    assert errors.splitlines()[-1] == "KeyError: 'gone'"


@pytest.mark.parametrize(
    ("package", "pip"), [("faiss", "faiss-cpu"), ("dgl.x", "dgl"), ("xgboost", "lightgbm xgboost")]
)
def test_a_missing_package_is_told_with_the_way_to_install_it(package: str, pip: str) -> None:
    with pytest.raises(UserError, match=rf"^NCL needs the package .* pip install {pip}$"):
        with ends_told_to_the_user("NCL"):
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)


@pytest.mark.parametrize("folder", [False, True])
def test_wandb_is_looked_for_before_anything_is_trained(
    rule_folder: Path, folder: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = ModuleSpec("wandb", None) if folder else None  # of a folder with wandb's logs
    monkeypatch.setattr(refusals, "find_spec", lambda name: found)
    with pytest.raises(UserError, match="log_wandb needs the package wandb, .*pip install wandb"):
        run("SASRec", "rule", config_dict=protocol(rule_folder, log_wandb=True))
    assert not (rule_folder / "saved").exists()


def test_wandb_that_is_installed_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    found = ModuleSpec("wandb", None, origin="wandb/__init__.py")
    monkeypatch.setattr(refusals, "find_spec", lambda name: found)
    refusals.check_wandb({"log_wandb": True})


def test_recbole_does_not_end_the_program(rule_folder: Path) -> None:
    """SASRecCPR answers this loss with `sys.exit(0)`, which looks like success."""
    chosen = protocol(rule_folder, loss_type="BPR")
    with pytest.raises(UserError, match="SASRecCPR"):
        run("SASRecCPR", "rule", config_dict=chosen)
    with pytest.raises(SystemExit), ends_told_to_the_user("SASRec"):
        raise SystemExit(3)  # not RecBole's
