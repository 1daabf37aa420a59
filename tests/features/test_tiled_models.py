"""The tiled loss is RecBole's loss over all prefixes."""

from __future__ import annotations

import pytest
import torch
from recbole.data.dataset import SequentialDataset
from recbole.model.sequential_recommender.gru4rec import GRU4Rec
from recbole.model.sequential_recommender.sasrec import SASRec

from recbole_mscgrec.data.tiled_rows import TiledDataset
from recbole_mscgrec.features.item_softmax import item_cross_entropy
from recbole_mscgrec.features.tiled_models import TiledGRU4Rec, TiledSASRec
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
