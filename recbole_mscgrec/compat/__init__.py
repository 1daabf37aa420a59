"""All fixes that RecBole 1.2.0 and 1.2.1 need to run with current numpy, pandas and torch.

`plugin.registration` calls `apply()` right after RecBole is imported. Each fix checks for the
missing feature, never for a version number, and does nothing if the feature exists.
"""

from __future__ import annotations


def apply() -> None:
    """Make RecBole importable and correct; safe to call again."""
    from recbole_mscgrec.compat import (
        devices,
        evaluation,
        joint_evaluation,
        models,
        processes,
        reading,
        settings,
    )

    # models comes first, because it restores names of numpy; devices comes before processes, whose
    # losses it reads.
    for part in (models, settings, reading, evaluation, devices, processes, joint_evaluation):
        part.apply()
