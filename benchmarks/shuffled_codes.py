"""Give every item the semantic IDs of another item: how well do meaningless codes work?

    python run_recbole_mscgrec.py --model=MSCGRecTokenizer --dataset=ml-100k
    python benchmarks/shuffled_codes.py --to=saved/shuffled saved/codes/ml-100k/codes_*.json
    python run_recbole_mscgrec.py --dataset=ml-100k --config_files saved/shuffled/settings.yaml

All modalities get the same permutation of the items, so an item's codes still belong together.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

Codes = dict[str, list[int]]


def shuffled(tables: list[Codes], seed: int) -> list[Codes]:
    """The same tables, the codes of every item at another one, by one permutation of all items."""
    tokens = sorted({token for table in tables for token in table})
    others = list(tokens)
    random.Random(seed).shuffle(others)
    place = dict(zip(tokens, others, strict=True))
    return [{place[token]: codes for token, codes in table.items()} for table in tables]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, help="codes_NAME.json of one data set")
    parser.add_argument("--to", type=Path, required=True, help="folder of the shuffled files")
    parser.add_argument("--seed", type=int, default=2020)
    options = parser.parse_args()
    tables = [json.loads(file.read_text(encoding="utf-8")) for file in options.files]
    options.to.mkdir(parents=True, exist_ok=True)
    for file, table in zip(options.files, shuffled(tables, options.seed), strict=True):
        (options.to / file.name).write_text(json.dumps(table), encoding="utf-8")
    names = {
        file.stem.removeprefix("codes_"): str(options.to / file.name) for file in options.files
    }
    settings = json.dumps({"codes_file": names, "modalities": list(names)})  # JSON is YAML
    (options.to / "settings.yaml").write_text(settings, encoding="utf-8")


if __name__ == "__main__":
    main()
