"""What Ctrl-C, and a disk that takes no more, say: what is kept, and how to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from recbole_mscgrec.storage.errors import CannotWrite, UserError


@contextmanager
def stopped(message: Callable[[], str]) -> Iterator[None]:
    """Within this block Ctrl-C carries a message, unless it has one already, and so does the error
    of a file that cannot be written.

    Raises:
        KeyboardInterrupt: with the text that `message` returns.
        UserError: in place of CannotWrite, with its text and that of `message`.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        if stop.args:
            raise
        raise KeyboardInterrupt(message()) from None
    except CannotWrite as error:
        raise UserError(f"{error} {message()}") from error
