"""RecBole's reading of data sets on today's pandas."""

from __future__ import annotations

from pathlib import Path

from recbole.data import create_dataset
from recbole.evaluator import Collector
from tiny import protocol, rule_sequences, write_dataset

from recbole_mscgrec import compat
from recbole_mscgrec.config.config import Config


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
