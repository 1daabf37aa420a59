"""The command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import arguments, best_file, interrupt, protocol, settings

import recbole_mscgrec
from recbole_mscgrec.cli import ended_like_ctrl_c, main, parse
from recbole_mscgrec.plugin.mscgrec import MSCGRec
from recbole_mscgrec.runner.quick_start import run


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
    columns = "--load_col={'inter': ['user_id', 'item_id']}"  # a value with spaces after a file
    for files in (["--config_files", "a.yaml"], ["--config_files=a.yaml"]):
        known, chosen = parse(["--dataset", "d", *files, columns, "--epochs=3"])
        assert known.config_files == ["a.yaml"] and known.dataset == "d"
        assert chosen == {"load_col": columns.partition("=")[2], "epochs": "3"}
    known = vars(parse(["--seed=3"])[0])  # not short for --seed_list
    assert (known.pop("model"), known.pop("dataset")) == ("MSCGRec", "ml-100k")
    assert known.pop("config_files") == [] and known.pop("debug") is False
    assert set(known.values()) == {None}


def test_model_and_dataset_may_be_named_in_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command line wins, also where it names the default."""
    (tmp_path / "a.yaml").write_text("model: Pop\ndataset: shop\n")
    (tmp_path / "b.yaml").write_text("model: SASRec\ndataset:\n")
    for argv, model, dataset in (
        (["a.yaml"], "Pop", "shop"),
        (["a.yaml", "b.yaml"], "SASRec", "ml-100k"),
        (["a.yaml", "--model=MSCGRec"], "MSCGRec", "shop"),
        (["a.yaml", "--dataset=ml-100k"], "Pop", "ml-100k"),
    ):
        known, _ = parse(["--config_files", *argv])
        assert (known.model, known.dataset) == (model, dataset)
    (tmp_path / "c.yaml").write_text("dataset: 2018\n")
    assert main(["--config_files=c.yaml"]) == 1
    assert "dataset (2018) must be a string, not int: put it in quotes" in capsys.readouterr().err


def test_a_saved_model_may_be_named_in_a_file(
    rule_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = arguments(protocol(rule_folder))
    Path("mine.yaml").write_text("model: TiledSASRec\ndataset: rule\n")
    assert main(["--config_files=mine.yaml", *chosen]) == 0
    file = best_file(rule_folder / "saved", "TiledSASRec")
    again = ["--config_files=mine.yaml", f"--model_file={file}", *chosen]
    assert main(again) == 0
    assert main([*again, "--model=Pop"]) == 1
    assert "holds TiledSASRec, not Pop: add --model=TiledSASRec" in capsys.readouterr().err
    Path("mine.yaml").write_text("model: Pop\ndataset: rule\n")
    assert main([*again, "--model=TiledSASRec"]) == 0


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
        ({"hidden_size": "x"}, "hidden_size ('x') must be a whole number"),
        ({"codebook_size": 99}, "codebook_size (99)"),
        ({"text_columns": "['nope']"}, "['nope']"),
        ({"codes_title_column": "nope"}, "codes_title_column (nope) is not a column"),
        ({"codes_words_column": "nope"}, "codes_words_column (nope) is not a column"),
        ({"data_path": "elsewhere"}, "elsewhere"),
        ({"modalities": "['smell']"}, "smell"),
        ({"n_heads": 3}, "n_heads (3)"),
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


def test_ctrl_c_during_the_import_is_no_traceback(tmp_path: Path) -> None:
    """torch is the slowest import: here it presses Ctrl-C itself."""
    (tmp_path / "torch.py").write_text("raise KeyboardInterrupt\n")
    paths = os.pathsep.join([str(tmp_path), str(Path(recbole_mscgrec.__file__).parent.parent)])
    done = subprocess.run(
        [sys.executable, "-m", "recbole_mscgrec", "--dataset=rule"],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (130, "Stopped.\n")


def _main_that_prints(lines: str) -> list[str]:
    """A program whose command prints these lines."""
    code = f"""import sys
from recbole_mscgrec import cli
def run(given):
    for line in {lines}:
        print(line)
    return 0
cli._run = run
sys.exit(cli.main([]))"""
    return [sys.executable, "-c", code]


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("n_lines", [1, 100_000])  # fewer and more than Python's buffer holds
def test_a_reader_that_has_gone_ends_the_command_quietly(n_lines: int, unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            _main_that_prints(f"range({n_lines})"),
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_broken_pipe_elsewhere_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def run(given: list[str]) -> int:
        raise BrokenPipeError("of a worker")

    monkeypatch.setattr("recbole_mscgrec.cli._run", run)
    assert main([]) == 1
    assert "of a worker" in capfd.readouterr().err


def test_what_the_terminal_cannot_show_is_escaped() -> None:
    done = subprocess.run(
        _main_that_prints("['caf\\u00e9 \\U0001f600']"),
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    shown = "caf\\xe9 \\U0001f600\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, "")


def test_too_little_memory_is_one_line(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def calculate_loss(self: MSCGRec, interaction: object) -> None:
        np.empty(1 << 50)

    monkeypatch.setattr(MSCGRec, "calculate_loss", calculate_loss)
    assert main(["--dataset=rule", *arguments(settings(rule_folder))]) == 1
    error = capsys.readouterr().err
    assert "error: There is not enough memory" in error and "Traceback" not in error


def test_the_signal_of_batch_systems_is_taken_for_ctrl_c() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), ended_like_ctrl_c():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_disk_that_takes_no_more_is_one_line(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also from a place that does not expect it."""

    def calculate_loss(self: MSCGRec, interaction: object) -> None:
        raise OSError(28, "No space left on device", "some/file")

    monkeypatch.setattr(MSCGRec, "calculate_loss", calculate_loss)
    assert main(["--dataset=rule", *arguments(settings(rule_folder))]) == 1
    error = capsys.readouterr().err
    assert "error: [Errno 28] No space left on device: 'some/file'. Files are written" in error
    assert "Traceback" not in error


@pytest.mark.slow
def test_a_command_on_a_full_disk_names_the_file_and_the_way_on(rule_folder: Path) -> None:
    resource = pytest.importorskip("resource")
    chosen = arguments(protocol(rule_folder, epochs=2, hidden_size=64, n_layers=1))
    command = [sys.executable, "-m", "recbole_mscgrec", "--model=SASRec", "--dataset=rule", *chosen]
    small = (100_000, 100_000)  # bytes that a file may have; a checkpoint has more
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, small),
    )
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert last.startswith("error: Cannot write ") and "File too large" in last
    assert "set checkpoint_dir to another folder" in last and "repeat the command" in last
