"""Recommendations for many histories: made in batches that are kept, and resumed after a stop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recbole_mscgrec.deployment import answers
from recbole_mscgrec.deployment.asked import Asked
from recbole_mscgrec.storage import cache, files

_KEY = "key.json"
Rows = list[dict[str, Any]]


def write_all(
    out: Path,
    asked: Iterable[Asked],
    total: int | None,
    rows_of: Callable[[list[Asked]], Rows],
    key: dict[str, Any],
    *,
    explain: bool,
    batch_size: int,
    show_progress: bool,
) -> int:
    """Write the rows for all histories to `out`. Returns the number of histories.

    Finished batches are kept in the folder OUT.parts until all are finished. After a stop, the same
    command continues from them.

    Args:
        asked: the histories, in a fixed order.
        total: their number, for the progress bar.
        rows_of: the rows of a batch.
        key: everything that the rows depend on; parts with another key are made again.

    Raises:
        UserError: a file cannot be written, or `rows_of` refuses a history.
    """
    answers.writer_of(out)  # fail now, not at the end
    folder = out.with_name(f"{out.name}.parts")
    files.check_folder(folder, "--out")
    fingerprint = {"key": cache.fingerprint(**key, batch_size=batch_size)}
    if not (folder / _KEY).is_file() or files.read_json(folder / _KEY) != fingerprint:
        shutil.rmtree(folder)
        files.check_folder(folder, "--out")
        files.write_json(folder / _KEY, fingerprint)
    n, parts = 0, list[Path]()
    with tqdm(total=total, ncols=100, desc="Recommend ", disable=not show_progress) as bar:
        for batch in _batches(asked, batch_size):
            part = folder / f"{len(parts):08d}.json"
            if not part.is_file():
                files.write_text(part, json.dumps(rows_of(batch)))
            parts.append(part)
            n += len(batch)
            bar.update(len(batch))
    rows = (row for part in parts for row in files.read_json(part))
    answers.write(out, rows, explain)
    shutil.rmtree(folder)
    return n


def _batches(asked: Iterable[Asked], size: int) -> Iterator[list[Asked]]:
    stream = iter(asked)
    while batch := list(islice(stream, size)):
        yield batch
