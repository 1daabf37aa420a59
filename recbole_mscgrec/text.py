"""Text vectors: an item's text columns through TF-IDF + SVD or a frozen transformers encoder."""

from __future__ import annotations

from logging import getLogger
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from recbole.utils import set_color
from tqdm import tqdm

Tensor = torch.Tensor
TFIDF = "tfidf"


def item_texts(config: Any, dataset: Any) -> list[str]:
    """Text of every item (N,), row 0 being the padding item; '' where an item has none.

    Columns: `text_columns`, or else every `token_seq` column of the .item file. Read from the file
    itself, as RecBole would split sentences into remapped token ids.

    Raises:
        ValueError: a named column that the file lacks, or a file that names none of the items.
    """
    path, read = _item_file(config), read_items(config)
    if read is None:
        getLogger().warning(f"text: {path} does not exist, so no item has text.")
        return [""] * dataset.item_num
    frame, types = read
    columns = config["text_columns"]
    if columns is None:
        columns = [c for c, kind in types.items() if kind == "token_seq"]
        getLogger().info(f"text: text_columns is not set; using the token_seq columns {columns}.")
    columns = [columns] if isinstance(columns, str) else list(columns)
    unknown = [c for c in columns + [dataset.iid_field] if c not in types]
    if unknown:
        raise ValueError(f"{path} has no column {unknown} (text_columns); it has {list(types)}.")
    return _aligned(frame, dataset, columns, path)


def read_items(config: Any) -> tuple[pd.DataFrame, dict[str, str]] | None:
    """The data set's .item file as strings ('' where a value is missing), and its columns' types.
    None where there is no such file."""
    path, encoding = _item_file(config), config["encoding"] or "utf-8"
    if not path.is_file():
        return None
    with path.open(encoding=encoding) as file:
        header = file.readline().rstrip("\n")
    types = dict(c.split(":") for c in header.split(config["field_separator"]))
    frame = pd.read_csv(
        path,
        sep=config["field_separator"],
        dtype=str,
        keep_default_na=False,
        encoding=encoding,
        quoting=3,  # csv.QUOTE_NONE: atomic files do not quote, and a title may hold one quote
    )
    frame.columns = list(types)
    return frame, types


def _item_file(config: Any) -> Path:
    return Path(config["data_path"]) / f"{config['dataset']}.item"


def _aligned(frame: pd.DataFrame, dataset: Any, columns: list[str], path: Path) -> list[str]:
    ids = dataset.field2token_id[dataset.iid_field]
    texts = [""] * dataset.item_num
    joined = frame[columns].agg(" ".join, axis=1).str.strip() if columns else [""] * len(frame)
    known = 0
    for token, text in zip(frame[dataset.iid_field], joined, strict=True):
        if token in ids:
            texts[ids[token]] = text
            known += 1
    if known == 0:
        raise ValueError(
            f"{path} describes {len(frame)} items and none of them is among the data set's "
            f"{dataset.item_num - 1}: its first ids are "
            f"{frame[dataset.iid_field].head(3).tolist()}, the data set's are "
            f"{[str(t) for t in list(ids)[1:4]]}."
        )
    return texts


def text_vectors(texts: list[str], config: Any) -> tuple[Tensor, Tensor]:
    """Unit-length float32 vectors (N, D) of N texts, and which of them are there: bool (N,)."""
    present = torch.tensor([bool(t) for t in texts])
    rows = present.nonzero().flatten()
    if len(rows) == 0:
        return torch.zeros(len(texts), 1), present
    given = [texts[i] for i in rows]
    if config["text_encoder"] == TFIDF:
        encoded = tfidf_vectors(given, config["text_tfidf_size"], config["seed"])
    else:
        encoded = encoder_vectors(given, config)
    vectors = torch.zeros(len(texts), encoded.size(1))
    vectors[rows] = encoded
    return vectors, present


def tfidf_vectors(texts: list[str], size: int, seed: int) -> Tensor:
    """TF-IDF of words and word pairs, reduced to `size` numbers by truncated SVD, unit length."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    try:
        matrix = TfidfVectorizer(
            sublinear_tf=True, stop_words="english", max_df=0.5 if len(texts) > 20 else 1.0
        ).fit_transform(texts)
    except ValueError as error:
        raise ValueError(
            f"TF-IDF found no usable word in {len(texts)} item texts ({error}): check "
            "text_columns, or leave text out of `modalities`."
        ) from error
    size = min(size, min(matrix.shape) - 1)
    if size < 1:
        return torch.from_numpy(matrix.toarray().astype(np.float32))
    reduced = TruncatedSVD(size, random_state=seed).fit_transform(matrix)
    return torch.from_numpy(normalize(reduced).astype(np.float32))


def encoder_vectors(texts: list[str], config: Any) -> Tensor:
    """Mean-pooled last hidden states of a transformers encoder, unit length: (N, D)."""
    tokenizer, encoder = _load_encoder(config["text_encoder"])
    encoder = encoder.to(config["device"]).eval()
    step, vectors = config["text_batch_size"], []
    starts = range(0, len(texts), step)
    bar = tqdm(
        starts, ncols=100, desc=set_color("Text      ", "pink"), disable=not config["show_progress"]
    )
    with torch.inference_mode():
        for start in bar:
            batch = tokenizer(
                texts[start : start + step],
                padding=True,
                truncation=True,
                max_length=config["text_max_length"],
                return_tensors="pt",
            ).to(config["device"])
            hidden = encoder(**batch).last_hidden_state.float()  # (b, tokens, D)
            mask = batch["attention_mask"].unsqueeze(-1)
            vectors.append(((hidden * mask).sum(1) / mask.sum(1).clamp(min=1)).cpu())
    return torch.nn.functional.normalize(torch.cat(vectors), dim=-1)


def _load_encoder(name: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        if tokenizer.pad_token is None:  # decoder-only models such as LLaMA have none
            tokenizer.pad_token = tokenizer.eos_token
        model = AutoModel.from_pretrained(name)
    except Exception as error:  # hub, network and format errors are of many kinds
        raise ValueError(
            f"text_encoder {name!r} cannot be loaded ({type(error).__name__}: {str(error)[:200]}). "
            "Use --text_encoder=tfidf, which needs no download, or the folder of a model on disk."
        ) from error
    return tokenizer, getattr(model, "encoder", model) if model.config.is_encoder_decoder else model
