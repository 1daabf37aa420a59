"""Write docs/settings.md from the comments of the YAML files in properties/.

    python docs/generate_settings.py

A setting is a line `key: default  # (type, rule) meaning`; a comment line after a blank line begins
a group, and what follows its colon is a remark on the group.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).resolve().parent.parent
PAGE = PROJECT / "docs" / "settings.md"
COMMAND = "python docs/generate_settings.py"

HEAD = f"""<!-- Generated from the YAML files in properties/ by `{COMMAND}`: edit those. -->
# Settings

Every setting is an option `--KEY=VALUE` of the command line, a line `key: value` of a file named
with `--config_files`, or an entry of `config_dict` in Python. Later ones win: RecBole's own
defaults, then the files below, then `properties/dataset/NAME.yaml` if the data set has one (ml-100k
and ml-1m: 5-core filter and text columns; amazon-scientific: text columns), then your files, then
`config_dict` or the command line. RecBole's own settings (`seed`, `gpu_id`, `MAX_ITEM_LIST_LENGTH`,
...) work as in RecBole.

Values are parsed, never evaluated. An unknown key is refused, and the nearest known key is named. A
value of the wrong type or outside the range in the column "type" is refused with the rule. The
rules also hold for RecBole's own settings (`epochs`, `learner`, `eval_step`, ...).
"""

# Title and first sentence of each file's section; other files of properties/model/ follow by name.
ABOUT = {
    "overall.yaml": ("All models", "These hold for every model, RecBole's included."),
    "model/MSCGRec.yaml": (
        "MSCGRec",
        'On sparse data a setting that you do not set takes the value marked "sparse data"; see '
        "[Sparse data](data.md#sparse-data).",
    ),
    "model/MSCGRec-paper.yaml": (
        "The paper's form of MSCGRec",
        "Only what differs from the section above; use it with "
        "`--config_files=properties/model/MSCGRec-paper.yaml`. "
        "See [Differences from the paper](paper.md).",
    ),
}


class Setting(NamedTuple):
    """One key of a YAML file."""

    key: str
    default: str
    kind: str
    meaning: str


class Group(NamedTuple):
    """Settings under one comment line."""

    title: str
    remark: str
    settings: list[Setting]


_KEY = re.compile(
    r"(?P<key>\w+):\s*(?P<default>.*?)\s*(?:#\s*(?:\((?P<kind>[^)]*)\)\s*)?(?P<m>.*))?$"
)


def page() -> str:
    """The text of docs/settings.md."""
    folder = PROJECT / "properties"
    others = sorted(str(p.relative_to(folder)) for p in folder.glob("model/*.yaml"))
    files = [*ABOUT, *(name for name in others if name not in ABOUT)]
    return "\n".join([HEAD, *(line for name in files for line in _section(name))]) + "\n"


def _section(name: str) -> Iterator[str]:
    title, about = ABOUT.get(name, (Path(name).stem, ""))
    intro, groups = read((PROJECT / "properties" / name).read_text(encoding="utf-8"))
    yield f"## {title}\n"
    yield f"File: `properties/{name}`. {about or intro}\n"
    for group in groups:
        if group.title:
            yield f"### {group.title}\n"
        if group.remark:
            yield f"{group.remark[0].upper()}{group.remark[1:].rstrip('.')}.\n"
        yield "| setting | default | type | meaning |"
        yield "|---|---|---|---|"
        for s in group.settings:
            yield f"| `{s.key}` | {_default(s.default)} | {s.kind} | {_cell(s.meaning)} |"
        yield ""


def read(text: str) -> tuple[str, list[Group]]:
    """The comment at the top of a YAML file, and its groups of settings."""
    intro, rest = _head(text.splitlines())
    groups = [Group("", "", [])]
    after_blank = True
    for number, line in enumerate(rest):
        if line.startswith("#") and after_blank:
            title, _, remark = line.lstrip("# ").partition(": ")
            groups.append(Group(title, remark, []))
        elif line.startswith("#"):
            raise ValueError(f"a comment that begins no group: {line}")
        elif line and not line.startswith((" ", "-")):
            groups[-1].settings.append(_setting(line, _indented(rest[number + 1 :])))
        after_blank = not line.strip()
    return intro, [group for group in groups if group.settings]


def _head(lines: list[str]) -> tuple[str, list[str]]:
    n = next(i for i, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.lstrip("# ") for line in lines[:n]), lines[n:]


def _indented(lines: list[str]) -> list[str]:
    """The lines of the nested mapping that is the value of a key."""
    end = next((i for i, line in enumerate(lines) if not line.startswith(" ")), len(lines))
    return [line.strip() for line in lines[:end]]


def _setting(line: str, inside: list[str]) -> Setting:
    found = _KEY.match(line)
    if found is None:
        raise ValueError(f"not a setting: {line}")
    default = found["default"] or "{" + ", ".join(inside) + "}"
    return Setting(found["key"], default, found["kind"] or "", found["m"] or "")


def _default(value: str) -> str:
    return "unset" if value == "~" else f"`{_cell(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
