"""A new generation of an export folder replaces the one that is served."""

from __future__ import annotations

import threading
from collections.abc import Callable
from logging import getLogger
from pathlib import Path

from recbole_mscgrec.serving.batching import Model
from recbole_mscgrec.serving.metrics import Metrics
from recbole_mscgrec.storage.errors import UserError


class Reloader:
    """Watches the manifest of a folder, which an export writes last.

    Args:
        load: reads a folder; raises if it cannot be used.
        every: seconds between two looks at the manifest.
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
        self._seen = self._signature()
        self._asked = False
        self._stopped = threading.Event()

    def start(self, swap: Callable[[Model], None]) -> None:
        """Watch in a thread of its own. `swap` receives each new model; until then the old one
        answers."""

        def watch() -> None:
            while not self._stopped.wait(self._every):
                if (model := self.poll()) is not None:
                    swap(model)
                    getLogger().info(
                        f"Generation {model.generation} of {self._folder} answers from now on: "
                        f"{len(model.items):,} items."
                    )

        threading.Thread(target=watch, name="reload", daemon=True).start()

    def stop(self) -> None:
        """End the watch. A load that has begun is not waited for."""
        self._stopped.set()

    def ask(self) -> None:
        """Load the folder at the next look, changed or not. Safe in a signal handler."""
        self._asked = True  # no lock: a second signal may interrupt the first one's handler

    def poll(self) -> Model | None:
        """The folder's model, if the folder has changed since the last look or somebody asked.
        One that cannot be loaded is logged and counted."""
        found = self._signature()
        if not self._asked and (found is None or found == self._seen):
            return None
        # Taken before the load: a change during the load is seen at the next look. A folder that
        # cannot be loaded is not tried again before it changes.
        self._asked, self._seen = False, found
        try:
            model = self._load(self._folder)
        except Exception as error:
            self._metrics.reload(False)
            traceback = None if isinstance(error, UserError) else error
            getLogger().error(
                f"{self._folder} is not loaded, and the old generation stays: {error}",
                exc_info=traceback,
            )
            return None
        self._metrics.reload(True)
        return model

    def _signature(self) -> tuple[int, int, int] | None:
        """What changes when the manifest is written again; None where there is none."""
        try:
            found = (self._folder / "manifest.json").stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino
