"""The one place that runs features -> quantizers -> CodeTable, each stage cached by its inputs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import Any

import torch

from recbole_mscgrec import cache, codes
from recbole_mscgrec.codes import MISSING, CodeTable
from recbole_mscgrec.collaborative import collaborative_vectors
from recbole_mscgrec.quantizers import ResidualQuantizer
from recbole_mscgrec.text import TFIDF, item_texts, text_vectors

Tensor = torch.Tensor
_NEIGHBOURS = 5  # items whose mean stands in for a vector that the train split cannot give


@dataclass
class Tokenization:
    """A code table with its health report, the seconds of every stage, and the items it is for."""

    table: CodeTable
    health: dict[str, Any]
    seconds: dict[str, float]
    items: str  # fingerprint of the item tokens in the order of their ids

    def to_plain(self) -> dict[str, Any]:
        """For a checkpoint: what `from_checkpoint` needs to do without the tokenizers."""
        return {"table": self.table.to_plain(), "health": self.health, "items": self.items}


def tokenize(config: Any, train: Any) -> Tokenization:
    """Codes of all items in every modality, for the data set whose train split is `train`.

    Raises:
        ValueError: an unknown modality, a target that is not among them, or vectors or codebooks
            that do not fit (see ResidualQuantizer).
    """
    _check_settings(config, train)
    seconds: dict[str, float] = {}
    features: dict[str, tuple[Tensor, Tensor]] = {}
    # All inputs are read before anything is trained, and SASRec, the slow stage, comes last.
    stages = {name: _STAGES[name](config, train) for name in config["modalities"]}
    for name in sorted(stages, key=lambda n: n == "collaborative"):
        start = time.perf_counter()
        key, make = stages[name]
        features[name] = _cached(config, name, key, make)
        seconds[name] = time.perf_counter() - start
    start = time.perf_counter()
    key = cache.fingerprint(
        features={name: stages[name][0] for name in config["modalities"]},
        sizes=level_sizes(config),
        target=config["target_modality"],
        iterations=config["quantizer_iterations"],
        seed=config["seed"],
    )
    stored = cache.load(config["cache_dir"], "codes", key)
    if stored is None:
        stored = _quantize({n: features[n] for n in config["modalities"]}, config, train)
        cache.save(config["cache_dir"], "codes", key, stored)
    seconds["codes"] = time.perf_counter() - start
    table, report = _assemble(stored, config)
    _report(report, cache.path(config["cache_dir"], "codes", key).with_suffix(".health.json"))
    return Tokenization(table, report, seconds, _items(train))


def from_checkpoint(state: dict[str, Any], train: Any) -> Tokenization:
    """The codes that a saved model was trained with.

    Raises:
        ValueError: the checkpoint holds no codes, or codes of other items.
    """
    plain = state.get("other_parameter", {}).get("code_state")
    if not plain:
        raise ValueError("The checkpoint holds no item codes: it is not one of MSCGRec.")
    if plain["items"] != _items(train):
        raise ValueError(
            f"The checkpoint was trained on other items than the {train.item_num - 1} of this data "
            "set: use the same data set, load_col and filters as in training."
        )
    return Tokenization(CodeTable.from_plain(plain["table"]), plain["health"], {}, plain["items"])


def _items(train: Any) -> str:
    return cache.fingerprint(tokens=train.field2id_token[train.iid_field])


def _check_settings(config: Any, train: Any) -> None:
    check_modalities(config)
    largest, n_items = max(level_sizes(config)), train.item_num - 1
    if largest > n_items:
        raise ValueError(
            f"codebook_size ({largest}) must not exceed the number of items ({n_items}): "
            "lower codebook_size."
        )


def check_modalities(config: Any) -> None:
    """Raise ValueError for a modality list that cannot be used."""
    names = config["modalities"]
    unknown = [n for n in names if n not in _STAGES]
    if unknown or not names or len(set(names)) != len(names):
        raise ValueError(
            f"modalities ({names}) must be a list of different names out of {sorted(_STAGES)}."
        )
    if config["target_modality"] not in names:
        raise ValueError(
            f"target_modality ({config['target_modality']}) must be one of modalities ({names})."
        )


def level_sizes(config: Any) -> list[int]:
    """Codewords per level: `codebook_size`, one number for all `n_levels` or one for each."""
    size, n_levels = config["codebook_size"], config["n_levels"]
    sizes = list(size) if isinstance(size, (list, tuple)) else [size] * n_levels
    if len(sizes) != n_levels or any(not isinstance(s, int) or s < 2 for s in sizes):
        raise ValueError(
            f"codebook_size ({size}) must be a number of at least 2, or n_levels ({n_levels}) such."
        )
    return sizes


# --- features -------------------------------------------------------------------------------------

Stage = tuple[str, Callable[[], tuple[Tensor, Tensor]]]  # fingerprint, and how to make the vectors


def _collaborative_stage(config: Any, train: Any) -> Stage:
    rows = train.inter_feat
    settings = {k: v for k, v in config.final_config_dict.items() if k.startswith("collaborative_")}
    key = cache.fingerprint(
        rows={k: cache.fingerprint(v=rows[k]) for k in sorted(rows)},
        n_items=train.item_num,
        settings=settings,
        seed=config["seed"],
    )
    partial = cache.path(config["cache_dir"], "collaborative", key).with_suffix(".partial.pth")
    return key, lambda: collaborative_vectors(config, train, partial)


def _text_stage(config: Any, train: Any) -> Stage:
    texts = item_texts(config, train)
    encoder = config["text_encoder"]
    used = ["text_tfidf_size", "seed"] if encoder == TFIDF else ["text_max_length"]
    weights = [str(p) for p in sorted(Path(encoder).glob("*"))] if Path(encoder).is_dir() else []
    key = cache.fingerprint(
        texts=texts,
        encoder=encoder,
        files={p: [Path(p).stat().st_size, Path(p).stat().st_mtime_ns] for p in weights},
        settings={k: config[k] for k in used},
    )
    return key, lambda: text_vectors(texts, config)


_STAGES = {"collaborative": _collaborative_stage, "text": _text_stage}


def _cached(
    config: Any, stage: str, key: str, make: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    stored = cache.load(config["cache_dir"], stage, key)
    if stored is None:
        vectors, present = make()
        stored = {"vectors": vectors, "present": present}
        cache.save(config["cache_dir"], stage, key, stored)
    return stored["vectors"], stored["present"]


# --- codes ----------------------------------------------------------------------------------------


def _quantize(
    features: dict[str, tuple[Tensor, Tensor]], config: Any, train: Any
) -> dict[str, Tensor]:
    """Codes (N, L_m) of every modality; the target's are completed and made unique."""
    sizes = level_sizes(config)
    stored: dict[str, Tensor] = {}
    for name, (vectors, present) in features.items():
        rows = present.nonzero().flatten()
        if len(rows) == 0:
            getLogger().warning(f"{name}: no item has it, so this modality is left out.")
            continue
        quantizer = ResidualQuantizer(sizes, config["quantizer_iterations"], config["seed"])
        table = torch.full((len(vectors), len(sizes)), MISSING)
        table[rows] = quantizer.fit(vectors[rows])
        stored[name] = table
        if name == config["target_modality"]:
            stored["filled"] = _complete_target(table, quantizer, features, name)
    target = config["target_modality"]
    if target not in stored:
        raise ValueError(f"target_modality {target}: no item has it; choose another one.")
    # Of the items that share a code, the most frequent one in training gets collision code 0.
    counter = train.item_counter
    rank = torch.tensor([-counter[i] for i in range(1, train.item_num)])
    unique = codes.add_collision_level(stored[target][1:], rank)
    stored[target] = torch.cat([torch.full((1, unique.size(1)), MISSING), unique])
    return stored


