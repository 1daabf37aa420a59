"""The command `prepare` as a whole: made once, gone on with after a stop, never half there."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from raw_files import START, csv_file, json_lines, prepare, review_2023, rule_rows, table

import recbole_mscgrec
from recbole_mscgrec.raw_data import command, spool
from recbole_mscgrec.raw_data.command import parser
from recbole_mscgrec.storage import lock

PAGE = Path(recbole_mscgrec.__file__).resolve().parents[1] / "docs" / "prepare.md"


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    """A command whose data set has interactions and items."""
    rows = [(u, i, START + t) for u, i, t in rule_rows()]
    csv_file(tmp_path / "r.csv", ["u", "i", "t"], rows)
    csv_file(tmp_path / "i.csv", ["i", "title"], [(f"i{n}", f"title {n}") for n in range(20)])
    files = [f"--from={tmp_path / 'r.csv'}", f"--items={tmp_path / 'i.csv'}", "--text=title"]
    columns = ["--user=u", "--item=i", "--time=t"]
    return ["csv", "--name=d", f"--data_path={tmp_path / 'data'}", *files, *columns]


def contents(folder: Path) -> dict[str, bytes]:
    """What is in the files of a data set; the files are d.inter, d.item and d.card.md."""
    found = {
        file.name: file.read_bytes() for file in (folder / "data" / "d").iterdir() if file.is_file()
    }
    assert sorted(found) == ["d.card.md", "d.inter", "d.item"]
    return found


def test_the_same_command_does_nothing_the_second_time(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(*arguments) == 0
    assert "Made " in capsys.readouterr().out
    made = contents(tmp_path)
    files = sorted((tmp_path / "data" / "d").glob("d.*"))
    before = {f: f.stat().st_mtime_ns for f in files}
    assert prepare(*arguments) == 0
    assert "Already up to date" in capsys.readouterr().out
    assert {f: f.stat().st_mtime_ns for f in files} == before and len(files) >= 2
    assert not (tmp_path / "data" / "d" / ".prepare").exists()
    assert prepare(*arguments, "--overwrite") == 0
    assert contents(tmp_path)["d.inter"] == made["d.inter"]


@pytest.mark.parametrize("change", ["option", "raw file", "by hand", "no card"])
def test_another_data_set_of_this_name_is_not_replaced(
    tmp_path: Path, arguments: list[str], change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(*arguments) == 0
    folder, more = tmp_path / "data" / "d", []
    if change == "option":
        more = ["--min_user_interactions=6"]
    elif change == "raw file":
        with (tmp_path / "r.csv").open("a") as stream:
            stream.write(f"u0,i19,{START + 999}\n")
    elif change == "by hand":
        with (folder / "d.inter").open("a") as stream:
            stream.write("u0\ti19\t1\n")
    else:
        (folder / "d.card.md").unlink()
    before = (folder / "d.inter").read_bytes()
    assert prepare(*arguments, *more) == 1
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert (folder / "d.inter").read_bytes() == before
    assert prepare(*arguments, *more, "--overwrite") == 0
    n_rows = 1 + 240 + (change == "raw file")
    assert len(table(folder / "d.inter")) == n_rows


STAGES = ["spool", "kept_rows", "write_interactions", "write_items", "write_card", "replace"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stopped_command_goes_on(
    tmp_path: Path,
    arguments: list[str],
    stage: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Ctrl-C in each stage: earlier stages are not repeated, and the result is the same."""
    assert prepare(*arguments) == 0
    expected = contents(tmp_path)
    for file in (tmp_path / "data" / "d").iterdir():
        file.unlink()
    done: list[str] = []

    def watch(place: Any, name: str, stops: bool) -> None:
        original = getattr(place, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            if stops and name == stage:
                if name == "replace" and Path(args[1]).name != "d.item":  # d.inter is there then
                    return original(*args, **kwargs)
                raise KeyboardInterrupt
            found = original(*args, **kwargs)
            done.append(name)
            return found

        monkeypatch.setattr(place, name, watched)

    for name in STAGES[:-1]:
        watch(command, name, True)
    watch(command.os, "replace", True)
    assert prepare(*arguments) == 130
    assert "Stopped: the same command continues" in capsys.readouterr().err
    monkeypatch.undo()
    done.clear()
    for name in STAGES[:-1]:
        watch(command, name, False)
    assert prepare(*arguments) == 0
    first = min(STAGES.index(stage), 4)
    assert [n for n in done if n != "spool"] == [n for n in STAGES[first:-1] if n != "spool"]
    assert contents(tmp_path) == expected


def test_other_filters_do_not_read_the_files_again(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepare(*arguments, "--min_user_interactions=99") == 1  # nothing is left
    monkeypatch.setattr(spool._Writer, "add", None)  # no row is read
    assert prepare(*arguments, "--min_user_interactions=8") == 0
    assert len(table(tmp_path / "data" / "d" / "d.inter")) == 241


def test_wrong_options_leave_no_folder(tmp_path: Path, arguments: list[str]) -> None:
    assert prepare(*arguments, "--rating=stars") == 1
    assert not (tmp_path / "data").exists()


def test_reading_goes_on_within_a_file(
    tmp_path: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert prepare(*arguments) == 0
    expected = contents(tmp_path)
    for file in (tmp_path / "data" / "d").iterdir():
        file.unlink()
    monkeypatch.setattr(spool, "_CHECKPOINT", 50)
    original, calls = spool._Writer.add, [0]

    def add(self: Any, one: Any) -> None:
        calls[0] += 1
        if calls[0] == 130:
            raise KeyboardInterrupt
        original(self, one)

    monkeypatch.setattr(spool._Writer, "add", add)
    assert prepare(*arguments) == 130
    calls[0] = 1000
    assert prepare(*arguments) == 0
    assert calls[0] == 1000 + 240 - 100  # two checkpoints were kept
    assert contents(tmp_path) == expected


def test_a_killed_process_loses_nothing(tmp_path: Path, arguments: list[str]) -> None:
    """SIGKILL while the items are written."""
    code = (
        "import os, signal, sys\n"
        "from recbole_mscgrec.raw_data import command\n"
        "command.write_items = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
        "command.main(sys.argv[1:])\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, *arguments], timeout=60)
    assert killed.returncode == -9
    assert not list((tmp_path / "data" / "d").glob("d.*"))
    assert prepare(*arguments) == 0
    assert len(table(tmp_path / "data" / "d" / "d.item")) == 21


def test_a_full_disk_is_one_line(
    tmp_path: Path,
    arguments: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(spool.os, "fsync", full)
    assert prepare(*arguments) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "space" in error.lower()
    monkeypatch.undo()
    assert prepare(*arguments) == 0


def test_only_one_process_prepares_a_data_set(
    tmp_path: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "data" / "d"
    folder.mkdir(parents=True)
    with lock.claim(folder / ".prepare", "prepares"):
        code = "import sys; from recbole_mscgrec.cli import main; sys.exit(main(sys.argv[1:]))"
        other = [sys.executable, "-c", code, "prepare", *arguments]
        found = subprocess.run(other, capture_output=True, text=True, timeout=60)
    assert found.returncode == 1 and "Another process prepares" in found.stderr


@pytest.mark.parametrize("name", ["a/b", "", ".x", "a b", "ml-100k"])
def test_a_name_is_a_plain_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("sequences", f"--name={name}", "--from=x") == 1
    rule = "reads its own copy" if name == "ml-100k" else "must be a plain name"
    assert rule in capsys.readouterr().err


def test_more_bad_lines_than_allowed_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reviews = [review_2023(u, i, t) for u, i, t in rule_rows(6, 5, 5)]
    reviews[3] |= {"user_id": None}
    reviews[5] |= {"timestamp": "yesterday"}
    reviews[7] |= {"parent_asin": "a\tb"}
    reviews[9] |= {"rating": "good"}
    file = json_lines(tmp_path / "r.jsonl", reviews)
    with file.open("a") as stream:
        stream.write('{"cut off\n')
    arguments = ["--name=d", f"--data_path={tmp_path}", f"--from={file}", "--without_metadata"]
    arguments += ["--min_user_interactions=1", "--min_item_interactions=1"]
    assert prepare("amazon-2023", *arguments, "--max_bad_lines=4") == 1
    error = capsys.readouterr().err
    assert f"{file}, line 31: this is not JSON" in error
    assert "bad line number 5, and --max_bad_lines is 4" in error
    assert prepare("amazon-2023", *arguments, "--max_bad_lines=5") == 0
    card = (tmp_path / "d" / "d.card.md").read_text()
    assert "Skipped: 5." in card and "line 4: the user is missing" in card
    assert "line 8: the item is 'a\\tb'" in card and "line 10: the rating 'good'" in card
    assert len(table(tmp_path / "d" / "d.inter")) == 1 + 30 - 4


@pytest.mark.slow
def test_the_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """Peak memory of the command on 2,000 and on 50,000 lines; these have 30 MB."""
    code = (
        "import resource, sys\nfrom recbole_mscgrec.raw_data import spool\n"
        "from recbole_mscgrec.raw_data.command import main\nspool._CHECKPOINT = 5000\n"
        "main(sys.argv[1:])\nprint('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for n in (2_000, 50_000):
        file = tmp_path / f"{n}.csv"
        with file.open("w") as out:
            out.write("u,i,t,text\n")
            for k in range(n):
                item = (k + 10 * k // n) % (n // 20)
                out.write(f"user{7919 * k % (n // 10)},item{item},{k},{'x' * 600}\n")
        given = ["csv", f"--name=n{n}", f"--data_path={tmp_path}", f"--from={file}"]
        given += ["--user=u", "--item=i", "--time=t", f"--items={file}", "--text=text"]
        command_line = [sys.executable, "-c", code, *given, "--item_key=i"]
        ran = subprocess.run(command_line, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stderr
        peaks.append(int(re.findall(r"PEAK (\d+)", ran.stdout)[0]) / 1024)
    assert peaks[1] - peaks[0] < 15, peaks


def test_the_page_has_every_option() -> None:
    subparsers = [a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]
    known = {
        name
        for one in subparsers[0].choices.values()
        for action in one._actions
        for name in action.option_strings
    }
    rows = PAGE.read_text(encoding="utf-8").partition("## Options")[2].splitlines()
    told = {
        name
        for row in rows
        for name in re.findall(r"`(--\w+)`", row.split("|", 2)[1:2][0] if "|" in row else "")
    }
    assert told == known - {"-h", "--help"}


def test_the_page_has_every_source() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in command._SOURCES:
        assert f"| `{name}` |" in page and f"recbole-mscgrec prepare {name} " in page
    for line in re.findall(r"recbole-mscgrec (prepare .*)", page.replace("\\\n", " ")):
        if "SOURCE" not in line:
            parser().parse_args(line.split()[1:])


def test_help_names_the_other_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        prepare("--help")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "prepare images" in out and "prepare text" in out and "amazon-2023" in out
    with pytest.raises(SystemExit):
        prepare("csv", "--help")
    assert "--time_format" in capsys.readouterr().out
