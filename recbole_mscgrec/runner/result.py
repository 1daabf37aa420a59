"""The result of a run as JSON: metrics, settings, seconds, memory, versions."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path
from typing import Any

import psutil
import torch

from recbole_mscgrec.config import run_id
from recbole_mscgrec.storage import checkpoint, processes
from recbole_mscgrec.storage.digest import made_by


def result_of(
    config: Any,
    trainer: Any,
    best_valid: Any,
    test: Any,
    data: str,
    seconds: dict[str, float],
    memory: dict[str, float],
) -> dict[str, Any]:
    """The content of the result file (see `quick_start.run`). It has all keys that RecBole's
    HyperTuning expects of an objective function."""
    network, bigger = trainer.model, config["valid_metric_bigger"]
    score = (best_valid or {}).get(config["valid_metric"].lower())
    return {
        "model": config["model"],
        "dataset": config["dataset"],
        "seed": config["seed"],
        "settings": run_id.settings_of(config),
        "chosen": chosen_settings(config),
        "preset": checkpoint.to_plain(config.preset),
        "data": data,
        "made_by": made_by(),
        "best_valid_score": None if score is None else float(score),
        "valid_score_bigger": bigger,
        "best_valid_result": checkpoint.to_plain(best_valid),
        "test_result": checkpoint.to_plain(test),
        "seconds": {k: round(v, 3) for k, v in seconds.items()},
        "n_processes": processes.count(),
        "peak_memory_mb": peak_memory_mb(),
        "peak_memory_mb_after": memory,
        "peak_gpu_memory_mb": _peak_gpu_memory_mb(),
        "n_parameters": _n_parameters(network),
        "versions": _versions(),
        "code_health": getattr(network, "code_health", None),
    }


def _n_parameters(network: Any) -> int | None:
    """The number of trainable parameters; None for decision trees."""
    if not isinstance(network, torch.nn.Module):
        return None
    return sum(p.numel() for p in network.parameters() if p.requires_grad)


def chosen_settings(config: Any) -> dict[str, Any]:
    """The settings given by the user, out of those that the result depends on."""
    settings = run_id.settings_of(config)
    return {key: value for key, value in settings.items() if key in config.chosen_keys}


def peak_memory_mb() -> float:
    """The peak resident memory of this process so far, in MiB."""
    status = Path("/proc/self/status")
    if status.is_file():
        # getrusage would include the peak of the parent process.
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    try:
        import resource
    except ImportError:  # Windows
        return round(psutil.Process().memory_info().peak_wset / 1024**2, 1)
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kilobytes / (1024**2 if sys.platform == "darwin" else 1024), 1)


def _peak_gpu_memory_mb() -> float | None:
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return None
    return round(torch.cuda.max_memory_allocated() / 1024**2, 1)


def _versions() -> dict[str, str]:
    names = ("recbole", "torch", "transformers", "timm", "numpy", "pandas", "scikit-learn")
    return {n: importlib.metadata.version(n) for n in names} | {"python": sys.version.split()[0]}
