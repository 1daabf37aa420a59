"""The collaborative stage: blind to valid and test, deterministic, and able to go on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data import create_dataset
from tiny import rule_sequences, settings, typed, write_inter

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.features import sasrec_training
from recbole_mscgrec.features.collaborative import collaborative_vectors
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor


def vectors(folder: Path, dataset: str, **changes: Any) -> tuple[Tensor, Tensor, Any]:
    config = Config("MSCGRec", dataset, config_dict=settings(folder, **changes))
    train = create_dataset(config).build()[0]
    chosen = typed(config, train)
    return *collaborative_vectors(
        chosen.collaborative, chosen.run, train, folder / "partial.pth"
    ), train


def write_split(folder: Path, name: str, shift: int) -> None:
    """Train rows first, in a fixed order, then each user's valid and test rows.

    `shift` hands the held-out pairs to other users; items x0 and x1 are held out only.
    """
    sequences = list(rule_sequences().items())
    train = [(u, i, float(t)) for u, items in sequences for t, i in enumerate(items[:-2])]
    pairs = [items[-2:] for _, items in sequences]
    pairs[0], pairs[39] = ["x0", pairs[0][1]], [pairs[39][0], "x1"]
    if shift:
        middle = pairs[1:39]
        pairs[1:39] = middle[shift:] + middle[:shift]
        pairs[0], pairs[39] = ["i9", "x0"], ["x1", "i4"]
    held = [
        (user, item, 100.0 + t)
        for (user, _), pair in zip(sequences, pairs, strict=True)
        for t, item in enumerate(pair)
    ]
    write_inter(folder / "data", name, train + held)


def test_blind_to_valid_and_test_items(tmp_path: Path) -> None:
    write_split(tmp_path, "a", 0)
    write_split(tmp_path, "b", 7)
    first, present, train_a = vectors(tmp_path, "a")
    second, also_present, train_b = vectors(tmp_path, "b")
    tokens = train_a.field2id_token["item_id"].tolist()
    assert tokens == train_b.field2id_token["item_id"].tolist()
    assert torch.equal(first, second) and torch.equal(present, also_present)
    absent = [tokens[i] for i in (~present).nonzero().flatten().tolist()]
    assert absent == ["[PAD]", "x0", "x1"]


def test_not_blind_to_train_items(tmp_path: Path) -> None:
    """The same comparison does see a change in the train split."""
    write_split(tmp_path, "a", 0)
    file = tmp_path / "data" / "a" / "a.inter"
    changed = file.read_text().replace("u39\ti3\t0.0", "u39\ti8\t0.0")
    assert changed != file.read_text()
    first = vectors(tmp_path, "a")[0]
    file.write_text(changed)
    assert not torch.equal(first, vectors(tmp_path, "a")[0])


def test_a_seed_gives_the_same_vectors_whatever_was_drawn_before(rule_folder: Path) -> None:
    first = vectors(rule_folder, "rule")[0]
    torch.rand(7)
    assert torch.equal(first, vectors(rule_folder, "rule")[0])
    assert not torch.equal(first, vectors(rule_folder, "rule", seed=1)[0])


def test_vectors_know_the_rule(rule_folder: Path) -> None:
    """Items next to each other on the ring are nearer than items across it."""
    found, present, train = vectors(
        rule_folder, "rule", collaborative_epochs=30, collaborative_learning_rate=0.01
    )
    assert found.dtype == torch.float32 and found.shape == (31, 8)
    assert present.tolist() == [False] + [True] * 30
    order = torch.tensor([train.token2id("item_id", f"i{i}") for i in range(30)])
    ring = torch.nn.functional.normalize(found[order], dim=1)
    near = (ring * ring.roll(1, 0)).sum(1).mean()
    far = (ring * ring.roll(15, 0)).sum(1).mean()
    assert near > far + 0.3


def test_held_out_targets_are_not_trained_on(rule_folder: Path) -> None:
    config = Config("MSCGRec", "rule", config_dict=settings(rule_folder))
    train = create_dataset(config).build()[0]
    chosen, rows = typed(config, train), train.inter_feat
    training = sasrec_training.SASRecTraining(chosen.collaborative, chosen.run, train)
    where, items, length = training.held_out
    history, targets = training.windows(torch.arange(len(rows)))
    n_targets = int((rows["item_id_target_list"] != 0).sum())
    n_held = n_targets // 10
    assert 0 < len(items) == n_held < 40 and (items > 0).all()
    for row, item, n in zip(where.tolist(), items.tolist(), length.tolist(), strict=True):
        assert int(rows["item_id_target_list"][row, n - 1]) == item
        assert targets[row, n - 1 :].eq(0).all()
        assert int((rows["item_id_list"][row] != 0).sum()) == n
    width = history.size(1)
    assert torch.equal(history, rows["item_id_list"][:, :width])
    assert int((targets != rows["item_id_target_list"][:, :width]).sum()) == n_held
    some = torch.tensor([7, 3, 3])
    shorter = training.windows(some)[1]
    assert torch.equal(shorter, targets[some][:, : shorter.size(1)])


def training_of(folder: Path, dataset: str, **changes: Any) -> sasrec_training.SASRecTraining:
    config = Config("MSCGRec", dataset, config_dict=settings(folder, **changes))
    train = create_dataset(config).build()[0]
    chosen = typed(config, train)
    return sasrec_training.SASRecTraining(chosen.collaborative, chosen.run, train)


def test_short_sequences_keep_most_targets_for_training(tmp_path: Path) -> None:
    """Each of 50 users has a single target in the train split."""
    rows = [(f"u{u}", f"i{(7 * u + t) % 20}", float(t)) for u in range(50) for t in range(4)]
    write_inter(tmp_path / "data", "short", rows)
    training = training_of(tmp_path, "short")
    targets = training.windows(torch.arange(len(training.rows)))[1]
    assert len(training.held_out[0]) == 5 and int((targets != 0).sum()) == 45


def test_too_few_targets_are_refused(tmp_path: Path) -> None:
    rows = [("u0", f"i{t}", float(t)) for t in range(4)]
    write_inter(tmp_path / "data", "one", rows)
    with pytest.raises(UserError, match="has 1 next items to learn from, too few for SASRec"):
        training_of(tmp_path, "one", codebook_size=2)


def test_weights_that_are_not_numbers_rank_last_and_are_refused(rule_folder: Path) -> None:
    training = training_of(rule_folder, "rule")
    with torch.no_grad():
        training.model.item_embedding.weight.fill_(torch.nan)
    assert training.score() == 0
    with pytest.raises(UserError, match="loss of SASRec.* is (nan|inf) in epoch .*learning_rate"):
        vectors(rule_folder, "rule", collaborative_learning_rate=1e30)


def test_a_model_that_ranks_all_items_equally_scores_nothing(rule_folder: Path) -> None:
    training = training_of(rule_folder, "rule")
    with torch.no_grad():
        training.model.item_embedding.weight.fill_(0.5)
    assert training.score() == 0


def test_a_batch_is_as_wide_as_its_longest_history(rule_folder: Path) -> None:
    config = Config("MSCGRec", "rule", config_dict=settings(rule_folder))
    train = create_dataset(config).build()[0]
    chosen, rows = typed(config, train), train.inter_feat
    training = sasrec_training.SASRecTraining(chosen.collaborative, chosen.run, train)
    length = rows["item_length"]
    shortest = (length == length.min()).nonzero().flatten()
    assert 0 < length.min() < length.max()
    history, targets = training.windows(shortest)
    assert history.size(1) == targets.size(1) == length.min()
    assert torch.equal(history, rows["item_id_list"][shortest, : length.min()])


@pytest.mark.parametrize(
    "n_windows, expected", [(10, 64), (64_999, 64), (500_000, 500), (1 << 30, 1024)]
)
def test_batch_size_grows_with_the_windows(
    rule_folder: Path, n_windows: int, expected: int
) -> None:
    config = Config("MSCGRec", "rule", config_dict=settings(rule_folder))
    given = typed(config, create_dataset(config).build()[0]).collaborative
    unset = replace(given, batch_size=None)
    assert sasrec_training.batch_size_of(unset, n_windows) == expected
    assert sasrec_training.batch_size_of(given, n_windows) == 16


def test_interrupted_stage_goes_on_to_the_same_vectors(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = vectors(rule_folder, "rule", collaborative_epochs=5)[0]
    epochs, train_epoch = [], sasrec_training.SASRecTraining.train_epoch

    def stop_in_the_fourth(*args: Any) -> float:
        epochs.append(len(epochs))
        if len(epochs) == 4:
            raise KeyboardInterrupt
        return train_epoch(*args)

    monkeypatch.setattr(sasrec_training.SASRecTraining, "train_epoch", stop_in_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        vectors(rule_folder, "rule", collaborative_epochs=5)
    assert (rule_folder / "partial.pth").is_file()
    assert torch.equal(vectors(rule_folder, "rule", collaborative_epochs=5)[0], expected)
    assert len(epochs) == 4 + 2  # three finished, one lost, two more
    assert not (rule_folder / "partial.pth").exists()


def test_damaged_partial_file_is_named_and_training_starts_anew(
    rule_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = vectors(rule_folder, "rule")[0]
    (rule_folder / "partial.pth").write_bytes(b"not a checkpoint")
    assert torch.equal(vectors(rule_folder, "rule")[0], expected)
    assert "the stage starts again" in caplog.text and "partial.pth" in caplog.text


@pytest.mark.parametrize("n_negatives", [0, 8], ids=["all items", "8 negatives"])
def test_sasrec_learns_the_rule(
    rule_folder: Path, caplog: pytest.LogCaptureFixture, n_negatives: int
) -> None:
    caplog.set_level("INFO")
    chosen = {"collaborative_epochs": 25, "collaborative_learning_rate": 0.01}
    vectors(rule_folder, "rule", **chosen, collaborative_n_negatives=n_negatives)
    assert "SASRec stopped after" in caplog.text
    # A few random ones of 30 items in each softmax teach a little less. Chance gives 0.15.
    assert float(caplog.text.rpartition("NDCG@10 ")[2].split()[0]) > (0.8 if n_negatives else 0.9)


def test_scores_in_blocks_of_few_users_are_those_of_many(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config("MSCGRec", "rule", config_dict=settings(rule_folder))
    train = create_dataset(config).build()[0]
    chosen = typed(config, train)
    training = sasrec_training.SASRecTraining(chosen.collaborative, chosen.run, train)
    training.model.eval()
    together = training.score()
    monkeypatch.setattr(sasrec_training, "_SCORES_AT_ONCE", 100)  # 3 users of 31 items
    assert training.score() == pytest.approx(together, abs=1e-6) and together > 0
