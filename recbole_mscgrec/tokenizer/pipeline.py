"""The tokenization pipeline: features -> quantizers -> CodeTable. Each stage is cached under a
fingerprint of its inputs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from logging import getLogger
from pathlib import Path
from typing import Any

import torch

from recbole_mscgrec.config.settings import CodeSettings, MSCGRecSettings
from recbole_mscgrec.features.fusion import comparable
from recbole_mscgrec.network.history import check_dropped
from recbole_mscgrec.network.learned_vectors import checked_items
from recbole_mscgrec.semantic_ids.code_table import FUSED, CodeTable
from recbole_mscgrec.storage import cache, files, processes, schema
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tokenizer.item_codes import EXTRA_LEVEL, assemble, fused, quantize
from recbole_mscgrec.tokenizer.modalities import (
    Absent,
    Features,
    Stage,
    stage_of,
)
from recbole_mscgrec.transitions.counts import count_transitions
from recbole_mscgrec.transitions.model import Transitions

Tensor = torch.Tensor
Codes = tuple[CodeTable, dict[str, Any], dict[str, Tensor]]  # table, health report, codebooks


@dataclass
class Tokenization:
    """A code table with its health report, the seconds of every stage, and its items."""

    table: CodeTable
    health: dict[str, Any]
    seconds: dict[str, float]
    items: str  # fingerprint of the item tokens in the order of their ids
    vectors: dict[str, Tensor]  # modality -> half (N, D_m); empty without history_vectors
    inputs: dict[str, str]  # modality -> fingerprint of its texts, images or given features
    codebooks: dict[str, Tensor]  # modality quantized here -> (sum of K_l, D), level by level
    transitions: Transitions | None = None  # None without transition_weight
    learned: Tensor | None = None  # int32 (n,) items with a learned vector, if not all or none

    def to_plain(self) -> dict[str, Any]:
        """The plain values for a checkpoint, which `from_checkpoint` reads."""
        return {
            "table": self.table.to_plain(),
            "health": self.health,
            "items": self.items,
            "vectors": self.vectors,
            "inputs": self.inputs,
            "codebooks": self.codebooks,
            "transitions": self.transitions and self.transitions._asdict(),
            "learned": self.learned,
        }


def tokenize(settings: MSCGRecSettings, train: Any) -> Tokenization:
    """Codes of all items in every modality, for the data set whose train split is `train`.

    Raises:
        UserError: no item has the target modality, or vectors, codes or codebooks do not fit (see
            modalities.py and ResidualQuantizer).
    """
    codes, cache_dir = settings.codes, settings.run.cache_dir
    seconds: dict[str, float] = {}
    stages, features = _make_features(settings, train, seconds)
    vectors, target = _comparable_vectors(features, codes), codes.target_modality
    if target == FUSED:
        features[FUSED] = fused(vectors, features)
    kept = {name: v.half() for name, v in vectors.items()} if codes.history_vectors else {}
    del vectors  # with a million items, making the codes needs their memory
    transitions = None
    if settings.decoding.transition_weight:
        with timed(seconds, "transitions"):
            text = features["text"].vectors if "text" in features else None
            transitions = count_transitions(train, text)
    key = cache.fingerprint(
        # A list, because the order of modalities matters: for the fused vectors, and because the
        # first ones complete the target.
        features=[[name, stage.key] for name, stage in stages.items()],
        counts=train.target_counts() if codes.collision == EXTRA_LEVEL else None,
        sizes=codes.level_sizes,
        target=target,
        iterations=codes.quantizer_iterations,
        collision=codes.collision,
        seed=settings.run.seed,
        codebooks="kept",
    )
    with timed(seconds, "codes"):
        table, report, codebooks = _codes(key, settings, features, train)
    _report(report, cache.path(cache_dir, "codes", key).with_suffix(".health.json"))
    inputs = {name: stage.inputs for name, stage in stages.items() if stage.inputs}
    return Tokenization(table, report, seconds, _items(train), kept, inputs, codebooks, transitions)


def tokenize_once(settings: MSCGRecSettings, train: Any) -> Tokenization:
    """The result of `tokenize` in every process; only the first process calls it."""

    def make() -> tuple[dict[str, Any], dict[str, float]]:
        tokens = tokenize(settings, train)
        return tokens.to_plain(), tokens.seconds

    if processes.count() == 1:
        return tokenize(settings, train)
    plain, seconds = processes.once(make)
    table = CodeTable.from_plain(plain.pop("table"))
    parts = plain.pop("transitions")
    transitions = parts and Transitions(**parts)
    return Tokenization(table=table, seconds=seconds, transitions=transitions, **plain)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the duration of this block to the seconds of a stage."""
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def from_checkpoint(state: dict[str, Any], train: Any, file: str) -> Tokenization:
    """The codes that a saved model was trained with.

    Args:
        state: the content of the checkpoint.
        train: the train split, whose items must be those of the training.
        file: the checkpoint, for errors.

    Raises:
        UserError: the checkpoint holds no codes, damaged codes, or codes of other items.
    """
    plain = (state.get("other_parameter") or {}).get("code_state")
    if not plain and "codes" in state:
        raise UserError(
            f"{file} is an interrupted training, for --resume=True only: its item codes are in the "
            f"best model so far, {Path(file).name.replace('.last', '')}. Use that file instead."
        )
    if not plain:
        raise UserError(f"{file} holds no item codes: it is not a checkpoint of MSCGRec.")
    schema.check(plain, schema.CODES, file, "a checkpoint with item codes")
    if plain["items"] != _items(train):
        raise UserError(
            f"{file} was trained on other items than the {train.item_num - 1} of this data "
            "set: use the same data set, load_col and filters as in its training."
        )
    try:
        table = CodeTable.from_plain(plain["table"])
    except UserError as error:
        raise UserError(f"{file} cannot be used, because of its item codes: {error}") from error
    vectors = {name: v.cpu() for name, v in (plain.get("vectors") or {}).items()}
    if table.n_items != train.item_num or any(len(v) != train.item_num for v in vectors.values()):
        raise UserError(
            f"{file} is damaged: it holds codes or vectors of {table.n_items - 1} items, not of "
            f"{train.item_num - 1}."
        )
    inputs, books = plain.get("inputs") or {}, plain.get("codebooks") or {}
    books = {name: book.cpu() for name, book in books.items()}
    parts = plain.get("transitions")
    transitions = parts and Transitions.of(parts, train.item_num, file)
    learned = checked_items(plain.get("learned"), train.item_num, file)
    return Tokenization(
        table, plain["health"], {}, plain["items"], vectors, inputs, books, transitions, learned
    )


