"""The tiled loss is RecBole's loss over all prefixes, and the models learn by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from recbole.data.dataset import SequentialDataset
from recbole.model.sequential_recommender.gru4rec import GRU4Rec
from recbole.model.sequential_recommender.sasrec import SASRec

from recbole_mscgrec.data.tiled_rows import TiledDataset
from recbole_mscgrec.features.item_softmax import item_cross_entropy
from recbole_mscgrec.features.tiled_models import (
    TiledBSARec,
    TiledGRU4Rec,
    TiledRows,
    TiledSASRec,
)
from tests.conftest import make_config

PAIRS = {
    "SASRec": (TiledSASRec, SASRec, {"hidden_dropout_prob": 0.0, "attn_dropout_prob": 0.0}),
    "GRU4Rec": (TiledGRU4Rec, GRU4Rec, {"dropout_prob": 0.0}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_loss_and_gradients_equal_recboles_over_all_prefixes(ring: str, name: str) -> None:
    kind, stock_kind, without_dropout = PAIRS[name]
    config = make_config(f"Tiled{name}", **without_dropout)
    tiled = TiledDataset(config).build()[0]
    prefixes = SequentialDataset(config).build()[0]
    torch.manual_seed(0)
    model, stock = kind(config, tiled), stock_kind(config, prefixes)
    stock.load_state_dict(model.state_dict())
    expected = stock.calculate_loss(prefixes.inter_feat)
    loss = model.calculate_loss(tiled.inter_feat)
    torch.testing.assert_close(loss, expected)
    cut = tiled[torch.arange(len(tiled))]  # without the columns that all rows leave empty
    assert cut["item_id_list"].size(1) < tiled.inter_feat["item_id_list"].size(1)
    torch.testing.assert_close(model.calculate_loss(cut), expected)
    loss.backward()
    expected.backward()
    for mine, theirs in zip(model.parameters(), stock.parameters(), strict=True):
        if theirs.grad is not None:
            torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-4)


def test_scores_equal_recboles_though_empty_columns_are_left_out(
    ring: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config("TiledSASRec")
    tiled = TiledDataset(config).build()[2]
    model, stock = TiledSASRec(config, tiled).eval(), SASRec(config, tiled).eval()
    stock.load_state_dict(model.state_dict())
    rows = tiled.inter_feat
    expected, longest = stock.full_sort_predict(rows), int(rows["item_length"].max())
    seen, mask_of = [], model.get_attention_mask
    monkeypatch.setattr(model, "get_attention_mask", lambda s: seen.append(s) or mask_of(s))
    torch.testing.assert_close(model.full_sort_predict(rows), expected)
    assert [s.size(1) for s in seen] == [longest] and longest < rows["item_id_list"].size(1)


@pytest.mark.parametrize("name", PAIRS)
def test_only_cross_entropy(ring: str, name: str) -> None:
    config = make_config(f"Tiled{name}", loss_type="BPR")
    with pytest.raises(ValueError, match="loss_type .'BPR'. must be 'CE'"):
        PAIRS[name][0](config, TiledDataset(config).build()[0])


@pytest.mark.parametrize("name", PAIRS)
def test_sampled_softmax_draws_by_the_targets_of_the_train_split(ring: str, name: str) -> None:
    tiled = TiledDataset(make_config(f"Tiled{name}")).build()[0]
    config = make_config(f"Tiled{name}", n_negatives=6)
    model = PAIRS[name][0](config, tiled)
    assert model.sampler is not None and model.sampler.n_negatives == 6
    counts = [tiled.item_counter[i] for i in range(tiled.item_num)]
    assert min(counts[1:]) > 0
    share = (torch.tensor(counts).double() + 1) ** 0.75
    torch.testing.assert_close(model.sampler.share, share / share.sum())
    with torch.no_grad():
        losses = [float(model.eval().calculate_loss(tiled.inter_feat)) for _ in range(50)]
    exact = PAIRS[name][0](make_config(f"Tiled{name}"), tiled).eval()
    assert exact.sampler is None
    exact.load_state_dict(model.state_dict())
    assert min(losses) != max(losses)
    expected = exact.calculate_loss(tiled.inter_feat).item()
    assert sum(losses) / len(losses) == pytest.approx(expected, rel=0.1)


KINDS = {"SASRec": TiledSASRec, "GRU4Rec": TiledGRU4Rec, "BSARec": TiledBSARec}


@pytest.mark.parametrize("name", KINDS)
def test_cosine_is_one_score_in_training_and_ranking(ring: str, name: str) -> None:
    """The loss, the dense scores and those of single items follow from the same cosines."""
    config = make_config(f"Tiled{name}", similarity="cosine", temperature=0.1)
    train, _, test = TiledDataset(config).build()
    torch.manual_seed(0)
    model, rows = KINDS[name](config, train).eval(), test.inter_feat
    with torch.no_grad():
        model.item_embedding.weight.mul_(torch.rand(model.n_items, 1) + 0.5)
        scores = model.full_sort_predict(rows)
        length = rows["item_length"]
        hidden = super(TiledRows, model).forward(rows["item_id_list"], length)
        weight = model.item_embedding.weight
        cosines = torch.cosine_similarity(hidden.unsqueeze(1), weight.unsqueeze(0), dim=2)
        torch.testing.assert_close(scores, cosines / 0.1)
        chosen = scores.gather(1, rows["item_id"].unsqueeze(1)).squeeze(1)
        torch.testing.assert_close(model.predict(rows), chosen)
        prefixes, windows = train.prefixes()[:], train.windows()[:]
        of_prefixes = model.full_sort_predict(prefixes)
        expected = torch.nn.functional.cross_entropy(of_prefixes, prefixes["item_id"])
        torch.testing.assert_close(model.calculate_loss(windows), expected)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"similarity": "cosine"}, {"n_negatives": 8}], ids=str)
@pytest.mark.parametrize("name", KINDS)
def test_the_rule_is_learned(ring: str, name: str, changes: dict[str, Any]) -> None:
    train, _, test = TiledDataset(make_config(f"Tiled{name}")).build()
    torch.manual_seed(0)
    model, windows = KINDS[name](make_config(f"Tiled{name}", **changes), train), train.windows()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(25):
        for index in torch.randperm(len(windows)).split(16):
            optimizer.zero_grad()
            model.calculate_loss(windows[index]).backward()
            optimizer.step()
    with torch.no_grad():
        found = model.eval().full_sort_predict(test.inter_feat).topk(2).indices
    share = (found == test.inter_feat["item_id"].unsqueeze(1)).any(dim=1).double().mean()
    assert float(share) > 0.9


@pytest.mark.parametrize("name", KINDS)
def test_vectors_compared_by_their_cosine_have_unit_length(ring: str, name: str) -> None:
    config = make_config(f"Tiled{name}", similarity="cosine")
    model = KINDS[name](config, TiledDataset(config).build()[0])
    lengths = model.item_vectors()[1:].norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones(model.n_items - 1))
    assert not torch.allclose(model.item_embedding.weight[1:].norm(dim=1), lengths)


@pytest.mark.parametrize(("similarity", "expected"), [("dot", 1.0), ("cosine", 0.07)])
def test_the_temperature_has_a_default_for_each_similarity(
    ring: str, similarity: str, expected: float
) -> None:
    config = make_config("TiledSASRec", similarity=similarity)
    assert TiledSASRec(config, TiledDataset(config).build()[0]).similarity.temperature == expected


def test_the_blocks_of_bsarec_see_no_later_item(ring: str) -> None:
    config = make_config("TiledBSARec")
    model = TiledBSARec(config, TiledDataset(config).build()[0]).eval()
    history = torch.randint(1, model.n_items, (3, 9))
    changed = history.clone()
    changed[:, 6] = history[:, 6] % (model.n_items - 1) + 1
    positions = torch.arange(1, 10).expand_as(history)
    before, after = model.forward(history, positions), model.forward(changed, positions)
    torch.testing.assert_close(before[:, :6], after[:, :6])
    assert bool((before[:, 6:] != after[:, 6:]).any(dim=2).all())


def test_without_its_filter_bsarec_is_sasrec(ring: str) -> None:
    train = TiledDataset(make_config("TiledBSARec")).build()[0]
    plain = TiledSASRec(make_config("TiledSASRec"), train).eval()
    model = TiledBSARec(make_config("TiledBSARec", alpha=0.0), train).eval()
    renamed = {
        name.replace("multi_head_attention", "multi_head_attention.attention"): tensor
        for name, tensor in plain.state_dict().items()
    }
    rest = model.load_state_dict(renamed, strict=False)
    assert not rest.unexpected_keys and all(".filter." in name for name in rest.missing_keys)
    rows = train.windows()[:4]
    torch.testing.assert_close(model.full_sort_predict(rows), plain.full_sort_predict(rows))


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("name", PAIRS)
def test_one_look_up_of_the_items_of_a_step_changes_no_loss_and_no_gradient(
    ring: str, name: str, sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiled = TiledDataset(make_config(f"Tiled{name}")).build()[0]
    model = PAIRS[name][0](make_config(f"Tiled{name}", n_negatives=6), tiled).eval()
    drawn = model.sampler.draw()
    monkeypatch.setattr(model.sampler, "draw", lambda: drawn)
    weight = model.item_embedding.weight
    history, targets = tiled.inter_feat["item_id_list"], tiled.inter_feat["item_id_target_list"]
    lengths = torch.arange(1, history.size(1) + 1).expand_as(history)
    output, is_target = model.forward(history, lengths), targets != 0
    expected = item_cross_entropy(output[is_target], weight, targets[is_target], drawn)
    wanted = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    model.sparse_gradient = sparse
    loss = model.calculate_loss(tiled.inter_feat)
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    torch.testing.assert_close(loss, expected)
    assert [g is None for g in found] == [g is None for g in wanted]
    for mine, theirs in zip(found, wanted, strict=True):
        if theirs is not None:
            dense = mine.to_dense() if mine.is_sparse else mine
            torch.testing.assert_close(dense, theirs, atol=1e-6, rtol=1e-4)
    place = [p is weight for p in model.parameters()].index(True)
    assert found[place].is_sparse == sparse
