"""Settings of evaluation, processes and precision that work together. Checked before any data are
read, so that no training ends in an evaluation that cannot be done."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

from recbole.evaluator.register import metric_types
from recbole.utils import EvaluatorType

from recbole_mscgrec.storage import processes
from recbole_mscgrec.storage.errors import UserError

FULL, LABELED = "full", "labeled"
_SAMPLED = re.compile(r"(uni|pop)[1-9]\d*")
_LEAVE_ONE_OUT = ("valid_and_test", "valid_only", "test_only")
_PARTS = ("split", "order", "group_by", "mode")
_SET_BY_TORCHRUN = ("world_size", "local_rank", "offset", "ip", "port")


def complete_eval_args(given: Any, ours: Mapping[str, Any]) -> dict[str, Any]:
    """`eval_args` as given, with missing parts taken from `ours`. RecBole would fill them with a
    random split, so that setting only the mode would change the split.

    Raises:
        UserError: `given` is not a dict, or has an unknown part, split, order or grouping.
    """
    if not isinstance(given, dict):
        raise UserError(f"eval_args ({given!r}) must be a dict of some of {', '.join(_PARTS)}.")
    unknown = sorted(set(given) - set(_PARTS))
    if unknown:
        raise UserError(f"eval_args has no part {unknown[0]!r}; its parts are {', '.join(_PARTS)}.")
    merged, group_by = {**ours, **given}, given.get("group_by")
    _check_split(merged["split"], merged["order"])
    if group_by not in (None, "user") and str(group_by).lower() != "none":
        raise UserError(f"eval_args group_by ({group_by!r}) must be user or none.")
    return merged


def _check_split(split: Any, order: Any) -> None:
    known = isinstance(split, dict) and len(split) == 1 and set(split) <= {"LS", "RS", "TS"}
    kind, shares = next(iter(split.items())) if known else ("", None)
    if not known or not (shares in _LEAVE_ONE_OUT if kind == "LS" else _are_shares(shares)):
        raise UserError(
            f"eval_args split ({split!r}) must be a dict with one of LS, RS and TS, such as "
            "{'LS': 'valid_and_test'}, or {'RS': [0.8, 0.1, 0.1]} with the shares of training, "
            "validation and test, none of them negative."
        )
    if order not in ("TO", "RO"):
        raise UserError(f"eval_args order ({order!r}) must be TO (by time) or RO (random).")
    if kind == "TS" and order == "RO":
        raise UserError(
            f"eval_args split ({split}) divides the rows by time, and order RO shuffles them "
            "before: add 'order': 'TO' to eval_args, or use RS."
        )


def _are_shares(shares: Any) -> bool:
    if not isinstance(shares, list) or len(shares) != 3:
        return False
    numbers = [isinstance(x, (int, float)) and not isinstance(x, bool) for x in shares]
    return all(numbers) and all(0 <= x < math.inf for x in shares) and sum(shares[:2]) > 0


def check_protocol(settings: Mapping[str, Any]) -> None:
    """Check metrics, lists and candidates of the evaluation against each other.

    Args:
        settings: RecBole's settings, merged from all sources.

    Raises:
        UserError: an unknown metric, metrics of two kinds, a validation metric that is not
            measured, or a mode that does not fit the metrics.
    """
    metrics, topk = _list_of(settings["metrics"]), _list_of(settings["topk"])
    kinds = {name: _kind_of(name) for name in metrics}
    ranking = [name for name, kind in kinds.items() if kind == EvaluatorType.RANKING]
    values = [name for name in metrics if name not in ranking]
    if not metrics or (ranking and values):
        raise UserError(
            f"metrics ({metrics}) must be of one kind: of ranked lists (here {ranking}), or of "
            f"predicted labels (here {values})."
        )
    if not topk or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in topk):
        raise UserError(f"topk ({settings['topk']}) must be a list of whole numbers from 1 on.")
    _check_valid_metric(str(settings["valid_metric"]), metrics, topk)
    modes = settings["eval_args"].get("mode", FULL)
    if isinstance(modes, dict) and (strange := [k for k in modes if k not in ("valid", "test")]):
        raise UserError(
            f"eval_args mode ({modes}) has a part {strange[0]!r}; its parts are valid and test."
        )
    for mode in _modes(modes):
        _check_mode(mode, metrics, bool(values))


def check_processes(settings: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Check RecBole's settings for several processes against the processes that are running.

    Args:
        settings: all settings, merged from all sources.
        given: the user's settings.

    Raises:
        UserError: `nproc` is not the number of processes on this machine; or `world_size` and the
            like are given, which torchrun sets.
    """
    for key in _SET_BY_TORCHRUN:
        if given.get(key) not in (None, -1):
            raise UserError(
                f"{key} ({given[key]}) is set by torchrun: leave it out. For several machines: "
                "torchrun --nnodes=2 --nproc_per_node=8 --rdzv_backend=c10d ..."
            )
    nproc, here = settings.get("nproc") or 1, processes.n_started_here()
    if nproc > 1 and nproc != here:
        raise UserError(
            f"nproc is {nproc}, but {here} process(es) run here: --nproc starts processes on the "
            "command line of recbole-mscgrec only. Elsewhere leave it out and use torchrun."
        )


