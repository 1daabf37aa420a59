"""Errors that the user can mend."""

from __future__ import annotations


class UserError(ValueError):
    """Something that whoever runs the program can mend: its text names the thing, the rule, the
    actual value and the next step. The command line shows it as one line.

    Every other exception is a bug of this package or of RecBole and keeps its traceback.
    """
