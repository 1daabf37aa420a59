"""Ranked lists into RecBole's Evaluator; the average of the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import Trained
from recbole.evaluator import Collector, Evaluator
from tiny import N_ITEMS, Built, build, protocol, settings, train_split, typed

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.plugin.evaluation import RankedListCollector, check_evaluation
from recbole_mscgrec.plugin.trainer import MSCGRecTrainer
from recbole_mscgrec.runner.quick_start import run

LIST_METRICS = ["ItemCoverage", "GiniIndex", "AveragePopularity", "TailPercentage"]


@pytest.fixture
def config(rule_folder: Path) -> Config:
    chosen = settings(rule_folder, metrics=["Recall", "NDCG", "MRR", "Precision", "ItemCoverage"])
    return Config("MSCGRec", "rule", config_dict=chosen)


def collected(collector: Collector, batch: torch.Tensor, users: list, items: list) -> dict:
    collector.data_struct.set("data.num_items", 41)
    collector.eval_batch_collect(batch, None, torch.tensor(users), torch.tensor(items))
    struct = collector.get_data_struct()
    return {name: struct.get(name) for name in ("rec.items", "rec.topk", "data.num_items")} | {
        "struct": struct
    }


def test_ranked_lists_give_what_dense_scores_give(config: Config) -> None:
    scores = torch.randn(5, 41, generator=torch.Generator().manual_seed(0))
    scores[:, 0] = -torch.inf
    # Every second positive is ranked high; row 2 has three positives.
    order = scores.argsort(dim=1, descending=True)
    users = [0, 1, 2, 2, 2, 3, 4]
    items = [int(order[0, 0]), int(order[1, 30])] + order[2, [1, 3, 20]].tolist()
    items += [int(order[3, 9]), int(order[4, 10])]
    dense = collected(Collector(config), scores, users, items)
    listed = collected(RankedListCollector(config), order[:, :20], users, items)
    assert torch.equal(dense["rec.items"], listed["rec.items"])
    assert torch.equal(dense["rec.topk"], listed["rec.topk"])
    evaluator = Evaluator(config)
    assert evaluator.evaluate(dense["struct"]) == evaluator.evaluate(listed["struct"])


def test_a_place_without_an_item_is_never_a_hit(config: Config) -> None:
    lists = torch.tensor([[3, 7] + [0] * 8, [0] * 10])
    found = collected(RankedListCollector(config), lists, [0, 1], [7, 9])["rec.topk"]
    assert found.tolist() == [[0, 1] + [0] * 8 + [1], [0] * 10 + [1]]


def test_batches_are_put_together(config: Config) -> None:
    collector = RankedListCollector(config)
    for _ in range(2):
        collector.eval_batch_collect(
            torch.arange(1, 11).repeat(3, 1), None, torch.arange(3), torch.tensor([1, 10, 11])
        )
    hits = collector.get_data_struct().get("rec.topk")[:, :10].sum(1)
    assert hits.tolist() == [1, 1, 0, 1, 1, 0]


def test_list_metrics_of_mscgrec_by_hand(trained: Trained) -> None:
    result = trained.result["test_result"]
    assert result["recall@1"] == 1.0  # so the first places are the test items
    built = build("MSCGRec", "rule", {**trained.settings, "model_file": str(trained.model_file)})
    first = built.test.dataset.inter_feat["item_id"]
    counts = built.train.dataset.item_counter
    assert result["itemcoverage@1"] == pytest.approx(len(first.unique()) / 31, abs=1e-6)
    popularity = sum(counts[i] for i in first.tolist()) / len(first)
    assert result["averagepopularity@1"] == pytest.approx(popularity, abs=1e-5)
    times = torch.bincount(first, minlength=31).sort().values  # of 30 items and the padding item
    gini = ((2 * torch.arange(1, 32) - 31 - 1) * times).sum() / (31 * times.sum())
    assert result["giniindex@1"] == pytest.approx(float(gini), abs=1e-6)


def test_list_metrics_of_a_stock_model(rule_folder: Path) -> None:
    chosen = protocol(rule_folder, metrics=["Recall", "NDCG", *LIST_METRICS])
    result = run("SASRec", "rule", config_dict=chosen)["test_result"]
    assert {f"{m.lower()}@{k}" for m in LIST_METRICS for k in (1, 5, 10)} <= set(result)
    assert 1 / 31 <= result["itemcoverage@1"] <= result["itemcoverage@10"] <= 30 / 31 + 1e-6


def test_sampled_candidates_go_through_predict(trained: Trained, tmp_path: Path) -> None:
    eval_args = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
    chosen = {
        **trained.settings,
        "model_file": str(trained.model_file),
        "eval_args": {**eval_args, "mode": "uni20"},
        "metrics": ["Recall", "NDCG"],
        "result_file": None,
    }
    result = run("MSCGRec", "rule", config_dict=chosen)["test_result"]
    # It ranks every test item first among all items, so also among twenty others.
    assert result["recall@1"] == 1.0 and result["ndcg@10"] == 1.0


def test_sampled_candidates_give_a_random_model_a_random_rank(rule_folder: Path) -> None:
    eval_args = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
    chosen = settings(rule_folder, eval_args={**eval_args, "mode": "uni20"}, topk=[1, 10, 21])
    chosen |= {"beam_size": 21, "learning_rate": 1e-9, "transition_weight": 0.0}
    result = run("MSCGRec", "rule", config_dict=chosen)["test_result"]
    assert result["recall@21"] == 1.0 and result["recall@1"] < 0.5
    assert 0.15 < result["recall@10"] < 0.85


def weights(built: Built) -> list[torch.Tensor]:
    return [p.detach().clone() for p in built.model.parameters()]


def test_average_of_the_weights_by_hand(rule_folder: Path) -> None:
    built = build("MSCGRec", "rule", settings(rule_folder, ema_decay=0.75))
    trainer = MSCGRecTrainer(built.config, built.model)
    expected = weights(built)
    for _ in range(3):
        loss = built.model.calculate_loss(built.train.dataset.inter_feat)
        trainer.optimizer.zero_grad()
        loss.backward()
        trainer.optimizer.step()
        expected = [0.75 * e + 0.25 * w for e, w in zip(expected, weights(built), strict=True)]
    before = weights(built)
    with trainer._averaged():
        for inside, average in zip(weights(built), expected, strict=True):
            torch.testing.assert_close(inside, average)
    assert all(torch.equal(a, b) for a, b in zip(weights(built), before, strict=True))


def test_the_average_is_what_is_saved(rule_folder: Path) -> None:
    built = build("MSCGRec", "rule", settings(rule_folder, ema_decay=0.5))
    trainer = MSCGRecTrainer(built.config, built.model)
    loss = built.model.calculate_loss(built.train.dataset.inter_feat)
    loss.backward()
    trainer.optimizer.step()
    trainer._save_checkpoint(0)
    saved = torch.load(trainer.saved_model_file, weights_only=True)["state_dict"]
    average = dict(
        zip((n for n, _ in built.model.named_parameters()), trainer.average, strict=True)
    )
    assert all(torch.equal(saved[name], value) for name, value in average.items())


def test_no_average_is_kept_without_decay(rule_folder: Path) -> None:
    built = build("MSCGRec", "rule", settings(rule_folder, ema_decay=0.0))
    trainer = MSCGRecTrainer(built.config, built.model)
    before = weights(built)
    with trainer._averaged():
        assert all(torch.equal(a, b) for a, b in zip(weights(built), before, strict=True))
    assert trainer.average == []


def test_metrics_that_need_all_items_are_refused(rule_folder: Path) -> None:
    chosen = dict(metrics=["Recall", "GAUC"], valid_metric="Recall@10")
    with pytest.raises(ValueError, match="metrics: GAUC needs rec.meanrank of all items"):
        check_evaluation(typed(*train_split(rule_folder, **chosen)))
    chosen = dict(metrics=LIST_METRICS, valid_metric="ItemCoverage@10")
    check_evaluation(typed(*train_split(rule_folder, **chosen)))


def test_scores_are_never_dense(random_model: Built) -> None:
    """What evaluation hands to the collector is as wide as the beam, not as the catalogue."""
    trainer = MSCGRecTrainer(random_model.config, random_model.model)
    random_model.model.eval()
    with torch.no_grad():
        _, items, _, _ = trainer._full_sort_batch_eval(next(iter(random_model.test)))
    assert items.size(1) == random_model.config["beam_size"] < N_ITEMS
    assert not items.is_floating_point()


def test_valid_metric_that_is_not_measured_is_refused_before_training(rule_folder: Path) -> None:
    for changes in ({"metrics": ["Recall"]}, {"topk": [5], "valid_metric": "NDCG@7"}):
        with pytest.raises(ValueError, match="valid_metric"):
            run("MSCGRec", "rule", config_dict=settings(rule_folder, **changes))


@torch.no_grad()
def test_level_shares_are_those_of_the_exact_log_probabilities(trained: Trained) -> None:
    """Of the test rows' targets, which each row has one of."""
    config = {**trained.settings, "model_file": str(trained.model_file), "result_file": None}
    built = build("MSCGRec", "rule", config)
    state = torch.load(trained.model_file, weights_only=True)
    built.model.load_state_dict(state["state_dict"])
    rows = built.test.dataset.inter_feat
    items = rows[built.model.ITEM_ID]
    levels = built.model.eval().level_log_probs(rows, torch.arange(len(items)), items)
    torch.testing.assert_close(levels.sum(0), built.model.predict(rows))
    expected = levels.sum(1) / levels.sum()
    assert trained.result["level_share"] == pytest.approx(expected.tolist(), abs=1e-3)
    assert sum(trained.result["level_share"]) == pytest.approx(1, abs=1e-3)


