"""The histories to recommend for: from the command line, from a file, or of users."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from recbole_mscgrec.deployment.loading import TrainedModel
from recbole_mscgrec.storage.errors import UserError, one_line

_ENCODING = "utf-8-sig"  # a byte order mark (BOM) is not part of the first token


class Asked(NamedTuple):
    """A name for the answer, and the history that it is based on, oldest item first."""

    name: str
    history: list[str]


def of_users(model: TrainedModel, users: list[str]) -> Iterator[Asked]:
    """The whole histories of users. Raises UserError for an unknown user."""
    for user in users:
        yield Asked(user, model.data.history(user))


def of_all_users(model: TrainedModel) -> Iterator[Asked]:
    """The whole histories of all users of the data set."""
    for user, history in model.data.histories():
        yield Asked(user, history)


def of_texts(texts: list[str]) -> Iterator[Asked]:
    """Histories written as tokens separated by commas: "50,172,181"."""
    for text in texts:
        yield Asked(text, tokens_of(text))


def of_file(file: Path) -> Iterator[Asked]:
    """The histories of a file, one per line: tokens separated by commas, a JSON list of tokens, or
    a JSON object with `history` and optionally `user`, the name of the answer. The default name is
    the number of the line.

    Raises:
        UserError: the file cannot be read, or a line is none of these.
    """
    try:
        with file.open(encoding=_ENCODING) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _asked(line.strip(), number, file)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--history_file ({file}) cannot be read: {one_line(error)}.") from error


def check_regular(file: Path) -> None:
    """Raise UserError if a file of histories cannot be read, or not twice, such as a pipe."""
    if file.exists() and not file.is_file():
        raise UserError(
            f"--history_file ({file}) is not a file that can be read twice, which --out needs: "
            "write the histories to a file, or leave out --out."
        )
    try:
        file.open("rb").close()
    except OSError as error:
        raise UserError(f"--history_file ({file}) cannot be read: {one_line(error)}.") from error


def tokens_of(text: str) -> list[str]:
    """The tokens of a text, separated by commas."""
    return [token.strip() for token in text.split(",") if token.strip()]


def _asked(line: str, number: int, file: Path) -> Asked:
    if line[0] not in "[{":
        return Asked(str(number), tokens_of(line))
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file}, line {number}, is not JSON ({one_line(error)}).") from error
    history = content.get("history") if isinstance(content, dict) else content
    if not isinstance(history, list):
        raise UserError(
            f"{file}, line {number}: a JSON object needs a list `history` of item tokens, as in "
            '{"user": "42", "history": ["50", "172"]}.'
        )
    name = content.get("user", number) if isinstance(content, dict) else number
    return Asked(str(name), [str(t) if isinstance(t, (int, str)) else t for t in history])
