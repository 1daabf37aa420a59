"""`--nproc`: starts processes of the same command on this machine, as torchrun does."""

from __future__ import annotations

import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import recbole_mscgrec
from recbole_mscgrec.config.parsing import parse_values, read_mappings
from recbole_mscgrec.storage import processes
from recbole_mscgrec.storage.errors import UserError

LOST = (
    "Another of the processes that train together was killed, or its machine was lost, so all end. "
    "The last finished epoch is kept: repeat the command with --resume=True to continue."
)
LOST_STATUS = 3  # the exit status of a process that noticed the loss of another
_STOPPED = 130
_SECONDS_TO_STOP = 20  # time for the other processes to end after one has failed
_MARK = "RECBOLE_MSCGREC_NPROC"  # environment variable of processes that are started here


def asked_for(config_files: Sequence[str], settings: Mapping[str, Any]) -> int:
    """The number of processes to start: `nproc`, or 1 in a process that was started already.

    Raises:
        UserError: it is not a whole number of at least 1.
    """
    nproc = (read_mappings(config_files) | parse_values(dict(settings))).get("nproc", 1)
    if isinstance(nproc, bool) or not isinstance(nproc, int) or nproc < 1:
        raise UserError(f"nproc ({nproc}) must be a whole number from 1 on.")
    return nproc if processes.n_started() == 1 else 1


def started_this() -> bool:
    """Whether this process was started by `launch`."""
    return _MARK in os.environ


def launch(nproc: int, arguments: Sequence[str]) -> int:
    """Run the command line in `nproc` processes that train together, until all have ended. If one
    fails, the others are ended. The processes print their own errors; only a process that was
    killed is reported here.

    Returns:
        The exit status of the command.

    Raises:
        UserError: a process was killed.
    """
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=nproc,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
    )
    logging.disable(logging.CRITICAL)  # torch would log again what is reported below
    with _environment(nproc):
        try:
            elastic_launch(config, sys.executable)("-m", "recbole_mscgrec", *arguments)
        except ChildFailedError as error:
            return _status_of({rank: end.exitcode for rank, end in error.failures.items()}, nproc)
        except KeyboardInterrupt:
            return _STOPPED
        except Exception as error:
            if type(error).__name__ != "SignalException":  # which it raises after Ctrl-C
                raise
            return _STOPPED
        finally:
            logging.disable(logging.NOTSET)
    return 0


def _status_of(ends: dict[int, int], nproc: int) -> int:
    """The exit status of the process that failed first. The others were ended by SIGTERM, or have
    noticed its end. Raises UserError if it was killed."""
    for rank, status in ends.items():
        if status < 0 and -status != signal.SIGTERM:
            raise UserError(
                f"Process {rank} of {nproc} was killed by {signal.Signals(-status).name}, so the "
                "others were ended. If you did not kill it, the machine may lack memory: start "
                "fewer processes. The last finished epoch is kept: repeat the command with "
                "--resume=True to continue."
            )
    own = [status for status in ends.values() if status > 0 and status != LOST_STATUS]
    if not own:
        raise UserError(LOST)
    return own[0]


@contextmanager
def _environment(nproc: int) -> Any:
    """The environment of the processes: the path of this package, and their share of the cores."""
    before = dict(os.environ)
    here = str(Path(recbole_mscgrec.__file__).resolve().parent.parent)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [here, before.get("PYTHONPATH")]))
    os.environ[_MARK] = str(nproc)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // nproc)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(_SECONDS_TO_STOP))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
