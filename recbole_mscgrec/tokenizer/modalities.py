"""One stage per modality: its inputs, and how they become vectors or codes of the items."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

from recbole_mscgrec.features import given_files
from recbole_mscgrec.features.collaborative import collaborative_vectors
from recbole_mscgrec.features.images import ItemImages, expected_folder, find_images, n_workers
from recbole_mscgrec.features.text import TFIDF, item_file, item_texts, text_vectors
from recbole_mscgrec.rq_dino.settings import RQDinoSettings
from recbole_mscgrec.semantic_ids.code_table import FUSED, MISSING
from recbole_mscgrec.storage import cache, files
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
RQ_DINO, FEATURES = "rq_dino", "features"


class Features(NamedTuple):
    """What a modality knows of N items (row 0 is padding)."""

    vectors: Tensor  # float32 (N, D)
    present: Tensor  # bool (N,): which items have a vector
    codes: Tensor | None = None  # long (N, L), MISSING where an item has none; else to be quantized
    sizes: Tensor | None = None  # long (L,): codewords per level of `codes`
    quantized: Tensor | None = None  # float32 (N, D): the vectors that `codes` stand for


class Stage(NamedTuple):
    """A modality of a data set: the fingerprint of its inputs, and what makes its features."""

    key: str
    make: Callable[[], Features]


class Absent(NamedTuple):
    """A modality that no item of a data set has, and why."""

    reason: str


def stage_of(name: str, config: Any, train: Any) -> Stage | Absent:
    """The stage of one modality, its inputs read and checked.

    Files of `vectors_file` and `codes_file` take the place of a stage's own work.
    """
    if any(name in files for files in _given(config).values()):
        return _given_stage(name, config, train)
    return _STAGES[name](config, train)


def check_modalities(config: Any) -> None:
    """Raise UserError for a modality list, or files made elsewhere, that cannot be used."""
    names, files = config["modalities"], _given(config)
    given = {name for mapping in files.values() for name in mapping}
    known = sorted({*_STAGES, *given})
    unfit = [n for n in names if n not in known or not n.isidentifier() or n == FUSED]
    if unfit or not names or len(set(names)) != len(names):
        raise UserError(
            f"modalities ({names}) must be a list of different names out of {known}; another one "
            "needs a file: --vectors_file=\"{'NAME': 'vectors.npz'}\" or codes_file."
        )
    for key, mapping in files.items():
        stray = sorted(set(mapping) - set(names) - set(_STAGES))
        if stray:
            raise UserError(f"{key} names {stray}, which modalities ({names}) does not: add it.")
    for key, more in (("target_modality", [FUSED]), ("eval_drop_modality", [])):
        if config[key] not in (None, *names, *more):
            raise UserError(f"{key} ({config[key]}) must be one of modalities ({names}).")


def level_sizes(config: Any) -> list[int]:
    """Codewords per level: `codebook_size`, one number for all `n_levels` or one for each."""
    size, n_levels = config["codebook_size"], config["n_levels"]
    sizes = list(size) if isinstance(size, (list, tuple)) else [size] * n_levels
    if len(sizes) != n_levels or any(not isinstance(s, int) or s < 2 for s in sizes):
        raise UserError(
            f"codebook_size ({size}) must be a number of at least 2, or n_levels ({n_levels}) such."
        )
    return sizes


# --- made elsewhere -------------------------------------------------------------------------------


def _given(config: Any) -> dict[str, dict[str, str]]:
    """Key -> modality -> file."""
    return {key: dict(config[key] or {}) for key in ("vectors_file", "codes_file")}


def _given_stage(name: str, config: Any, train: Any) -> Stage:
    files = _given(config)
    vectors, present = torch.zeros(train.item_num, 1), torch.zeros(train.item_num, dtype=torch.bool)
    codes = sizes = None
    if name in files["vectors_file"]:
        vectors, present = given_files.given_vectors(files["vectors_file"][name], name, train)
    if name in files["codes_file"]:
        codes, sizes = given_files.given_codes(files["codes_file"][name], name, train)
    features = Features(vectors, present, codes, sizes)
    given = {k: v for k, v in features._asdict().items() if v is not None}
    return Stage(cache.fingerprint(**given), lambda: features)


# --- made here ------------------------------------------------------------------------------------


def _collaborative_stage(config: Any, train: Any) -> Stage:
    rows = train.windows()
    settings = {k: v for k, v in config.final_config_dict.items() if k.startswith("collaborative_")}
    key = cache.fingerprint(
        rows={k: cache.fingerprint(v=rows[k]) for k in sorted(rows)},
        n_items=train.item_num,
        settings=settings,
        precision=config["matmul_precision"],
        seed=config["seed"],
    )
    partial = cache.path(config["cache_dir"], "collaborative", key).with_suffix(".partial.pth")

    def make() -> Features:
        return Features(*collaborative_vectors(config, train, partial))

    return _kept(config, "collaborative", key, make)


def _text_stage(config: Any, train: Any) -> Stage | Absent:
    texts = item_texts(config, train)
    if not any(texts):
        file = item_file(config)
        return Absent(f"{file} {'has no text' if file.is_file() else 'does not exist'}")
    encoder = config["text_encoder"]
    tfidf = encoder == TFIDF
    used = ["text_tfidf_size", "seed"] if tfidf else ["text_max_length", "matmul_precision"]
    key = cache.fingerprint(
        texts=texts, encoder=encoder, files=_weights(encoder), settings={k: config[k] for k in used}
    )
    return _kept(config, "text", key, lambda: Features(*text_vectors(texts, config)))


def _image_stage(config: Any, train: Any) -> Stage | Absent:
    kind = config["image_tokenizer"]
    if kind not in (RQ_DINO, FEATURES):
        raise UserError(f"image_tokenizer ({kind!r}) must be {RQ_DINO!r} or {FEATURES!r}.")
    images = find_images(config, train)
    if not images:
        expected = expected_folder(config).resolve() / "ITEM.jpg"
        return Absent(f"no image as {expected}, in any format; image_dir names another folder")
    chosen = [field.name for field in fields(RQDinoSettings) if f"image_{field.name}" in config]
    settings = RQDinoSettings(**{name: config[f"image_{name}"] for name in chosen})
    key = cache.fingerprint(
        images=images.digests,
        items=images.items,
        n_items=train.item_num,
        kind=kind,
        sizes=level_sizes(config) if kind == RQ_DINO else [],
        settings=asdict(settings),
        weights=[_weights(value) for value in asdict(settings).values() if isinstance(value, str)],
        precision=config["matmul_precision"],
        seed=config["seed"],
    )
    make = _rq_dino if kind == RQ_DINO else _backbone
    return _kept(config, "image", key, lambda: make(images, settings, config, train.item_num, key))


def _rq_dino(images: ItemImages, settings: Any, config: Any, n_items: int, key: str) -> Features:
    """Codes of RQ-DINO; its losses go to TensorBoard and, as JSON, beside the cached codes."""
    from recbole_mscgrec.rq_dino.api import rq_dino  # timm takes seconds to import

    sizes, file = level_sizes(config), cache.path(config["cache_dir"], "image", key)
    made = rq_dino(
        images,
        settings,
        sizes,
        seed=config["seed"],
        device=config["device"],
        partial=file.with_suffix(".partial.pth"),
        log_dir=Path("log_tensorboard") / f"RQ-DINO-{config['dataset']}-{key}",
        show_progress=config["show_progress"],
        n_workers=n_workers(config),
    )
    files.write_json(file.with_suffix(".history.json"), made.history)
    return Features(
        _at_items(made.vectors.cpu().float(), images.items, n_items, 0),
        _at_items(torch.ones(len(images), dtype=torch.bool), images.items, n_items, False),
        _at_items(made.codes.cpu().long(), images.items, n_items, MISSING),
        torch.tensor(sizes),
        _at_items(made.quantized.cpu().float(), images.items, n_items, 0),
    )


def _backbone(images: ItemImages, settings: Any, config: Any, n_items: int, key: str) -> Features:
    """Vectors of the frozen backbone."""
    from recbole_mscgrec.rq_dino.api import backbone_features

    vectors = backbone_features(
        images,
        settings,
        device=config["device"],
        n_workers=n_workers(config),
        show_progress=config["show_progress"],
        seed=config["seed"],
    )
    present = torch.ones(len(images), dtype=torch.bool)
    return Features(
        _at_items(vectors.cpu().float(), images.items, n_items, 0),
        _at_items(present, images.items, n_items, False),
    )


_STAGES = {"collaborative": _collaborative_stage, "text": _text_stage, "image": _image_stage}


def _kept(config: Any, name: str, key: str, make: Callable[[], Features]) -> Stage:
    """A stage whose features are stored: made once per fingerprint."""

    def features() -> Features:
        stored = cache.load(config["cache_dir"], name, key)
        if stored is not None:
            return Features(**stored)
        made = make()
        tensors = {k: v for k, v in made._asdict().items() if v is not None}
        cache.save(config["cache_dir"], name, key, tensors)
        return made

    return Stage(key, features)


def _weights(name: str) -> dict[str, list[int]]:
    """Size and time of a model's files, where `name` is a file or folder and not a hub name."""
    path = Path(name)
    files = sorted(path.glob("*")) if path.is_dir() else [path] if path.is_file() else []
    return {str(p): [p.stat().st_size, p.stat().st_mtime_ns] for p in files}


def _at_items(rows: Tensor, items: Tensor, n_items: int, fill: float) -> Tensor:
    """`rows` (n, ...) at their items' ids; `fill` elsewhere: (N, ...)."""
    table = torch.full((n_items, *rows.shape[1:]), fill, dtype=rows.dtype)
    table[items] = rows
    return table
