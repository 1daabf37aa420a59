"""Text vectors by TF-IDF of words and truncated SVD, fitted to the texts of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
_ALL_WORDS_UP_TO = 100_000  # texts; with more, only the most frequent words are kept
_MOST_WORDS = 100_000
_FITTED_TO = 100_000  # texts; with more, the SVD is fitted to a sample of this size
_ROWS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Tfidf:
    """A fitted TF-IDF with SVD. For a text of the fit it gives the same vector again.

    Attributes:
        words: the vocabulary, in the order of the columns.
        weights: float64 (V,) inverse document frequency of each word.
        components: float64 (D, V) axes of the SVD; None if there were too few texts or words for
            one.
    """

    words: list[str]
    weights: np.ndarray
    components: np.ndarray | None

    def vectors(self, texts: list[str]) -> Tensor:
        """Vectors float32 (n, D), unit length; zero for a text without a word of the vocabulary."""
        vectorizer = _vectorizer(vocabulary=self.words)
        vectorizer.idf_ = self.weights
        return _reduced(vectorizer.transform(texts), self.components)

    def to_tensors(self) -> dict[str, Tensor]:
        """All values as named tensors, for a file that `from_tensors` reads."""
        words = np.frombuffer("\n".join(self.words).encode(), dtype=np.uint8)
        plain = {"words": torch.from_numpy(words.copy()), "weights": torch.from_numpy(self.weights)}
        if self.components is not None:
            plain["components"] = torch.from_numpy(np.ascontiguousarray(self.components))
        return plain

    @classmethod
    def from_tensors(cls, plain: dict[str, Tensor]) -> Tfidf:
        """The TF-IDF from the result of `to_tensors`."""
        words = plain["words"].numpy().tobytes().decode().split("\n")
        components = plain["components"].numpy() if "components" in plain else None
        return cls(words, plain["weights"].numpy(), components)


def fit_tfidf(texts: list[str], size: int, seed: int) -> tuple[Tfidf, Tensor]:
    """Fit a TF-IDF of words, reduced to width `size` by truncated SVD. Returns it with the vectors
    (n, D) of the texts.

    With more than 100,000 texts, the vocabulary consists of the 100,000 most frequent words, and
    the SVD is fitted to a sample of 100,000 texts, which bounds the memory of both.

    Raises:
        UserError: the texts have no usable word.
    """
    from sklearn.decomposition import TruncatedSVD

    most_words = _MOST_WORDS if len(texts) > _ALL_WORDS_UP_TO else None
    vectorizer = _vectorizer(max_df=0.5 if len(texts) > 20 else 1.0, max_features=most_words)
    try:
        matrix = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise UserError(
            f"TF-IDF found no usable word in {len(texts)} item texts ({error}): check "
            "text_columns, or leave text out of `modalities`."
        ) from error
    size, components = min(size, min(matrix.shape) - 1), None
    if size >= 1:
        sample = matrix
        if len(texts) > _FITTED_TO:
            drawn = np.random.default_rng(seed).permutation(len(texts))[:_FITTED_TO]
            sample = matrix[np.sort(drawn)]
        components = TruncatedSVD(size, random_state=seed).fit(sample).components_
    words = vectorizer.get_feature_names_out().tolist()
    return Tfidf(words, vectorizer.idf_, components), _reduced(matrix, components)


def _vectorizer(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(sublinear_tf=True, stop_words="english", **options)


def _reduced(matrix: Any, components: np.ndarray | None) -> Tensor:
    """Vectors float32 (n, D), unit length, from a sparse TF-IDF matrix (n, V)."""
    from sklearn.preprocessing import normalize

    if components is None:
        return torch.from_numpy(matrix.toarray().astype(np.float32))
    vectors = np.empty((matrix.shape[0], len(components)), dtype=np.float32)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        vectors[rows] = normalize(matrix[rows] @ components.T)
    return torch.from_numpy(vectors)
