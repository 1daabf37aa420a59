"""Collaborative vectors: the item embeddings of a SASRec trained on the train split only."""

from __future__ import annotations

import copy
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.utils import set_color
from tqdm import tqdm

from recbole_mscgrec import checkpoint
from recbole_mscgrec.dataset import target_list_field
from recbole_mscgrec.tiled_sasrec import TiledSASRec

Tensor = torch.Tensor
_HELD_OUT_USERS = 1000  # users whose last train target measures when to stop


class _SASRecConfig(dict):
    """The settings of the SASRec stage under the names that SASRec reads; None where unset."""

    def __missing__(self, key: str) -> None:
        return None


def collaborative_vectors(config: Any, train: Any, partial: Path) -> tuple[Tensor, Tensor]:
    """Item embeddings (N, D) of TiledSASRec, and which items the train split shows: bool (N,).

    Sees `train` only. The last target of up to 1,000 users is held out from it to stop early, so no
    number depends on the valid or test split. Deterministic for a seed. After every epoch the state
    goes to the file `partial`, from which an interrupted stage goes on; it is removed at the end.
    """
    torch.manual_seed(config["seed"])
    model = TiledSASRec(_sasrec_config(config), train).to(config["device"])
    rows = train.windows()
    history = rows[model.ITEM_SEQ]
    targets = rows[target_list_field(config)].clone()
    held_out = _hold_out(rows, targets, train.uid_field, config["seed"])
    optimizer = torch.optim.Adam(model.parameters(), lr=config["collaborative_learning_rate"])
    progress = _Progress(model, optimizer, partial)
    bar = tqdm(
        range(progress.epoch, config["collaborative_epochs"]),
        ncols=100,
        desc=set_color("SASRec    ", "pink"),
        disable=not config["show_progress"],
    )
    for _ in bar:
        if progress.waited > config["collaborative_patience"]:
            break
        loss = _train_epoch(model, optimizer, history, targets, config)
        score = _ndcg(model, history, held_out, config["device"])
        bar.set_postfix_str(f"loss {loss:.3f}, held-out NDCG@10 {score:.4f}")
        progress.update(score)
    bar.close()
    getLogger().info(
        f"collaborative: SASRec stopped after {progress.epoch} epochs, "
        f"best held-out NDCG@10 {progress.best_score:.4f}"
    )
    model.load_state_dict(progress.best)
    partial.unlink(missing_ok=True)
    present = torch.zeros(train.item_num, dtype=torch.bool)
    present[train.items_seen()] = True
    return model.item_embedding.weight.detach().cpu().float(), present


class _Progress:
    """Best weights so far, patience, and the file that an interrupted stage goes on from."""

    def __init__(self, model: Any, optimizer: Any, file: Path) -> None:
        self.model, self.optimizer, self.file = model, optimizer, file
        self.best, self.best_score = copy.deepcopy(model.state_dict()), -1.0
        self.epoch = self.waited = 0
        if not file.is_file():
            return
        try:
            state = checkpoint.load(
                file, next(model.parameters()).device, ("model", "best", "random")
            )
        except ValueError as error:
            getLogger().warning(f"collaborative: starting anew, because {error}")
            return
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"].cpu())
        self.best, self.best_score = state["best"], state["best_score"]
        self.epoch, self.waited = state["epoch"], state["waited"]
        getLogger().info(f"collaborative: going on after epoch {self.epoch}, from {file}")

    def update(self, score: float) -> None:
        """Take the score of a finished epoch into account and write the file."""
        self.epoch, self.waited = self.epoch + 1, self.waited + 1
        if score > self.best_score:
            self.best, self.best_score = copy.deepcopy(self.model.state_dict()), score
            self.waited = 0
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best": self.best,
            "best_score": self.best_score,
            "epoch": self.epoch,
            "waited": self.waited,
            "random": torch.get_rng_state(),
        }
        checkpoint.save(self.file, state)


def _sasrec_config(config: Any) -> _SASRecConfig:
    fields = "USER_ID_FIELD ITEM_ID_FIELD LIST_SUFFIX ITEM_LIST_LENGTH_FIELD NEG_PREFIX".split()
    return _SASRecConfig(
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


def _train_epoch(
    model: Any, optimizer: Any, history: Tensor, targets: Tensor, config: Any
) -> float:
    model.train()
    total, batches = 0.0, 0
    for index in torch.randperm(len(history)).split(config["collaborative_batch_size"]):
        if not bool((targets[index] != 0).any()):
            continue
        batch = {model.ITEM_SEQ: history[index], model.TARGETS: targets[index]}
        optimizer.zero_grad()
        loss = model.calculate_loss({k: v.to(config["device"]) for k, v in batch.items()})
        loss.backward()
        optimizer.step()
        total, batches = total + loss.item(), batches + 1
    return total / max(batches, 1)


@torch.no_grad()
def _ndcg(
    model: Any, history: Tensor, held_out: tuple[Tensor, Tensor, Tensor], device: Any
) -> float:
    """NDCG@10 of the held-out items among all items."""
    model.eval()
    ranks = []
    for rows, i, n in zip(*(part.split(256) for part in held_out), strict=True):
        h = history[rows]
        output = model.forward(h.to(device), n.to(device))
        scores = output @ model.item_embedding.weight[1:].T
        true = scores.gather(1, i.to(device).unsqueeze(1) - 1)
        ranks.append((scores > true).sum(1).cpu())
    rank = torch.cat(ranks).double()
    return float(torch.where(rank < 10, 1 / torch.log2(rank + 2), 0.0).mean())
