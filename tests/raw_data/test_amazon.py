"""Amazon reviews of 2023, 2018 and 2014, in the authors' formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from raw_files import (
    START,
    csv_file,
    json_lines,
    meta_2023,
    picture,
    prepare,
    review_2023,
    rule_rows,
    table,
    write,
)
from tiny import settings

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.data.atomic_files import read_atomic_file
from recbole_mscgrec.features.text_columns import text_columns_of
from recbole_mscgrec.runner.quick_start import run

SAMPLE = Path(__file__).resolve().parents[3] / "shared" / "dataset" / "amazon-2023-sample"


def test_reviews_and_metadata_become_a_trained_epoch(tmp_path: Path) -> None:
    raw, data = tmp_path / "raw", tmp_path / "data"
    rows = rule_rows()
    json_lines(raw / "All_Beauty.jsonl.gz", (review_2023(*row) for row in rows))
    metas = [meta_2023(f"i{n}", description=["Soft &amp; warm<br />wool"]) for n in range(20)]
    json_lines(raw / "meta_All_Beauty.jsonl.gz", metas)
    assert (
        prepare(
            "amazon-2023",
            "--name=b",
            "--data_path",
            data,
            "--category",
            "All_Beauty",
            "--from",
            raw,
        )
        == 0
    )
    head, *found = table(data / "b" / "b.inter")
    assert head == ["user_id:token", "item_id:token", "rating:float", "timestamp:float"]
    assert len(found) == 240 and found[0] == ["u0", "i0", "5.0", f"{START}.123"]
    assert [row[0] for row in found] == [f"u{u}" for u in range(30) for _ in range(8)]
    chosen = settings(tmp_path)
    del chosen["load_col"]
    result = run("MSCGRec", "b", config_dict=chosen)
    assert result["test_result"]["recall@10"] >= 0
    file = read_atomic_file(data / "b" / "b.item", "\t", None)
    assert text_columns_of(file.frame, file.types, "item_id") == [
        "title",
        "description",
        "store",
        "main_category",
    ]


def prepared(folder: Path, metas: list[dict[str, Any]], *more: object) -> dict[str, dict[str, str]]:
    """The .item file of reviews of all these items, item -> column -> value."""
    users = [f"u{n}" for n in range(5)]
    items = list(dict.fromkeys(meta["parent_asin"] for meta in metas)) + ["extra"]
    reviews = [review_2023(user, item, n) for user in users for n, item in enumerate(items)]
    json_lines(folder / "r.jsonl", reviews)
    json_lines(folder / "m.jsonl", metas)
    least = "--min_user_interactions=1"
    files = ["--from", folder / "r.jsonl", folder / "m.jsonl"]
    assert prepare("amazon-2023", "--name=b", "--data_path", folder, least, *files, *more) == 0
    head, *rows = table(folder / "b" / "b.item")
    names = [cell.partition(":")[0] for cell in head]
    return {row[0]: dict(zip(names, row, strict=True)) for row in rows}


def test_oddities_of_the_metadata(tmp_path: Path) -> None:
    items = prepared(
        tmp_path,
        [
            meta_2023("a", title='Tab\there, "5""" disk\n&quot;x&quot; &lt;b&gt;y [[VIDEOID:1]]'),
            meta_2023("b", price=12.99, store=None, categories=["Hair", "Tools & <b>Care</b>"]),
            meta_2023("c", price="from 7.50", title=None, images=[]),
            meta_2023("a", title="a second row"),
        ],
    )
    assert items["a"]["title"] == 'Tab here, "5" disk "x" y'
    assert items["b"]["price"] == "12.99" and items["a"]["price"] == ""
    assert items["b"]["categories"] == "Hair, Tools & Care"
    assert items["c"]["title"] == "" and items["c"]["image_url"] == ""
    assert items["c"]["price"] == "7.5"
    assert set(items["extra"].values()) == {"extra", ""}
    assert "features" not in items["a"]  # no item has one
    card = (tmp_path / "b" / "b.card.md").read_text()
    assert "Items: 4, of which 1 have no row" in card and "not used: 1." in card
    assert "no item has a value: features, description." in card
    assert "| price | 50.0% |" in card and "| any text | 75.0% |" in card


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        (
            [
                picture("PT01", "p", hi_res="https://x/p1"),
                picture("MAIN", "m", hi_res="https://x/m1"),
            ],
            "https://x/m1",
        ),
        (
            [picture("PT01", "p", hi_res="https://x/p1"), picture("MAIN", "m")],
            "https://m.media-amazon.com/images/I/m.jpg",
        ),
        ([picture("MAIN", "m", large=None)], "https://m.media-amazon.com/images/I/m._SS40_.jpg"),
        (
            [picture("PT02", "p"), picture("PT01", "q", hi_res="https://x/q")],
            "https://m.media-amazon.com/images/I/p.jpg",
        ),
        (None, ""),
    ],
)
def test_the_image_is_the_main_one_in_high_resolution(
    tmp_path: Path, images: Any, expected: str
) -> None:
    items = prepared(tmp_path, [meta_2023("a", images=images), meta_2023("b")])
    assert items["a"]["image_url"] == expected


