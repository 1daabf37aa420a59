"""`recbole-mscgrec export`: writes a saved model to a folder that needs neither RecBole nor the
data set."""

from __future__ import annotations

import argparse
from pathlib import Path

from recbole_mscgrec.deployment.arguments import QUIET, settings_of
from recbole_mscgrec.deployment.export import add_programs, export
from recbole_mscgrec.storage.errors import UserError


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    made = argparse.ArgumentParser(
        prog="recbole-mscgrec export",
        description="Write a trained MSCGRec model to a folder for recommend, serve and add-items.",
        epilog="Settings such as --data_path=DIR override those of the training.",
        allow_abbrev=False,
    )
    source = made.add_mutually_exclusive_group(required=True)
    source.add_argument("--model_file", help="checkpoint of a training")
    source.add_argument(
        "--export", type=Path, help="existing export folder to add programs to; --format torch"
    )
    made.add_argument("--out", type=Path, help="the export folder; needed with --model_file")
    made.add_argument(
        "--format",
        choices=["folder", "torch"],
        default="folder",
        help="torch: also write encoder and decoder as programs of torch.export (default: folder)",
    )
    made.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the export in the folder; a service that reads it loads the new one",
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
    settings, programs = settings_of(rest, parser()), options.format == "torch"
    if options.export:
        if not programs or options.out or options.overwrite or settings:
            raise UserError("--export goes with --format torch and with nothing else.")
        made = add_programs(options.export)
    else:
        if not options.out:
            raise UserError("--model_file needs --out FOLDER, the export folder.")
        made = export(
            options.model_file,
            options.out,
            {**QUIET, **settings},
            options.overwrite,
            new_items=not options.without_new_items,
            programs=programs,
        )
    folder = options.out or options.export
    print(f"Generation {made.generation} with {len(made.items):,} items: {folder}")
    return 0
