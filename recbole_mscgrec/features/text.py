"""Text vectors: the text columns of items, encoded by TF-IDF and SVD or by a frozen transformers
model."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from recbole.utils import set_color
from tqdm import tqdm

from recbole_mscgrec.config.data_fields import NAMES
from recbole_mscgrec.config.settings import DataFiles, RunSettings, TextSettings
from recbole_mscgrec.data.atomic_files import first_of_each, read_atomic_file
from recbole_mscgrec.features.text_columns import clean_text, text_columns_of
from recbole_mscgrec.features.text_encoder import encode, load_encoder
from recbole_mscgrec.features.tfidf import fit_tfidf
from recbole_mscgrec.storage import processes
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
TFIDF = "tfidf"


class ItemFile(NamedTuple):
    """A data set's .item file as strings, one row per item, '' where a value is missing."""

    path: Path
    frame: pd.DataFrame
    types: dict[str, str]  # column -> type in the header
    key: str  # the column with the item tokens


def item_texts(text: TextSettings, files: DataFiles, dataset: Any) -> list[str]:
    """The text of every item (N,), including the padding item 0; '' for items without text.

    The columns are `text_columns` or, if it is not set, those that `text_columns_of` finds. If
    `text_columns` comes from a properties file of this project, missing columns are skipped. The
    file is read here, because RecBole splits sentences into remapped token ids.

    Raises:
        UserError: the file lacks a column given by the user, has none of the columns of a
            properties file, or has no item of the data set.
    """
    items = read_items(files, dataset)
    if items is None:
        return [""] * dataset.item_num
    texts = [""] * dataset.item_num
    ids = dataset.field2token_id[dataset.iid_field]
    for token, words in texts_of(text, items).items():
        if token in ids:
            texts[ids[token]] = words
    return texts


def texts_of(text: TextSettings, items: ItemFile) -> dict[str, str]:
    """Item token -> text, '' for items without text, in the order of the .item file.

    Raises:
        UserError: see `item_texts`.
    """
    columns, tokens = columns_of(text, items), items.frame[items.key]
    if not columns:
        return dict.fromkeys(tokens, "")
    cleaned = [map(clean_text, items.frame[column]) for column in columns]
    joined = (" ".join(values).strip() for values in zip(*cleaned, strict=True))
    return dict(zip(tokens, joined, strict=True))


def columns_of(text: TextSettings, items: ItemFile) -> list[str]:
    """The text columns of an .item file; see `item_texts`."""
    there = list(items.types)
    if text.columns is None:
        columns = text_columns_of(items.frame, items.types, items.key)
        rest = [column for column in there if column not in columns]
        getLogger().info(
            f"text: the columns {columns} of {items.path.name} are used as text, {rest} are not; "
            "set text_columns to change this."
        )
        return columns
    unknown = [column for column in text.columns if column not in items.types]
    if unknown and (text.columns_chosen or len(unknown) == len(text.columns)):
        raise UserError(
            f"{items.path} has no column {unknown} (text_columns); it has {there}. Name other "
            "columns, or set --text_columns=None to detect the text columns."
        )
    return [column for column in text.columns if column in items.types]


def read_items(files: DataFiles, dataset: Any) -> ItemFile | None:
    """The .item file of the data set; None if there is none.

    The item tokens are in the column with the same name as in the .inter file. If there is none,
    they are in the id column that shares the most tokens with the data set (steam has `product_id`
    and `id`).

    Raises:
        UserError: the file has no item of the data set.
    """
    path = files.file("item")
    if not path.is_file():
        return None
    file = read_atomic_file(path, files.separator, files.encoding)
    field, tokens = dataset.iid_field, list(dataset.field2token_id[dataset.iid_field])[1:]
    key = key_column(path, file.frame, field, tokens)
    return ItemFile(path, first_of_each(file, key).frame, file.types, key)


def key_column(path: Path, frame: pd.DataFrame, field: str, tokens: Collection[str]) -> str:
    """The column of an .item file with the item tokens; see `read_items`.

    Args:
        field: the column of the item tokens in the .inter file.
        tokens: the items of the data set.

    Raises:
        UserError: there is no such column, or it has no item of the data set.
    """
    there = list(frame)
    likely = (
        [field] if field in there else [c for c in there if c.lower() in NAMES["ITEM_ID_FIELD"]]
    )
    shared = {column: int(frame[column].isin(tokens).sum()) for column in likely}
    key = max(shared, key=lambda column: shared[column], default=None)
    if key is None:
        raise UserError(f"{path} has no column {[field]} (ITEM_ID_FIELD); it has {there}.")
    if not shared[key]:
        raise UserError(
            f"{path} describes {len(frame)} items, but none of them is among the data set's "
            f"{len(tokens)}: its first ids are {frame[key].head(3).tolist()}, the data "
            f"set's are {[str(token) for token in list(tokens)[:3]]}."
        )
    return key


def text_vectors(texts: list[str], text: TextSettings, run: RunSettings) -> tuple[Tensor, Tensor]:
    """Unit-length float32 vectors (N, D) of N texts, and which texts have one: bool (N,). Empty
    texts have none and, with TF-IDF, neither have texts without a word of its vocabulary."""
    present = torch.tensor([bool(t) for t in texts])
    rows = present.nonzero().flatten()
    if len(rows) == 0:
        return torch.zeros(len(texts), 1), present
    given = [texts[i] for i in rows]
    if text.encoder == TFIDF:
        encoded = fit_tfidf(given, text.tfidf_size, run.seed)[1]
        present[rows] = encoded.any(dim=1)
    else:
        encoded = encoder_vectors(given, text, run)
    vectors = torch.zeros(len(texts), encoded.size(1))
    vectors[rows] = encoded
    return vectors, present


def encoder_vectors(texts: list[str], text: TextSettings, run: RunSettings) -> Tensor:
    """Mean-pooled last hidden states of a transformers encoder, unit length: (N, D)."""
    return processes.shared(partial(_encoded, texts, text, run))


def _encoded(texts: list[str], text: TextSettings, run: RunSettings) -> Tensor:
    with processes.one_after_the_other():  # the model may be downloaded
        encoder = load_encoder(text.encoder, "text_encoder").to(processes.own(run.device))
    bar = tqdm(
        total=len(processes.part(len(texts), text.batch_size)),
        ncols=100,
        desc=set_color("Text      ", "pink"),
        disable=not (run.show_progress and processes.is_first()),
    )
    with bar:
        return encode(texts, encoder, text.batch_size, text.max_length, progress=bar.update)
