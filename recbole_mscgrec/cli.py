"""The command line: one run, a table of runs, a search, or one of the commands beside training."""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import re
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recbole_mscgrec.storage.errors import UserError

# Modules that import RecBole and torch are imported inside functions: importing them takes seconds,
# and Ctrl-C must work during that time too.
_SETTING = re.compile(r"--\w+=")
# The first words of a command line -> the module whose `main(arguments)` returns the exit status.
COMMANDS = {
    "prepare": "recbole_mscgrec.raw_data.command",
    "prepare images": "recbole_mscgrec.item_content.prepare_images",
    "prepare text": "recbole_mscgrec.item_content.prepare_text",
    "export": "recbole_mscgrec.deployment.export_command",
    "recommend": "recbole_mscgrec.deployment.recommend_command",
    "serve": "recbole_mscgrec.serving.command",
    "add-items": "recbole_mscgrec.new_items.add_command",
    "remove-items": "recbole_mscgrec.new_items.remove_command",
}
_SHARED_OUT = ("prepare text",)  # torchrun's processes share the work
_NO_READER = 128 + 13  # the exit status of a program ended by SIGPIPE
_BUG = "This is a bug of recbole-mscgrec or of RecBole. Please report it with the text below."
_NO_MEMORY = (
    "There is not enough memory for these settings: lower the sizes of the model, "
    "MAX_ITEM_LIST_LENGTH, train_batch_size or eval_batch_size. --debug shows where."
)
_DISK = (
    "Files are written completely or not at all, so finished files are kept: free space there or "
    "name another folder, and repeat the command."
)