def test_repeated_pairs_keep_the_first_in_time(tmp_path: Path) -> None:
    rows = [("u", "i1", 30), ("u", "i2", 20), ("u", "i1", 10), ("u", "i1", 10)]
    reviews = [review_2023(*row, rating=float(n)) for n, row in enumerate(rows)]
    file = json_lines(tmp_path / "r.jsonl", reviews)
    arguments = ["--data_path", tmp_path, "--from", file, "--without_metadata"]
    arguments += ["--min_user_interactions=1", "--min_item_interactions=1"]
    assert prepare("amazon-2023", "--name=b", *arguments) == 0
    assert [row[:3] for row in table(tmp_path / "b" / "b.inter")[1:]] == [
        ["u", "i1", "2.0"],
        ["u", "i2", "1.0"],
    ]
    assert prepare("amazon-2023", "--name=all", "--repeats=all", *arguments) == 0
    assert [row[2] for row in table(tmp_path / "all" / "all.inter")[1:]] == [
        "2.0",
        "3.0",
        "1.0",
        "0.0",
    ]
    assert not (tmp_path / "b" / "b.item").exists()


def benchmark(folder: Path, category: str = "CAT") -> dict[str, list[str]]:
    """The authors' split, with interactions of the same time around its borders; user -> items in
    their order."""
    sequences = {f"u{u}": [f"i{(3 * u + n) % 11}" for n in range(5 + u % 3)] for u in range(9)}
    header = ["user_id", "parent_asin", "rating", "timestamp", "history"]
    parts: dict[str, list[list[object]]] = {"train": [], "valid": [], "test": []}
    for user, items in sequences.items():
        for n, item in enumerate(items):
            part = {len(items) - 1: "test", len(items) - 2: "valid"}.get(n, "train")
            time = 1000 * START + (n if n < 2 else 2)
            parts[part].append([user, item, 4.0, time, " ".join(items[:n])])
    for part, rows in parts.items():
        csv_file(folder / f"{category}.{part}.csv.gz", header, rows)
    return sequences


def test_leave_one_out_of_the_benchmark_is_the_authors_split(tmp_path: Path) -> None:
    sequences = benchmark(tmp_path / "raw")
    arguments = ["--benchmark=last_out_w_his", "--category=CAT", "--without_metadata"]
    arguments += ["--from", tmp_path / "raw", "--data_path", tmp_path / "data"]
    assert prepare("amazon-2023", "--name=b", *arguments) == 0
    found: dict[str, list[str]] = {}
    for user, item, _, time in table(tmp_path / "data" / "b" / "b.inter")[1:]:
        assert START <= float(time) <= START + 2
        found.setdefault(user, []).append(item)
    assert found == sequences
    from recbole.data import create_dataset

    chosen = settings(tmp_path, MAX_ITEM_LIST_LENGTH=20)
    config = Config("MSCGRec", "b", config_dict=chosen)
    dataset = create_dataset(config)
    _, valid, test = dataset.build()
    for split, place in ((valid, -2), (test, -1)):
        users = dataset.id2token("user_id", split.inter_feat["user_id"].numpy())
        items = dataset.id2token("item_id", split.inter_feat["item_id"].numpy())
        assert dict(zip(users, items, strict=True)) == {u: s[place] for u, s in sequences.items()}


