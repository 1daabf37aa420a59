"""The precision of float32 matrix products."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from recbole_mscgrec.storage.errors import UserError

HIGHEST = "highest"


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Within this block torch multiplies float32 matrices with this precision.

    Raises:
        UserError: the name is not one of torch's: highest, high, medium.
    """
    if name not in (HIGHEST, "high", "medium"):
        raise UserError(f"matmul_precision ({name!r}) must be 'highest', 'high' or 'medium'.")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