def parse(argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Split the command line into model, data set, config files and `--key=value` settings. Model
    and data set may be named in a config file instead."""
    from recbole_mscgrec.config import parsing
    from recbole_mscgrec.experiments import grid
    from recbole_mscgrec.tuning import command as tuning

    parser = argparse.ArgumentParser(
        description="Run MSCGRec or any RecBole model; every setting is --key=value.",
        epilog=f"Commands: {', '.join(COMMANDS)}. COMMAND --help shows the options of one.",
        allow_abbrev=False,  # --seed=... is a setting, not short for --seed_list
    )
    parser.add_argument("--model", "-m", help="name of the model")
    parser.add_argument("--dataset", "-d", help="name of the data set")
    parser.add_argument("--config_files", nargs="+", default=[], help="YAML files, later ones win")
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    grid.add_options(parser)
    tuning.add_options(parser)
    # argparse mistakes `--key=value` for a file name if the value contains a space.
    own = {name for action in parser._actions for name in action.option_strings}
    is_setting = [bool(_SETTING.match(a)) and a.partition("=")[0] not in own for a in argv]
    ours = [a for a, is_one in zip(argv, is_setting, strict=True) if not is_one]
    known, rest = parser.parse_known_args(ours)
    rest += [a for a, is_one in zip(argv, is_setting, strict=True) if is_one]
    # RecBole names several files in one string with spaces; a single name may contain spaces too.
    files = [
        file
        for text in known.config_files
        for file in ([text] if Path(text).is_file() else text.split())
    ]
    settings: dict[str, str] = {}
    for argument in rest:
        key, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and equals:
            settings[key] = value
        elif files and argument.endswith((".yaml", ".yml")):
            files.append(argument)
        else:
            parser.error(f"{argument}: a setting is written --key=value")
    known.config_files = files
    for file in files:
        if not Path(file).is_file():
            parser.error(f"config file {file} does not exist")
    in_files = parsing.read_mappings(files)
    for key, default in (("model", grid.DEFAULT_MODEL), ("dataset", "ml-100k")):
        if getattr(known, key) is None:
            setattr(known, key, parsing.name_in(in_files, key, default))
    return known, settings


@contextmanager
def ended_like_ctrl_c() -> Iterator[None]:
    """Within this block SIGTERM acts like Ctrl-C: batch systems send it, and background processes
    of a script ignore SIGINT."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:  # not in the main thread, which alone receives signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _out_of_memory(error: Exception) -> bool:
    """Whether memory could not be allocated; torch and numpy raise several types."""
    text = str(error).lower()
    known = ("can't allocate memory", "not enough memory", "out of memory", "unable to allocate")
    return isinstance(error, MemoryError) or any(words in text for words in known)


def _disk_refuses(error: Exception) -> bool:
    """Whether a disk cannot be written to: it is full, read-only, or the like."""
    from recbole_mscgrec.storage import files

    return files.refuses(error)


def command_of(argv: list[str]) -> tuple[str, list[str]] | None:
    """The module of the command that `argv` begins with, and the remaining arguments; None if it
    begins with no command."""
    for n_words in (2, 1):
        if module := COMMANDS.get(" ".join(argv[:n_words])):
            return module, argv[n_words:]
    return None


def _check_alone(what: str, n_asked: int = 1) -> None:
    """Raise UserError if several processes were started or requested for what runs in one only."""
    n = max(n_asked, int(os.environ.get("WORLD_SIZE") or 1))
    if n > 1:
        raise UserError(
            f"{what} runs in one process, not in {n}: leave out torchrun and --nproc, which train "
            "one model in several processes."
        )


def _reports() -> bool:
    """Whether this process reports how it ended. Of several that train together, only the first
    one to fail does."""
    if "WORLD_SIZE" not in os.environ:
        return True
    from recbole_mscgrec.storage import processes

    return processes.reports_first()


def _report_lost_process() -> int:
    """Report that another process ended without an error message, unless the launcher of `--nproc`
    will say how it ended. Returns the exit status."""
    from recbole_mscgrec.runner import launch

    if not launch.started_this():
        print(f"error: {launch.LOST}", file=sys.stderr)
    return launch.LOST_STATUS


def _lost_another(error: Exception) -> bool:
    """Whether another process that trains together with this one ended without an error
    message."""
    from recbole_mscgrec.storage import processes

    return processes.lost_another(error)


def _reader_has_gone() -> bool:
    """Whether stdout is a pipe whose reader has exited, as with `| head`. A BrokenPipeError can
    also come from a pipe to another process."""
    try:
        poll = select.poll()
        poll.register(sys.stdout, 0)  # poll always reports errors and a closed other end
        return bool(poll.poll(0))
    except (AttributeError, OSError, TypeError, ValueError):  # stdout is not a file, or no poll
        return False


def _drop_output() -> None:
    """Redirect stdout to the null device, so that Python does not fail when it flushes the buffer
    at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _run(given: list[str]) -> int:
    """A command beside training, a table of runs, a search, or one run. Returns the exit status."""
    if command := command_of(given):
        if " ".join(given[:2]) not in _SHARED_OUT:
            _check_alone(given[0])
        module, arguments = command
        arguments = [a for a in arguments if a != "--debug"]
        status: int = importlib.import_module(module).main(arguments)
        return status
    known, settings = parse(given)
    from recbole_mscgrec.experiments import grid
    from recbole_mscgrec.runner import launch
    from recbole_mscgrec.tuning import command as tuning

    n_processes = launch.asked_for(known.config_files, settings)
    if tuning.asked_for(known):
        _check_alone("A search of settings", n_processes)
        if table := grid.given(known):
            raise UserError(f"--tune and --{table[0]} cannot be combined: leave one of them out.")
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        tuning.run(known, dict(settings))
        return 0
    if grid.asked_for(known):
        _check_alone("A table of runs", n_processes)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        return 1 if grid.any_failed(grid.run(known, dict(settings))) else 0
    if n_processes > 1:
        return launch.launch(n_processes, given)
    from recbole_mscgrec.runner.quick_start import run

    run(known.model, known.dataset, known.config_files, dict(settings))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Entry point of run_recbole_mscgrec.py and of the command recbole-mscgrec.

    Returns:
        The exit status: 0; 1 after an error, or if a row of a table lacks a result; 130 after
        Ctrl-C; 141, as after SIGPIPE, if the reader of the output has exited.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # not in a notebook
        sys.stdout.reconfigure(errors="backslashreplace")
    given = sys.argv[1:] if argv is None else argv
    debug = "--debug" in given
    # Warnings caused by RecBole's own code; users cannot act on them.
    warnings.filterwarnings("ignore", module=r"recbole\.")
    # RecBole's Config reads sys.argv itself; here it gets the settings as config_dict instead.
    program, sys.argv = sys.argv, sys.argv[:1]
    try:
        with ended_like_ctrl_c():
            status = _run(given)
            print(end="", flush=True)  # notice a closed pipe here, not when Python exits
            return status
    except UserError as error:
        if not _reports():
            return 1
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        if not _reports():
            return 130
        print(str(stop) or "Stopped.", file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            _drop_output()
            return _NO_READER
        if not _reports():
            return 1
        if _lost_another(error):
            return _report_lost_process()
        if _disk_refuses(error) and not debug:
            print(f"error: {error}. {_DISK}", file=sys.stderr)
            return 1
        if _out_of_memory(error) and not debug:
            print(f"error: {_NO_MEMORY} ({str(error)[:200]})", file=sys.stderr)
            return 1
        print(_BUG, file=sys.stderr)
        traceback.print_exc()
        return 1
    finally:
        sys.argv = program
