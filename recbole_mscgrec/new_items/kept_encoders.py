"""What an export keeps from the training so that items can be added to it later: codebooks, the
text and image encoders, and the vectors of the known items.

The plan, plain values for the manifest:

    item_column, title_column, separator, encoding   how .item files are read
    modalities      modality -> how its vectors are made (text, image or given), for those that a
                    new item can have, in the order of training
    widths          modality -> width of its vectors, for all that have any, in the same order
    content_levels  modality -> number of levels of its codes without the collision level
    text, image     settings of the encoders

The files, tensors by name:

    encoders   codebook.NAME (sum of K_l, D), mean.NAME (D_m,), text.*, image.*
    features   vectors.NAME half (N, D_m) and present.NAME bool (N,), to find nearest known items;
               none if the target is fused
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NamedTuple

import torch

from recbole_mscgrec.config.settings import MSCGRecSettings
from recbole_mscgrec.features.fusion import mean_vector
from recbole_mscgrec.features.images import find_images
from recbole_mscgrec.features.text import (
    TFIDF,
    columns_of,
    encoder_vectors,
    item_texts,
    read_items,
)
from recbole_mscgrec.features.tfidf import fit_tfidf
from recbole_mscgrec.plugin.mscgrec import MSCGRec
from recbole_mscgrec.semantic_ids.code_table import FUSED, MISSING, CodeTable
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer
from recbole_mscgrec.storage import cache
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tokenizer.item_cards import title_column
from recbole_mscgrec.tokenizer.item_codes import REDISTRIBUTE
from recbole_mscgrec.tokenizer.modalities import IMAGE_ENCODER, Absent, Features, Stage, stage_of

Tensor = torch.Tensor
ENCODERS, FEATURES = "encoders", "features"
TEXT, IMAGE, GIVEN = "text", "image", "given"  # how the vectors of a modality are made
_HALF_ERROR = 1e-4  # squared, relative to the variance of the vectors
_SAMPLE = 16  # known items whose vectors a kept encoder must reproduce
_LEFT_OUT = "Add --without_new_items to export the model alone; no item can be added to it then."


class Kept(NamedTuple):
    """See the top of this module."""

    plan: dict[str, Any]
    files: dict[str, dict[str, Tensor]]


def kept_encoders(model: MSCGRec, train: Any) -> Kept:
    """What is kept from the training of a model on the train split `train`.

    Vectors are read from the cache, or made again if they are not there; they must give the codes
    that the model was trained with.

    Raises:
        UserError: they give other codes, because texts, images or packages have changed, or an
            encoder no longer exists.
    """
    settings, state = model.settings, model.code_state
    table = CodeTable.from_plain(state["table"])
    n_levels = {name: health["n_content_levels"] for name, health in model.code_health.items()}
    plan = {**_item_file(settings, train), "content_levels": n_levels}
    encoders = {f"codebook.{name}": book for name, book in state["codebooks"].items()}
    known: dict[str, Tensor] = {}
    plan["modalities"], plan["widths"] = modalities, widths = dict[str, str](), dict[str, int]()
    for name in table.history:
        kind, codebook = _kind(name, settings), encoders.get(f"codebook.{name}")
        if kind is None and name != table.target:  # new items lack it
            if codebook is not None:
                widths[name] = codebook.size(1)
            continue
        stage = stage_of(name, settings, train)
        if isinstance(stage, Absent):
            raise UserError(
                f"The model was trained with {name}, but no item has it any more: {stage.reason}. "
                f"{_LEFT_OUT}"
            )
        features = stage.make()
        _check_codes(name, features, table, n_levels[name], codebook, settings.codes.collision)
        if not features.present.any():
            continue  # codes made elsewhere, without vectors
        widths[name] = features.vectors.size(1)
        if kind is not None:
            modalities[name] = kind
            encoders[f"mean.{name}"] = mean_vector(features.vectors, features.present)
        if kind == TEXT:
            plan[TEXT], tensors = _text(features, settings, train)
            encoders |= {f"text.{part}": tensor for part, tensor in tensors.items()}
        if kind == IMAGE:
            plan[IMAGE], tensors = _image(stage, features, settings, train)
            encoders |= {f"image.{part}": tensor for part, tensor in tensors.items()}
            if codebooks := [t for part, t in tensors.items() if part.startswith("codebook.")]:
                encoders["codebook.image"] = torch.cat(codebooks)
        if table.target != FUSED:
            known[f"vectors.{name}"] = _half(features.vectors)
            known[f"present.{name}"] = features.present
    return Kept(plan, {ENCODERS: encoders, **({FEATURES: known} if known else {})})


def _kind(name: str, settings: MSCGRecSettings) -> str | None:
    """How new items get a vector in a modality; None if they cannot."""
    if name in settings.codes.vectors_file:
        return GIVEN
    if name in settings.codes.codes_file:
        return None
    return {"text": TEXT, "image": IMAGE}.get(name)


def _item_file(settings: MSCGRecSettings, train: Any) -> dict[str, Any]:
    items = read_items(settings.files, train)
    title = items and (settings.pages.title_column or title_column(items.types))
    return {
        "item_column": items.key if items else train.iid_field,
        "title_column": title or None,
        "separator": settings.files.separator,
        "encoding": settings.files.encoding,
    }


def _half(vectors: Tensor) -> Tensor:
    """Vectors in half precision, unless they are too large or their differences too small."""
    half = vectors.half()
    error, spread = (half.float() - vectors).square().mean(), vectors.var(dim=0).mean()
    return half if bool(error <= _HALF_ERROR * spread) else vectors


# --- the encoders ---------------------------------------------------------------------------------


def _text(
    features: Features, settings: MSCGRecSettings, train: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    text, run = settings.text, settings.run
    texts = item_texts(text, settings.files, train)
    items = read_items(settings.files, train)
    plan = {
        "columns": columns_of(text, items) if items else [],
        "encoder": text.encoder,
        "batch_size": text.batch_size,
        "max_length": text.max_length,
    }
    rows = [i for i, words in enumerate(texts) if words]
    if text.encoder == TFIDF:
        tfidf, vectors = fit_tfidf([texts[i] for i in rows], text.tfidf_size, run.seed)
        _check_vectors("text", vectors, features.vectors[rows])
        return plan, tfidf.to_tensors()
    rows = rows[:_SAMPLE]
    vectors = encoder_vectors([texts[i] for i in rows], text, run)
    _check_vectors("text", vectors, features.vectors[rows])
    return plan, {}


def _image(
    stage: Stage, features: Features, settings: MSCGRecSettings, train: Any
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    from recbole_mscgrec.rq_dino.image_encoder import ImageEncoder  # importing timm takes seconds

    tensors = cache.load(settings.run.cache_dir, IMAGE_ENCODER, stage.key)
    if tensors is None:
        raise UserError(
            f"The image encoder is not in cache_dir ({settings.run.cache_dir}): it was trained by "
            "an earlier version, or its file was deleted. Delete the files image-*.safetensors "
            f"there and train again. {_LEFT_OUT}"
        )
    images = find_images(settings.images, settings.files, settings.run, train)
    if images is None:
        raise UserError(f"The item images are gone: restore image_dir. {_LEFT_OUT}")
    encoder = ImageEncoder.from_tensors(tensors, settings.images.rq_dino)
    n = min(_SAMPLE, len(images))
    _check_vectors(
        "image",
        encoder.vectors([images[i] for i in range(n)]),
        features.vectors[images.items[:n]],
    )
    return asdict(settings.images.rq_dino), tensors


# --- checks ---------------------------------------------------------------------------------------


def _check_vectors(name: str, vectors: Tensor, before: Tensor) -> None:
    """Raise UserError if vectors (n, D) differ from those of the training."""
    close = vectors.shape == before.shape
    if close and len(vectors):
        scale = before.square().mean().sqrt()
        close = float((vectors - before).abs().max()) <= 0.02 * max(float(scale), 1e-6)
    if not close:
        raise UserError(
            f"The {name} encoder gives other vectors than in the training: use its texts, images, "
            f"settings and package versions. {_LEFT_OUT}"
        )


def _check_codes(
    name: str,
    features: Features,
    table: CodeTable,
    n_levels: int,
    codebook: Tensor | None,
    collision: str,
) -> None:
    """Raise UserError if the features of a modality have other codes than the model's table."""
    rows = features.present.clone() if features.codes is None else features.codes[:, 0] != MISSING
    rows[0] = False
    if features.codes is not None:
        made = features.codes[rows]
    elif codebook is not None:
        quantizer = quantizer_of(codebook, table.sizes[name][:n_levels])
        made = quantizer.encode(features.vectors[rows])
    else:
        raise UserError(
            f"The model holds no codebooks of {name}: it was trained by an earlier version. Train "
            f"it again. {_LEFT_OUT}"
        )
    trained = table.codes[name][rows][:, :n_levels]
    differ, n_moved = (made != trained).any(dim=1), 0
    if features.codes is None and bool(differ.any()):
        differ[differ.clone()] = ~quantizer.fits(features.vectors[rows][differ], trained[differ])
    if name == table.target and collision == REDISTRIBUTE:
        # Items that share a code may have been moved, even if the other one has no vector.
        _, group, count = torch.unique(made, dim=0, return_inverse=True, return_counts=True)
        differ, n_moved = differ & (count[group] == 1), table.n_items - 1 - int(rows.sum())
    if int(differ.sum()) > n_moved:
        raise UserError(
            f"{int(differ.sum())} of {len(made)} items have other {name} codes than in training: "
            "the texts, images, files or package versions have changed since. Restore them. "
            f"{_LEFT_OUT}"
        )


def quantizer_of(codebook: Tensor, sizes: list[int]) -> ResidualQuantizer:
    """The quantizer with the codebooks (sum of K_l, D) of levels of these sizes."""
    quantizer = ResidualQuantizer(sizes)
    quantizer.codebooks = list(codebook.float().split(sizes))
    return quantizer
