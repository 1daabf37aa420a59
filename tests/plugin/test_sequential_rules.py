"""Sequential rules: scores counted by hand, and runs like those of other models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Trained
from tiny import Built, best_file, build, protocol, write_dataset

from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.storage import checkpoint

Tensor = torch.Tensor
# The last two items of each are for validation and test.
SEQUENCES = {"u": list("abcade"), "v": list("bcabfg"), "w": list("cabah")}
TEXTS = {"a": "red", "b": "green", "c": "red", "d": "red stone", "e": "stone", "h": "green wood"}


def made(folder: Path, **changes: Any) -> Built:
    return build("SequentialRules", "hand", protocol(folder, **changes))


def probabilities(built: Built, history: str) -> dict[str, float]:
    """Item -> probability after a history."""
    tokens = built.train.dataset.field2id_token["item_id"].tolist()
    items = torch.tensor([[tokens.index(item) for item in history] + [0, 0]])
    rows = {"item_id_list": items, "item_length": torch.tensor([len(history)])}
    scores = built.model.full_sort_predict(rows)[0]
    assert scores[0] == -math.inf
    assert float(scores.exp().sum()) == pytest.approx(1, abs=1e-5)
    return {t: float(s.exp()) for t, s in zip(tokens, scores, strict=True) if t != "[PAD]"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the data set of SEQUENCES and TEXTS."""
    write_dataset(tmp_path / "data", "hand", SEQUENCES, TEXTS)
    return tmp_path


def test_rules_are_counted_by_distance(folder: Path) -> None:
    """The train parts are abca, bcab and cab: after c, a stands next three times and b behind it
    twice, so c -> a has weight 3 and c -> b weight 2 / 2."""
    built = made(folder, text_pairs=0, n_last_items=1)
    popularity = {"a": 4, "b": 4, "c": 3, "d": 1, "e": 1, "f": 1, "g": 1, "h": 1}
    # Targets: b c a, c a b, a b; one is added to each count.
    share = {item: popularity[item] / sum(popularity.values()) for item in popularity}
    found = probabilities(built, "bc")
    expected = {"a": 3 / 4, "b": 1 / 4}
    for item in popularity:
        value = 0.99 * expected.get(item, 0.0) + 0.01 * share[item]
        assert found[item] == pytest.approx(value, abs=1e-6), item
    near = probabilities(made(folder, text_pairs=0, n_last_items=1, max_distance=1), "c")
    assert near["a"] == pytest.approx(0.99 + 0.01 * share["a"], abs=1e-6)


def test_older_items_count_less(folder: Path) -> None:
    chosen = {"text_pairs": 0, "max_distance": 1, "recency_decay": 0.25}
    of_two = probabilities(made(folder, **chosen, n_last_items=2), "abc")
    of_b, of_c = (probabilities(made(folder, **chosen, n_last_items=1), last) for last in "bc")
    for item, value in of_two.items():
        assert value == pytest.approx(0.8 * of_c[item] + 0.2 * of_b[item], abs=1e-6)


def test_frequent_items_are_held_back(folder: Path) -> None:
    """At distance up to 2, c -> a counts 3 and c -> b 1; a is a target 3 times, b 3 times, and of
    b -> c (2) and b -> a (1), c is one twice."""
    chosen = {"text_pairs": 0, "max_distance": 2, "n_last_items": 1}
    plain = probabilities(made(folder, **chosen), "b")
    held = probabilities(made(folder, **chosen, popularity_power=1.0), "b")
    assert plain["c"] / plain["a"] == pytest.approx(2, rel=0.02)
    assert held["c"] / held["a"] == pytest.approx(2 / 2 / (1 / 3), rel=0.02)


def test_texts_count_as_much_as_their_pairs(folder: Path) -> None:
    """b has two pairs at distance 1 and a text that shares words with that of h only."""
    chosen = {"max_distance": 1, "n_last_items": 1}
    rules = probabilities(made(folder, **chosen, text_pairs=0), "b")
    both = probabilities(made(folder, **chosen, text_pairs=6), "b")
    pairs = 2  # b c in abca and in bcab; the pair a b of cab ends with b
    weight = pairs / (pairs + 6)
    assert both["c"] == pytest.approx(weight * rules["c"], rel=0.02)
    assert both["h"] == pytest.approx(0.99 * (1 - weight), abs=0.01)


def test_what_is_not_known_is_left_to_text_and_then_to_popularity(folder: Path) -> None:
    built = made(folder)
    cold = probabilities(built, "d")  # no rule: it occurs at the end of a sequence only
    assert cold["e"] > 0.2 and cold["a"] > 0.2 > 0.01 > cold["b"]  # stone, red, green
    unknown = probabilities(built, "f")  # neither rules nor text
    tokens = built.train.dataset.field2id_token["item_id"].tolist()
    popular = dict(zip(tokens, built.model.transitions.popularity.tolist(), strict=True))
    for item, value in unknown.items():
        assert value == pytest.approx(popular[item], abs=1e-6)


def test_single_scores_are_those_of_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = made(folder)
    rows = built.test.dataset.inter_feat[:]
    scores = built.model.full_sort_predict(rows)
    expected = scores.gather(1, rows["item_id"].unsqueeze(1)).squeeze(1)
    monkeypatch.setattr("recbole_mscgrec.transitions.model._SCORES_AT_ONCE", 20)
    torch.testing.assert_close(built.model.predict(rows), expected)


def test_a_run_counts_once_and_its_file_gives_the_same_result(rule_folder: Path) -> None:
    chosen = protocol(rule_folder, epochs=7, n_last_items=1, text_pairs=1)
    result = run("SequentialRules", "rule", config_dict=chosen)
    assert result["test_result"]["recall@1"] == 1.0
    state = checkpoint.load(best_file(rule_folder / "saved", "SequentialRules"))
    assert state["epoch"] == 0 and state["state_dict"]["fake_loss"].item() == 0.0
    saved = best_file(rule_folder / "saved", "SequentialRules")
    again = run("SequentialRules", "rule", config_dict={**chosen, "model_file": str(saved)})
    assert again["test_result"] == result["test_result"]
    unseen = {**chosen, "model_file": str(saved), "exclude_seen": "all"}
    assert run("SequentialRules", "rule", config_dict=unseen)["test_result"]["recall@1"] == 1.0


def test_it_reranks_what_mscgrec_finds(trained: Trained, tmp_path: Path) -> None:
    data = {"data_path": trained.settings["data_path"]}
    run(
        "SequentialRules",
        "rule",
        config_dict=protocol(tmp_path, **data, n_last_items=1, text_pairs=0),
    )
    saved = str(best_file(tmp_path / "saved", "SequentialRules"))
    chosen = {**trained.settings, "model_file": str(trained.model_file), "result_file": None}
    built = build("MSCGRec", "rule", {**chosen, "rescore_model": saved})
    rows = built.test.dataset.inter_feat[:5]
    theirs = built.model.ensemble.models[0].log_probs(rows)
    own = built.model.ensemble.models[0].model.full_sort_predict(rows)
    torch.testing.assert_close(theirs, own)  # log-probabilities already
    result = run("MSCGRec", "rule", config_dict={**chosen, "rescore_model": saved})
    assert result["test_result"]["recall@1"] > 0.9
