"""Collaborative vectors: the item embeddings of a SASRec trained on the train split only."""

from __future__ import annotations

import copy
import math
from logging import getLogger
from pathlib import Path
from typing import Any

import torch
from recbole.utils import init_seed, set_color
from tqdm import tqdm

from recbole_mscgrec.config.settings import CollaborativeSettings, RunSettings
from recbole_mscgrec.features.sasrec_training import SASRecTraining
from recbole_mscgrec.storage import checkpoint, matching, schema
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor


def collaborative_vectors(
    settings: CollaborativeSettings, run: RunSettings, train: Any, partial: Path
) -> tuple[Tensor, Tensor]:
    """Item embeddings (N, D), and which items occur in the train split: bool (N,).

    Only `train` is used: for early stopping, the last targets of up to 1,000 users, at most a tenth
    of all targets, are held out from it. So the valid and test splits have no influence. The result
    is deterministic for a seed. The state is saved to the file `partial` after every epoch, so that
    an interrupted stage can resume; the file is removed at the end.

    Raises:
        UserError: the loss is not finite, or the train split has too few targets.
    """
    init_seed(run.seed, run.reproducibility)
    training = SASRecTraining(settings, run, train)
    model = training.model
    # With a million items, updating all embeddings is much faster in one pass over the memory.
    fused = True if model.sampler else None
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.learning_rate, fused=fused)
    progress = _Progress(model, optimizer, partial)
    bar = tqdm(
        range(progress.epoch, settings.epochs),
        ncols=100,
        desc=set_color("SASRec    ", "pink"),
        disable=not run.show_progress,
    )
    for _ in bar:
        if progress.waited > settings.patience:
            break
        model.train()
        loss = training.train_epoch(optimizer)
        model.eval()
        score = training.score()
        if not math.isfinite(loss):
            raise UserError(
                f"The loss of SASRec, which gives the collaborative vectors, is {loss} in epoch "
                f"{progress.epoch}: lower collaborative_learning_rate "
                f"({settings.learning_rate})."
            )
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
    vectors = model.item_vectors()[: train.item_num]
    return vectors.detach().cpu().float(), present


class _Progress:
    """The best weights so far, patience, and the file from which an interrupted stage resumes."""

    def __init__(self, model: Any, optimizer: Any, file: Path) -> None:
        self.model, self.optimizer, self.file = model, optimizer, file
        self.best, self.best_score = copy.deepcopy(model.state_dict()), -1.0
        self.epoch = self.waited = 0
        if not file.is_file():
            return
        device = next(model.parameters()).device
        state = checkpoint.load_partial(file, device, schema.INTERRUPTED_COLLABORATIVE, self._fault)
        if state is None:
            return
        model.load_state_dict(state["model"])
        checkpoint.restore_optimizer(optimizer, state["optimizer"])
        self.best, self.best_score = state["best"], state["best_score"]
        self.epoch, self.waited = state["epoch"], state["waited"]
        getLogger().info(f"collaborative: resuming after epoch {self.epoch}, from {file}")

    def _fault(self, state: dict[str, Any]) -> str:
        """Why the state in a file does not fit; '' if it does. If it does, the random state is
        restored."""
        ours = self.model.state_dict()
        wrong = matching.unlike(state["model"], ours, "model")
        wrong = wrong or matching.unlike(state["best"], ours, "best")
        wrong = wrong or matching.unlike_optimizer(state["optimizer"], self.optimizer)
        if not wrong and not 0 <= state["waited"] <= state["epoch"] > 0:
            wrong = f"it waited {state['waited']} of {state['epoch']} epochs"
        if not wrong:
            checkpoint.set_random_state(state["random"])
        return wrong

    def update(self, score: float) -> None:
        """Record the score of a finished epoch and save the state."""
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
            "random": checkpoint.random_state(),
        }
        checkpoint.save(self.file, state, "cache_dir")