def test_a_part_of_another_benchmark_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark(tmp_path)
    file = tmp_path / "CAT.train.csv.gz"
    arguments = ["--without_metadata", "--data_path", tmp_path, "--name=b", "--from", tmp_path]
    header = ["user_id", "parent_asin", "rating", "timestamp", "history"]
    csv_file(file, header, [["u0", "i0", 4.0, 1000 * START, ""]])
    assert prepare("amazon-2023", *arguments) == 1
    assert "history of user u0 before item i3 does not end with" in capsys.readouterr().err
    file.unlink()
    assert prepare("amazon-2023", *arguments) == 1
    assert "CAT.train, CAT.valid and CAT.test" in capsys.readouterr().err


def test_rating_only_csv(tmp_path: Path) -> None:
    rows = [[u, i, 3.0, 1000 * (START + t)] for u, i, t in rule_rows(3, 9, 3)]
    csv_file(tmp_path / "CAT.csv.gz", ["user_id", "parent_asin", "rating", "timestamp"], rows)
    json_lines(tmp_path / "meta_CAT.jsonl", [meta_2023("i0")])
    arguments = ["--benchmark=rating_only", "--category=CAT", "--from", tmp_path]
    assert prepare("amazon-2023", "--name=b", "--data_path", tmp_path, *arguments) == 0
    assert len(table(tmp_path / "b" / "b.inter")) == 10  # and no k-core


def test_missing_metadata_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    json_lines(tmp_path / "CAT.jsonl", [review_2023("u", "i", 0)])
    arguments = ["--data_path", tmp_path, "--name=b", "--from", tmp_path]
    assert prepare("amazon-2023", *arguments) == 1
    assert "no metadata beside" in capsys.readouterr().err
    assert prepare("amazon-2023", *arguments, "--benchmark=rating_only") == 1
    assert "--benchmark reads the authors' csv files" in capsys.readouterr().err
    assert prepare("amazon-2023", *arguments, "--category=CAT") == 1
    error = capsys.readouterr().err
    assert "meta_CAT.jsonl.gz is not in" in error and "meta_categories/meta_CAT.jsonl.gz" in error
    least = ["--min_user_interactions=1", "--min_item_interactions=1"]
    json_lines(tmp_path / "meta_CAT.jsonl", [meta_2023("other")])
    assert prepare("amazon-2023", *arguments, *least) == 1
    assert "None of the 1 items, such as i, has a row in" in capsys.readouterr().err


OLD = """{'asin': 'i0', 'title': "It's \\u00e9", 'price': 12.99, 'imUrl': 'http://ecx/i0.jpg', \
'categories': [['Beauty', 'Hair'], ['Beauty', 'Gifts']], 'brand': 'B', 'salesRank': {'Toys': 1}}
{'asin': 'i1', 'description': 'plain', 'related': {'also_bought': ['x']}}
{'asin': 'i2', 'title': __import__('os').getcwd()}
"""


def test_2014_with_metadata_of_python_dicts(tmp_path: Path) -> None:
    rows = [{"reviewerID": u, "asin": i, "overall": 5.0, "unixReviewTime": START + t}
            for u, i, t in rule_rows(6, 3, 3)]  # fmt: skip
    json_lines(tmp_path / "reviews_Beauty_5.json.gz", rows)
    write(tmp_path / "meta_Beauty.json.gz", OLD)
    arguments = ["--category=Beauty", "--from", tmp_path, "--data_path", tmp_path, "--name=b"]
    assert prepare("amazon-2014", *arguments, "--min_user_interactions=3") == 0
    head, *items = table(tmp_path / "b" / "b.item")
    assert head == [
        "item_id:token", "title:token_seq", "description:token_seq", "categories:token_seq",
        "price:float", "image_url:token", "brand:token_seq",
    ]  # fmt: skip
    assert items == [
        ["i0", "It's é", "", "Beauty, Hair, Gifts", "12.99", "http://ecx/i0.jpg", "B"],
        ["i1", "", "plain", "", "", "", ""],
        ["i2", "", "", "", "", "", ""],  # what is no literal is not run
    ]
    assert "meta_Beauty.json.gz, line 3: this is not JSON" in (tmp_path / "b/b.card.md").read_text()
    assert table(tmp_path / "b" / "b.inter")[1] == ["u0", "i0", "5.0", f"{START}"]


