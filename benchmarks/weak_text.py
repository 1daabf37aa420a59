"""A copy of a data set whose items have almost no text: two words of the title and nothing else.

    python benchmarks/weak_text.py --dataset=amazon-office --data_path=../shared/dataset
    python run_recbole_mscgrec.py --dataset=amazon-office-weak --data_path=saved/weak

The results are in results/weak-text.md.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from recbole_mscgrec.data.atomic_files import read_atomic_file
from recbole_mscgrec.storage.files import write_text

N_WORDS = 2


def weak_titles(item_file: Path, title: str, n_words: int) -> list[str]:
    """The lines of an .item file with the ids of `item_file` and the first words of its titles."""
    items = read_atomic_file(item_file, "\t", "utf-8", ["item_id", title]).frame
    lines = ["item_id:token\ttitle:token_seq"]
    for item, text in zip(items["item_id"], items[title], strict=True):
        lines.append(f"{item}\t{' '.join(text.split()[:n_words])}")
    return lines


def write_copy(folder: Path, name: str, title: str, out: Path, n_words: int = N_WORDS) -> Path:
    """Write the copy NAME-weak of the data set NAME in `folder` to `out`; returns its folder."""
    weak = f"{name}-weak"
    target = out / weak
    target.mkdir(parents=True, exist_ok=True)
    lines = weak_titles(folder / name / f"{name}.item", title, n_words)
    write_text(target / f"{weak}.item", "\n".join([*lines, ""]))
    shutil.copyfile(folder / name / f"{name}.inter", target / f"{weak}.inter")
    return target


def main() -> None:
    """Write the copy that the arguments name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--data_path", type=Path, default=Path("../shared/dataset"))
    parser.add_argument("--title", default="title", help="column of the titles")
    parser.add_argument("--words", type=int, default=N_WORDS, help="words of a title to keep")
    parser.add_argument("--out", type=Path, default=Path("saved/weak"))
    told = parser.parse_args()
    print(write_copy(told.data_path, told.dataset, told.title, told.out, told.words))


if __name__ == "__main__":
    main()
