"""History tokens on hand-made codes: embeddings, missing and masked modalities, the two forms."""

from __future__ import annotations

import pytest
import torch
from tiny import code_table, randomize

from recbole_mscgrec.network.history import HistoryTokens
from recbole_mscgrec.semantic_ids.code_table import MISSING, CodeTable


def tokens(codes: CodeTable, form: str = "item", **changes: float) -> HistoryTokens:
    torch.manual_seed(0)
    made = HistoryTokens(codes, 16, form, **changes)
    randomize(made)
    with torch.no_grad():
        made.code_embedding.weight[0].zero_()  # the padding row, which training never moves
    return made.eval()


def embed(model: HistoryTokens, items: torch.Tensor) -> torch.Tensor:
    return model(items)[0]


def test_item_vector_is_the_sum_of_its_codes_rows() -> None:
    codes = code_table()
    model = tokens(codes)
    weight = model.code_embedding.weight
    # Rows: 0 padding; a: 1 mask, then 4 + 5 + 3 codewords; text: 14 mask, then 6 + 6 codewords.
    for item in (3, 8):  # item 8 lacks text
        a, text = codes.codes["a"][item], codes.codes["text"][item]
        rows = [2 + a[0], 6 + a[1], 11 + a[2]]
        rows += [14] if text[0] == MISSING else [14 + 1 + text[0], 14 + 7 + text[1]]
        expected = weight[torch.tensor([int(r) for r in rows])].sum(0)
        torch.testing.assert_close(embed(model, torch.tensor([[item]]))[0, 0], expected)
    assert model.n_rows == 1 + 13 + 13
    assert (embed(model, torch.tensor([[0]])) == 0).all()


def test_masking_hides_modalities_but_never_all_of_an_item() -> None:
    codes = code_table()
    model = tokens(codes, mask_prob=1.0).train()
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
    model = tokens(full, mask_prob=0.25)
    items = torch.ones(100, 100, dtype=torch.long)
    assert embed(model, items).flatten(0, 1).unique(dim=0).size(0) == 1
    torch.manual_seed(0)
    # Each of three is masked with probability 1/4; all three with (1/4)^3, and then one stays.
    share = float(model.train()._random_mask(items).float().mean())
    assert share == pytest.approx(0.25 - 0.25**3 / 3, abs=0.01)
    assert embed(model, items).flatten(0, 1).unique(dim=0).size(0) == 7
    assert not model._random_mask(torch.zeros(5, 5, dtype=torch.long)).any()


def test_a_masked_modality_uses_the_embedding_of_a_missing_one() -> None:
    codes = code_table()
    model = tokens(codes, mask_prob=1.0).train()
    torch.manual_seed(0)
    weight = model.code_embedding.weight
    drawn = embed(model, torch.full((1, 50), 3)).squeeze(0).unique(dim=0)
    a, text = codes.codes["a"][3], codes.codes["text"][3]
    rows_a = torch.tensor([2 + a[0], 6 + a[1], 11 + a[2]])
    rows_text = torch.tensor([15 + text[0], 21 + text[1]])
    only_text = weight[1] + weight[rows_text].sum(0)
    only_a = weight[rows_a].sum(0) + weight[14]
    assert len(drawn) == 2
    for expected in (only_text, only_a):
        assert any(torch.allclose(row, expected, atol=1e-5) for row in drawn)


def test_index_without_a_modality_is_that_of_a_catalogue_that_lacks_it() -> None:
    codes = code_table()
    lacking = {**codes.codes, "text": torch.full_like(codes.codes["text"], MISSING)}
    expected = tokens(CodeTable(lacking, codes.sizes, "a")).item_index
    model = tokens(codes)
    before = model.item_index.clone()
    assert torch.equal(model.index_without("text"), expected)
    # a: the mask row 1 and twice the zero row, for every item but the padding
    assert model.index_without("a")[1:, :3].unique(dim=0).tolist() == [[1, 0, 0]]
    assert torch.equal(model.index_without("a")[:, 3:], before[:, 3:])
    assert torch.equal(model.item_index, before) and not model.index_without("a")[0].any()


