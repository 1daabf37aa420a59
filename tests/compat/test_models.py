"""RecBole's models on today's packages."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import build, protocol, write_table

from recbole_mscgrec.compat import models


def test_numpy_names_are_there() -> None:
    assert np.float_ is np.float64 and np.complex_ is np.complex128 and np.unicode_ is np.str_


def test_anomaly_detection_stays_off() -> None:
    assert not torch.is_anomaly_enabled()


def test_anomaly_detection_that_recbole_turned_on_before_goes_off() -> None:
    """As when RecBole's models are imported before this package."""
    assert "recbole.model.sequential_recommender.sine" in sys.modules
    torch.autograd.set_detect_anomaly(True)
    models.apply()
    assert not torch.is_anomaly_enabled()


def test_pop_ranks_by_the_number_of_interactions(rule_folder: Path) -> None:
    """Whatever the batches, and without counting sampled negatives."""
    built = build("Pop", "rule", protocol(rule_folder, train_batch_size=1000))
    for batch in built.train:
        built.model.calculate_loss(batch)
    expected = torch.zeros(built.model.n_items, dtype=torch.long)
    for item, count in built.train.dataset.item_counter.items():
        expected[item] = count
    assert torch.equal(built.model.item_cnt.flatten(), expected)
    scores = built.model.full_sort_predict(built.test.dataset.inter_feat[:1])
    torch.testing.assert_close(scores, expected.double() / expected.max())


@pytest.mark.skipif(
    importlib.util.find_spec("kmeans_pytorch") is not None, reason="kmeans_pytorch is installed"
)
def test_general_models_import_without_kmeans() -> None:
    assert importlib.util.find_spec("recbole.model.general_recommender.bpr")
    assert "kmeans_pytorch" not in sys.modules


def test_the_graph_of_lightgcn_is_the_normalized_adjacency(rule_folder: Path) -> None:
    built = build("LightGCN", "rule", protocol(rule_folder))
    rows = built.train.dataset.inter_feat
    users, items = rows["user_id"], rows["item_id"] + built.model.n_users
    adjacency = torch.zeros(2 * [built.model.n_users + built.model.n_items], dtype=torch.double)
    adjacency[users, items] = adjacency[items, users] = 1.0
    scale = (adjacency.sum(1) + 1e-7) ** -0.5
    expected = scale[:, None] * adjacency * scale
    torch.testing.assert_close(built.model.norm_adj_matrix.to_dense().double(), expected)


@pytest.mark.parametrize("model", ["SASRecF", "FDSA", "GRU4RecF"])
def test_numbers_among_the_features_are_read(rule_folder: Path, model: str) -> None:
    """The layer gives each number, brought to [0, 1], times a vector of its own, and the model's
    scores follow it."""
    rows = [f"i{i} {i % 4} {i / 10} {i * i}" for i in range(30)]
    header = "item_id:token brand:token price:float weight:float"
    write_table(rule_folder / "data", "rule", "item", header, rows)
    settings = protocol(rule_folder, selected_features=["brand", "price", "weight"])
    del settings["load_col"]
    built = build(model, "rule", settings)
    built.model.eval()
    layer, features = built.model.feature_embed_layer, built.train.dataset.item_feat
    tokens = built.train.dataset.field2id_token["item_id"]
    assert [round(float(v), 3) for v in features["price"][1:, 0]] == [
        round(int(token[1:]) / 29, 3) for token in tokens[1:]
    ]
    history = torch.tensor([[1, 2, 3]])
    dense = layer(None, history)[1]["item"]  # (1, 3, 2, H)
    table = layer.float_embedding_table["item"].embedding.weight
    for place, name in enumerate(["price", "weight"]):
        # RecBole gives a number two rows, of which the second is for numbers in one bucket.
        value = features[name][history][..., :1]
        torch.testing.assert_close(dense[:, :, place], value * table[2 * place + 1])
    batch = next(iter(built.test))[0]
    before = built.model.full_sort_predict(batch)
    features["price"][:, 0] += 5.0
    layer.item_feat["price"][:, 0] = features["price"][:, 0]
    assert not torch.allclose(before, built.model.full_sort_predict(batch))


def test_the_graph_of_kgat_has_rows_of_one_per_relation(rule_folder: Path) -> None:
    """Without dgl: user and item are neighbours by a relation of their own, beside the triples."""
    data = rule_folder / "data"
    triples = [f"e{i} r{n} e{(3 * i + n) % 40}" for i in range(40) for n in range(1 + i % 3)]
    write_table(data, "rule", "kg", "head_id:token relation_id:token tail_id:token", triples)
    write_table(
        data, "rule", "link", "item_id:token entity_id:token", [f"i{i} e{i}" for i in range(30)]
    )
    settings = protocol(rule_folder)
    del settings["load_col"]
    built = build("KGAT", "rule", settings)
    train, model = built.train._dataset, built.model
    edges = [
        (h, t, r)
        for h, t, r in zip(
            (train.kg_feat["head_id"] + train.user_num).tolist(),
            (train.kg_feat["tail_id"] + train.user_num).tolist(),
            train.kg_feat["relation_id"].tolist(),
            strict=True,
        )
    ]
    rows = train.inter_feat
    pairs = list(
        zip(rows["user_id"].tolist(), (rows["item_id"] + train.user_num).tolist(), strict=True)
    )
    edges += [(u, i, -1) for u, i in pairs] + [(i, u, -1) for u, i in pairs]
    expected = torch.zeros(model.n_users + model.n_entities, model.n_users + model.n_entities)
    for head, tail, relation in edges:
        same = sum(1 for h, _, r in edges if (h, r) == (head, relation))
        expected[head, tail] += 1 / same
    torch.testing.assert_close(model.A_in.to_dense(), expected)
