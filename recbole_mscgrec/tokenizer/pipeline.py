"""The tokenizers: features -> quantizers -> CodeTable, each stage cached under a fingerprint of its
inputs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import torch

from recbole_mscgrec.config.settings import CodeSettings, MSCGRecSettings
from recbole_mscgrec.features.fusion import comparable, side_by_side
from recbole_mscgrec.semantic_ids import code_table
from recbole_mscgrec.semantic_ids.code_table import FUSED, MISSING, CodeTable
from recbole_mscgrec.semantic_ids.collisions import add_collision_level, redistribute
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer
from recbole_mscgrec.storage import cache, files
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.tokenizer.modalities import (
    Absent,
    Features,
    Stage,
    stage_of,
)

Tensor = torch.Tensor
_NEIGHBOURS = 5  # number of items whose mean replaces a missing collaborative vector


@dataclass
class Tokenization:
    """A code table with its health report, the seconds of every stage, and its items."""

    table: CodeTable
    health: dict[str, Any]
    seconds: dict[str, float]
    items: str  # fingerprint of the item tokens in the order of their ids
    vectors: dict[str, Tensor]  # modality -> half (N, D_m), with history_vectors

    def to_plain(self) -> dict[str, Any]:
        """The plain values for a checkpoint, which `from_checkpoint` reads."""
        return {
            "table": self.table.to_plain(),
            "health": self.health,
            "items": self.items,
            "vectors": self.vectors,
        }


def tokenize(settings: MSCGRecSettings, train: Any) -> Tokenization:
    """Codes of all items in every modality, for the data set whose train split is `train`.

    Raises:
        UserError: a modality is unknown, the target is not among the modalities or no item has it,
            or vectors, codes or codebooks do not fit (see modalities.py and ResidualQuantizer).
    """
    codes, cache_dir = settings.codes, settings.run.cache_dir
    seconds: dict[str, float] = {}
    stages, features = _make_features(settings, train, seconds)
    vectors, target = _comparable_vectors(features, codes), codes.target_modality
    if target == FUSED:
        features[FUSED] = _fused(vectors, features)
    key = cache.fingerprint(
        features={name: stage.key for name, stage in stages.items()},
        sizes=codes.level_sizes,
        target=target,
        iterations=codes.quantizer_iterations,
        collision=codes.collision,
        seed=settings.run.seed,
    )
    with timed(seconds, "codes"):
        stored = cache.load(cache_dir, "codes", key)
        if stored is None:
            stored = _quantize(features, settings, train)
            cache.save(cache_dir, "codes", key, stored)
        table, report = _assemble(stored, codes)
        kept = {name: v.half() for name, v in vectors.items()} if codes.history_vectors else {}
    _report(report, cache.path(cache_dir, "codes", key).with_suffix(".health.json"))
    return Tokenization(table, report, seconds, _items(train), kept)


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Add the duration of this block to the seconds of a stage."""
    start = time.perf_counter()
    yield
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def from_checkpoint(state: dict[str, Any], train: Any) -> Tokenization:
    """The codes that a saved model was trained with.

    Raises:
        UserError: the checkpoint holds no codes, or codes of other items.
    """
    plain = state.get("other_parameter", {}).get("code_state")
    if not plain:
        raise UserError("The checkpoint holds no item codes: it is not a checkpoint of MSCGRec.")
    if plain["items"] != _items(train):
        raise UserError(
            f"The checkpoint was trained on other items than the {train.item_num - 1} of this data "
            "set: use the same data set, load_col and filters as in training."
        )
    table = CodeTable.from_plain(plain["table"])
    vectors = {name: v.cpu() for name, v in plain.get("vectors", {}).items()}
    return Tokenization(table, plain["health"], {}, plain["items"], vectors)


def _make_features(
    settings: MSCGRecSettings, train: Any, seconds: dict[str, float]
) -> tuple[dict[str, Stage], dict[str, Features]]:
    """Stages and features of the modalities that items have, in the order of `modalities`."""
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
    features: dict[str, Features] = {}
    for name in sorted(stages, key=lambda n: n == "collaborative"):
        with timed(seconds, name):
            features[name] = stages[name].make()
    return stages, {name: features[name] for name in stages}


def _comparable_vectors(features: dict[str, Features], codes: CodeSettings) -> dict[str, Tensor]:
    """Vectors of the modalities that have any, if the settings need vectors; else an empty dict."""
    if codes.target_modality != FUSED and not codes.history_vectors:
        return {}
    vectors = {
        name: comparable(feature.vectors, feature.present)
        for name, feature in features.items()
        if feature.present.any()
    }
    # If only the preset for sparse data asked for vectors, go on without them.
    asked = codes.history_vectors and codes.history_vectors_chosen
    if asked and not vectors:
        raise UserError(
            "history_vectors=True needs vectors, but codes_file has only codes for "
            f"{list(features)}: leave history_vectors out, or use vectors_file."
        )
    return vectors


def _items(train: Any) -> str:
    return cache.fingerprint(tokens=train.field2id_token[train.iid_field])


# --- codes ----------------------------------------------------------------------------------------


def _fused(vectors: dict[str, Tensor], features: dict[str, Features]) -> Features:
    """The concatenated vectors of all modalities, for the items that have any."""
    if not vectors:
        raise UserError(
            "target_modality fused needs vectors, but codes_file has only codes: choose one of "
            f"{list(features)}."
        )
    present = torch.stack([features[name].present for name in vectors]).any(dim=0)
    return Features(side_by_side(vectors), present)


