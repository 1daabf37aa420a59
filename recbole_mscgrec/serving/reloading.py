"""Replaces the served model when the export folder holds a new generation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from logging import getLogger
from pathlib import Path

from recbole_mscgrec.serving.batching import Model
from recbole_mscgrec.serving.export_files import MANIFEST
from recbole_mscgrec.serving.metrics import Metrics
from recbole_mscgrec.storage.errors import UserError

_READ = (".json", ".safetensors", ".txt")  # endings of the files that a load reads


class Reloader:
    """Watches the manifest of a folder, which an export writes last.

    Args:
        load: loads the model of a folder; raises if it cannot be used.
        every: seconds between two checks of the manifest.
    """

    def __init__(
        self,
        folder: str | Path,
        load: Callable[[str | Path], Model],
        metrics: Metrics,
        every: float = 1.0,
    ) -> None:
        self._folder, self._load = Path(folder), load
        self._metrics, self._every = metrics, every
        self._seen = self._signatures()
        self._failed = self._asked = False
        self._stopped = threading.Event()

    def start(self, swap: Callable[[Model], None]) -> None:
        """Watch in a thread of its own. `swap` is called with each new model; until then, the old
        one stays in use."""

        def watch() -> None:
            while not self._stopped.wait(self._every):
                if (model := self.poll()) is not None:
                    swap(model)
                    getLogger().info(
                        f"Now serving generation {model.generation} of {self._folder}: "
                        f"{len(model.items):,} items."
                    )

        threading.Thread(target=watch, name="reload", daemon=True).start()

    def stop(self) -> None:
        """Stop watching. Does not wait for a load in progress."""
        self._stopped.set()

    def ask(self) -> None:
        """Load the folder at the next check, even if it has not changed. Safe in a signal
        handler."""
        self._asked = True  # no lock: a second signal may interrupt the first one's handler

    def poll(self) -> Model | None:
        """The folder's model, if the manifest, or after a failed load any file, has changed since
        the last load, or `ask` was called; else None. A failed load is logged and counted, and
        gives None."""
        found = self._signatures()
        changed = found.get(MANIFEST) != self._seen.get(MANIFEST)
        if self._failed:  # a folder that is being copied may get its manifest before other files
            changed = found != self._seen
        if not self._asked and not (changed and MANIFEST in found):
            return None
        # Stored before the load, so that a change during the load is noticed at the next check. A
        # folder that cannot be loaded is not tried again before it changes.
        self._asked, self._seen = False, found
        try:
            model, self._failed = self._load(self._folder), False
        except Exception as error:
            self._failed = True
            self._metrics.reload(False)
            traceback = None if isinstance(error, UserError) else error
            getLogger().error(
                f"{self._folder} cannot be loaded; the old generation stays in use: {error}",
                exc_info=traceback,
            )
            return None
        self._metrics.reload(True)
        return model

    def _signatures(self) -> dict[str, tuple[int, int, int]]:
        """File name -> a value that changes when the file is rewritten, for the manifest and files
        such as it names."""
        found: dict[str, tuple[int, int, int]] = {}
        with suppress(OSError):  # the folder is gone
            for file in self._folder.iterdir():
                with suppress(OSError):  # the file has just been removed
                    if file.suffix in _READ:
                        status = file.stat()
                        found[file.name] = status.st_mtime_ns, status.st_size, status.st_ino
        return found
