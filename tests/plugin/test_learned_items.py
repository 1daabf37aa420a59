"""Which items have a learned vector: in training, in saved models, and after fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import best_file, build, rule_sequences, settings, write_dataset

from recbole_mscgrec.deployment.export import export
from recbole_mscgrec.plugin.learned_items import most_frequent
from recbole_mscgrec.runner.quick_start import load_data_and_model, run
from recbole_mscgrec.serving.recommender import Recommender
from recbole_mscgrec.storage import checkpoint


def uneven(folder: Path, least: int) -> None:
    """The data set `rule`, in which the items from `least` on occur more often than the others."""
    sequences = rule_sequences()
    longer = {
        u: [*items, *(i for i in items if int(i[1:]) >= least)] for u, items in sequences.items()
    }
    write_dataset(folder / "data", "rule", longer)


def test_the_most_frequent_items_and_of_equal_ones_those_with_lower_ids() -> None:
    count = torch.tensor([99, 2, 7, 2, 0, 7, 2])
    assert [most_frequent(count, n).tolist() for n in (1, 2, 4)] == [[2], [2, 5], [1, 2, 3, 5]]
    assert most_frequent(count, 6).tolist() == [1, 2, 3, 4, 5, 6]


def test_only_the_most_frequent_items_of_the_train_split_get_rows(rule_folder: Path) -> None:
    uneven(rule_folder, 11)
    built = build("MSCGRec", "rule", settings(rule_folder, learned_items=9))
    train, network = built.train._dataset, built.model.network
    count = train.item_counter
    rows = network.history.item_embedding.rows(torch.arange(31)).tolist()
    learned = [item for item, row in enumerate(rows) if row]
    assert [rows[item] for item in learned] == list(range(1, 10)) and rows[0] == 0
    others = set(range(1, 31)) - set(learned)
    assert min((count[i], -i) for i in learned) > max((count[i], -i) for i in others)
    assert network.history.item_embedding.weight.shape == (10, 16)
    for depth, table in enumerate(network.node_vectors.levels, start=2):
        nodes = network.tree.path(torch.tensor(learned))[depth].unique()
        assert len(table.weight) == len(nodes) + 1 <= 10


@pytest.mark.parametrize("n", [0, 30])
def test_with_all_items_or_none_there_is_nothing_to_keep(rule_folder: Path, n: int) -> None:
    model = build("MSCGRec", "rule", settings(rule_folder, learned_items=n)).model
    assert model.code_state["learned"] is None
    table = model.network.history.item_embedding
    assert table is None if n == 0 else (table.weight.shape == (31, 16) and table.row is None)


def learned_of(file: Path) -> Any:
    return checkpoint.load(file)["other_parameter"]["code_state"]["learned"]


def test_a_saved_model_and_its_export_keep_the_choice(rule_folder: Path) -> None:
    """Also if the data set has grown since, so that other items are the most frequent ones."""
    uneven(rule_folder, 11)
    run("MSCGRec", "rule", config_dict=settings(rule_folder, learned_items=9))
    file = best_file(rule_folder / "saved", "MSCGRec")
    _, model, dataset, *_, test = load_data_and_model(str(file))
    kept = learned_of(file)
    assert torch.equal(model.code_state["learned"], kept) and len(kept) == 9
    rows = test.dataset.inter_feat[:5]
    with torch.inference_mode():
        beams = model.recommend(rows)
    export(str(file), rule_folder / "export")
    recommender = Recommender.load(rule_folder / "export")
    assert recommender.export.learned is not None
    assert recommender.export.learned.tolist() == kept.tolist()
    seen = [[i for i in row if i] for row in rows["item_id_list"].tolist()]
    histories = [[str(t) for t in dataset.id2token("item_id", row)] for row in seen]
    found = [[(e.item, e.score) for e in each] for each in recommender.recommend(histories)]
    tokens = [[str(t) for t in dataset.id2token("item_id", items)] for items in beams.items]
    expected = zip(tokens, beams.log_probs.tolist(), strict=True)
    assert found == [list(zip(*pair, strict=True)) for pair in expected]

    uneven(rule_folder, 1)
    _, model, *_ = load_data_and_model(str(file))
    assert torch.equal(model.code_state["learned"], kept)


def test_fine_tuning_keeps_the_choice_and_its_number(rule_folder: Path) -> None:
    uneven(rule_folder, 11)
    run("MSCGRec", "rule", config_dict=settings(rule_folder, learned_items=9))
    first = best_file(rule_folder / "saved", "MSCGRec")
    uneven(rule_folder, 1)
    more = {"initial_model": str(first), "checkpoint_dir": str(rule_folder / "more")}
    run("MSCGRec", "rule", config_dict=settings(rule_folder, learned_items=9, **more))
    assert torch.equal(learned_of(best_file(rule_folder / "more", "MSCGRec")), learned_of(first))
    for n in (8, 30):
        with pytest.raises(ValueError, match="sizes do not fit .* --learned_items=9"):
            run("MSCGRec", "rule", config_dict=settings(rule_folder, learned_items=n, **more))


def test_they_may_join_a_saved_model_that_has_none(rule_folder: Path) -> None:
    run("MSCGRec", "rule", config_dict=settings(rule_folder))
    first = best_file(rule_folder / "saved", "MSCGRec")
    more = {"initial_model": str(first), "checkpoint_dir": str(rule_folder / "more")}
    run("MSCGRec", "rule", config_dict=settings(rule_folder, learned_items=9, **more))
    assert len(learned_of(best_file(rule_folder / "more", "MSCGRec"))) == 9
