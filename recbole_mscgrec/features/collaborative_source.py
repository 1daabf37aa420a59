"""What the collaborative vectors are learned by: SASRec or GRU4Rec on tiled rows, or any sequential
model of RecBole that has an item embedding, on RecBole's rows."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from recbole.data.transform import construct_transform
from recbole.utils import InputType, ModelType, get_model

from recbole_mscgrec.config.config import Config, Settings
from recbole_mscgrec.data.tiled_rows import target_list_field
from recbole_mscgrec.features.tiled_models import TiledGRU4Rec, TiledSASRec

Tensor = torch.Tensor
OURS = "SASRec"  # has its settings collaborative_*; every other model its own YAML file
_HELD_OUT_USERS = 1000  # users whose last train target measures when to stop
_SCORED_AT_ONCE = 256  # users


class Source(Protocol):
    """A model that is being trained on the train split but for some held-out targets."""

    model: Any

    def train_epoch(self, optimizer: Any) -> float:
        """One epoch. Returns the mean loss of its batches."""

    def score(self) -> float:
        """NDCG@10 of the held-out targets among all items."""


def source_of(config: Any, train: Any) -> Source:
    """The source that `collaborative_source` names.

    Raises:
        ValueError: no model of RecBole, not a sequential one, one that needs negative samples or
            item features, or one without an item embedding.
    """
    name = config["collaborative_source"]
    if name == OURS:
        if config["collaborative_settings"]:
            raise ValueError(
                f"collaborative_settings ({config['collaborative_settings']}) are for another "
                f"collaborative_source than {OURS}, which has its own (collaborative_size)."
            )
        return TiledSource(TiledSASRec(_sasrec_config(config), train), config, train)
    if name == "GRU4Rec":
        return TiledSource(TiledGRU4Rec(_config_of(config), train), config, train)
    if name in ("TiledSASRec", "TiledGRU4Rec"):
        raise ValueError(
            f"collaborative_source ({name}) is written {name.removeprefix('Tiled')}: this stage "
            "trains it on tiled rows anyway."
        )
    return PrefixSource(config, train)


# --- on tiled rows --------------------------------------------------------------------------------


class TiledSource:
    """A model of tiled_models.py, one row per window."""

    def __init__(self, model: Any, config: Any, train: Any) -> None:
        self.device, self.batch_size = config["device"], config["collaborative_batch_size"]
        self.model = model.to(self.device)
        rows = train.windows()
        self.history = rows[self.model.ITEM_SEQ]
        self.targets = rows[target_list_field(config)].clone()
        self.held_out = _hold_out(rows, self.targets, train.uid_field, config["seed"])

    def train_epoch(self, optimizer: Any) -> float:
        losses = []
        for index in torch.randperm(len(self.history)).split(self.batch_size):
            if not bool((self.targets[index] != 0).any()):
                continue
            batch = {
                self.model.ITEM_SEQ: self.history[index].to(self.device),
                self.model.TARGETS: self.targets[index].to(self.device),
            }
            losses.append(_step(self.model, batch, optimizer))
        return float(np.mean(losses))

    @torch.no_grad()
    def score(self) -> float:
        ranks = []
        for rows, items, lengths in zip(
            *(part.split(_SCORED_AT_ONCE) for part in self.held_out), strict=True
        ):
            output = self.model.forward(self.history[rows].to(self.device), lengths.to(self.device))
            scores = output @ self.model.item_embedding.weight[1:].T
            ranks.append(_rank(scores, items.to(self.device) - 1))
        return _ndcg(torch.cat(ranks))


def _sasrec_config(config: Any) -> Settings:
    """The settings of the SASRec stage under the names that SASRec reads."""
    fields = "USER_ID_FIELD ITEM_ID_FIELD LIST_SUFFIX ITEM_LIST_LENGTH_FIELD NEG_PREFIX".split()
    return Settings(
        {name: config[name] for name in [*fields, "MAX_ITEM_LIST_LENGTH", "device"]},
        n_layers=config["collaborative_n_layers"],
        n_heads=config["collaborative_n_heads"],
        hidden_size=config["collaborative_size"],
        inner_size=4 * config["collaborative_size"],
        hidden_dropout_prob=config["collaborative_dropout_prob"],
        attn_dropout_prob=config["collaborative_dropout_prob"],
        hidden_act="gelu",
        layer_norm_eps=1e-12,
        initializer_range=0.02,
        loss_type="CE",
    )


def _hold_out(
    rows: Any, targets: Tensor, user_field: str, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Blank the last target of some users' last window in `targets`; where and what it was."""
    users = rows[user_field]
    is_newest = torch.ones(len(users), dtype=torch.bool)
    is_newest[1:] = users[1:] != users[:-1]  # a user's newest window comes first
    candidates = is_newest.nonzero().flatten()
    generator = torch.Generator().manual_seed(seed)
    held = candidates[torch.randperm(len(candidates), generator=generator)[:_HELD_OUT_USERS]]
    position = targets.size(1) - 1 - (targets[held] != 0).flip(1).int().argmax(1)
    items = targets[held, position]
    targets[held, position] = 0
    return held, items, position + 1