def test_2018(tmp_path: Path) -> None:
    rows = [{"overall": 4.0, "reviewerID": u, "asin": i, "unixReviewTime": START + t}
            for u, i, t in rule_rows(6, 3, 3)]  # fmt: skip
    json_lines(tmp_path / "Toys_5.json", rows)
    metas: list[dict[str, Any]] = [
        {"asin": "i0", "title": "var aPageStart = (new Date()).getTime();", "price": "$1,012.99",
         "description": ["One.", "Two."], "category": ["Toys", "Cars &amp; Trucks"],
         "main_cat": '<img src="x.png" alt="Amazon Home" />',
         "imageURL": ["https://x/l.jpg"], "imageURLHighRes": ["https://x/h.jpg"]},
        {"asin": "i1", "title": "A", "price": "$5.00 - $12.99", "imageURL": ["https://x/l.jpg"]},
        {"asin": "i2", "title": "B", "price": ".a-box-inner{background-color:#fff}"},
    ]  # fmt: skip
    json_lines(tmp_path / "meta_Toys.json", metas)
    arguments = ["--category=Toys", "--from", tmp_path, "--data_path", tmp_path, "--name=b"]
    assert prepare("amazon-2018", *arguments, "--min_user_interactions=3") == 0
    head, *items = table(tmp_path / "b" / "b.item")
    assert [cell.partition(":")[0] for cell in head] == [
        "item_id", "title", "description", "categories", "main_category", "price", "image_url",
    ]  # fmt: skip
    assert items == [
        ["i0", "", "One. Two.", "Toys, Cars & Trucks", "Amazon Home", "1012.99", "https://x/h.jpg"],
        ["i1", "A", "", "", "", "5.0", "https://x/l.jpg"],
        ["i2", "B", "", "", "", "", ""],
    ]


def test_the_sample_with_real_lines(tmp_path: Path) -> None:
    if not SAMPLE.is_dir():
        pytest.skip(f"the sample is not at {SAMPLE}")
    files = [SAMPLE / f"raw-{kind}-lines.jsonl" for kind in ("review", "meta")]
    arguments = ["--data_path", tmp_path, "--min_item_interactions=1"]
    reviews = SAMPLE / "reviews.jsonl"
    assert (
        prepare("amazon-2023", "--name=s", *arguments, "--from", reviews, "--without_metadata") == 0
    )
    found = table(tmp_path / "s" / "s.inter")
    given = table(SAMPLE / "amazon-2023-sample.inter")
    assert found[0] == given[0] and len(found) == 1 + 3452
    numbers = [
        [(user, item, float(r), float(t)) for user, item, r, t in rows[1:]]
        for rows in (found, given)
    ]
    assert set(numbers[0]) <= set(numbers[1])
    more = json_lines(
        tmp_path / "more.jsonl",
        [review_2023("u", "B07NTK7T5P", 0), review_2023("u", "B01HYNE114", 1)],
    )
    arguments += ["--min_user_interactions=1", "--name=m", "--from", more, *files]
    assert prepare("amazon-2023", *arguments) == 0
    head, *items = table(tmp_path / "m" / "m.item")
    first = dict(zip(head, items[0], strict=True))
    assert first["title:token_seq"] == "Daisy Keychain Wristlet Gray Fabric Key fob Lanyard"
    assert first["image_url:token"] == "https://m.media-amazon.com/images/I/41J3kMGt34L.jpg"
    assert first["features:token_seq"].startswith("High Quality Fabrics Antique Brass")
    assert dict(zip(head, items[1], strict=True))["image_url:token"].endswith(
        "91wlFDKyz9L._SL1500_.jpg"
    )
