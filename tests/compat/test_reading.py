"""RecBole's reading of data sets on today's pandas."""

from __future__ import annotations

import csv
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from recbole.data import create_dataset, data_preparation
from recbole.evaluator import Collector
from tiny import protocol, rule_sequences, settings, typed, write_dataset, write_inter

from recbole_mscgrec import compat
from recbole_mscgrec.config.config import Config
from recbole_mscgrec.features.text import item_texts
from recbole_mscgrec.features.text_columns import clean_text
from recbole_mscgrec.storage.errors import UserError


def test_applying_it_twice_changes_nothing_more() -> None:
    from recbole.data.dataset import dataset as module

    before = (module.pd, module.Dataset._fill_nan, Collector.get_data_struct)
    compat.apply()
    assert before == (module.pd, module.Dataset._fill_nan, Collector.get_data_struct)


def test_missing_values_of_items_are_filled(tmp_path: Path) -> None:
    """A missing float is the mean, a missing token the padding, a missing sequence empty."""
    write_dataset(tmp_path / "data", "gaps", rule_sequences(20, 4))
    (tmp_path / "data" / "gaps" / "gaps.item").write_text(
        "item_id:token\tprice:float\tbrand:token\ttags:token_seq\n"
        "i0\t1.0\tb1\tx y\ni1\t\tb2\t\ni2\t3.0\t\tx\ni3\t2.0\tb1\ty y x\n"
    )
    load = {"inter": ["user_id", "item_id", "timestamp"]}
    load["item"] = ["item_id", "price", "brand", "tags"]
    settings = protocol(tmp_path, load_col=load, normalize_all=False)
    data = create_dataset(Config("SASRec", "gaps", config_dict=settings))
    items = {data.id2token("item_id", i): i for i in range(1, 5)}
    features = data.item_feat
    price = {name: float(features["price"][i]) for name, i in items.items()}
    assert price == {"i0": 1.0, "i1": 2.0, "i2": 3.0, "i3": 2.0}
    assert int(features["brand"][items["i2"]]) == 0 != int(features["brand"][items["i0"]])
    lengths = {name: int((features["tags"][i] != 0).sum()) for name, i in items.items()}
    assert lengths == {"i0": 2, "i1": 0, "i2": 1, "i3": 3}


def write_items(folder: Path, content: str, encoding: str = "utf-8") -> None:
    """The data set `d`: every user has i0 to i3. Its .item file is `content`."""
    rows = [(f"u{u}", f"i{k}", float(k)) for u in range(6) for k in range(4)]
    write_inter(folder / "data", "d", rows)
    (folder / "data" / "d" / "d.item").write_text(content, encoding=encoding)


def load(folder: Path, columns: list[str], model: str = "SASRec", **changes: Any) -> Any:
    columns = ["item_id", *columns]
    both = {"inter": ["user_id", "item_id", "timestamp"], "item": columns}
    return create_dataset(
        Config(model, "d", config_dict=protocol(folder, load_col=both, **changes))
    )


def of_items(data: Any, column: str) -> dict[str, Any]:
    """Item -> value of a feature, before the split; of tokens the names."""
    key, names = data.iid_field, data.field2id_token.get(column)
    found = {}
    for item, value in zip(data.item_feat[key], data.item_feat[column], strict=True):
        if names is None:
            value = np.asarray(value).tolist()
        else:
            value = [str(names[int(v)]) for v in np.atleast_1d(value) if v]
        found[str(data.id2token(key, item))] = value
    del found["[PAD]"]
    return found


SEQUENCES = "item_id:token\tv:float_seq\ni0\t1 2\ni1\t3 5\ni2\t4\ni3\t\n"


def test_sequences_of_numbers_are_normalized(tmp_path: Path) -> None:
    write_items(tmp_path, SEQUENCES)
    found = of_items(load(tmp_path, ["v"], normalize_all=True), "v")
    assert found == {"i0": [0, 0.25], "i1": [0.5, 1], "i2": [0.75], "i3": []}


def test_sequences_of_numbers_are_put_into_buckets(tmp_path: Path) -> None:
    """Three buckets over 1 to 5, each 4/3 wide."""
    write_items(tmp_path, SEQUENCES)
    buckets = {"v": {"method": "ED", "bucket": 3}}
    chosen = {"numerical_features": ["v"], "discretization": buckets, "normalize_all": False}
    found = of_items(load(tmp_path, ["v"], "FM", **chosen), "v")
    buckets = {name: numbers for name, (_, numbers) in found.items()}
    assert buckets == {"i0": [1, 1], "i1": [2, 3], "i2": [3], "i3": []}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("—", "'—' in column v is not"), ("inf", "'inf' in"), ("nan", "'3 nan' in"), ("NA", "'3 NA'")],
)
def test_a_sequence_that_holds_no_number_is_named_with_its_line(
    tmp_path: Path, wrong: str, message: str
) -> None:
    write_items(tmp_path, SEQUENCES.replace("3 5", f"3 {wrong}"))
    with pytest.raises(UserError, match=rf"d.item, line 3: {message}"):
        load(tmp_path, ["v"])