def _complete_target(
    table: Tensor,
    quantizer: ResidualQuantizer,
    features: dict[str, tuple[Tensor, Tensor]],
    target: str,
) -> Tensor:
    """Give every item a target code, in place: from its neighbours in other modalities, or a free
    leaf. Returns the two counts."""
    vectors, present = features[target]
    lacking = (~present[1:]).nonzero().flatten() + 1
    left = lacking
    for name, (other, other_present) in features.items():
        if name == target or len(left) == 0:
            continue
        known = (present & other_present).nonzero().flatten()
        mine = left[other_present[left]]
        if len(mine) == 0 or len(known) == 0:
            continue
        k = min(_NEIGHBOURS, len(known))
        nearest = torch.cdist(other[mine], other[known]).topk(k, largest=False).indices
        table[mine] = quantizer.encode(vectors[known[nearest]].mean(dim=1))
        left = left[~other_present[left]]
    if len(left):
        taken = table[1:][table[1:, 0] != MISSING]
        leaves = codes.free_leaves(taken, quantizer.codebook_sizes, len(left))
        if len(leaves) == 0:  # every leaf is taken: share them, the collision level separates
            leaves = taken
        table[left] = leaves[torch.arange(len(left)) % len(leaves)]
    return torch.tensor([len(lacking) - len(left), len(left)])


def _assemble(stored: dict[str, Tensor], config: Any) -> tuple[CodeTable, dict[str, Any]]:
    filled = stored["filled"].tolist()
    sizes = level_sizes(config)
    target = config["target_modality"]
    names = [n for n in config["modalities"] if n in stored]
    level_counts = {n: list(sizes) for n in names}
    if stored[target].size(1) > len(sizes):
        level_counts[target].append(int(stored[target][:, -1].max()) + 1)
    table = CodeTable({n: stored[n].long() for n in names}, level_counts, target)
    report = codes.health(table, dict.fromkeys(names, len(sizes)))
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
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
