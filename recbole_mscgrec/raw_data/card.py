"""The data card, NAME.card.md: a data set's raw files, the command that made it, its contents."""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import recbole_mscgrec
from recbole_mscgrec.raw_data.filters import FIRST
from recbole_mscgrec.raw_data.records import Source
from recbole_mscgrec.storage.files import write_text

_STATE = re.compile(r"^<!-- prepare: (.*) -->$", re.MULTILINE)


def write_card(file: Path, facts: dict[str, Any], state: dict[str, Any]) -> None:
    """Write the card. The next call of the same command reads `state` back from it."""
    parts = [
        f"# {facts['name']}",
        "Made by recbole-mscgrec "
        f"{facts['version']} with\n\n```bash\n{facts['command']}\n```\n\nand used with\n\n"
        f"```bash\n{facts['use']}\n```",
        "## Source\n\n" + _list([facts["title"], f"Terms: {facts['terms']}", *facts["notes"]]),
        _table(["file", "bytes"], [(name, f"{size:,}") for name, size in facts["files"]]),
        "## Interactions\n\n" + _steps(facts),
        _list(_about_interactions(facts)),
    ]
    if facts.get("items"):
        parts += ["## Items\n\n" + _list(_about_items(facts)), _columns(facts["items"])]
    if facts["bad"]:
        told = [f"Skipped: {facts['bad']:,}. The first:", *facts["bad_first"]]
        parts.append("## Bad lines\n\n" + _list(told))
    parts.append(f"<!-- prepare: {json.dumps(state)} -->")
    write_text(file, "\n\n".join(part for part in parts if part) + "\n")


def facts_of(
    options: argparse.Namespace, source: Source, steps: Sequence[Sequence[Any]]
) -> dict[str, Any]:
    """What the card says in addition to the counts of the stages."""
    drops = [
        before[1] - after[1]
        for before, after in zip(steps, steps[1:], strict=False)
        if after[0] == FIRST
    ]
    use = [f"--dataset={options.name}", f"--data_path={options.data_path}"]
    return {
        "name": options.name,
        "version": recbole_mscgrec.__version__,
        "command": options.command,
        "use": shlex.join(["recbole-mscgrec", *use]),
        "title": source.title,
        "terms": source.terms,
        "notes": source.notes,
        "files": [(str(file), file.size) for file in source.files],
        "has_times": source.has_times,
        "repeated_pairs": drops[0] if drops else None,
    }


def state_in(file: Path) -> dict[str, Any] | None:
    """The state in a card; None if there is no card, or it was written by hand."""
    if not file.is_file():
        return None
    match = _STATE.search(file.read_text(encoding="utf-8", errors="replace"))
    try:
        state: dict[str, Any] | None = json.loads(match[1]) if match else None
    except ValueError:
        return None
    return state


def date_of(time: int) -> str:
    """Nanoseconds since 1970 as an ISO date in UTC."""
    date = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=time // 1000)
    return date.strftime("%Y-%m-%dT%H:%M:%SZ")


def _steps(facts: dict[str, Any]) -> str:
    rows = [
        (name, f"{interactions:,}", f"{users:,}", f"{items:,}")
        for name, interactions, users, items in facts["steps"]
    ]
    return _table(["after", "interactions", "users", "items"], rows)


def _about_interactions(facts: dict[str, Any]) -> list[str]:
    _, n, n_users, n_items = facts["steps"][-1]
    found = [
        f"Interactions per user: {n / n_users:.1f}; per item: {n / n_items:.1f}; "
        f"density: {n / n_users / n_items:.4%}."
    ]
    if facts["repeated_pairs"] is not None:
        found.append(f"Repeated pairs of user and item dropped: {facts['repeated_pairs']:,}.")
    if facts["has_times"]:
        span = f"{date_of(facts['first_time'])} to {date_of(facts['last_time'])}"
        found.append(f"Time span: {span}; timestamps are seconds since 1970.")
    else:
        found.append("Times: none; timestamp is the position in the user's sequence.")
    if facts["with_rating"]:
        found.append(f"Interactions with a rating: {facts['with_rating'] / n:.1%}.")
    return found


def _about_items(facts: dict[str, Any]) -> list[str]:
    items = facts["items"]
    found = [
        f"Items: {items['n']:,}, of which {items['without']:,} have no row in the raw files.",
        f"Further rows of an item, not used: {items['repeated']:,}.",
    ]
    found += [f"{what[0].upper()}{what[1:]}: {n:,}." for what, n in items["cleaned"].items() if n]
    empty = [name for name, n in items["columns"].items() if not n]
    if empty:
        found.append(f"Columns left out, because no item has a value: {', '.join(empty)}.")
    return found


def _columns(items: dict[str, Any]) -> str:
    rows = [("any text", f"{items['with_text'] / items['n']:.1%}")]
    rows += [(name, f"{n / items['n']:.1%}") for name, n in items["columns"].items() if n]
    return _table(["column", "items with a value"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    cells = [[str(cell).replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def _list(parts: Sequence[str]) -> str:
    return "\n".join(f"- {' '.join(part.split())}" for part in parts if part)
