"""MovieLens in its three forms."""

from __future__ import annotations

from pathlib import Path

import pytest
from raw_files import START, Row, csv_file, prepare, rule_rows, server_of, table, write, zip_of
from tiny import settings

from recbole_mscgrec.data.atomic_files import read_atomic_file
from recbole_mscgrec.features.text_columns import text_columns_of
from recbole_mscgrec.raw_data import movielens
from recbole_mscgrec.runner.quick_start import run

FLAGS = "|0|0|0|1|1|1|0|0|0|0|0|0|0|0|0|0|0|0|0"  # Animation, Children's, Comedy
TITLES = ["Toy Story (1995)", "Mis\u00e9rables, Les (1995)", "unknown"]


def rows() -> list[Row]:
    return [(u[1:], str(int(i[1:]) + 1), t) for u, i, t in rule_rows()]


def dat(columns: list[list[object]], separator: str) -> str:
    return "".join(separator.join(map(str, line)) + "\n" for line in columns)


def titles(n: int = 20) -> list[tuple[int, str]]:
    return [(k + 1, TITLES[k] if k < 3 else f"Film {k} (19{70 + k})") for k in range(n)]


def made(folder: Path, *arguments: object) -> tuple[list[list[str]], list[list[str]]]:
    assert prepare("movielens", "--name=m", f"--data_path={folder / 'data'}", *arguments) == 0
    return table(folder / "data" / "m" / "m.inter"), table(folder / "data" / "m" / "m.item")


def ml_100k(folder: Path) -> Path:
    write(folder / "u.data", dat([[u, i, 3, START + t] for u, i, t in rows()], "\t"))
    lines = [f"{n}|{title}|01-Jan-1995||http://us.imdb.com/M?x{FLAGS}\n" for n, title in titles()]
    write(folder / "u.item", "".join(lines), "latin-1")
    write(folder / "u.user", "1|24|M|technician|85711\n")
    return folder


def test_100k_becomes_a_trained_epoch(tmp_path: Path) -> None:
    inter, item = made(tmp_path, f"--from={ml_100k(tmp_path / 'ml-100k')}")
    assert inter[:2] == [
        ["user_id:token", "item_id:token", "rating:float", "timestamp:float"],
        ["0", "1", "3.0", f"{START}"],
    ]
    assert len(inter) == 241
    assert item[:4] == [
        ["item_id:token", "title:token_seq", "genre:token_seq", "release_year:token"],
        ["1", "Toy Story", "Animation Children's Comedy", "1995"],
        ["2", "Mis\u00e9rables, Les", "Animation Children's Comedy", "1995"],
        ["3", "unknown", "Animation Children's Comedy", ""],
    ]
    file = read_atomic_file(tmp_path / "data" / "m" / "m.item", "\t", None)
    assert text_columns_of(file.frame, file.types, "item_id") == ["title", "genre"]
    chosen = settings(tmp_path)
    del chosen["load_col"]
    assert run("MSCGRec", "m", config_dict=chosen)["test_result"]["recall@10"] >= 0


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])  # 1m and 10m
def test_dat_files_in_their_zip_archive(tmp_path: Path, encoding: str) -> None:
    ratings = dat([[u, i, 4.5, START + t] for u, i, t in rows()], "::")
    movies = dat([[n, title, "Drama|Sci-Fi"] for n, title in titles()], "::").encode(encoding)
    members = {"ml-1m/ratings.dat": ratings.encode(), "ml-1m/movies.dat": movies}
    file = zip_of(
        tmp_path / "ml-1m.zip", {**members, "ml-1m/README": b"", "__MACOSX/ratings.dat": b""}
    )
    inter, item = made(tmp_path, f"--from={file}")
    assert inter[1] == ["0", "1", "4.5", f"{START}"] and len(inter) == 241
    assert item[2] == ["2", "Mis\u00e9rables, Les", "Drama Sci-Fi", "1995"]
    assert f"{file}:ml-1m/ratings.dat" in (tmp_path / "data/m/m.card.md").read_text()


def newer(folder: Path) -> Path:
    csv_file(folder / "ratings.csv", ["userId", "movieId", "rating", "timestamp"],
             [(u, i, 2.5, START + t) for u, i, t in rows()])  # fmt: skip
    movies = [(1, 'Mother, "The" (2007-2009)', "Action|Sci-Fi"), (2, "A, B", "(no genres listed)")]
    csv_file(folder / "movies.csv", ["movieId", "title", "genres"], movies)
    csv_file(folder / "tags.csv", ["userId", "movieId", "tag", "timestamp"], [])
    return folder


def test_csv_files_and_a_core(tmp_path: Path) -> None:
    inter, item = made(
        tmp_path, f"--from={newer(tmp_path / 'ml-32m')}", "--min_item_interactions=5"
    )
    assert inter[1] == ["0", "1", "2.5", f"{START}"]
    assert item[1] == ["1", 'Mother, "The"', "Action Sci-Fi", "2007"]
    assert item[2] == ["2", "A, B", "", ""] and len(item) == 21


def test_which_version_must_be_clear(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert prepare("movielens", "--name=m") == 1
    assert "Name --version (100k, 1m" in capsys.readouterr().err
    ml_100k(tmp_path / "in" / "a")
    assert prepare("movielens", "--name=m", "--from=in", "--version=1m") == 1
    assert "--version is looked for or downloaded" in capsys.readouterr().err
    newer(tmp_path / "in" / "b")
    assert prepare("movielens", "--name=m", "--from=in") == 1
    assert "one of u.data, ratings.dat, ratings.csv is needed" in capsys.readouterr().err
    (tmp_path / "in" / "a" / "u.item").unlink()
    assert prepare("movielens", "--name=m", "--from=in/a") == 1
    assert "u.item is not beside" in capsys.readouterr().err
    write(tmp_path / "x.zip", "no zip")
    assert prepare("movielens", "--name=m", "--from=x.zip") == 1
    assert "x.zip is damaged" in capsys.readouterr().err


def test_a_version_is_downloaded_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    newer(tmp_path / "made")
    members = {f"ml-latest/{f.name}": f.read_bytes() for f in (tmp_path / "made").iterdir()}
    content = zip_of(tmp_path / "made.zip", members).read_bytes()
    with server_of({"/ml-latest.zip": content}) as host:
        monkeypatch.setattr(movielens, "_HOST", host.address)
        inter, _ = made(tmp_path, "--version=latest")
        assert len(inter) == 241 and "no redistribution" in caplog.text
    made(tmp_path, "--version=latest", "--overwrite")  # the server is gone
    assert (tmp_path / "data" / "raw" / "movielens" / "ml-latest.zip").read_bytes() == content
