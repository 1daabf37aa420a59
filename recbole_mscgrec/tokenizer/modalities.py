"""The stages: one per modality, which turns its inputs into vectors or codes of the items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from recbole_mscgrec.config.settings import CodeSettings, MSCGRecSettings
from recbole_mscgrec.features import given_files
from recbole_mscgrec.features.collaborative import collaborative_vectors
from recbole_mscgrec.features.images import ItemImages, expected_folder, find_images, n_workers
from recbole_mscgrec.features.sasrec_training import batch_size_of
from recbole_mscgrec.features.text import TFIDF, item_texts, text_vectors
from recbole_mscgrec.semantic_ids.code_table import MISSING
from recbole_mscgrec.storage import cache, files, processes, schema

Tensor = torch.Tensor
RQ_DINO, FEATURES = "rq_dino", "features"
IMAGE_ENCODER = "image_encoder"  # cache name of the image stage's weights; the key is the same


class Features(NamedTuple):
    """The features of N items in a modality (row 0 is padding)."""

    vectors: Tensor  # float32 (N, D)
    present: Tensor  # bool (N,): which items have a vector
    codes: Tensor | None = None  # long (N, L), MISSING if an item has none; None: not made yet
    sizes: Tensor | None = None  # long (L,): codewords per level of `codes`
    quantized: Tensor | None = None  # float32 (N, D): the vectors that `codes` represent


class Stage(NamedTuple):
    """A modality of a data set: the fingerprint of all that determines its features, and a function
    that makes them."""

    key: str
    make: Callable[[], Features]
    inputs: str = ""  # fingerprint of only the texts, images or given features


class Absent(NamedTuple):
    """A modality that no item of a data set has, with the reason."""

    reason: str


def stage_of(name: str, settings: MSCGRecSettings, train: Any) -> Stage | Absent:
    """The stage of one modality, or why no item has it. The inputs are read and checked here, but
    nothing is computed yet.

    A file in `vectors_file` or `codes_file` replaces the computation.
    """
    if name in settings.codes.vectors_file or name in settings.codes.codes_file:
        return _given_stage(name, settings.codes, train)
    return _STAGES[name](settings, train)


# --- made elsewhere -------------------------------------------------------------------------------


def _given_stage(name: str, given: CodeSettings, train: Any) -> Stage:
    vectors, present = torch.zeros(train.item_num, 1), torch.zeros(train.item_num, dtype=torch.bool)
    codes = sizes = None
    if name in given.vectors_file:
        vectors, present = given_files.given_vectors(given.vectors_file[name], name, train)
    if name in given.codes_file:
        codes, sizes = given_files.given_codes(given.codes_file[name], name, train)
    features = Features(vectors, present, codes, sizes)
    there = {k: v for k, v in features._asdict().items() if v is not None}
    key = cache.fingerprint(**there)
    return Stage(key, lambda: features, key)


# --- made here ------------------------------------------------------------------------------------


def _collaborative_stage(settings: MSCGRecSettings, train: Any) -> Stage:
    rows, chosen = train.windows(), settings.collaborative
    chosen = replace(chosen, batch_size=batch_size_of(chosen, len(rows)))
    key = cache.fingerprint(
        rows={k: cache.fingerprint(v=rows.in_blocks(k)) for k in sorted(rows.columns)},
        n_items=train.item_num,
        settings={k: v for k, v in asdict(chosen).items() if v is not None},
        precision=settings.run.matmul_precision,
        seed=settings.run.seed,
    )
    file = cache.path(settings.run.cache_dir, "collaborative", key).with_suffix(".partial.pth")

    def make() -> Features:
        return Features(*collaborative_vectors(chosen, settings.run, train, file))

    return _kept(settings.run.cache_dir, "collaborative", key, make, train.item_num)


def _text_stage(settings: MSCGRecSettings, train: Any) -> Stage | Absent:
    text, run = settings.text, settings.run
    texts = item_texts(text, settings.files, train)
    if not any(texts):
        file = settings.files.file("item")
        return Absent(f"{file} {'has no text' if file.is_file() else 'does not exist'}")
    tfidf = {"size": text.tfidf_size, "seed": run.seed, "without a word": "absent"}
    encoder = {"length": text.max_length, "precision": run.matmul_precision}
    key = cache.fingerprint(
        texts=texts,
        encoder=text.encoder,
        files=_weights(text.encoder),
        settings=tfidf if text.encoder == TFIDF else encoder,
    )
    inputs = cache.fingerprint(texts=texts)

    def make() -> Features:
        return Features(*text_vectors(texts, text, run))

    return _kept(run.cache_dir, "text", key, make, train.item_num, inputs)


def _image_stage(settings: MSCGRecSettings, train: Any) -> Stage | Absent:
    kind, run, dino = settings.images.tokenizer, settings.run, settings.images.rq_dino
    images = find_images(settings.images, settings.files, run, train)
    if not images:
        expected = expected_folder(settings.images, settings.files).resolve() / "ITEM.jpg"
        return Absent(f"no image at {expected}, in any format; image_dir sets another folder")
    key = cache.fingerprint(
        images=images.digests,
        items=images.items,
        n_items=train.item_num,
        kind=kind,
        sizes=settings.codes.level_sizes if kind == RQ_DINO else [],
        settings=asdict(dino),
        weights=[_weights(value) for value in asdict(dino).values() if isinstance(value, str)],
        precision=run.matmul_precision,
        seed=run.seed,
    )
    kind_of_features = _rq_dino if kind == RQ_DINO else _backbone
    inputs = cache.fingerprint(images=images.digests, items=images.items)

    def make() -> Features:
        return kind_of_features(images, settings, train.item_num, key)

    return _kept(run.cache_dir, "image", key, make, train.item_num, inputs)


def _rq_dino(images: ItemImages, settings: MSCGRecSettings, n_items: int, key: str) -> Features:
    """Codes by RQ-DINO. Its losses are written to TensorBoard and to a JSON file in the cache, and
    its encoder to another file there."""
    from recbole_mscgrec.rq_dino.api import rq_dino  # importing timm takes seconds

    sizes, run = list(settings.codes.level_sizes), settings.run
    file = cache.path(run.cache_dir, "image", key)
    made = processes.shared(
        partial(
            rq_dino,
            images,
            settings.images.rq_dino,
            sizes,
            seed=run.seed,
            device=run.device,
            partial=file.with_suffix(".partial.pth"),
            log_dir=Path(run.log_dir, "log_tensorboard") / f"RQ-DINO-{settings.files.name}-{key}",
            show_progress=run.show_progress,
            n_workers=n_workers(settings.images, processes.n_started_here()),
        )
    )
    files.write_json(file.with_suffix(".history.json"), made.history)
    cache.save(run.cache_dir, IMAGE_ENCODER, key, made.encoder)
    return Features(
        _at_items(made.vectors.cpu().float(), images.items, n_items, 0),
        _at_items(torch.ones(len(images), dtype=torch.bool), images.items, n_items, False),
        _at_items(made.codes.cpu().long(), images.items, n_items, MISSING),
        torch.tensor(sizes),
        _at_items(made.quantized.cpu().float(), images.items, n_items, 0),
    )


def _backbone(images: ItemImages, settings: MSCGRecSettings, n_items: int, key: str) -> Features:
    """Vectors of the frozen backbone, whose weights are cached beside them."""
    run = settings.run
    from recbole_mscgrec.rq_dino.api import backbone_features

    vectors, encoder = processes.shared(
        partial(
            backbone_features,
            images,
            settings.images.rq_dino,
            device=run.device,
            n_workers=n_workers(settings.images, processes.n_started_here()),
            show_progress=run.show_progress,
            seed=run.seed,
        )
    )
    cache.save(run.cache_dir, IMAGE_ENCODER, key, encoder)
    present = torch.ones(len(images), dtype=torch.bool)
    return Features(
        _at_items(vectors.cpu().float(), images.items, n_items, 0),
        _at_items(present, images.items, n_items, False),
    )


_STAGES = {"collaborative": _collaborative_stage, "text": _text_stage, "image": _image_stage}


def _kept(
    folder: str, name: str, key: str, make: Callable[[], Features], n_items: int, inputs: str = ""
) -> Stage:
    """A stage whose features are cached. They are made only once per fingerprint, even if several
    runs need them at the same time."""

    def stored() -> Features | None:
        tensors = cache.load(folder, name, key, schema.features(n_items))
        return None if tensors is None else Features(**tensors)

    def made() -> Features:
        features = make()
        tensors = {k: v for k, v in features._asdict().items() if v is not None}
        cache.save(folder, name, key, tensors)
        return features

    return Stage(key, partial(cache.made_once, folder, name, key, stored, made), inputs)


def _weights(name: str) -> dict[str, list[int]]:
    """Sizes and modification times of a model's files if `name` is a file or folder; empty for hub
    names."""
    path = Path(name)
    files = sorted(path.glob("*")) if path.is_dir() else [path] if path.is_file() else []
    return {str(p): [p.stat().st_size, p.stat().st_mtime_ns] for p in files}


def _at_items(rows: Tensor, items: Tensor, n_items: int, fill: float) -> Tensor:
    """`rows` (n, ...) at the ids of their items, `fill` elsewhere: (N, ...)."""
    table = torch.full((n_items, *rows.shape[1:]), fill, dtype=rows.dtype)
    table[items] = rows
    return table
