"""The sequence model on hand-made codes: embeddings, masks, causality, exact probabilities."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from tiny import code_table, learned_ids, network_sizes, randomize

from recbole_mscgrec.network.block_attention import Windows
from recbole_mscgrec.network.model import CodeNetwork
from recbole_mscgrec.semantic_ids.code_table import MISSING, CodeTable

Tensor = torch.Tensor


def network(codes: CodeTable, **changes: Any) -> CodeNetwork:
    torch.manual_seed(0)
    sizes = network_sizes(**changes)
    learned = learned_ids(sizes.learned_items, codes.n_items - 1)
    model = CodeNetwork(codes, sizes, learned=learned)
    randomize(model)
    with torch.no_grad():
        model.history.code_embedding.weight[
            0
        ].zero_()  # the padding row, which training never moves
    return model.eval()


def item_log_probs(model: CodeNetwork, *targets: Any, **changes: Any) -> Tensor:
    return model.level_log_probs(*targets, **changes).sum(0)


def histories(n_items: int, n_rows: int = 4, length: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(1, length + 1, (n_rows,), generator=generator)
    items = torch.randint(1, n_items, (n_rows, length), generator=generator)
    return items * (torch.arange(length) < lengths.unsqueeze(1)), lengths


def log_prob_by_hand(model: CodeNetwork, codes: Tensor, history: Tensor, item: int) -> Tensor:
    """Cross-entropy over the children of each gold prefix, one level and one item at a time.

    The children come from Python dicts over the code table, the logits from the decoder run one
    level at a time.
    """
    children: dict[tuple[int, ...], set[int]] = defaultdict(set)
    for code in codes[1:].tolist():
        for level, c in enumerate(code):
            children[tuple(code[:level])].add(c)
    gold = codes[item].tolist()
    step = model.decoder_step(model.encode(history), torch.tensor([[history.size(1) - 1]]))
    total, given, first = torch.zeros(()), None, torch.tensor([0])
    nodes = model.tree.path(torch.tensor([item]))
    for level, c in enumerate(gold):
        logits = step(level, first, nodes[level], given, None if given is None else first)[0]
        allowed = sorted(children[tuple(gold[:level])])
        loss = torch.nn.functional.cross_entropy(logits[allowed], torch.tensor(allowed.index(c)))
        total, given = total - loss, torch.tensor([c])
    return total


@pytest.mark.parametrize("learned", [0, 5, 24])
@pytest.mark.parametrize("sizes", [(4, 5, 3), (30,), (2, 40), (3, 2, 2, 9)], ids=str)
def test_item_log_probs_equal_hand_made_cross_entropy(sizes: tuple[int, ...], learned: int) -> None:
    codes = code_table(sizes=sizes)
    model = network(codes, learned_items=learned)
    history, lengths = histories(codes.n_items)
    encoded = model.encode(history)
    items = torch.tensor([3, 24, 1, 17])
    found = item_log_probs(model, encoded, (lengths - 1).unsqueeze(1), items, torch.arange(4))
    for row in range(4):
        alone = history[row : row + 1, : lengths[row]]
        expected = log_prob_by_hand(model, codes.codes["a"], alone, int(items[row]))
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_a_window_with_a_target_at_every_position_equals_its_prefixes() -> None:
    codes = code_table()
    model = network(codes)
    history = torch.tensor([[5, 9, 2, 2, 11]])
    targets = torch.tensor([9, 2, 2, 11, 7])
    limit = torch.arange(5).unsqueeze(0)
    found = item_log_probs(model, model.encode(history), limit, targets, torch.arange(5))
    for t in range(5):
        prefix = history[:, : t + 1]
        expected = log_prob_by_hand(model, codes.codes["a"], prefix, int(targets[t]))
        torch.testing.assert_close(found[t], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("learned", [0, 5, 24])
@pytest.mark.parametrize("sizes", [(4, 5, 3), (30,), (2, 40)], ids=str)
def test_probabilities_of_all_items_sum_to_one(sizes: tuple[int, ...], learned: int) -> None:
    codes = code_table(sizes=sizes)
    model = network(codes, learned_items=learned)
    history, lengths = histories(codes.n_items)
    items = torch.arange(1, codes.n_items)
    total = torch.zeros(4)
    for row in range(4):
        limit = (lengths[row] - 1).view(1, 1).expand(1, len(items))
        encoded = model.encode(history[row : row + 1])
        log_probs = item_log_probs(model, encoded, limit, items, torch.arange(len(items)))
        total[row] = log_probs.exp().sum()
    torch.testing.assert_close(total, torch.ones(4))


@pytest.mark.parametrize("sizes", [(4, 5, 3), (30,), (2, 40), (3, 2, 2, 9)], ids=str)
def test_widest_beam_equals_brute_force(sizes: tuple[int, ...]) -> None:
    codes = code_table(sizes=sizes)
    model = network(codes)
    history, lengths = histories(codes.n_items)
    beams = model.beams(model.encode(history), (lengths - 1).unsqueeze(1), codes.n_items - 1)
    for row in range(4):
        alone = history[row : row + 1, : lengths[row]]
        exact = {
            item: float(log_prob_by_hand(model, codes.codes["a"], alone, item).detach())
            for item in range(1, codes.n_items)
        }
        assert beams.items[row].tolist() == sorted(exact, key=lambda item: -exact[item])
        expected = torch.tensor(sorted(exact.values(), reverse=True))
        torch.testing.assert_close(beams.log_probs[row], expected, rtol=1e-4, atol=1e-4)


def test_codebooks_with_codes_that_no_item_uses() -> None:
    """As after quantizing fewer distinct vectors than codewords: the last codewords are unused."""
    used = code_table()
    codes = CodeTable(used.codes, {"a": [9, 9, 9], "text": [6, 6]}, "a")
    model = network(codes)
    history, lengths = histories(codes.n_items)
    beams = model.beams(model.encode(history), (lengths - 1).unsqueeze(1), codes.n_items - 1)
    assert all(sorted(row) == list(range(1, 25)) for row in beams.items.tolist())
    torch.testing.assert_close(beams.log_probs.exp().sum(1), torch.ones(4))


def test_the_future_and_the_padding_change_nothing() -> None:
    codes = code_table()
    model = network(codes)
    short = torch.tensor([[5, 9, 2]])
    longer = torch.tensor([[5, 9, 2, 14, 3, 0]])
    torch.testing.assert_close(model.encode(short).states, model.encode(longer).states[:, :3])
    limit = torch.tensor([[2]])
    first = model.beams(model.encode(short), limit, 5)
    second = model.beams(model.encode(longer), limit, 5)
    assert torch.equal(first.items, second.items)
    torch.testing.assert_close(first.log_probs, second.log_probs)


def test_neighbours_stand_in_for_items_in_training_only() -> None:
    model, plain = network(code_table(), neighbour_prob=0.9), network(code_table())
    items = torch.tensor([[5, 9, 2, 14, 3, 0]])
    expected = plain.encode(items).states
    torch.testing.assert_close(model.encode(items).states, expected)
    found = model.train().encode(items).states.detach()  # dropout is 0
    assert not torch.allclose(found, expected) and float(found[0, 5].abs().sum()) == 0


@pytest.mark.parametrize(
    "form",
    [{}, {"history_tokens": "code", "code_bias": True}],
    ids=["item", "code"],
)
def test_long_windows_go_by_blocks_and_give_the_same(
    monkeypatch: pytest.MonkeyPatch, form: dict
) -> None:
    codes = code_table()
    history, _ = histories(codes.n_items, n_rows=3, length=70)
    history[1, 4:] = 0
    place = ((history.roll(-1, 1) != 0) & (history != 0)).flatten().nonzero().flatten()
    targets, limit = history.roll(-1, 1).flatten()[place], torch.arange(70).unsqueeze(0)
    results = []
    for by_blocks in (True, False):
        if not by_blocks:
            monkeypatch.setattr(Windows, "where_faster", lambda *_: None)
        model = network(codes, **form)
        encoded = model.encode(history)
        assert (encoded.windows is not None) == by_blocks
        found = item_log_probs(model, encoded, limit, targets, place)
        found.sum().backward()
        results.append([found, *(p.grad for p in model.parameters() if p.grad is not None)])
    for blocks, plain in zip(*results, strict=True):
        torch.testing.assert_close(blocks, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("form", [{}, {"history_tokens": "code"}], ids=["item", "code"])
def test_linear_maps_of_the_encoder_see_no_padding(form: dict) -> None:
    model, n_seen = network(code_table(), **form), []
    for block in model.encoder:
        block.feed_forward.register_forward_hook(lambda _, x, out: n_seen.append(len(x[0])))
    items = torch.tensor([[5, 9, 2, 0, 0], [7, 0, 0, 0, 0]])
    per_item = model.history.item_index[items[items != 0]]
    expected = int((per_item != 0).sum()) if form else 4
    states = model.encode(items).states
    assert n_seen == [expected] * len(model.encoder)
    assert float(states.detach()[1, model.history.per_item :].abs().sum()) == 0


@pytest.mark.parametrize("kernel_size", [0, 3])
def test_the_history_and_its_order_matter(kernel_size: int) -> None:
    codes = code_table()
    model = network(codes, conv_kernel_size=kernel_size)
    rows = torch.tensor([[5, 9, 2], [9, 5, 2], [5, 10, 2]])
    limit = torch.full((3, 1), 2)
    log_probs = item_log_probs(
        model, model.encode(rows), limit, torch.tensor([7, 7, 7]), torch.arange(3)
    )
    assert len(set(log_probs.tolist())) == 3


def test_one_item_has_probability_one() -> None:
    codes = CodeTable({"a": torch.tensor([[MISSING], [0]])}, {"a": [1]}, "a")
    model = network(codes)
    encoded = model.encode(torch.tensor([[1, 1]]))
    log_probs = item_log_probs(
        model, encoded, torch.tensor([[1]]), torch.tensor([1]), torch.tensor([0])
    )
    assert log_probs.tolist() == [0.0]
    assert model.beams(encoded, torch.tensor([[1]]), 3).items.tolist() == [[1, 0, 0]]


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"hidden_size \(16\) must be a multiple of n_heads \(3\)"):
        network(code_table(), n_heads=3)


FORMS = [
    {},
    {"decoder": "t5"},
    {"history_tokens": "code", "code_bias": True},
    {"history_tokens": "code", "decoder": "t5"},
    {"history_tokens": "code", "code_bias": True, "decoder": "t5"},
    {"learned_items": 24},
    {"learned_items": 5},
]
BIDIRECTIONAL = [{**form, "encoder_attention": "bidirectional"} for form in FORMS]
FORMS += [
    {"conv_kernel_size": 3},
    {"conv_kernel_size": 4, "learned_items": 24, "decoder": "t5"},
]


def form_id(form: dict) -> str:
    return ",".join(f"{k}={v}" for k, v in form.items()) or "default"


@pytest.mark.parametrize("form", FORMS, ids=form_id)
def test_every_causal_form_equals_its_prefixes(form: dict) -> None:
    """A window with a target at every position, each target alone, and the exhaustive beam give the
    same probabilities; items behind the last one that counts change nothing."""
    codes = code_table()
    model = network(codes, **form)
    history, targets = torch.tensor([[5, 8, 2, 2, 11, 0]]), torch.tensor([8, 2, 2, 11, 7])
    limit = torch.arange(6).unsqueeze(0)
    together = item_log_probs(model, model.encode(history), limit, targets, torch.arange(5))
    for t in range(5):
        encoded, last = model.encode(history[:, : t + 1]), torch.tensor([[t]])
        beams = model.beams(encoded, last, codes.n_items - 1)
        (rank,) = (beams.items[0] == targets[t]).nonzero().flatten()
        torch.testing.assert_close(together[t], beams.log_probs[0, rank], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(beams.log_probs.exp().sum(), torch.ones(()))


@pytest.mark.parametrize("form", BIDIRECTIONAL, ids=form_id)
def test_every_bidirectional_form_ignores_padding_and_sees_all_items(form: dict) -> None:
    model = network(code_table(), **form)
    short, longer = torch.tensor([[5, 8, 2]]), torch.tensor([[5, 8, 2, 0, 0]])
    n = 3 * model.history.per_item
    states = model.encode(short).states
    torch.testing.assert_close(model.encode(longer).states[:, :n], states)
    changed = model.encode(torch.tensor([[5, 8, 3]])).states
    assert not torch.allclose(changed[:, 0], states[:, 0])
    limit = torch.tensor([[2]])
    one, two = (model.beams(model.encode(items), limit, 24) for items in (short, longer))
    assert torch.equal(one.items, two.items)
    torch.testing.assert_close(one.log_probs, two.log_probs)


@pytest.mark.parametrize("form", [*FORMS, *BIDIRECTIONAL], ids=form_id)
def test_gradients_reach_every_parameter_of_every_form(form: dict) -> None:
    model = network(code_table(), modality_mask_prob=0.3, **form).train()
    history = torch.randint(1, 25, (40, 6), generator=torch.Generator().manual_seed(0))
    items, place = history.flip(1).flatten(), torch.arange(40 * 6)
    limit, encoded = torch.arange(6).unsqueeze(0), model.encode(history)
    log_probs = item_log_probs(model, encoded, limit, items, place, False)
    log_probs.mean().neg().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


@pytest.mark.parametrize("learned", [0, 5, 24])
@pytest.mark.parametrize("sizes", [(4, 5, 3), (30,), (2, 40)], ids=str)
def test_without_the_constraint_the_softmax_runs_over_all_codewords(
    sizes: tuple, learned: int
) -> None:
    codes = code_table(sizes=sizes)
    model = network(codes, learned_items=learned)
    history, lengths = histories(codes.n_items)
    encoded, limit = model.encode(history), (lengths - 1).unsqueeze(1)
    items = torch.tensor([3, 24, 1, 17])
    found = item_log_probs(model, encoded, limit, items, torch.arange(4), constrained=False)
    for row, item in enumerate(items.tolist()):
        alone = history[row : row + 1, : lengths[row]]
        step = model.decoder_step(model.encode(alone), limit[row : row + 1])
        total, given, first = 0.0, None, torch.tensor([0])
        nodes = model.tree.path(torch.tensor([item]))
        for level, code in enumerate(codes.codes["a"][item].tolist()):
            logits = step(level, first, nodes[level], given, None if given is None else first)[0]
            total += float(logits.log_softmax(0)[code])
            given = torch.tensor([code])
        assert float(found[row]) == pytest.approx(total, rel=1e-4)
    beams = model.beams(encoded, limit, 24, constrained=False)
    at = (beams.items == items.unsqueeze(1)).nonzero()[:, 1]
    torch.testing.assert_close(beams.log_probs[torch.arange(4), at], found, rtol=1e-4, atol=1e-5)
