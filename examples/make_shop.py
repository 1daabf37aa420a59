"""Raw data of a small, made-up shop, in the layout of the Amazon reviews of 2023.

    python examples/make_shop.py            # writes shop/

Customers pursue one or two hobbies and buy what belongs to them, basics first. The files:

    reviews.jsonl            one review per line: user_id, parent_asin, rating, timestamp, ...
    meta_reviews.jsonl       one product per line: parent_asin, title, features, categories, ...
    orders.csv               the same purchases as a plain table
    products.csv             the same products as a plain table
    new-products.item        products that nobody has bought yet, for `add-items`
"""

from __future__ import annotations

import csv
import json
import random
import sys
from pathlib import Path

HOBBIES = {
    "Coffee": "beans grinder kettle filter scale dripper server tamper mug espresso-machine",
    "Baking": "flour whisk bowl baking-tray rolling-pin scraper proofing-basket oven-stone"
    " stand-mixer cake-ring",
    "Camping": "tent sleeping-bag headlamp camp-stove pot-set rain-jacket backpack water-filter"
    " hammock trekking-poles",
    "Painting": "brush-set watercolours sketchbook easel palette canvas varnish ink-pens"
    " mixing-tray drawing-board",
    "Cycling": "helmet bike-lock pump tyre chain-oil saddle pedals bottle-cage bike-computer"
    " repair-stand",
    "Gardening": "seeds trowel gloves watering-can plant-pot compost pruner greenhouse trellis"
    " hose-reel",
}
MAKERS = ("Alder", "Brightwell", "Corvo", "Dunmore")
KINDS = ("Classic", "Compact", "Pro")
N_CUSTOMERS, FIRST_DAY, DAY = 700, 1_640_995_200, 86_400


def products() -> list[dict]:
    """All products, in Amazon's layout; the last kind of each maker's goods is left for later."""
    made = []
    for hobby, goods in HOBBIES.items():
        for step, good in enumerate(goods.split()):
            for maker in MAKERS[: 2 + step % 3]:
                name = good.replace("-", " ").title()
                kind = KINDS[(step + len(maker)) % 3]
                made.append(
                    {
                        "main_category": hobby,
                        "title": f"{maker} {kind} {name}",
                        "average_rating": 4.2,
                        "rating_number": 10,
                        "features": [f"{kind} {name} for {hobby.lower()}", "Two years of warranty"],
                        "description": [
                            f"The {name.lower()} that {maker} makes for {hobby.lower()}."
                        ],
                        "price": 9.5 + 7 * step,
                        "images": [],
                        "videos": [],
                        "store": maker,
                        "categories": ["Hobbies", hobby],
                        "details": {},
                        "parent_asin": f"B0{len(made):04d}",
                        "bought_together": None,
                        "step": step,
                    }
                )
    return made


def purchases(goods: list[dict], draw: random.Random) -> list[dict]:
    """Reviews of all customers: a hobby's goods from basic to advanced, some with two hobbies."""
    made = []
    for customer in range(N_CUSTOMERS):
        hobbies = draw.sample(sorted(HOBBIES), 2 if customer % 3 == 0 else 1)
        maker, day = draw.choice(MAKERS), draw.randrange(400)
        for hobby in hobbies:
            last = draw.randrange(6, 11)
            for step in range(last):
                choice = [g for g in goods if g["main_category"] == hobby and g["step"] == step]
                liked = [g for g in choice if g["store"] == maker]
                good = (liked or choice)[0] if draw.random() < 0.8 else draw.choice(choice)
                day += draw.randrange(1, 20)
                made.append(
                    {
                        "rating": float(draw.choice((3, 4, 4, 5, 5, 5))),
                        "title": "Review",
                        "text": "As described.",
                        "images": [],
                        "asin": good["parent_asin"],
                        "parent_asin": good["parent_asin"],
                        "user_id": f"C{customer:04d}",
                        "timestamp": (FIRST_DAY + day * DAY + draw.randrange(DAY)) * 1000,
                        "helpful_vote": 0,
                        "verified_purchase": True,
                    }
                )
    draw.shuffle(made)
    return made


def write(folder: Path) -> None:
    """Write all files."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, goods = random.Random(7), products()
    steps = {good["parent_asin"]: good.pop("step") for good in goods}
    new = draw.sample(
        [g for g in goods if steps[g["parent_asin"]] > 0 and g["store"] != "Alder"], 8
    )
    known = [good for good in goods if good not in new]
    reviews = purchases([{**g, "step": steps[g["parent_asin"]]} for g in known], draw)
    for name, rows in (("reviews", reviews), ("meta_reviews", known)):
        lines = [json.dumps(row) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    columns = ("user_id", "parent_asin", "rating", "timestamp")
    table(folder / "orders.csv", ("customer", "product", "stars", "time_ms"), reviews, columns)
    columns = ("parent_asin", "title", "store", "price")
    table(folder / "products.csv", ("product", "title", "brand", "price"), known, columns)
    header = "item_id:token\ttitle:token_seq\tfeatures:token_seq\tdescription:token_seq"
    lines = [f"{header}\tstore:token_seq\tcategories:token_seq\tmain_category:token_seq"]
    for good in new:
        cells = (good["parent_asin"], good["title"], " ".join(good["features"]))
        cells += (good["description"][0], good["store"], ", ".join(good["categories"]))
        cells += (good["main_category"],)
        lines.append("\t".join(cells))
    (folder / "new-products.item").write_text("\n".join(lines) + "\n", encoding="utf-8")


def table(file: Path, header: tuple[str, ...], rows: list[dict], columns: tuple[str, ...]) -> None:
    """Write some fields of the rows as a csv file."""
    with file.open("w", encoding="utf-8", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([row[column] for column in columns] for row in rows)


if __name__ == "__main__":
    write(Path(sys.argv[1] if len(sys.argv) > 1 else "shop"))