# --- on a row per prefix --------------------------------------------------------------------------


class PrefixSource:
    """A RecBole model with its own YAML file and `collaborative_settings`, one row per prefix."""

    def __init__(self, config: Any, train: Any) -> None:
        self.device, self.batch_size = config["device"], config["collaborative_batch_size"]
        theirs = _config_of(config)
        # The transform names the fields that it adds in the configuration, where models look.
        self.data, self.transform = train, construct_transform(theirs)
        self.model = _build(theirs, train).to(self.device)
        rows = train.prefixes()
        users = rows[train.uid_field]
        last = torch.ones(len(users), dtype=torch.bool)
        last[:-1] = users[1:] != users[:-1]
        candidates = last.nonzero().flatten()
        generator = torch.Generator().manual_seed(config["seed"])
        held = candidates[torch.randperm(len(candidates), generator=generator)[:_HELD_OUT_USERS]]
        last[:] = False
        last[held] = True
        self.rows, self.held_out = rows[~last], rows[last]

    def train_epoch(self, optimizer: Any) -> float:
        losses = []
        for index in torch.randperm(len(self.rows)).split(self.batch_size):
            batch = self.transform(self.data, self.rows[index]).to(self.device)
            losses.append(_step(self.model, batch, optimizer))
        return float(np.mean(losses))

    @torch.no_grad()
    def score(self) -> float:
        ranks = []
        for index in torch.arange(len(self.held_out)).split(_SCORED_AT_ONCE):
            batch = self.held_out[index].to(self.device)
            scores = self.model.full_sort_predict(batch).view(len(index), -1)
            ranks.append(_rank(scores[:, 1 : self.data.item_num], batch[self.model.ITEM_ID] - 1))
        return _ndcg(torch.cat(ranks))


def _config_of(config: Any) -> Config:
    """The other model's configuration: its own settings, but this run's data and seed."""
    name = config["collaborative_source"]
    shared = "data_path USER_ID_FIELD ITEM_ID_FIELD TIME_FIELD LIST_SUFFIX NEG_PREFIX".split()
    shared += "ITEM_LIST_LENGTH_FIELD MAX_ITEM_LIST_LENGTH load_col seed gpu_id use_gpu".split()
    settings = {key: config[key] for key in shared}
    settings["data_path"] = str(settings["data_path"])
    typed = {**settings, **config["collaborative_settings"]}
    theirs = Config(name, config["dataset"], typed=typed)
    if theirs["MODEL_TYPE"] != ModelType.SEQUENTIAL:
        raise ValueError(f"collaborative_source ({name}) must be a sequential model of RecBole.")
    if theirs["MODEL_INPUT_TYPE"] == InputType.PAIRWISE or theirs["loss_type"] == "BPR":
        raise ValueError(
            f"collaborative_source ({name}) trains with negative samples, which this stage does "
            "not draw: use a model with cross-entropy, such as SASRec, GRU4Rec, NARM or BERT4Rec."
        )
    return theirs


def _build(config: Config, train: Any) -> Any:
    name = config["model"]
    try:
        model = get_model(name)(config, train)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(
            f"collaborative_source ({name}) cannot be built on histories of items alone "
            f"({type(error).__name__}: {error}): use SASRec, GRU4Rec, NARM, STAMP or BERT4Rec."
        ) from error
    table = getattr(model, "item_embedding", None)
    if not isinstance(table, torch.nn.Embedding) or table.num_embeddings < train.item_num:
        raise ValueError(f"collaborative_source ({name}) has no table `item_embedding` of items.")
    return model


# --- both -----------------------------------------------------------------------------------------


def _step(model: Any, batch: Any, optimizer: Any) -> float:
    optimizer.zero_grad()
    loss = model.calculate_loss(batch)
    loss.backward()
    optimizer.step()
    return loss.item()


def _rank(scores: Tensor, item: Tensor) -> Tensor:
    """(B,) how many columns of scores (B, N) are above that of `item` (B,)."""
    return (scores > scores.gather(1, item.unsqueeze(1))).sum(1).cpu()


def _ndcg(rank: Tensor) -> float:
    """NDCG@10 of targets at these ranks, from 0."""
    return float(torch.where(rank < 10, 1 / torch.log2(rank.double() + 2), 0.0).mean())
