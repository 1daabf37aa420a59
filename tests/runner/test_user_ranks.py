"""The rank per user agrees with what RecBole's Evaluator reports, for stock models and ours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Trained
from tiny import build, protocol, settings

from recbole_mscgrec.runner import user_ranks
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.runner.user_ranks import Ranks


def ranks(*values: int, depth: int = 10) -> Ranks:
    users = np.array([f"u{n}" for n in range(len(values))])
    return Ranks(users, np.array(values, dtype=np.int32), depth)


def test_metrics_by_hand() -> None:
    found = ranks(1, 3, 0, 10)
    assert found.metric("recall@5").tolist() == [1, 1, 0, 0]
    assert found.metric("hit@10").tolist() == [1, 1, 0, 1]
    assert found.metric("ndcg@10").tolist() == pytest.approx([1, 0.5, 0, 1 / np.log2(11)])
    assert found.metric("mrr@10").tolist() == pytest.approx([1, 1 / 3, 0, 0.1])
    assert found.metric("map@3").tolist() == pytest.approx([1, 1 / 3, 0, 0])


def test_metrics_that_one_rank_does_not_give() -> None:
    found = ranks(1, depth=10)
    assert found.gives("ndcg@10") and found.gives("recall@1")
    assert not found.gives("ndcg@20") and not found.gives("itemcoverage@10")


def test_save_and_load(tmp_path: Path) -> None:
    user_ranks.save(tmp_path / "new" / "a.npz", ranks(1, 0, 7))
    found = user_ranks.load(tmp_path / "new" / "a.npz")
    assert found.users.tolist() == ["u0", "u1", "u2"] and found.ranks.tolist() == [1, 0, 7]
    assert found.depth == 10 and [p.name for p in (tmp_path / "new").iterdir()] == ["a.npz"]


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_text("no archive")
    np.savez(tmp_path / "b.npz", x=np.zeros(2))
    for name in ("a.npz", "b.npz"):
        with pytest.raises(ValueError, match=f"{name} is .*make it again with --per_user_file"):
            user_ranks.load(tmp_path / name)


@pytest.mark.parametrize("model", ["Pop", "BPR", "GRU4Rec", "BERT4Rec", "TiledSASRec", "MSCGRec"])
def test_mean_over_users_is_what_recbole_reports(rule_folder: Path, model: str) -> None:
    sizes = settings if model == "MSCGRec" else protocol
    metrics = ["Recall", "NDCG", "MRR", "Hit", "MAP"]
    chosen = sizes(rule_folder, metrics=metrics, per_user_file="ranks.npz")
    result = run(model, "rule", config_dict=chosen)["test_result"]
    found = user_ranks.load("ranks.npz")
    assert sorted(found.users) == sorted(f"u{n}" for n in range(40)) and found.depth == 10
    assert result and all(found.gives(name) for name in result)
    for name, value in result.items():
        assert found.metric(name).mean() == pytest.approx(value, abs=1e-6), name


def test_sampled_candidates_give_ranks_too(rule_folder: Path) -> None:
    eval_args = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user"}
    chosen = protocol(rule_folder, eval_args={**eval_args, "mode": "uni20"})
    chosen |= {"metrics": ["Recall", "NDCG"], "per_user_file": "ranks.npz"}
    result = run("SASRec", "rule", config_dict=chosen)["test_result"]
    found = user_ranks.load("ranks.npz")
    assert len(set(found.users)) == 40
    assert found.metric("ndcg@10").mean() == pytest.approx(result["ndcg@10"], abs=1e-6)


def test_users_are_named_by_their_tokens(trained: Trained, tmp_path: Path) -> None:
    """The place of every user's target in the list that the model itself gives."""
    file = str(tmp_path / "ranks.npz")
    chosen = {**trained.settings, "model_file": str(trained.model_file), "result_file": None}
    run("MSCGRec", "rule", config_dict={**chosen, "per_user_file": file})
    found = user_ranks.load(file)
    built = build("MSCGRec", "rule", chosen)
    built.model.load_state_dict(torch.load(trained.model_file, weights_only=True)["state_dict"])
    built.model.eval()
    data = built.test.dataset
    items = built.model.recommend(data.inter_feat).items[:, :10].tolist()
    expected = {}
    for user, target, listed in zip(
        data.inter_feat["user_id"], data.inter_feat["item_id"].tolist(), items, strict=True
    ):
        place = listed.index(target) + 1 if target in listed else 0
        expected[data.id2token("user_id", int(user))] = place
    assert dict(zip(found.users.tolist(), found.ranks.tolist(), strict=True)) == expected


def test_evaluations_without_one_target_per_user_are_refused_before_anything_runs(
    rule_folder: Path,
) -> None:
    ratio = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO", "group_by": "user", "mode": "full"}
    for changes, message in (
        ({"eval_args": ratio}, "only leave-one-out"),
        ({"metrics": ["ItemCoverage"], "valid_metric": "ItemCoverage@10"}, "add NDCG"),
    ):
        chosen = protocol(rule_folder, per_user_file="ranks.npz", **changes)
        with pytest.raises(ValueError, match=f"per_user_file.*{message}"):
            run("Pop", "rule", config_dict=chosen)
    assert not (rule_folder / "saved").exists()


def test_a_model_that_ranks_nothing_writes_no_ranks(
    rule_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chosen = settings(rule_folder, per_user_file="ranks.npz")
    run("MSCGRecTokenizer", "rule", config_dict=chosen)
    assert not Path("ranks.npz").exists()
