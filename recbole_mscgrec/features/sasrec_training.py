"""Training of the SASRec model that gives the collaborative vectors, on tiled rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from recbole_mscgrec.config import parsing
from recbole_mscgrec.config.config import Settings, properties_folder
from recbole_mscgrec.config.settings import CollaborativeSettings, RunSettings
from recbole_mscgrec.data.tiled_rows import target_list_field
from recbole_mscgrec.features.tiled_models import TiledSASRec
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor
_HELD_OUT_USERS = 1000  # maximum number of users with a held-out target for early stopping
_HELD_OUT_SHARE = 0.1  # maximum share of all targets that is held out
_SCORED_AT_ONCE = 256  # maximum number of users
_STEPS_PER_EPOCH = 1000  # with the default batch size, unless that is at one of its bounds
_LEAST_WINDOWS, _MOST_WINDOWS = 64, 1024  # per batch
_SCORES_AT_ONCE = 1 << 24  # 64 MB


def batch_size_of(settings: CollaborativeSettings, n_windows: int) -> int:
    """Windows per batch. The default is a thousandth of all windows, from 64 to 1024: with a large
    catalogue, a step is slow for any batch size, so a large data set gets large batches."""
    if settings.batch_size is not None:
        return settings.batch_size
    return min(max(n_windows // _STEPS_PER_EPOCH, _LEAST_WINDOWS), _MOST_WINDOWS)


class SASRecTraining:
    """A TiledSASRec, the windows of the train split, one row each, and the held-out targets."""

    def __init__(self, settings: CollaborativeSettings, run: RunSettings, train: Any) -> None:
        model = TiledSASRec(_model_config(settings, run, train.config), train)
        self.device, self.model = run.device, model.to(run.device)
        self.rows, self.target_field = train.windows(), target_list_field(train.config)
        self.batch_size = batch_size_of(settings, len(self.rows))
        self.held_out = _hold_out(self.rows, self.target_field, train.uid_field, run.seed)
        self.hidden = torch.full((len(self.rows),), -1, dtype=torch.int32)
        self.hidden[self.held_out[0]] = self.held_out[2].int() - 1
        if self.model.sampler is not None:
            # A step touches a few thousand of perhaps millions of items. Their gradient is added to
            # this one, which is kept: newly allocated memory would have to be mapped each time.
            weight = self.model.item_embedding.weight
            weight.grad, self.model.sparse_gradient = torch.zeros_like(weight), True

    def train_epoch(self, optimizer: Any) -> float:
        """Train for one epoch over all windows. Returns the mean loss of its batches."""
        losses = []
        for index in torch.randperm(len(self.rows)).split(self.batch_size):
            history, targets = self.windows(index)
            if not bool((targets != 0).any()):
                continue
            batch = {
                self.model.ITEM_SEQ: history.to(self.device),
                self.model.TARGETS: targets.to(self.device),
            }
            losses.append(_step(self.model, batch, optimizer))
        return float(np.mean(losses))

    def windows(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Histories and targets (B, T) of the windows `index` (B,), without held-out targets. T is
        the length of the longest of these histories."""
        rows, hidden = self.rows[index], self.hidden[index]
        longest = int(rows[self.model.ITEM_SEQ_LEN].max())
        targets = rows[self.target_field][:, :longest]
        place = (hidden >= 0).nonzero().flatten()
        targets[place, hidden[place].long()] = 0
        return rows[self.model.ITEM_SEQ][:, :longest], targets

    @torch.no_grad()
    def score(self) -> float:
        """NDCG@10 on the held-out items, ranked among all items."""
        n_users = max(1, min(_SCORED_AT_ONCE, _SCORES_AT_ONCE // self.model.n_items))
        ranks, items = [], self.model.item_vectors()[1:]
        for rows, targets, lengths in zip(
            *(part.split(n_users) for part in self.held_out), strict=True
        ):
            history = self.windows(rows)[0].to(self.device)
            output = self.model.forward(history, lengths.to(self.device))
            scores = output @ items.T
            ranks.append(_rank(scores, targets.to(self.device) - 1))
        return _ndcg(torch.cat(ranks))


def _model_config(settings: CollaborativeSettings, run: RunSettings, config: Any) -> Settings:
    """The settings of TiledSASRec: those of its YAML file, overridden by the settings
    collaborative_*."""
    file = properties_folder() / "model" / "TiledSASRec.yaml"
    fields = "USER_ID_FIELD ITEM_ID_FIELD LIST_SUFFIX ITEM_LIST_LENGTH_FIELD NEG_PREFIX".split()
    shared = {name: config[name] for name in [*fields, "MAX_ITEM_LIST_LENGTH"]}
    return Settings(
        {**parsing.read_settings(file), **shared},
        device=run.device,
        n_layers=settings.n_layers,
        n_heads=settings.n_heads,
        hidden_size=settings.size,
        inner_size=4 * settings.size,
        hidden_dropout_prob=settings.dropout_prob,
        attn_dropout_prob=settings.dropout_prob,
        n_negatives=settings.n_negatives,
    )


def _hold_out(
    rows: Any, target_field: str, user_field: str, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Choose users whose last target is held out. Returns the rows of these targets, the items, and
    the lengths of the histories before them.

    Raises:
        UserError: there is only one target, so none is left to train on.
    """
    users = rows[user_field]
    is_newest = torch.ones(len(users), dtype=torch.bool)
    is_newest[1:] = users[1:] != users[:-1]  # the newest window of a user comes first
    candidates = is_newest.nonzero().flatten()
    generator = torch.Generator().manual_seed(seed)
    n_targets = int((rows[target_field] != 0).sum())
    if n_targets < 2:
        raise UserError(
            f"The train split has {n_targets} next items to learn from, too few for SASRec and its "
            "collaborative vectors: use data with more interactions per user, or leave "
            "collaborative out of `modalities`."
        )
    n_held = max(1, min(_HELD_OUT_USERS, int(_HELD_OUT_SHARE * n_targets)))
    held = candidates[torch.randperm(len(candidates), generator=generator)[:n_held]]
    targets = rows[held][target_field]
    position = targets.size(1) - 1 - (targets != 0).flip(1).int().argmax(1)
    return held, targets.gather(1, position.unsqueeze(1)).squeeze(1), position + 1


def _step(model: Any, batch: Any, optimizer: Any) -> float:
    optimizer.zero_grad(set_to_none=not model.sparse_gradient)
    loss = model.calculate_loss(batch)
    loss.backward()
    optimizer.step()
    return loss.item()


def _rank(scores: Tensor, item: Tensor) -> Tensor:
    """The rank (B,), from 0, of `item` (B,) among the scores (B, N): the number of other items
    whose score is not smaller. Ties and NaN count against the item."""
    return (~(scores < scores.gather(1, item.unsqueeze(1)))).sum(1).cpu() - 1


def _ndcg(rank: Tensor) -> float:
    """NDCG@10 of targets at these ranks, from 0."""
    return float(torch.where(rank < 10, 1 / torch.log2(rank.double() + 2), 0.0).mean())
