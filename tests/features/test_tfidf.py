"""TF-IDF vectors, and the same vectors from what is kept of them."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from tiny import item_texts

from recbole_mscgrec.features import tfidf as tfidf_module
from recbole_mscgrec.features.tfidf import Tfidf, fit_tfidf


def test_like_texts_get_like_vectors() -> None:
    texts = ["red apple", "green apple", "fast car", "slow car", "red apple"]
    vectors = fit_tfidf(texts, 4, 0)[1]
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(vectors[0], vectors[4])
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > similarity[0, 2] + 0.1
    assert torch.equal(vectors, fit_tfidf(texts, 4, 0)[1])
    assert vectors.dtype == torch.float32 and vectors.shape == (5, 4)


def test_few_or_wordless_texts() -> None:
    assert fit_tfidf(["only text"], 64, 0)[1].shape[0] == 1
    with pytest.raises(ValueError, match="no usable word in 2 item texts.*text_columns"):
        fit_tfidf(["?", "!"], 4, 0)


@pytest.mark.parametrize("n_texts", [30, 1])  # with SVD, and too few texts for it
def test_a_known_text_gets_its_vector_from_the_kept_arrays(n_texts: int) -> None:
    texts = list(item_texts().values())[:n_texts]
    tfidf, vectors = fit_tfidf(texts, 8, 0)
    stored = safetensors.torch.load(safetensors.torch.save(tfidf.to_tensors()))
    kept = Tfidf.from_tensors(stored)
    assert torch.equal(kept.vectors(texts), vectors)
    assert torch.equal(kept.vectors(texts[-1:]), vectors[-1:])


def test_a_new_text_is_near_the_texts_with_its_words_and_unknown_words_count_nothing() -> None:
    tfidf, vectors = fit_tfidf(list(item_texts().values()), 8, 0)
    near, alike, nothing = tfidf.vectors(["new fives2", "fives2", "new"])
    torch.testing.assert_close(near, alike)
    assert (vectors @ near).topk(5).indices.sort().values.tolist() == [10, 11, 12, 13, 14]
    assert not nothing.any()


def test_many_texts_keep_the_most_frequent_words_and_a_sample_fits_the_axes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [f"shared{n % 4} rare{n}" for n in range(60)]
    all_words, plain = fit_tfidf(texts, 4, 0)
    assert len(all_words.words) == 64
    monkeypatch.setattr(tfidf_module, "_ROWS_AT_ONCE", 7)
    assert torch.equal(fit_tfidf(texts, 4, 0)[1], plain)  # in blocks
    monkeypatch.setattr(tfidf_module, "_ALL_WORDS_UP_TO", 59)
    monkeypatch.setattr(tfidf_module, "_MOST_WORDS", 4)
    monkeypatch.setattr(tfidf_module, "_FITTED_TO", 30)
    capped, vectors = fit_tfidf(texts, 2, 0)
    assert capped.words == [f"shared{n}" for n in range(4)]
    assert vectors.shape == (60, 2) and torch.equal(vectors, fit_tfidf(texts, 2, 0)[1])
    torch.testing.assert_close(vectors[:4], vectors[56:])  # the same but for the rare word
