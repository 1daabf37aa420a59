"""`recbole-mscgrec recommend`, as its user calls it."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import Any

import pytest

from recbole_mscgrec.cli import main
from recbole_mscgrec.deployment import bulk
from recbole_mscgrec.deployment.export import export
from recbole_mscgrec.serving.recommender import Recommender


@pytest.fixture
def ask(trained: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs `recommend --model_file ...`; returns status, output and errors."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = main(["recommend", "--model_file", str(trained), *arguments])
        return status, *capsys.readouterr()

    return call


def items_in(output: str) -> list[str]:
    return [line.split()[1] for line in output.splitlines() if line.split()[0].isdigit()]


def test_a_history_gets_a_table(ask: Any) -> None:
    status, out, _ = ask("--history", "i3, i4", "--top", "3")
    assert status == 0
    first, *rows = out.splitlines()
    assert first.split() == ["rank", "item", "title", "score", "code"]
    assert rows[0].split()[:3] == ["1", "i5", "Title5"] and len(rows) == 3


def test_a_user_gets_what_follows_the_whole_history(ask: Any) -> None:
    _, out, _ = ask("--user", "u0", "u1", "--top", "1")
    # u0 walks i0 to i5, u1 walks i7 to i13.
    assert out.splitlines()[0] == "u0:" and items_in(out) == ["i6", "i14"]


def test_seen_items_and_sub_catalogues(ask: Any, tmp_path: Path) -> None:
    _, out, _ = ask("--history", "i3,i4", "--category", "ODD", "--top", "4")
    assert all(int(item[1:]) % 2 for item in items_in(out)) and items_in(out)[0] == "i5"
    some = tmp_path / "some.txt"
    some.write_text("i4\ni6\n\ni3\n")
    _, out, _ = ask("--history", "i3,i4", "--allowed_items", str(some), "--exclude_seen")
    assert items_in(out) == ["i6"]
    _, out, _ = ask("--history", "i3,i4", "--exclude_items", str(some), "--top", "30")
    assert sorted(items_in(out)) == sorted(f"i{i}" for i in range(30) if i not in (3, 4, 6))
    status, _, err = ask("--history", "i3", "--category", "comedy")
    assert status == 1 and "no item has 'comedy' in genre" in err and "even" in err


def test_the_explanation_names_history_items(ask: Any) -> None:
    _, out, _ = ask("--history", "i3,i4,i5", "--top", "30", "--explain")
    lines = out.splitlines()
    own = lines[next(n for n, line in enumerate(lines) if line.split()[1:2] == ["i5"]) + 1]
    assert "shares" in own and "levels with i5 Title5" in own


def test_a_file_of_histories(ask: Any, tmp_path: Path) -> None:
    file = tmp_path / "histories.txt"
    file.write_text('i3,i4\n\n["i7", "i8"]\n{"user": "anna", "history": ["i10"]}\n')
    _, out, _ = ask("--history_file", str(file), "--top", "1")
    assert [line for line in out.splitlines() if line.endswith(":")] == ["1:", "3:", "anna:"]
    assert items_in(out) == ["i5", "i9", "i11"]
    for content, message in (
        ('i3\n["i7",', "line 2, is not JSON"),
        ('{"items": []}', "needs a list `history`"),
        ("i3\nx9\n", "history names the unknown item 'x9'"),
    ):
        file.write_text(content)
        status, _, err = ask("--history_file", str(file))
        assert status == 1 and message in err


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_all_users_in_a_file(ask: Any, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"recs.{suffix}"
    status, out, _ = ask("--all_users", "--out", str(file), "--top", "2", "--explain")
    assert status == 0 and "60 histories" in out
    if suffix == "csv":
        rows: list[dict[str, Any]] = list(csv.DictReader(file.open()))
    elif suffix == "jsonl":
        rows = [json.loads(line) for line in file.read_text().splitlines()]
    else:
        rows = pytest.importorskip("pyarrow.parquet").read_table(file).to_pylist()
    assert len(rows) == 120
    row = next(r for r in rows if r["user"] == "u1" and int(r["rank"]) == 1)
    assert row["item"] == "i14" and row["title"] == "Title14" and "." in row["code"]
    assert float(row["score"]) < 0
    assert all(":" in r["shared_levels"] or r["shared_levels"] == "" for r in rows)
    assert [f.name for f in tmp_path.glob("recs*")] == [file.name]


def test_all_users_go_on_after_a_stop(
    ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "recs.csv"
    arguments = ["--all_users", "--out", str(file), "--batch_size", "20", "--top", "2"]
    plain, asked = Recommender.recommend, list[int]()

    def stopped(self: Any, histories: Any, *rest: Any, **options: Any) -> Any:
        asked.append(len(histories))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return plain(self, histories, *rest, **options)

    monkeypatch.setattr(Recommender, "recommend", stopped)
    assert ask(*arguments)[0] == 130
    assert not file.exists() and len(list((tmp_path / "recs.csv.parts").iterdir())) == 3
    assert ask(*arguments)[0] == 0
    assert asked == [20, 20, 20, 20]  # the last batch only
    assert len(file.read_text().splitlines()) == 121
    monkeypatch.undo()
    first = file.read_text()
    assert ask(*arguments)[0] == 0 and file.read_text() == first


def test_parts_of_another_file_of_histories_are_not_used(ask: Any, tmp_path: Path) -> None:
    file, out = tmp_path / "histories.txt", tmp_path / "recs.jsonl"
    arguments = "--history_file", str(file), "--top", "1", "--batch_size", "1", "--out", str(out)
    file.write_text("i3\nx9\n")
    status, _, error = ask(*arguments)
    assert status == 1 and "history names the unknown item 'x9'" in error
    file.write_text("i7\ni8\n")
    assert ask(*arguments)[0] == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["item"] for row in rows] == ["i8", "i9"]


def test_after_a_stop_the_page_shows_all_histories(
    ask: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, page = tmp_path / "histories.txt", tmp_path / "page.html"
    file.write_text('{"user": "anna", "history": ["i3"]}\n{"user": "bob", "history": ["i8"]}\n')
    arguments = ["--history_file", str(file), "--top", "1", "--batch_size", "1"]
    arguments += ["--out", str(tmp_path / "recs.csv"), "--html", str(page)]
    plain = Recommender.recommend

    def stopped(self: Any, histories: Any, *rest: Any, **options: Any) -> Any:
        if histories == [["i8"]]:
            raise KeyboardInterrupt
        return plain(self, histories, *rest, **options)

    monkeypatch.setattr(Recommender, "recommend", stopped)
    assert ask(*arguments)[0] == 130
    monkeypatch.undo()
    assert ask(*arguments)[0] == 0
    text = page.read_text()
    assert all(word in text for word in ("anna", "Title4", "bob", "Title9"))


def test_a_pipe_cannot_be_read_twice(ask: Any, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    status, _, error = ask("--history_file", str(pipe), "--out", str(tmp_path / "r.csv"))
    assert status == 1 and "is not a file that can be read twice" in error


def test_a_list_of_allowed_items_without_items_is_refused(ask: Any, tmp_path: Path) -> None:
    empty = tmp_path / "in_stock.txt"
    empty.write_text("\n")
    status, _, error = ask("--history", "i3", "--allowed_items", str(empty))
    assert status == 1 and "in_stock.txt (--allowed_items) names no item" in error
    assert ask("--history", "i3", "--exclude_items", str(empty))[0] == 0


def test_an_empty_history_of_a_file_is_named_by_its_line(ask: Any, tmp_path: Path) -> None:
    file = tmp_path / "histories.txt"
    file.write_text("i3\n\ni4\n[]\n")
    arguments = ["--history_file", str(file), "--batch_size", "1", "--out", str(tmp_path / "r.csv")]
    status, _, error = ask(*arguments)
    assert status == 1 and "History '4' is empty" in error


def test_a_user_with_nothing_left_does_not_stop_the_others(ask: Any, tmp_path: Path) -> None:
    file, allowed = tmp_path / "histories.txt", tmp_path / "allowed.txt"
    file.write_text("i3\ni4\n")
    allowed.write_text("i4\n")
    status, out, _ = ask(
        "--history_file", str(file), "--top", "1", "--exclude_seen", "--allowed_items", str(allowed)
    )
    assert status == 0 and items_in(out) == ["i4"] and "Nothing is left to recommend" in out


def test_parts_of_another_question_are_not_used(tmp_path: Path) -> None:
    def write(value: str) -> None:
        key = {"value": value}
        bulk.write_all(
            tmp_path / "out.csv",
            [],
            None,
            lambda batch: [],
            key,
            explain=False,
            batch_size=4,
            show_progress=False,
        )

    folder = tmp_path / "out.csv.parts"
    folder.mkdir()
    (folder / "key.json").write_text('{"key": "other"}')
    (folder / "00000000.json").write_text("[{}]")
    write("x")
    assert (tmp_path / "out.csv").read_text().startswith("user,rank,item")
    assert not folder.exists()


def test_a_page_with_posters(ask: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    status, out, _ = ask("--history", "i1,i2,i3", "--html", str(page), "--top", "4")
    text = page.read_text()
    assert status == 0 and page.resolve().as_uri() in out
    assert text.count("data:image/jpeg;base64,") >= 3 and "Title4" in text
    assert "http" not in text.replace("http-equiv", "")


def test_an_export_answers_without_its_data_set(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(str(trained), tmp_path / "out")
    folder = ["recommend", "--export", str(tmp_path / "out")]
    assert main([*folder, "--history", "i3,i4", "--top", "2"]) == 0
    assert items_in(capsys.readouterr().out)[0] == "i5"
    for arguments, message in (
        (["--user", "u0"], "An export folder holds no interactions"),
        (["--history", "i3", "--category", "odd"], "use --model_file instead of --export"),
        (["--history", "i3", "--data_path=x"], "settings go with --model_file"),
    ):
        assert main([*folder, *arguments]) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user", "u999"], "--user names the unknown user 'u999': similar ones are u9"),
        (["--history", "i3,i99"], "unknown item 'i99': similar ones are"),
        (["--history", "i3", ","], "History ',' is empty: leave it out, or add --fallback popular"),
        (["--all_users"], "--all_users needs --out"),
        (["--all_users", "--out", "r.txt"], "must end in one of .csv, .jsonl, .parquet"),
        (["--history", "i3", "--top", "31"], r"top (31) must be from 1 to the number of items"),
        (["--history", "i3", "--batch_size", "0"], "--batch_size (0) must be at least 1"),
        (["--history_file", "no.txt"], "--history_file (no.txt) cannot be read"),
        (["--history_file", "no.txt", "--out", "r.csv"], "--history_file (no.txt) cannot be read"),
        (["--history_file", ".", "--out", "r.csv"], "--history_file (.) is not a file that"),
        (["--history", "i3", "--hidden_size=3"], "hidden_size"),
        (["--history", "i3", "--image_dir", "x"], "--image_dir has no effect without --html"),
        (["--user", "u1", "--category_column", "class"], "has no effect without --category:"),
    ],
)
def test_what_cannot_be_answered_is_told(ask: Any, arguments: list[str], message: str) -> None:
    status, _, err = ask(*arguments)
    assert status == 1 and message in err


def test_an_empty_history_gets_popular_items_on_request(ask: Any) -> None:
    status, out, _ = ask("--history", ",", "--fallback", "popular", "--top", "3")
    assert status == 0 and len(items_in(out)) == 3
