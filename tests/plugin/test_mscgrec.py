"""MSCGRec in RecBole: loss, exact scores, beams, and a rule that it must learn."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import (
    N_ITEMS,
    Built,
    build,
    random_sequences,
    randomize,
    settings,
    write_dataset,
)

from recbole_mscgrec.data.tiled_rows import target_list_field

Tensor = torch.Tensor


def test_learns_that_the_next_item_is_the_item_plus_one(trained: object) -> None:
    assert trained.result["test_result"]["recall@1"] > 0.9
    assert trained.result["best_valid_result"]["recall@1"] > 0.9


@torch.no_grad()
def test_widest_beam_equals_predict_and_full_sort_predict(random_model: Built) -> None:
    model = random_model.model
    interaction = random_model.test.dataset.inter_feat[:7]
    exact = model.full_sort_predict(interaction)  # (7, N)
    assert (exact[:, 0] == -torch.inf).all()
    torch.testing.assert_close(exact[:, 1:].exp().sum(1), torch.ones(7))
    for item in range(1, model.n_items):
        interaction.interaction[model.ITEM_ID] = torch.full((7,), item)
        torch.testing.assert_close(model.predict(interaction), exact[:, item])
    beams = model.recommend(interaction, beam_size=N_ITEMS)
    order = exact[:, 1:].argsort(dim=1, descending=True) + 1
    assert torch.equal(beams.items, order)
    torch.testing.assert_close(beams.log_probs, exact.gather(1, order), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_predict_does_not_depend_on_the_other_rows(random_model: Built) -> None:
    interaction = random_model.test.dataset.inter_feat
    together = random_model.model.predict(interaction)
    alone = torch.cat([random_model.model.predict(interaction[[i]]) for i in range(5)])
    torch.testing.assert_close(alone, together[:5])


def dict_log_prob(model: object, trie: dict, codes: Tensor, history: Tensor, item: int) -> float:
    """Sum of log softmax over the children of the gold prefixes; no PrefixTree."""
    gold, network = codes[item].tolist(), model.network
    step = network.decoder_step(network.encode(history), torch.tensor([[history.size(1) - 1]]))
    total, given, first = 0.0, None, torch.tensor([0])
    nodes = network.tree.path(torch.tensor([item]))
    for level, code in enumerate(gold):
        logits = step(level, first, nodes[level], given, None if given is None else first)[0]
        children = sorted(trie[tuple(gold[:level])])
        total += float(logits[children].log_softmax(0)[children.index(code)])
        given = torch.tensor([code])
    return total


@torch.no_grad()
def test_loss_is_the_mean_cross_entropy_over_the_children(random_model: Built) -> None:
    model, rows = random_model.model, random_model.train.dataset.inter_feat[:14]
    codes = model.code_state["table"]["codes"]["collaborative"]
    trie: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for code in codes[1:].tolist():
        for level, c in enumerate(code):
            trie[tuple(code[:level])].add(c)
    by_hand = []
    targets = rows[target_list_field(random_model.config)]
    for history, row in zip(rows[model.ITEM_SEQ], targets, strict=True):
        for t, item in enumerate(row.tolist()):
            if item:
                prefix = history[: t + 1].unsqueeze(0)
                by_hand.append(-dict_log_prob(model, trie, codes, prefix, item))
    loss = model.calculate_loss(rows)
    assert float(loss) == pytest.approx(sum(by_hand) / len(by_hand), rel=1e-4)
    assert len(by_hand) > 20


@torch.no_grad()
def test_loss_equals_predict_on_the_prefixes(
    random_model: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tiled loss and the exact score of single items, by the network alone, are the same
    number."""
    monkeypatch.setattr(random_model.model, "transition_weight", 0.0)
    model, rows = random_model.model, random_model.train.dataset.inter_feat
    scores = []
    targets = rows[target_list_field(random_model.config)]
    for history, row in zip(rows[model.ITEM_SEQ], targets, strict=True):
        for t in row.nonzero().flatten().tolist():
            interaction = {
                model.ITEM_SEQ: history.masked_fill(torch.arange(len(history)) > t, 0)[None],
                model.ITEM_SEQ_LEN: torch.tensor([t + 1]),
                model.ITEM_ID: row[t : t + 1],
            }
            scores.append(model.predict(interaction))
    torch.testing.assert_close(model.calculate_loss(rows), -torch.cat(scores).mean())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_decoded_sequence_of_a_random_model_is_a_real_item(tmp_path: Path, seed: int) -> None:
    write_dataset(tmp_path / "data", "noise", random_sequences(50, 37, 4, 15, seed))
    config = settings(tmp_path, seed=seed, modalities=["collaborative"], beam_size=20)
    built = build("MSCGRec", "noise", config)
    randomize(built.model, seed)
    built.model.eval()
    with torch.no_grad():
        items = built.model.recommend(built.test.dataset.inter_feat).items
    assert ((items >= 1) & (items < built.model.n_items)).all()
    assert all(len(set(row)) == 20 for row in items.tolist())


