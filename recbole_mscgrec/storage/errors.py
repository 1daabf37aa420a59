"""Errors that the user can fix."""

from __future__ import annotations


class UserError(ValueError):
    """An error that the user can fix. Its text names the setting or file, the rule, the actual
    value and the next step. The command line prints it as one line.

    Any other exception is a bug in this package or in RecBole and keeps its traceback.
    """


class CannotWrite(UserError):
    """A file cannot be written: the disk is full, or the folder is not writable."""


def one_line(error: object, length: int = 200) -> str:
    """The text of an exception from another library, as one line of at most `length` characters for
    a UserError."""
    return " ".join(str(error).split())[:length]