def processes_settings(gpu_id: Any) -> dict[str, Any]:
    """What RecBole's Config holds in one of several processes. `gpu_id` is RecBole's setting, or
    None for all GPUs."""
    several = isinstance(gpu_id, (tuple, list))
    gpus = ",".join(map(str, gpu_id)) if several else None if gpu_id is None else str(gpu_id)
    ours = {
        "device": processes.device(gpus),
        "single_spec": False,
        "local_rank": processes.local_rank(),
        "world_size": processes.count(),
    }
    return ours if processes.is_first() else {**ours, "show_progress": False, "log_wandb": False}


def choose_precision(settings: dict[str, Any]) -> None:
    """Set the precision of training for the chosen device: `matmul_precision` if it is not set,
    and RecBole's `enable_amp` and `enable_scaler` if `amp_dtype` is set.

    Raises:
        UserError: fp16 without a GPU.
    """
    on_gpu = settings["device"].type == "cuda"
    if settings["matmul_precision"] is None:
        settings["matmul_precision"] = "high" if on_gpu else "highest"
    kind = settings["amp_dtype"]
    if kind == "fp16" and not on_gpu and not settings["model_file"]:
        raise UserError(
            "amp_dtype (fp16) needs a GPU, and this run uses the CPU: use bf16 or leave it out."
        )
    if kind is not None:
        settings["enable_amp"], settings["enable_scaler"] = True, kind == "fp16"


def _list_of(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _kind_of(metric: Any) -> EvaluatorType:
    name = str(metric).lower()
    if name not in metric_types:
        near = difflib.get_close_matches(name, sorted(metric_types), n=1, cutoff=0.5)
        hint = (
            f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(metric_types))}."
        )
        raise UserError(f"metrics: {metric!r} is not a metric of RecBole: {hint}")
    return metric_types[name]


def _check_valid_metric(valid_metric: str, metrics: list[str], topk: list[int]) -> None:
    name, at, k = valid_metric.partition("@")
    if name.lower() not in [m.lower() for m in metrics] or (k and k not in map(str, topk)):
        raise UserError(
            f"valid_metric ({valid_metric}) is not measured: metrics are {metrics} at {topk}. Add "
            "it there or choose one of them."
        )
    ranks = _kind_of(name) == EvaluatorType.RANKING and name.lower() != "gauc"
    if ranks and not k:
        raise UserError(
            f"valid_metric ({valid_metric}) is measured at each k of topk ({topk}): choose one, "
            f"such as {name}@{topk[-1]}."
        )
    if at and not ranks:
        raise UserError(f"valid_metric ({valid_metric}) is measured without @k: use {name}.")


def _modes(mode: Any) -> list[Any]:
    return [mode] if isinstance(mode, str) or not isinstance(mode, dict) else list(mode.values())


def _check_mode(mode: Any, metrics: list[str], of_labels: bool) -> None:
    if mode not in (FULL, LABELED) and not _SAMPLED.fullmatch(str(mode)):
        raise UserError(
            f"eval_args mode ({mode!r}) must be full, labeled, or uniN or popN with N sampled "
            "negatives, such as uni100."
        )
    if mode == LABELED and not of_labels:
        raise UserError(
            f"eval_args mode labeled compares predictions with labels and ranks nothing: metrics "
            f"({metrics}) must be such as AUC and LogLoss, or the mode full."
        )
    if mode == FULL and of_labels:
        raise UserError(
            f"metrics ({metrics}) compare predictions with labels, which the ranking of all items "
            "(eval_args mode full) does not have: set the mode to labeled, or to uniN for sampled "
            "negatives, or use ranking metrics."
        )
