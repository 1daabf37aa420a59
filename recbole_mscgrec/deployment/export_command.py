"""`recbole-mscgrec export`: a saved model becomes a folder that needs neither RecBole nor the data
set."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_mscgrec.deployment.arguments import settings_of
from recbole_mscgrec.deployment.export import export


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        prog="recbole-mscgrec export",
        description="Write a trained MSCGRec model to a folder for recommend, serve and add-items.",
        epilog="Settings such as --data_path=DIR override those of the training.",
        allow_abbrev=False,
    )
    made.add_argument("--model_file", required=True, help="checkpoint of a training")
    made.add_argument("--out", required=True, type=Path, help="the export folder")
    made.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the export in the folder; a service that reads it takes the new one over",
    )
    made.add_argument(
        "--without_new_items",
        action="store_true",
        help="do not keep the encoders; add-items cannot be used then",
    )
    return made


def main(arguments: list[str]) -> int:
    """Run the command. Returns the exit status."""
    options, rest = parser().parse_known_args(arguments)
    quiet = {"show_progress": False, "state": "WARNING"}
    settings = {**quiet, **settings_of(rest, parser())}
    made = export(
        options.model_file,
        options.out,
        settings,
        options.overwrite,
        new_items=not options.without_new_items,
    )
    print(f"Generation {made.generation} with {len(made.items):,} items: {options.out}")
    return 0
