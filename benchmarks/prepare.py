"""CPU time and memory of `prepare amazon-2023` on generated reviews.

    python benchmarks/prepare.py --reviews 3000000 --items 200000

Writes review and meta lines in the layout of the authors to a temporary folder, prepares them in
a process of its own, and prints the size of the files, its CPU seconds and its peak memory.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

PER_USER = 10  # reviews, on average
TEXT = "A review of a product, which nobody has read before and nobody will read again. " * 5


def write_raw(folder: Path, n_reviews: int, n_items: int) -> list[Path]:
    """CAT.jsonl with reviews in random order, and meta_CAT.jsonl."""
    draw, n_users = random.Random(0), max(1, n_reviews // PER_USER)
    reviews, meta = folder / "Made_Up.jsonl", folder / "meta_Made_Up.jsonl"
    with reviews.open("w", encoding="utf-8") as out:
        for n in range(n_reviews):
            item = f"B{int(n_items * draw.random() ** 2):09d}"  # some are much more frequent
            review = {
                "rating": float(draw.randrange(1, 6)),
                "title": "title",
                "text": TEXT,
                "images": [],
                "asin": item,
                "parent_asin": item,
                "user_id": f"U{draw.randrange(n_users):020d}",
                "timestamp": 1_500_000_000_000 + 1000 * n,
                "helpful_vote": 0,
                "verified_purchase": True,
            }
            out.write(json.dumps(review) + "\n")
    with meta.open("w", encoding="utf-8") as out:
        for n in range(n_items):
            item = {
                "main_category": "Made up",
                "title": f"Product {n}",
                "features": ["of this kind", "and of that"],
                "description": [TEXT],
                "price": 9.5,
                "images": [],
                "store": f"Store {n % 1000}",
                "categories": ["Made up", f"Kind {n % 50}"],
                "parent_asin": f"B{n:09d}",
            }
            out.write(json.dumps(item) + "\n")
    return [reviews, meta]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reviews", type=int, default=3_000_000)
    parser.add_argument("--items", type=int, default=200_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        raw = write_raw(Path(place), options.reviews, options.items)
        command = [sys.executable, "-m", "recbole_mscgrec", "prepare", "amazon-2023", "--name=made"]
        command += [f"--data_path={place}/data", "--from", *map(str, raw)]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
        gigabytes = sum(file.stat().st_size for file in raw) / 1e9
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, megabytes = used.ru_utime + used.ru_stime, used.ru_maxrss / 1e3
    print(f"{gigabytes:.2f} GB: {seconds:.0f} s of processor time, {megabytes:.0f} MB at most")


if __name__ == "__main__":
    main()
