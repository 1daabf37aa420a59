"""Vectors of new items, from the encoders that an export keeps."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from recbole_mscgrec.config.settings import DataFiles, ImageSettings, RunSettings, TextSettings
from recbole_mscgrec.data.atomic_files import first_of_each, read_atomic_file
from recbole_mscgrec.features.given_files import given_vectors
from recbole_mscgrec.features.images import find_images, n_workers
from recbole_mscgrec.features.text import TFIDF, ItemFile, encoder_vectors, texts_of
from recbole_mscgrec.features.text_columns import clean_text
from recbole_mscgrec.features.tfidf import Tfidf
from recbole_mscgrec.new_items.kept_encoders import ENCODERS, GIVEN, IMAGE, TEXT
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.export_files import MANIFEST
from recbole_mscgrec.serving.export_folder import Export
from recbole_mscgrec.storage import schema
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.schema import Each, List, Maybe

Tensor = torch.Tensor
_WORKERS, _FEW = 4, 64  # processes that decode images, unless there are few
_PLAN = {
    "item_column": str,
    "title_column": Maybe(str),
    "separator": str,
    "encoding": str,
    "modalities": Each(str),
    "widths": Each(int),
    "content_levels": Each(int),
    "text": Maybe({"columns": List(str), "encoder": str, "batch_size": int, "max_length": int}),
    "image": Maybe(dict),
}


class Vectors(NamedTuple):
    """The vectors of n new items in a modality."""

    vectors: Tensor  # float32 (n, D)
    present: Tensor  # bool (n,): which items have one


@dataclass(frozen=True)
class NewItems:
    """New items, with the interface of a data set that the functions of `features` expect.

    Attributes:
        tokens: their tokens, sorted, so that their order in the file does not matter.
        file: their rows of the .item file, in the same order.
        title_column: the column with the titles, if there is one.
    """

    tokens: list[str]
    file: ItemFile
    title_column: str | None

    @property
    def iid_field(self) -> str:
        return self.file.key

    @property
    def item_num(self) -> int:
        return len(self.tokens) + 1  # with the padding item

    @property
    def field2token_id(self) -> dict[str, dict[str, int]]:
        tokens = ["[PAD]", *self.tokens]
        return {self.iid_field: {token: number for number, token in enumerate(tokens)}}

    @property
    def titles(self) -> list[str]:
        """Their titles; '' for items without one."""
        if self.title_column not in self.file.types:
            return [""] * len(self.tokens)
        return [clean_text(title) for title in self.file.frame[self.title_column]]

    def only(self, kept: list[bool]) -> NewItems:
        """The items for which the list `kept` (n,) holds True."""
        frame = self.file.frame[pd.Series(kept, dtype=bool)].reset_index(drop=True)
        tokens = frame[self.file.key].tolist()
        return NewItems(tokens, self.file._replace(frame=frame), self.title_column)


def read_new_items(path: Path, plan: dict[str, Any]) -> NewItems:
    """The rows of an .item file, sorted by token.

    Raises:
        UserError: the file does not exist, is damaged, or lacks the column of item tokens or a text
            column of the training.
    """
    if not path.is_file():
        raise UserError(f"{path} (--items) does not exist: name an .item file of the new items.")
    file = read_atomic_file(path, plan["separator"], plan["encoding"])
    key = plan["item_column"]
    wanted = plan["text"]["columns"] if TEXT in plan["modalities"].values() else []
    lacking = [column for column in (key, *wanted) if column not in file.types]
    if lacking:
        raise UserError(
            f"{path} lacks {', '.join(lacking)}: the items of the training have the columns "
            f"{', '.join((key, *wanted))} for their tokens and texts, the file has "
            f"{', '.join(file.types)}. Add the columns; a cell may be empty."
        )
    frame = first_of_each(file, key).frame.sort_values(key, ignore_index=True)
    items = ItemFile(path, frame, file.types, key)
    return NewItems(frame[key].tolist(), items, plan["title_column"])


class ItemEncoders:
    """The encoders of an export.

    Args:
        folder: the export folder.
        export: its content.

    Attributes:
        plan: see `kept_encoders`.
        tensors: the tensors of the file `encoders`.

    Raises:
        UserError: the export was written without them.
    """

    def __init__(self, folder: Path, export: Export) -> None:
        tensors = export_folder.read_further(folder, ENCODERS)
        if not export.new_items or tensors is None:
            raise UserError(
                f"{folder} keeps no encoders, so no item can be added to it: export the model "
                "again without --without_new_items."
            )
        schema.check(export.new_items, _PLAN, folder / MANIFEST, "an export that keeps encoders")
        self.plan, self.tensors = export.new_items, tensors

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `prefix`, by their names without it."""
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}

    def vectors(
        self, items: NewItems, images: Path | None, given: dict[str, str]
    ) -> dict[str, Vectors]:
        """The vectors of new items in each modality that they can have.

        Args:
            images: folder of image files named by item token.
            given: modality -> file of vectors, for modalities that were trained on such files.

        Raises:
            UserError: a file cannot be used, or it is for a modality that is not made from one.
        """
        modalities: dict[str, str] = self.plan["modalities"]
        makers = [name for name, kind in modalities.items() if kind == GIVEN]
        if strange := [name for name in given if name not in makers]:
            raise UserError(
                f"--vectors {strange[0]}=...: this model was not trained with vectors_file for "
                f"{strange[0]}; it was for {', '.join(makers) or 'no modality'}."
            )
        if images is not None and IMAGE not in modalities.values():
            raise UserError(
                "--images: the model was trained without images, or with image vectors or codes "
                "made elsewhere. Leave --images out."
            )
        found: dict[str, Vectors] = {}
        for name, kind in modalities.items():
            made = None
            if kind == TEXT:
                made = self._text(items)
            elif kind == IMAGE and images is not None:
                made = self._image(items, images)
            elif kind == GIVEN and name in given:
                made = Vectors(*(t[1:] for t in given_vectors(given[name], name, items)))
            width = self.plan["widths"][name]
            if made is None:
                made = Vectors(torch.zeros(len(items.tokens), width), _none(items))
            if made.vectors.size(1) != width:
                raise UserError(
                    f"The new {name} vectors have {made.vectors.size(1)} numbers, those of the "
                    f"training {width}: make them in the same way."
                )
            found[name] = made
            getLogger().info(f"{name}: {int(made.present.sum())} of {len(items.tokens)} new items.")
        return found

    def _text(self, items: NewItems) -> Vectors:
        plan = self.plan["text"]
        chosen = TextSettings(
            encoder=plan["encoder"],
            tfidf_size=0,
            batch_size=plan["batch_size"],
            max_length=plan["max_length"],
            columns=tuple(plan["columns"]),
            columns_chosen=True,
        )
        texts = list(texts_of(chosen, items.file).values())
        rows = [row for row, text in enumerate(texts) if text]
        vectors = torch.zeros(len(texts), self.plan["widths"]["text"])
        if rows and chosen.encoder == TFIDF:
            tfidf = Tfidf.from_tensors(self.part("text."))
            vectors[rows] = tfidf.vectors([texts[row] for row in rows])
        elif rows:
            vectors[rows] = encoder_vectors([texts[row] for row in rows], chosen, _run_settings(""))
        return Vectors(vectors, vectors.any(dim=1))  # texts without a known word count as missing

    def _image(self, items: NewItems, folder: Path) -> Vectors:
        from recbole_mscgrec.rq_dino.image_encoder import ImageEncoder  # importing timm is slow
        from recbole_mscgrec.rq_dino.settings import RQDinoSettings

        settings = RQDinoSettings(**self.plan["image"])
        encoder = ImageEncoder.from_tensors(self.part("image."), settings)
        files = DataFiles(folder, "", self.plan["separator"], self.plan["encoding"])
        with tempfile.TemporaryDirectory() as cache:
            chosen = ImageSettings(str(folder), "", _WORKERS, settings)
            images = find_images(chosen, files, _run_settings(cache), items)
        present = _none(items)
        vectors = torch.zeros(len(present), self.plan["widths"]["image"])
        if images:
            rows = images.items - 1
            workers = n_workers(chosen) if len(images) > _FEW else 0
            vectors[rows], present[rows] = encoder.vectors(images, workers, True), True
        return Vectors(vectors, present)


def _none(items: NewItems) -> Tensor:
    return torch.zeros(len(items.tokens), dtype=torch.bool)


def _run_settings(cache_dir: str) -> RunSettings:
    """Settings with which the functions of `features` run outside a training."""
    return RunSettings(
        seed=0,
        reproducibility=True,
        device=torch.device("cpu"),
        show_progress=True,
        matmul_precision="highest",
        cache_dir=cache_dir,
        checkpoint_dir="",
        log_dir="",
        model_file=None,
        initial_model=None,
    )