@pytest.mark.parametrize("separator", ["\t", ","])
@pytest.mark.parametrize("quoting", [None, csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_recbole_reads_quotes_as_our_own_texts_are_read(
    tmp_path: Path, quoting: int | None, separator: str
) -> None:
    """Nothing quoted, as in RecBole's files; what needs it, as pandas does; or every cell."""
    titles = ['"Weird Al" live', '"open', '5" disk', "plain words"]
    frame = pd.DataFrame({"item_id:token": [f"i{k}" for k in range(4)], "title:token_seq": titles})
    write_items(tmp_path, "")
    for suffix in ("inter", "item"):
        file = tmp_path / "data" / "d" / f"d.{suffix}"
        table = frame if suffix == "item" else pd.read_csv(file, sep="\t")
        if quoting is None:
            lines = [list(table), *table.astype(str).values.tolist()]
            file.write_text("".join(separator.join(line) + "\n" for line in lines))
        else:
            table.to_csv(file, sep=separator, index=False, quoting=quoting)
    expected = {f"i{k}": title.split() for k, title in enumerate(titles)}
    data = load(tmp_path, ["title"], field_separator=separator)
    assert of_items(data, "title") == expected
    assert (len(data), data.user_num, data.item_num) == (24, 6 + 1, 4 + 1)


NAMES = ["NA", "null", "nan", "None", "N/A", "", "NULL"]


@pytest.mark.parametrize("model", ["SASRec", "TiledSASRec", "Pop"])
def test_ids_and_tokens_that_pandas_takes_for_missing_are_names(tmp_path: Path, model: str) -> None:
    ids = [name or "empty" for name in NAMES]
    rows = [(user, item, float(n)) for user in ids for n, item in enumerate(ids)]
    write_inter(tmp_path / "data", "d", rows)
    lines = [f"{item}\t{name}\t{name} x" for item, name in zip(ids, NAMES, strict=True)]
    text = "\n".join(["item_id:token\tbrand:token\twords:token_seq", *lines]) + "\n"
    (tmp_path / "data" / "d" / "d.item").write_text(text)
    data = load(tmp_path, ["brand", "words"], model)
    assert (data.user_num, data.item_num) == (8, 8)
    assert set(data.field2id_token["user_id"]) == {"[PAD]", *ids}
    for column in ("brand", "words"):
        end = ["x"] if column == "words" else []
        expected = {i: [name, *end] if name else end for i, name in zip(ids, NAMES, strict=True)}
        assert of_items(data, column) == expected


def test_ids_are_names_in_the_item_file_too(tmp_path: Path) -> None:
    write_items(tmp_path, "item_id:float\tprice:float\n1\t2\n1\t3\n")
    with pytest.raises(UserError, match=r"d.item: item_id \(ITEM_ID_FIELD\) is of type float"):
        load(tmp_path, ["price"])


def test_a_column_without_a_number_is_refused(tmp_path: Path) -> None:
    write_items(tmp_path, "item_id:token\tprice:float\ni0\t\ni1\tNA\n")
    with pytest.raises(UserError, match=r"d.item: column price holds no number: leave it out"):
        load(tmp_path, ["price"])


def test_a_mark_of_utf_8_is_no_part_of_a_column(tmp_path: Path) -> None:
    write_items(tmp_path, "item_id:token\tbrand:token\ni0\tb\n", "utf-8-sig")
    file = tmp_path / "data" / "d" / "d.inter"
    file.write_text(file.read_text(), encoding="utf-8-sig")
    assert of_items(load(tmp_path, ["brand"]), "brand")["i0"] == ["b"]


# --- generated data -------------------------------------------------------------------------------


class Generated:
    """A data set of random names, ids, times and quotes, and what a reader should find in it."""

    def __init__(self, seed: int) -> None:
        draw, ends = random.Random(seed), ["", "_x", "Id", "-1"]
        self.user, self.item, self.time, self.title, self.brand = (
            f"{stem}{draw.choice(ends)}" for stem in ("who", "what", "at", "words", "maker")
        )
        odd = ["NA", "nan", "None", "null", "0", "01", "1.0", "é ", '"q"', " s", "a,b", "true"]
        letters = ["a", "b", '"', '""', " ", "'", "ü"]

        def text() -> str:
            return "".join(draw.choices(letters, k=draw.randint(0, 6)))

        users = [*draw.sample(odd, 6), *(f"u{n}" for n in range(6))]
        self.items = [*draw.sample(odd, 6), *(f"i{n}" for n in range(8))]
        unit = draw.choice(["{:.0f}", "{:.3f}", "{:.0f}000000000", "{:.2f}e3"])
        base = draw.choice([0, 1.7e9])
        self.rows = [
            (user, draw.choice(self.items), unit.format(base + draw.choice([0, 1, 7, 7.125]) * n))
            for user in users
            for n in range(draw.randint(4, 9))
        ]
        draw.shuffle(self.rows)
        self.described = [
            (draw.choice([*self.items, "stranger"]), text(), draw.choice(["", "NA", "x", 'y "z"']))
            for _ in range(30)
        ]
        self.by_pandas = draw.random() < 0.5
        self.order = draw.sample(range(3), 3)  # of the columns in the file

    def write(self, folder: Path) -> None:
        self._write(folder / "d.inter", [self.user, self.item, self.time], self.rows)
        names = [self.item, self.title, self.brand]
        self._write(folder / "d.item", names, self.described)

    def _write(self, file: Path, names: list[str], rows: list[tuple]) -> None:
        kinds = {self.time: "float", self.title: "token_seq"}
        head = [f"{name}:{kinds.get(name, 'token')}" for name in names]
        table = [[row[n] for n in self.order] for row in [head, *rows]]
        file.parent.mkdir(parents=True, exist_ok=True)
        if self.by_pandas:
            frame = pd.DataFrame(table[1:], columns=table[0])
            frame.to_csv(file, sep="\t", index=False)
        else:
            file.write_text("".join("\t".join(row) + "\n" for row in table), encoding="utf-8")

    def histories(self) -> dict[str, list[str]]:
        """User -> items in the order of time, rows of one time in the order of the file."""
        found: dict[str, list[tuple[Decimal, int, str]]] = {}
        for n, (user, item, time) in enumerate(self.rows):
            found.setdefault(user, []).append((Decimal(time), n, item))
        return {user: [item for *_, item in sorted(rows)] for user, rows in found.items()}

    def first_described(self) -> dict[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        for item, title, brand in self.described:
            found.setdefault(item, (title, brand))
        return found


@pytest.mark.parametrize("model", ["MSCGRec", "SASRec"])
@pytest.mark.parametrize("seed", range(8))
def test_a_data_set_holds_what_a_plain_reader_finds(tmp_path: Path, model: str, seed: int) -> None:
    made = Generated(seed)
    made.write(tmp_path / "data" / "d")
    fields = {"USER_ID_FIELD": made.user, "ITEM_ID_FIELD": made.item, "TIME_FIELD": made.time}
    columns = {"inter": list(fields.values()), "item": [made.item, made.title, made.brand]}
    chosen = {"load_col": columns, **fields, "filter_inter_by_user_or_item": False}
    sizes = settings if model == "MSCGRec" else protocol
    config = Config(model, "d", config_dict=sizes(tmp_path, **chosen))
    data = create_dataset(config)
    histories, described = made.histories(), made.first_described()

    items = data.field2id_token[made.item]
    known = {item for history in histories.values() for item in history} | set(described)
    titles = {item: described.get(item, ("", ""))[0] for item in known}
    brands = {item: described.get(item, ("", ""))[1] for item in known}
    expected = {item: [w for w in title.split(" ") if w] for item, title in titles.items()}
    assert of_items(data, made.title) == expected
    assert of_items(data, made.brand) == {i: [b] if b else [] for i, b in brands.items()}
    if model == "MSCGRec":
        config["text_columns"] = [made.title]
        of_run = typed(config, data)
        texts = dict(zip(items, item_texts(of_run.text, of_run.files, data), strict=True))
        assert texts == {"[PAD]": "", **{i: clean_text(title) for i, title in titles.items()}}

    loaders = data_preparation(config, data)
    for loader, ends in zip(loaders[1:], (-2, -1), strict=True):
        split = loader._dataset
        rows = split.inter_feat
        got = {}
        for row in range(len(split)):
            length = int(rows[split.item_list_length_field][row])
            history = rows[f"{made.item}_list"][row][:length].tolist()
            user = split.field2id_token[made.user][rows[made.user][row]]
            got[user] = (items[history].tolist(), items[rows[made.item][row]])
        assert got == {u: (h[:ends][-12:], h[ends]) for u, h in histories.items()}