def test_test_metrics_are_measured_on_the_test_alone(rule_folder: Path) -> None:
    for model, sizes in (("MSCGRec", settings), ("Pop", protocol)):
        plain = run(model, "rule", config_dict=sizes(rule_folder))
        chosen = sizes(rule_folder, test_metrics=LIST_METRICS)
        result = run(model, "rule", config_dict=chosen)
        assert result["best_valid_result"] == plain["best_valid_result"]
        more = {f"{m.lower()}@{k}" for m in LIST_METRICS for k in (1, 5, 10)}
        assert set(result["test_result"]) == more | set(plain["test_result"])
        assert plain["test_result"].items() <= result["test_result"].items()


@pytest.mark.parametrize("names", [["ItemCoverag"], "GiniIndex", ["AUC"]])
def test_unknown_test_metrics_are_refused_before_training(rule_folder: Path, names: object) -> None:
    chosen = protocol(rule_folder, test_metrics=names)
    with pytest.raises(ValueError, match="test_metrics .*must be a list of some of.*itemcoverage"):
        run("Pop", "rule", config_dict=chosen)
    with pytest.raises(ValueError, match="metrics: GAUC needs rec.meanrank"):
        run("MSCGRec", "rule", config_dict=settings(rule_folder, test_metrics=["GAUC"]))
