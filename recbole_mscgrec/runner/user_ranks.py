"""The rank of each test user's target, saved to a file from which metrics can be computed.

Works for all models, since the Evaluator always gets the same matrix of hits.
"""

from __future__ import annotations

from collections.abc import Callable
from logging import getLogger
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from recbole.evaluator.register import metric_information

from recbole_mscgrec.plugin.evaluation import KeepingEvaluator
from recbole_mscgrec.storage import arrays
from recbole_mscgrec.storage.errors import UserError
from recbole_mscgrec.storage.files import written_whole

_PER_USER: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    # metric -> function of (1-based rank as float, hit) for one target, as RecBole defines it
    "recall": lambda rank, hit: hit * 1.0,
    "hit": lambda rank, hit: hit * 1.0,
    "ndcg": lambda rank, hit: hit / np.log2(rank + 1),
    "mrr": lambda rank, hit: hit / rank,
    "map": lambda rank, hit: hit / rank,
}


class Ranks(NamedTuple):
    """The rank of each user's target in the ranked list of the test."""

    users: np.ndarray  # str (U,): distinct user tokens
    ranks: np.ndarray  # int (U,): 1 is the best; 0 if the target is not in the list
    depth: int  # length of the list

    def metric(self, name: str) -> np.ndarray:
        """A metric such as ndcg@10 for each user, float64 (U,). RecBole reports its mean."""
        kind, _, k = name.partition("@")
        hit = (self.ranks > 0) & (self.ranks <= int(k))
        return _PER_USER[kind](np.maximum(self.ranks, 1).astype(np.float64), hit)

    def gives(self, name: str) -> bool:
        """Whether `metric(name)` can be computed from these ranks."""
        kind, _, k = name.partition("@")
        return kind in _PER_USER and k.isdigit() and int(k) <= self.depth


def check_per_user(config: Any) -> None:
    """Raise UserError if `per_user_file` is set and the evaluation gives no rank per user."""
    reason = why_not_per_user(config)
    if config["per_user_file"] and reason:
        raise UserError(f"per_user_file ({config['per_user_file']}) cannot be written: {reason}.")


def why_not_per_user(config: Any) -> str:
    """Why this evaluation gives no rank per user; '' if it does."""
    if "LS" not in (config["eval_args"]["split"] or {}):
        return "only leave-one-out gives one test target per user (eval_args split: {'LS': ...})"
    if not any("rec.topk" in metric_information.get(m.lower(), ()) for m in config["metrics"]):
        return f"none of the metrics {config['metrics']} depends on the target's rank: add NDCG"
    return ""


def ranks_of(evaluator: KeepingEvaluator, eval_data: Any, config: Any) -> Ranks | None:
    """The ranks of the last evaluation, which was on `eval_data`. None, with a warning, if the
    trainer ranks no items or several processes shared the users."""
    collected = evaluator.collected
    if collected is None or "rec.topk" not in collected:
        getLogger().warning(f"{config['model']} ranks no items: no rank per user is saved.")
        return None
    hits = collected.get("rec.topk")[:, :-1].numpy()  # (R, k); the last column counts the positives
    users = _users(eval_data)
    if len(users) != len(hits):
        getLogger().warning(f"{len(users)} users but {len(hits)} lists: no rank per user is saved.")
        return None
    ranks = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)
    return Ranks(users, ranks.astype(np.int32), hits.shape[1])


def _users(eval_data: Any) -> np.ndarray:
    """The tokens of the users, in the order of the evaluated lists."""
    data = eval_data._dataset
    # RecBole's loaders that group rows by user have a uid_list; the others follow the rows.
    ids = getattr(eval_data, "uid_list", None)
    if ids is None:
        ids = data.inter_feat[data.uid_field]
    tokens = data.field2id_token[data.uid_field]
    return np.asarray(tokens)[np.asarray(ids)].astype(str)


def save(file: str | Path, ranks: Ranks) -> None:
    """Write an .npz without pickled objects. Raises UserError if it cannot be written."""
    with written_whole(file) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **ranks._asdict())


def load(file: str | Path) -> Ranks:
    """Read a file written by `save`.

    Raises:
        UserError: it is not such a file.
    """
    way_out = "make it again with --per_user_file."
    try:
        stored = arrays.read_npz(file, Ranks._fields)
    except UserError as error:
        raise UserError(f"{str(error).rstrip('.')}: {way_out}") from error
    users, ranks, depth = stored["users"], stored["ranks"], stored["depth"]
    if users.dtype.kind != "U" or ranks.dtype.kind not in "iu" or depth.dtype.kind not in "iu":
        kinds = ", ".join(f"{name} {array.dtype}" for name, array in stored.items())
        raise UserError(f"{file} does not hold ranks of users, but {kinds}: {way_out}")
    if users.ndim != 1 or users.shape != ranks.shape or depth.shape != ():
        shapes = ", ".join(f"{name} {array.shape}" for name, array in stored.items())
        raise UserError(f"{file} does not hold ranks of users, but {shapes}: {way_out}")
    if len(set(users.tolist())) != len(users) or ((ranks < 0) | (ranks > depth)).any():
        raise UserError(f"{file} has a user twice, or a rank outside 0 to {depth}: {way_out}")
    return Ranks(users, ranks, int(depth))
