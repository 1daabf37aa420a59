"""Settings on the command lines of this package."""

from __future__ import annotations

import argparse

from recbole_mscgrec.config.parsing import parse_value

# Settings with which commands other than training read a checkpoint.
QUIET: dict[str, object] = {"show_progress": False, "state": "WARNING"}


def settings_of(rest: list[str], parser: argparse.ArgumentParser) -> dict[str, object]:
    """The arguments `--key=value` that are not options of the command: settings that override those
    of the training. Other arguments end the program with the command's usage."""
    settings: dict[str, object] = {}
    for argument in rest:
        key, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or not equals:
            parser.error(f"{argument}: no such option; a setting is written --key=value")
        settings[key] = parse_value(key, value)
    return settings