def _make_features(
    settings: MSCGRecSettings, train: Any, seconds: dict[str, float]
) -> tuple[dict[str, Stage], dict[str, Features]]:
    """Stages and features of the modalities that any item has, in the order of `modalities`."""
    stages: dict[str, Stage] = {}
    absent: list[str] = []
    # Read all inputs before anything is trained. SASRec, the slowest stage, comes last.
    for name in settings.codes.modalities:
        with timed(seconds, name):
            stage = stage_of(name, settings, train)
        if isinstance(stage, Absent):
            absent.append(f"{name} ({stage.reason})")
        else:
            stages[name] = stage
    if absent:
        getLogger().warning(
            f"Modalities: {', '.join(stages) or 'none'}. No item has {'; nor '.join(absent)}."
        )
    target = settings.codes.target_modality
    if target not in (*stages, FUSED):
        raise UserError(f"target_modality {target}: no item has it; choose another one.")
    if dropped := settings.decoding.eval_drop_modality:
        check_dropped(dropped, list(stages))
    features: dict[str, Features] = {}
    for name in sorted(stages, key=lambda n: n == "collaborative"):
        with timed(seconds, name):
            features[name] = stages[name].make()
    return stages, {name: features[name] for name in stages}


def _comparable_vectors(features: dict[str, Features], codes: CodeSettings) -> dict[str, Tensor]:
    """Comparable vectors of the modalities that have vectors; empty if the settings need none."""
    if codes.target_modality != FUSED and not codes.history_vectors:
        return {}
    vectors = {
        name: comparable(feature.vectors, feature.present)
        for name, feature in features.items()
        if feature.present.any()
    }
    # If only the preset for sparse data asked for vectors, continue without them.
    asked = codes.history_vectors and codes.history_vectors_chosen
    if asked and not vectors:
        raise UserError(
            "history_vectors=True needs vectors, but codes_file holds only codes for "
            f"{list(features)}: leave history_vectors out, or use vectors_file."
        )
    return vectors


def _items(train: Any) -> str:
    return cache.fingerprint(tokens=train.field2id_token[train.iid_field])


# --- codes ----------------------------------------------------------------------------------------


def _codes(key: str, settings: MSCGRecSettings, features: dict[str, Features], train: Any) -> Codes:
    """The cached codes; if there are none, they are made from the features and cached."""
    folder = settings.run.cache_dir

    def made() -> Codes:
        tensors = quantize(features, settings, train)
        cache.save(folder, "codes", key, tensors)
        return assemble(tensors, settings.codes)

    stored = partial(_stored_codes, key, settings, list(features), train.item_num)
    return cache.made_once(folder, "codes", key, stored, made)


def _stored_codes(
    key: str, settings: MSCGRecSettings, modalities: list[str], n_items: int
) -> Codes | None:
    """The cached codes; None if there are none, or if they cannot be used."""
    folder = settings.run.cache_dir
    stored = cache.load(folder, "codes", key, schema.codes(modalities, n_items))
    if stored is None:
        return None
    try:
        return assemble(stored, settings.codes)
    except UserError as error:
        files.set_aside(cache.path(folder, "codes", key), str(error))
        return None


def _report(report: dict[str, Any], path: Path) -> None:
    for name, health in report.items():
        used = ", ".join(
            f"{v['used']}/{v['codebook_size']} (perplexity {v['perplexity']:.1f})"
            for v in health["levels"]
        )
        getLogger().info(
            f"{name} codes: used per level {used}; {health['alone_share']:.1%} of the items alone "
            f"with their code, at most {health['max_items_per_code']} items per code, "
            f"{health['n_missing']} items without a code"
        )
    files.write_json(path, report)