def _quantize(
    features: dict[str, Features], settings: MSCGRecSettings, train: Any
) -> dict[str, Tensor]:
    """Codes (N, L_m) and codebook sizes (L_m,) of every modality, as `codes.NAME` and `sizes.NAME`;
    those of the target are completed and made unique."""
    codes, stored = settings.codes, dict[str, Tensor]()
    for name, feature in features.items():
        quantizer = None
        if feature.codes is not None and feature.sizes is not None:
            sizes = feature.sizes
            table = feature.codes.clone()  # the target is completed in place
        else:
            rows, sizes = feature.present.nonzero().flatten(), torch.tensor(codes.level_sizes)
            iterations = codes.quantizer_iterations
            quantizer = ResidualQuantizer(sizes.tolist(), iterations, settings.run.seed)
            table = torch.full((train.item_num, len(sizes)), MISSING)
            table[rows] = quantizer.fit(feature.vectors[rows])
        stored[f"codes.{name}"], stored[f"sizes.{name}"] = table, sizes
        if name == codes.target_modality:
            stored["filled"] = _complete_target(table, sizes, quantizer, features, name)
            unique = _unique(table, quantizer, feature, codes, train)
            stored[f"codes.{name}"] = unique
    return stored


def _unique(
    table: Tensor,
    quantizer: ResidualQuantizer | None,
    feature: Features,
    settings: CodeSettings,
    train: Any,
) -> Tensor:
    """Unique target codes (N, L or L + 1) from those in `table` (N, L)."""
    codes = table[1:]
    if settings.collision == "redistribute":
        if quantizer is None:
            raise UserError(
                f"collision=redistribute needs the codebooks of {settings.target_modality}, whose "
                "codes were made elsewhere or by RQ-DINO: use collision=extra_level."
            )
        vectors = feature.vectors[1:].clone()
        lacking = ~feature.present[1:]
        vectors[lacking] = quantizer.decode(codes[lacking])
        unique = redistribute(codes, vectors, quantizer.codebooks)
    else:  # among items that share a code, the most frequent one in training gets 0
        count = train.item_counter  # read once: every access counts all rows again
        rank = torch.tensor([-count[i] for i in range(1, train.item_num)])
        unique = add_collision_level(codes, rank)
    return torch.cat([torch.full((1, unique.size(1)), MISSING), unique])


def _complete_target(
    table: Tensor,
    sizes: Tensor,
    quantizer: ResidualQuantizer | None,
    features: dict[str, Features],
    target: str,
) -> Tensor:
    """Give every item a target code, in place: from its neighbours in another modality, or else a
    free leaf. Returns the numbers of items for both cases.

    The code is that of the mean vector of the neighbours or, if the codes were not made by our
    quantizer, that of the nearest item.
    """
    own, has_code = features[target], table[:, 0] != MISSING
    left = lacking = (~has_code[1:]).nonzero().flatten() + 1
    for name, other in features.items():
        known = (has_code & other.present).nonzero().flatten()
        mine = left[other.present[left]]
        if name == target or len(mine) == 0 or len(known) == 0:
            continue
        k = min(_NEIGHBOURS if quantizer else 1, len(known))
        distance = torch.cdist(other.vectors[mine], other.vectors[known])
        nearest = known[distance.topk(k, largest=False).indices]  # (n, k)
        if quantizer:
            table[mine] = quantizer.encode(own.vectors[nearest].mean(dim=1))
        else:
            table[mine] = table[nearest[:, 0]]
        left = left[~other.present[left]]
    if len(left):
        taken = table[1:][table[1:, 0] != MISSING]
        leaves = code_table.free_leaves(taken, sizes.tolist(), len(left))
        if len(leaves) == 0:  # no leaf is free: the collision level separates the items
            leaves = taken
        table[left] = leaves[torch.arange(len(left)) % len(leaves)]
    return torch.tensor([len(lacking) - len(left), len(left)])


def _assemble(
    stored: dict[str, Tensor], settings: CodeSettings
) -> tuple[CodeTable, dict[str, Any]]:
    names = [n for n in (*settings.modalities, FUSED) if f"codes.{n}" in stored]
    tables = {n: stored[f"codes.{n}"].long() for n in names}
    sizes = {n: stored[f"sizes.{n}"].tolist() for n in names}
    n_content_levels = {n: len(sizes[n]) for n in names}
    target = settings.target_modality
    if tables[target].size(1) > len(sizes[target]):
        sizes[target] = [*sizes[target], int(tables[target][:, -1].max()) + 1]
    table = CodeTable(tables, sizes, target)
    report = code_table.health(table, n_content_levels)
    filled = stored["filled"].tolist()
    report[target]["filled_from_neighbours"], report[target]["filled_free_leaf"] = filled
    return table, report


def _report(report: dict[str, Any], path: Path) -> None:
    for name, health in report.items():
        used = ", ".join(
            f"{v['used']}/{v['codebook_size']} (perplexity {v['perplexity']:.1f})"
            for v in health["levels"]
        )
        getLogger().info(
            f"{name} codes: used per level {used}; alone {health['alone_share']:.1%}, "
            f"at most {health['max_items_per_code']} items per code, "
            f"{health['n_missing']} items without"
        )
    files.write_json(path, report)
