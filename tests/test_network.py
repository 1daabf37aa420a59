"""The sequence model on hand-made codes: embeddings, masks, causality, exact probabilities."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from tiny import randomize

from recbole_mscgrec.codes import MISSING, CodeTable
from recbole_mscgrec.network import CodeNetwork, Sizes

Tensor = torch.Tensor


def table(n_items: int = 25, sizes: tuple[int, ...] = (4, 5, 3), seed: int = 0) -> CodeTable:
    """Random unique target codes; a text modality that every fourth item lacks."""
    generator = torch.Generator().manual_seed(seed)
    everything = torch.cartesian_prod(*(torch.arange(s) for s in sizes)).view(-1, len(sizes))
    chosen = everything[torch.randperm(len(everything), generator=generator)[: n_items - 1]]
    text = torch.randint(6, (n_items, 2), generator=generator)
    text[::4] = MISSING
    target = torch.cat([torch.full((1, len(sizes)), MISSING), chosen])
    return CodeTable({"a": target, "text": text}, {"a": list(sizes), "text": [6, 6]}, "a")


def network(codes: CodeTable, **changes: float) -> CodeNetwork:
    sizes = Sizes(16, 32, 2, 2, 2, 0.0, 8, 16, 0.0)._replace(**changes)
    torch.manual_seed(0)
    model = CodeNetwork(codes, sizes)
    randomize(model)
    with torch.no_grad():
        model.code_embedding.weight[0].zero_()  # the padding row, which training never moves
    return model.eval()


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
    for level, c in enumerate(gold):
        logits = step(level, first, given, None if given is None else first)[0]
        allowed = sorted(children[tuple(gold[:level])])
        loss = torch.nn.functional.cross_entropy(logits[allowed], torch.tensor(allowed.index(c)))
        total, given = total - loss, torch.tensor([c])
    return total


@pytest.mark.parametrize("sizes", [(4, 5, 3), (30,), (2, 40), (3, 2, 2, 9)], ids=str)
def test_item_log_probs_equal_hand_made_cross_entropy(sizes: tuple[int, ...]) -> None:
    codes = table(sizes=sizes)
    model = network(codes)
    history, lengths = histories(codes.n_items)
    encoded = model.encode(history)
    items = torch.tensor([3, 24, 1, 17])
    found = model.item_log_probs(encoded, (lengths - 1).unsqueeze(1), items, torch.arange(4))
    for row in range(4):
        alone = history[row : row + 1, : lengths[row]]
        expected = log_prob_by_hand(model, codes.codes["a"], alone, int(items[row]))
        torch.testing.assert_close(found[row], expected, rtol=1e-4, atol=1e-5)


def test_a_window_with_a_target_at_every_position_equals_its_prefixes() -> None:
    codes = table()
    model = network(codes)
    history = torch.tensor([[5, 9, 2, 2, 11]])
    targets = torch.tensor([9, 2, 2, 11, 7])
    limit = torch.arange(5).unsqueeze(0)
    found = model.item_log_probs(model.encode(history), limit, targets, torch.arange(5))
    for t in range(5):
        prefix = history[:, : t + 1]
        expected = log_prob_by_hand(model, codes.codes["a"], prefix, int(targets[t]))
        torch.testing.assert_close(found[t], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sizes", [(4, 5, 3), (30,), (2, 40)], ids=str)
def test_probabilities_of_all_items_sum_to_one(sizes: tuple[int, ...]) -> None:
    codes = table(sizes=sizes)
    model = network(codes)
    history, lengths = histories(codes.n_items)
    items = torch.arange(1, codes.n_items)
    total = torch.zeros(4)
    for row in range(4):
        limit = (lengths[row] - 1).view(1, 1).expand(1, len(items))
        encoded = model.encode(history[row : row + 1])
        log_probs = model.item_log_probs(encoded, limit, items, torch.arange(len(items)))
        total[row] = log_probs.exp().sum()
    torch.testing.assert_close(total, torch.ones(4))


@pytest.mark.parametrize("sizes", [(4, 5, 3), (30,), (2, 40), (3, 2, 2, 9)], ids=str)
def test_widest_beam_equals_brute_force(sizes: tuple[int, ...]) -> None:
    codes = table(sizes=sizes)
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
    used = table()
    codes = CodeTable(used.codes, {"a": [9, 9, 9], "text": [6, 6]}, "a")
    model = network(codes)
    history, lengths = histories(codes.n_items)
    beams = model.beams(model.encode(history), (lengths - 1).unsqueeze(1), codes.n_items - 1)
    assert all(sorted(row) == list(range(1, 25)) for row in beams.items.tolist())
    torch.testing.assert_close(beams.log_probs.exp().sum(1), torch.ones(4))


def test_the_future_and_the_padding_change_nothing() -> None:
    codes = table()
    model = network(codes)
    short = torch.tensor([[5, 9, 2]])
    longer = torch.tensor([[5, 9, 2, 14, 3, 0]])
    torch.testing.assert_close(model.encode(short), model.encode(longer)[:, :3])
    limit = torch.tensor([[2]])
    first = model.beams(model.encode(short), limit, 5)
    second = model.beams(model.encode(longer), limit, 5)
    assert torch.equal(first.items, second.items)
    torch.testing.assert_close(first.log_probs, second.log_probs)


def test_the_history_and_its_order_matter() -> None:
    codes = table()
    model = network(codes)
    rows = torch.tensor([[5, 9, 2], [9, 5, 2], [5, 10, 2]])
    limit = torch.full((3, 1), 2)
    log_probs = model.item_log_probs(
        model.encode(rows), limit, torch.tensor([7, 7, 7]), torch.arange(3)
    )
    assert len(set(log_probs.tolist())) == 3


def test_item_vector_is_the_sum_of_its_codes_rows() -> None:
    codes = table()
    model = network(codes)
    weight = model.code_embedding.weight
    # Rows: 0 padding; a: 1 mask, then 4 + 5 + 3 codewords; text: 14 mask, then 6 + 6 codewords.
    for item in (3, 8):  # item 8 lacks text
        a, text = codes.codes["a"][item], codes.codes["text"][item]
        rows = [2 + a[0], 6 + a[1], 11 + a[2]]
        rows += [14] if text[0] == MISSING else [14 + 1 + text[0], 14 + 7 + text[1]]
        expected = weight[torch.tensor([int(r) for r in rows])].sum(0)
        torch.testing.assert_close(model.embed_items(torch.tensor([[item]]))[0, 0], expected)
    assert model.n_code_rows == 1 + 13 + 13
    assert (model.embed_items(torch.tensor([[0]])) == 0).all()


def test_masking_hides_modalities_but_never_all_of_an_item() -> None:
    codes = table()
    model = network(codes, modality_mask_prob=1.0).train()
    torch.manual_seed(0)
    items = torch.randint(1, codes.n_items, (50, 10))
    mask = model._random_mask(items)
    has_text = codes.codes["text"][items][..., 0] != MISSING
    assert (mask.sum(-1)[has_text] == 1).all()  # both drawn, one kept
    assert 0.4 < float(mask[has_text][:, 0].float().mean()) < 0.6
    assert not mask[~has_text][:, 0].any()  # the only modality an item has is kept


def test_masking_happens_with_its_probability_and_only_in_training() -> None:
    full = CodeTable(
        {name: torch.tensor([[MISSING]] + [[i] for i in range(9)]) for name in "abc"},
        dict.fromkeys("abc", [9]),
        "a",
    )
    model = network(full, modality_mask_prob=0.25)
    items = torch.ones(100, 100, dtype=torch.long)
    assert model.embed_items(items).flatten(0, 1).unique(dim=0).size(0) == 1
    torch.manual_seed(0)
    # Each of three is masked with probability 1/4; all three with (1/4)^3, and then one stays.
    share = float(model.train()._random_mask(items).float().mean())
    assert share == pytest.approx(0.25 - 0.25**3 / 3, abs=0.01)
    assert model.embed_items(items).flatten(0, 1).unique(dim=0).size(0) == 7
    assert not model._random_mask(torch.zeros(5, 5, dtype=torch.long)).any()


def test_a_masked_modality_uses_the_embedding_of_a_missing_one() -> None:
    codes = table()
    model = network(codes, modality_mask_prob=1.0).train()
    torch.manual_seed(0)
    weight = model.code_embedding.weight
    drawn = model.embed_items(torch.full((1, 50), 3)).squeeze(0).unique(dim=0)
    a, text = codes.codes["a"][3], codes.codes["text"][3]
    rows_a = torch.tensor([2 + a[0], 6 + a[1], 11 + a[2]])
    rows_text = torch.tensor([15 + text[0], 21 + text[1]])
    only_text = weight[1] + weight[rows_text].sum(0)
    only_a = weight[rows_a].sum(0) + weight[14]
    assert len(drawn) == 2
    for expected in (only_text, only_a):
        assert any(torch.allclose(row, expected, atol=1e-5) for row in drawn)


def test_one_item_has_probability_one() -> None:
    codes = CodeTable({"a": torch.tensor([[MISSING], [0]])}, {"a": [1]}, "a")
    model = network(codes)
    encoded = model.encode(torch.tensor([[1, 1]]))
    log_probs = model.item_log_probs(
        encoded, torch.tensor([[1]]), torch.tensor([1]), torch.tensor([0])
    )
    assert log_probs.tolist() == [0.0]
    assert model.beams(encoded, torch.tensor([[1]]), 3).items.tolist() == [[1, 0, 0]]


def test_gradients_reach_every_parameter() -> None:
    codes = table()
    model = network(codes, modality_mask_prob=0.3).train()
    history = torch.randint(1, 25, (40, 6), generator=torch.Generator().manual_seed(0))
    place = torch.arange(40 * 6)
    limit = torch.arange(6).unsqueeze(0)
    loss = -model.item_log_probs(model.encode(history), limit, history.flip(1).flatten(), place)
    loss.mean().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(ValueError, match=r"hidden_size \(16\) must be a multiple of n_heads \(3\)"):
        network(table(), n_heads=3)


def test_index_without_a_modality_is_that_of_a_catalogue_that_lacks_it() -> None:
    codes = table()
    lacking = {**codes.codes, "text": torch.full_like(codes.codes["text"], MISSING)}
    expected = network(CodeTable(lacking, codes.sizes, "a")).item_index
    model = network(codes)
    before = model.item_index.clone()
    assert torch.equal(model.index_without("text"), expected)
    # a: the mask row 1 and twice the zero row, for every item but the padding
    assert model.index_without("a")[1:, :3].unique(dim=0).tolist() == [[1, 0, 0]]
    assert torch.equal(model.index_without("a")[:, 3:], before[:, 3:])
    assert torch.equal(model.item_index, before) and not model.index_without("a")[0].any()


def test_a_modality_that_cannot_be_left_out_is_refused() -> None:
    codes = table()
    with pytest.raises(ValueError, match=r"eval_drop_modality \(image\) .* has \['a', 'text'\]"):
        network(codes).index_without("image")
    alone = CodeTable({"a": codes.codes["a"]}, {"a": codes.sizes["a"]}, "a")
    with pytest.raises(ValueError, match=r"eval_drop_modality \(a\) .* it has \['a'\]"):
        network(alone).index_without("a")