def test_a_modality_that_cannot_be_left_out_is_refused() -> None:
    codes = code_table()
    with pytest.raises(ValueError, match=r"eval_drop_modality \(image\) .* has \['a', 'text'\]"):
        tokens(codes).index_without("image")
    alone = CodeTable({"a": codes.codes["a"]}, {"a": codes.sizes["a"]}, "a")
    with pytest.raises(ValueError, match=r"eval_drop_modality \(a\) .* it has \['a'\]"):
        tokens(alone).index_without("a")


def test_a_token_per_code_holds_the_rows_of_the_code() -> None:
    codes = code_table()
    model = tokens(codes, "code")
    weight = model.code_embedding.weight
    x, keep = model(torch.tensor([[3, 8], [5, 0]]))
    assert x.shape == (2, 10, 16)
    # As above: a has rows 2.., 6.., 11..; item 8 lacks text and has its mask row 14 once.
    a = codes.codes["a"][8]
    expected = [weight[int(r)] for r in (2 + a[0], 6 + a[1], 11 + a[2], 14)]
    torch.testing.assert_close(x[0, 5:9], torch.stack(expected))
    assert keep.tolist() == [[True] * 9 + [False], [True] * 5 + [False] * 5]


def test_a_masked_modality_is_one_token() -> None:
    codes = code_table()
    model = tokens(codes, "code", mask_prob=1 - 1e-9).train()
    torch.manual_seed(0)
    x, keep = model(torch.full((1, 40), 3))
    kinds = {tuple(row) for row in keep.view(40, 5).tolist()}
    assert kinds == {(True, False, False, True, True), (True, True, True, True, False)}
    masked = keep.view(40, 5)[:, 4].logical_not()
    assert torch.equal(x.view(40, 5, 16)[masked][0, 3], model.code_embedding.weight[14])


def test_an_empty_row_keeps_a_key() -> None:
    _, keep = tokens(code_table(), "code")(torch.zeros(1, 3, dtype=torch.long))
    assert keep.tolist() == [[True] + [False] * 14]


def test_learned_places_inside_an_item_are_added() -> None:
    codes = code_table()
    plain = tokens(codes, "code")
    placed = HistoryTokens(codes, 16, "code", code_positions=True)
    placed.code_embedding = plain.code_embedding
    items = torch.tensor([[4, 4, 9]])
    added = (embed(placed, items) - embed(plain, items))[0].view(3, -1, 16)
    torch.testing.assert_close(added, placed.code_position.weight.expand_as(added))


def unit_vectors(codes: CodeTable) -> dict[str, torch.Tensor]:
    vectors = torch.randn(codes.n_items, 5, generator=torch.Generator().manual_seed(1))
    vectors[0] = 0
    vectors[codes.codes["text"][:, 0] == MISSING] = 0
    return {"text": vectors}


def test_vectors_add_their_map_to_the_tokens_of_items_that_have_them() -> None:
    codes = code_table()
    vectors = unit_vectors(codes)
    model, plain = tokens(codes, vectors=vectors), tokens(codes)
    with torch.no_grad():
        plain.code_embedding.weight.copy_(model.code_embedding.weight)
    items = torch.tensor([[3, 8, 0]])  # item 8 lacks text
    added = vectors["text"].half().float()[items] @ model.vector_parts["text"].map.weight.T
    torch.testing.assert_close(embed(model, items), embed(plain, items) + added)
    assert float(added[0, 0].abs().sum()) > 1
    with model.without("text"), plain.without("text"):
        torch.testing.assert_close(embed(model, items), embed(plain, items))
    torch.testing.assert_close(embed(model, items), embed(plain, items) + added)


def test_a_masked_modality_takes_its_vector_along() -> None:
    codes = code_table()
    model = tokens(codes, vectors=unit_vectors(codes), mask_prob=0.999).train()
    items = torch.full((1, 200), 3)
    found = embed(model, items)[0]
    with model.eval().without("text"):
        without_text = embed(model, items[:, :1])[0, 0]
    hidden = (found - without_text).abs().amax(1) < 1e-5
    assert 0.3 < float(hidden.float().mean()) < 0.7  # one of the two modalities stays
