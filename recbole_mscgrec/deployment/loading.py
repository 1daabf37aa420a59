"""A trained model in memory, from a checkpoint with its data set or from an export folder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_mscgrec.config.settings import MSCGRecSettings
from recbole_mscgrec.deployment.export import export_of_loaded, load_mscgrec
from recbole_mscgrec.features.images import find_images
from recbole_mscgrec.features.text import read_items
from recbole_mscgrec.features.text_columns import clean_text
from recbole_mscgrec.serving.item_tokens import ItemTokens
from recbole_mscgrec.serving.recommender import Recommender
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tokenizer.item_cards import split_words, thumbnail, words_column


class TrainedModel:
    """A Recommender and, if it comes from a checkpoint, the data set that it was trained on."""

    def __init__(self, recommender: Recommender, data: TrainingData | None = None) -> None:
        self.recommender = recommender
        self._data = data
        titles = recommender.titles or [""] * len(recommender.items)
        self._titles = dict(zip(recommender.items, titles, strict=True))

    @classmethod
    def from_checkpoint(cls, model_file: str, settings: dict[str, Any]) -> TrainedModel:
        """The saved model `model_file` with its data; `settings` override those of its training.

        Raises:
            UserError: it is not an MSCGRec model, or its data set does not exist or has changed.
        """
        config, model, dataset, train = load_mscgrec(model_file, settings)
        made = export_of_loaded(config, model, train)
        return cls(
            Recommender(made, config["device"]), TrainingData(model.settings, dataset, train)
        )

    @classmethod
    def from_export(cls, folder: str | Path, device: str = "cpu") -> TrainedModel:
        """The model in an export folder, without a data set. Raises UserError."""
        return cls(Recommender.load(folder, device))

    @property
    def data(self) -> TrainingData:
        """The data set. Raises UserError for a model from an export folder, which has none."""
        if self._data is None:
            raise UserError(
                "An export folder holds no interactions, categories or images: use --model_file "
                "instead of --export, or give --history and --allowed_items."
            )
        return self._data

    @property
    def has_data(self) -> bool:
        """Whether the model came with its data set, that is, from a checkpoint."""
        return self._data is not None

    def title(self, item: str) -> str:
        """The title of an item; '' if it has none."""
        return self._titles.get(item, "")


class TrainingData:
    """The users, categories and images of the data set of a checkpoint."""

    def __init__(self, settings: MSCGRecSettings, dataset: Any, train: Any) -> None:
        self.settings, self._dataset, self._train = settings, dataset, train

    @cached_property
    def users(self) -> ItemTokens:
        """Tokens of all users."""
        tokens = self._dataset.field2id_token[self._dataset.uid_field][1:]
        return ItemTokens([str(token) for token in tokens], "user")

    def history(self, user: str) -> list[str]:
        """All items of a user, over all splits, oldest first. Raises UserError for an unknown
        user."""
        (index,) = self.users.ids([user], "--user")
        items = self._dataset.sequence_of(index)
        return [str(token) for token in self._dataset.id2token(self._dataset.iid_field, items)]

    def histories(self) -> Iterator[tuple[str, list[str]]]:
        """Every user that has items, with these items."""
        for user in self.users.tokens:
            if history := self.history(user):
                yield user, history

    def items_of(self, category: str, column: str | None = None) -> list[str]:
        """Tokens of the items of a category.

        Args:
            category: a word of the column, in upper or lower case.
            column: a column of the .item file; default: `codes_words_column`, or the one found by
                `words_column`.

        Raises:
            UserError: there is no such column or category; the message names known ones.
        """
        items = read_items(self.settings.files, self._train)
        if items is None:
            raise UserError(f"--category: {self.settings.files.file('item')} does not exist.")
        rows = items.frame.map(clean_text)
        column = column or self.settings.pages.words_column
        if column is None:
            column = words_column(rows.drop(columns=items.key), items.types, None)
        if column is None or column not in rows:
            raise UserError(
                f"--category: {items.path} has no column of categories"
                f"{f' {column}' if column else ''}; --category_column names one of "
                f"{list(items.types)}."
            )
        words = split_words(rows[column].tolist())
        wanted = category.casefold()
        known = set(self._train.field2token_id[self._train.iid_field])
        found = [
            token
            for token, those in zip(rows[items.key], words, strict=True)
            if token in known and wanted in (word.casefold() for word in those)
        ]
        if not found:
            frequent = pd.Series([w for those in words for w in those]).value_counts().index[:10]
            raise UserError(
                f"--category: no item has {category!r} in {column} of {items.path}; frequent ones "
                f"are {', '.join(frequent)}."
            )
        return found

    def posters(self, tokens: list[str], image_dir: str | None = None) -> dict[str, str]:
        """Item token -> JPEG in base64, for the items with an image in `image_dir` (default: that
        of the training). Raises UserError if the folder does not exist or holds no item images."""
        settings = self.settings
        chosen = replace(settings.images, dir=image_dir) if image_dir else settings.images
        images = find_images(chosen, settings.files, settings.run, self._train)
        if images is None:
            return {}
        ids = self._train.field2token_id[self._train.iid_field]
        place = {int(item): row for row, item in enumerate(images.items)}
        rows = {token: place.get(int(ids[token])) for token in dict.fromkeys(tokens)}
        return {t: thumbnail(images[row]) for t, row in rows.items() if row is not None}
