"""The command `recbole-mscgrec serve`."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from recbole_mscgrec.serving.bodies import Limits
from recbole_mscgrec.storage.errors import UserError

_EXTRA = ("fastapi", "uvicorn")


def main(arguments: list[str]) -> int:
    """Serve the model of an export folder until Ctrl-C or SIGTERM."""
    options = parser().parse_args(arguments)
    lacking = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if lacking:
        raise UserError(
            f"serve needs {' and '.join(lacking)}: run pip install 'recbole-mscgrec[serve]'."
        )
    from recbole_mscgrec.serving import server

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.threads:
        import torch

        torch.set_num_threads(options.threads)
    # Bind the port first, so that a port in use is reported before the slow load.
    with server.listener(options.host, options.port) as bound:
        _serve(options, bound)
    return 0


def _serve(options: argparse.Namespace, bound: socket.socket) -> None:
    """Load the model, and serve it on a bound socket until Ctrl-C."""
    from recbole_mscgrec.serving import server
    from recbole_mscgrec.serving.batching import Batcher
    from recbole_mscgrec.serving.metrics import Metrics
    from recbole_mscgrec.serving.recommender import Recommender
    from recbole_mscgrec.serving.reloading import Reloader
    from recbole_mscgrec.serving.service import Service

    def load(folder: str | Path) -> Recommender:
        """The model of a folder, after one request: it is warmed up, and known to work."""
        loaded = Recommender.load(folder, options.device, options.precision)
        loaded.recommend([loaded.items[:1]], top=1)
        with suppress(UserError):  # sort the items now, for the hints in errors
            loaded.title_of("")
        return loaded

    metrics = Metrics()
    # Before the load, so that the first check notices an export that is written meanwhile.
    reloader = Reloader(options.folder, load, metrics, options.reload_seconds)
    model = load(options.folder)
    text = f"{len(model.items):,} items (generation {model.generation})"
    batcher = Batcher(
        model,
        metrics,
        wait=options.batch_wait_ms / 1000,
        max_batch=options.max_batch,
        max_waiting=options.queue,
    )
    del model  # so that its memory is freed when a later generation replaces it
    limits = Limits(options.max_body, options.max_histories, options.max_length, options.max_top)
    service = Service(batcher, metrics, limits, options.timeout)
    with _on_hangup(reloader.ask):
        reloader.start(batcher.swap)
        try:
            server.run(
                service,
                bound,
                lambda: print(f"Serving {text} on {server.address_of(bound)}", flush=True),
            )
        finally:
            reloader.stop()


def parser() -> argparse.ArgumentParser:
    """The options of `serve`."""
    made = argparse.ArgumentParser(
        prog="recbole-mscgrec serve",
        description="Serve recommendations of an exported model over HTTP: POST /recommend, "
        "GET /health, GET /metrics.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    limits = Limits()
    count, seconds = _number(int, 1), _number(float, 0)
    made.add_argument("folder", help="folder that `recbole-mscgrec export` wrote")
    made.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0: all")
    made.add_argument(
        "--port", type=_number(int, 0, 65535), default=8080, help="port; 0 takes a free one"
    )
    made.add_argument("--device", default="cpu", help="device of the model: cpu, cuda, cuda:1")
    made.add_argument(
        "--precision",
        choices=("float32", "bfloat16"),
        default="float32",
        help="bfloat16 is faster on processors with instructions for it; the order of items with "
        "close scores may change",
    )
    made.add_argument(
        "--threads", type=count, help="threads for the model; None: torch chooses the number"
    )
    made.add_argument(
        "--batch_wait_ms",
        type=seconds,
        default=2.0,
        help="milliseconds that a request waits for others to share its batch",
    )
    made.add_argument(
        "--max_batch", type=count, default=64, help="maximum number of histories in a batch"
    )
    made.add_argument(
        "--queue",
        type=count,
        default=512,
        help="maximum number of waiting requests; others get status 503",
    )
    made.add_argument(
        "--timeout",
        type=_number(float, 0.001),
        default=10.0,
        help="seconds until a request without an answer gets status 504",
    )
    made.add_argument(
        "--max_body",
        type=count,
        default=limits.max_body,
        help="maximum size of a request's body in bytes",
    )
    made.add_argument(
        "--max_histories",
        type=count,
        default=limits.max_histories,
        help="maximum number of histories in a request",
    )
    made.add_argument(
        "--max_length",
        type=count,
        default=limits.max_length,
        help="maximum number of items in a history, and in `exclude`",
    )
    made.add_argument(
        "--max_top", type=count, default=limits.max_top, help="largest `top` and `beam_size`"
    )
    made.add_argument(
        "--reload_seconds",
        type=_number(float, 0.01),
        default=1.0,
        help="seconds between two checks for a new export in the folder",
    )
    return made


def _number(
    kind: type[int] | type[float], least: float, most: float = float("inf")
) -> Callable[[str], float]:
    """An argparse type: a number within these bounds."""

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = kind(-1)
        if not least <= value <= most or value == float("inf"):
            what = "a whole number" if kind is int else "a number"
            bounds = f"at least {least:g}" if most == float("inf") else f"{least:g} to {most:g}"
            raise argparse.ArgumentTypeError(f"must be {what}, {bounds}, not {text!r}")
        return value

    return convert


@contextmanager
def _on_hangup(call: Callable[[], None]) -> Iterator[None]:
    """Within this block SIGHUP, where the system has it, calls `call`."""
    number = getattr(signal, "SIGHUP", None)
    try:
        before = signal.signal(number, lambda *_: call()) if number else None
    except ValueError:  # not in the main thread, which alone receives signals
        number = None
    try:
        yield
    finally:
        if number:
            signal.signal(number, before)