def test_model_of_one_seed_is_always_the_same(rule_folder: Path) -> None:
    first = build("MSCGRec", "rule", settings(rule_folder)).model
    again = build("MSCGRec", "rule", settings(rule_folder)).model  # now with everything cached
    other = build("MSCGRec", "rule", settings(rule_folder, seed=1)).model
    weights = [m.network.encoder[0].qkv.weight for m in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_beams_fewer_than_asked_are_refused_before_anything_is_trained(rule_folder: Path) -> None:
    for wrong in ("ten", 12.5, True):
        with pytest.raises(ValueError, match=r"beam_size .* must be a whole number"):
            build("MSCGRec", "rule", settings(rule_folder, beam_size=wrong))
    with pytest.raises(ValueError, match=r"beam_size \(5\) must be at least max\(topk\) \(10\)"):
        build("MSCGRec", "rule", settings(rule_folder, beam_size=5))
    assert not (rule_folder / "cache").exists()


def test_a_beam_is_by_default_twice_as_wide_as_the_longest_list(rule_folder: Path) -> None:
    built = build("MSCGRec", "rule", settings(rule_folder, beam_size=None, topk=[1, 7, 10]))
    assert built.model.beam_size == 20


@torch.no_grad()
def test_without_a_modality_its_codes_do_not_matter(random_model: Built) -> None:
    """Other text embeddings change the scores, but not where text is left out."""
    model, rows = random_model.model, random_model.test.dataset.inter_feat[:7]
    network, weight = model.network, model.network.history.code_embedding.weight
    first = 1 + 1 + sum(network.level_sizes)  # rows: padding, the mask and codes of collaborative
    assert network.history.modalities == ["collaborative", "text"]
    before, held = model.full_sort_predict(rows), weight.clone()
    with model.without_modality("text"):
        without = model.full_sort_predict(rows)
    weight[first + 1 :] *= -3.0  # all codes of text, not its mask
    try:
        changed = model.full_sort_predict(rows) - before
        assert changed[before.isfinite()].abs().max() > 1e-2
        with model.without_modality("text"):
            assert torch.equal(model.full_sort_predict(rows), without)
    finally:
        weight.copy_(held)
    assert torch.equal(model.full_sort_predict(rows), before)
    assert (without - before)[before.isfinite()].abs().max() > 1e-3


@pytest.mark.parametrize("train_rows", ["tiled", "prefix"])
def test_the_training_loss_is_compiled_if_it_is_asked_for(
    rule_folder: Path, train_rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[str] = []

    def count(function: Any, dynamic: bool) -> Any:
        def call(*args: Any) -> Any:
            compiled.append(function.__name__)
            return function(*args)

        return call

    monkeypatch.setattr(torch, "compile", count)
    losses = []
    for choice in ({}, {"compile": True}, {"compile": False}):
        chosen = settings(rule_folder, train_rows=train_rows, dropout_prob=0.0, **choice)
        built = build("MSCGRec", "rule", chosen)
        randomize(built.model)
        loss = built.model.calculate_loss(built.train.dataset.inter_feat[:5])
        losses.append(float(loss.detach()))
        assert compiled == ["_loss"] * choice.get("compile", False)
        compiled.clear()
    assert losses[0] == losses[1] == losses[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"modality_mask_prob": 0.2, "neighbour_prob": 0.2},
        {"learned_items": 30, "history_vectors": True},
        {"learned_items": 7},
        {"history_tokens": "code", "code_bias": True},
        {"train_rows": "prefix", "constrained_training": False},
    ],
    ids=str,
)
def test_the_training_loss_compiles_to_one_graph(rule_folder: Path, changes: dict) -> None:
    built = build("MSCGRec", "rule", settings(rule_folder, dropout_prob=0.0, **changes))
    model, batch = built.model, next(iter(built.train))
    randomize(model)
    calls: list[tuple] = []
    model._training_loss = lambda *args: calls.append(args)
    model.train().calculate_loss(batch)
    torch._dynamo.reset()
    told = torch._dynamo.explain(model._loss)(*calls[0])
    assert (told.graph_count, told.graph_break_count) == (1, 0), told.break_reasons
    torch.manual_seed(1)
    exact = model._loss(*calls[0])
    exact.backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    if "modality_mask_prob" not in changes:  # which draws other numbers
        model.zero_grad()
        found = torch.compile(model._loss, backend="eager", dynamic=False)(*calls[0])
        found.backward()
        torch.testing.assert_close(found, exact)
        again = [p.grad for p in model.parameters() if p.grad is not None]
        torch.testing.assert_close(again, gradients, rtol=1e-3, atol=1e-5)
