"""What a result file says about its run."""

from __future__ import annotations

import resource
import sys

import pytest

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.runner.result import chosen_settings, peak_memory_mb


@pytest.mark.skipif(sys.platform != "linux", reason="getrusage counts in bytes elsewhere")
def test_peak_memory_is_this_process_own() -> None:
    """getrusage may hold the peak of the process that started this one, never less than ours."""
    highest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert 50 < peak_memory_mb() <= highest + 1


def test_settings_are_those_chosen_that_matter() -> None:
    chosen = {"epochs": "3", "modalities": ("text",), "eval_drop_modality": "text"}
    files = {"result_file": "x.json", "cache_dir": "c", "resume": True, "show_progress": False}
    found = chosen_settings(Config("MSCGRec", "ml-100k", config_dict={**chosen, **files}))
    assert found == {"epochs": 3, "eval_drop_modality": "text", "modalities": ["text"]}
