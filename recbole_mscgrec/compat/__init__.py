"""Everything RecBole 1.2.0 and 1.2.1 need to run on today's numpy, pandas and torch, in one place.

`plugin.registration` calls `apply()` right after RecBole is imported. Each fix looks for the
missing feature, never for a version number, and does nothing where it exists.
"""

from __future__ import annotations


def apply() -> None:
    """Make RecBole importable and correct; safe to call again."""
    from recbole_mscgrec.compat import evaluation, models, reading, settings

    for part in (models, settings, reading, evaluation):  # models first: numpy's names
        part.apply()
