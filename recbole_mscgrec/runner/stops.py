"""What Ctrl-C says: what is kept, and how to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def stopped(message: Callable[[], str]) -> Iterator[None]:
    """Within this block Ctrl-C carries a message, unless it has one already.

    Raises:
        KeyboardInterrupt: with the text that `message` returns.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        if stop.args:
            raise
        raise KeyboardInterrupt(message()) from None
