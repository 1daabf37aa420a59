"""RecBole in two and three processes gives what it gives in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.utils import get_trainer
from tiny import best_file, build, in_processes, protocol, randomize, settings

from recbole_mscgrec.compat.processes import _Part
from recbole_mscgrec.plugin.evaluation import for_testing
from recbole_mscgrec.runner import user_ranks
from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.storage import processes
from recbole_mscgrec.storage.errors import UserError

METRICS = ["Recall", "NDCG", "MRR", "MAP", "ItemCoverage", "GiniIndex", "TailPercentage"]


def chosen_for(model: str, folder: Path, **changes: Any) -> dict[str, Any]:
    sizes = settings if model == "MSCGRec" else protocol
    return sizes(folder, **changes)


def trainer_of(built: Any) -> Any:
    config = built.config
    return get_trainer(config["MODEL_TYPE"], config["model"])(config, built.model)


def evaluated(model: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """All results of the test of a model with random weights."""
    built = build(model, "rule", chosen)
    randomize(built.model)
    trainer = trainer_of(built)
    trainer._save_checkpoint(0, verbose=False)
    trainer.saved_model_file = processes.broadcast(trainer.saved_model_file)
    with for_testing(trainer, built.train) as evaluator:
        found = {"test": dict(trainer.evaluate(built.test))}
    if not processes.is_first():
        return found
    found |= getattr(trainer, "remarks", dict)()
    if "Recall" in built.config["metrics"]:
        ranks = user_ranks.ranks_of(evaluator, built.test, built.config)
        found["ranks"] = (ranks.users.tolist(), ranks.ranks.tolist())
    return found


def check_evaluation(model: str, folder: Path, ns: tuple[int, ...], **changes: Any) -> None:
    changes = {"metrics": METRICS, "eval_batch_size": 7, **changes}
    chosen = chosen_for(model, folder, **changes)
    one = evaluated(model, chosen)
    assert one["test"]
    for n in ns:
        first, *others = in_processes(n, lambda: evaluated(model, chosen))
        assert first == one
        assert [other["test"] for other in others] == [one["test"]] * (n - 1)


@pytest.mark.parametrize("model", ["MSCGRec", "SASRec", "BPR"])
def test_metrics_ranks_and_level_shares_are_those_of_one_process(
    model: str, rule_folder: Path
) -> None:
    """41 rows of BPR's loader are in batches of one user: the last round has fewer batches than
    processes."""
    check_evaluation(model, rule_folder, (2, 3))


@pytest.mark.parametrize("model", ["MSCGRec", "BPR"])
def test_sampled_candidates_are_those_of_one_process(model: str, rule_folder: Path) -> None:
    check_evaluation(model, rule_folder, (2,), eval_args={"mode": "uni10"}, eval_batch_size=100)


def test_values_per_row_are_those_of_one_process(rule_folder: Path) -> None:
    metrics = {"metrics": ["AUC", "LogLoss"], "valid_metric": "AUC", "eval_args": {"mode": "uni10"}}
    check_evaluation("BPR", rule_folder, (2,), **metrics, eval_batch_size=100)


def test_seen_items_are_excluded(rule_folder: Path) -> None:
    check_evaluation("MSCGRec", rule_folder, (2,), exclude_seen="all")
    check_evaluation("SASRec", rule_folder, (2,), exclude_seen="all")


def test_reranked_lists_are_those_of_one_process(rule_folder: Path) -> None:
    run("TiledSASRec", "rule", config_dict=protocol(rule_folder))
    second = best_file(rule_folder / "saved", "TiledSASRec")
    check_evaluation("MSCGRec", rule_folder, (2,), rescore_model=str(second))


def test_more_processes_than_batches(rule_folder: Path) -> None:
    check_evaluation("SASRec", rule_folder, (3,), eval_batch_size=1000)


def trained(model: str, chosen: dict[str, Any]) -> dict[str, Any]:
    """The loss, gradients, weights and average of the weights after an epoch."""
    built = build(model, "rule", chosen)
    trainer = trainer_of(built)
    loss = trainer._train_epoch(built.train, 0)
    return {
        "loss": [torch.tensor(loss)],
        "gradients": [p.grad for p in built.model.parameters() if p.grad is not None],
        "weights": [p.detach() for p in built.model.parameters()],
        "average": getattr(trainer, "average", []),
    }


def check_training(n: int, model: str, chosen: dict[str, Any], *names: str) -> None:
    """What is named is that of one process, and all weights are the same in all processes."""
    one, several = trained(model, chosen), in_processes(n, lambda: trained(model, chosen))
    for found in several:
        for name, values in found.items():
            assert len(values) == len(one[name])
            assert all(map(torch.equal, values, several[0][name]))
            if name in names:
                torch.testing.assert_close(values, one[name], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("model", ["MSCGRec", "TiledSASRec", "SASRec"])
def test_gradients_are_those_of_the_joint_batch(model: str, rule_folder: Path) -> None:
    """Windows have 3 to 11 targets, and the processes have different numbers of them: all targets
    weigh the same."""
    off = ["dropout_prob"] if model == "MSCGRec" else ["hidden_dropout_prob", "attn_dropout_prob"]
    chosen = chosen_for(model, rule_folder, train_batch_size=1000, **dict.fromkeys(off, 0.0))
    check_training(3, model, chosen, "loss", "gradients")


def test_an_epoch_is_that_of_one_process(rule_folder: Path) -> None:
    """The same batches in the same order."""
    off = {"dropout_prob": 0.0, "learner": "sgd", "ema_decay": 0.9}
    check_training(2, "MSCGRec", settings(rule_folder, **off), "loss", "weights", "average")


def test_batches_are_shared_without_repetition() -> None:
    def parts() -> list[list[int]]:
        batches = torch.utils.data.BatchSampler(range(13), 4, drop_last=False)
        part = _Part(batches, {"model": "SASRec"})
        held = list(part)
        assert len(held) == len(part)
        return held

    first, second = in_processes(2, parts)
    assert first == [[0, 2], [4, 6], [8, 10, 12]]
    assert second == [[1, 3], [5, 7], [9, 11]]


def test_too_few_rows_for_the_processes(rule_folder: Path) -> None:
    chosen = protocol(rule_folder, train_batch_size=2)
    with pytest.raises(UserError, match="3 processes share .* train_batch_size is only 2"):
        in_processes(3, lambda: build("SASRec", "rule", chosen))


def test_batch_norm_needs_gpus(rule_folder: Path) -> None:
    def start() -> None:
        built = build("SASRec", "rule", protocol(rule_folder))
        built.model.add_module("norm", torch.nn.BatchNorm1d(4))
        trainer_of(built)

    with pytest.raises(UserError, match="SASRec uses BatchNorm"):
        in_processes(2, start)
