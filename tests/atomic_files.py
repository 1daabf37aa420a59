"""Small data sets with exactly the headers and separators of RecBole's own atomic files.

Sources, read in November 2026 in github.com/RUCAIBox/RecSysDatasets:
- ml-10m, ml-20m, ml-latest, amazon (2014 and 2018), yelp, steam, netflix, book-crossing, MIND:
  `item_fields` and `inter_fields` of conversion_tools/src/extended_dataset.py. Where the files that
  RecBole offers for download name columns otherwise (ml-10m: class, yelp-2018: item_id), these are
  given: as the docstrings of a public reader of the downloaded files have them (MTandHJ/freerec,
  freerec/data/preprocessing).
- ml-1m: the header that the issue's author read in the downloaded file.
- lastfm: the downloaded file's, from the same reader.
- amazon 2023: no converter is published. The columns are those of the authors' metadata with the
  types that the converter gives to the same columns of 2018, and `parent_asin` in both files.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

WORDS = (
    "amber bridge candle dragon ember forest garden harbor island jungle kettle lantern meadow"
    " needle orchard pepper quartz river saddle timber umbrella velvet window yellow zephyr"
).split()
GENRES = ["Action", "Comedy", "Drama", "Horror", "Musical", "Western"]
N_USERS, N_ITEMS, LENGTH = 70, 80, 9
START = 1_500_000_000

Maker = Callable[[random.Random, int], str]  # value of a column for the item or row of a number


class DataSet(NamedTuple):
    """Columns of the two files with what fills them, and what should be found in them."""

    inter: dict[str, Maker]
    item: dict[str, Maker]
    text: list[str] | None  # the columns that a person would take for text; None: no .item file
    has_times: bool = True


def _words(least: int, most: int) -> Maker:
    return lambda draw, i: " ".join(draw.choices(WORDS, k=draw.randint(least, most)))


def _some(maker: Maker, share: float = 0.7) -> Maker:
    """With gaps."""
    return lambda draw, i: maker(draw, i) if draw.random() < share else ""


def _one_of(*values: str) -> Maker:
    return lambda draw, i: draw.choice(values)


def _genres(draw: random.Random, i: int) -> str:
    return " ".join(draw.sample(GENRES, draw.randint(1, 3)))


def _quoted(draw: random.Random, i: int) -> str:
    return ", ".join(f"'{word.title()}'" for word in draw.sample(WORDS, draw.randint(1, 3)))


def _number(low: float, high: float) -> Maker:
    return lambda draw, i: f"{draw.uniform(low, high):.2f}"


def _year(draw: random.Random, i: int) -> str:
    return str(draw.randint(1950, 2020))


def _link(draw: random.Random, i: int) -> str:
    return f"http://example.org/{i}.html"


def _json(draw: random.Random, i: int) -> str:
    return json.dumps([{"Label": draw.choice(WORDS), "Confidence": 1.0}])


def _token(prefix: str = "") -> Maker:
    return lambda draw, i: f"{prefix}{i}"


TITLE, NAME, PROSE = _words(2, 5), _words(1, 3), _words(8, 20)
USER, ITEM, TIME = "USER", "ITEM", "TIME"  # filled by `write`
RATED = {"user_id:token": USER, "item_id:token": ITEM, "rating:float": _number(1, 5)}
TIMED = {**RATED, "timestamp:float": TIME}
MOVIES = {
    "item_id:token": ITEM,
    "movie_title:token_seq": TITLE,
    "release_year:token": _year,
    "class:token_seq": _genres,
}
AMAZON = {
    "item_id:token": ITEM,
    "title:token": _some(TITLE),
    "sales_type:token": _some(_one_of("Beauty", "Toys", "Grocery")),
    "sales_rank:float": _some(_number(1, 1e6)),
    "categories:token_seq": _quoted,
    "price:float": _some(_number(1, 90)),
    "brand:token": _some(_one_of(*WORDS[:9])),
}
YELP_PLACE = {
    "address:token_seq": lambda draw, i: f"{i} {draw.choice(WORDS).title()} St",
    "city:token_seq": _one_of("Las Vegas", "Phoenix", "New York"),
    "state:token": _one_of("NV", "AZ"),
    "postal_code:token": lambda draw, i: str(10_000 + i),
    "latitude:float": _number(20, 50),
    "longitude:float": _number(-120, -70),
    "item_stars:float": _number(1, 5),
    "item_review_count:float": _number(3, 900),
    "is_open:float": _one_of("0", "1"),
    "categories:token_seq": lambda draw, i: ", ".join(draw.sample(GENRES, 2)),
}

DATA_SETS: dict[str, DataSet] = {
    "ml-1m": DataSet(
        TIMED,
        {k.replace("class", "genre"): v for k, v in MOVIES.items()},
        ["movie_title", "genre"],
    ),
    "ml-10m": DataSet(TIMED, MOVIES, ["movie_title", "class"]),
    "ml-20m": DataSet(
        TIMED,
        {k.replace("class", "genre"): v for k, v in MOVIES.items()},
        ["movie_title", "genre"],
    ),
    "ml-latest": DataSet(
        TIMED,
        {
            "item_id:token": ITEM,
            "movie_title:token_seq": TITLE,
            "release_year:token": _year,
            "genre:token_seq": _genres,
        },
        ["movie_title", "genre"],
    ),
    "amazon-beauty": DataSet(TIMED, AMAZON, ["title", "categories", "brand"]),
    "amazon-beauty-personal-care-23": DataSet(
        {**TIMED, "parent_asin:token": _token("B")},
        {
            "item_id:token": ITEM,
            "parent_asin:token": _token("B"),
            "main_category:token": _one_of("All Beauty", "Beauty"),
            "title:token": TITLE,
            "average_rating:float": _number(1, 5),
            "rating_number:float": _number(1, 500),
            "features:token_seq": _some(PROSE),
            "description:token_seq": _some(PROSE, 0.4),
            "price:float": _some(_number(1, 90), 0.2),
            "images:token_seq": _link,
            "store:token": _some(NAME),
            "categories:token_seq": _some(_quoted, 0.9),
            "details:token": _json,
        },
        ["main_category", "title", "features", "description", "store", "categories"],
    ),
    "yelp": DataSet(
        {
            "review_id:token": _token("r"),
            "user_id:token": USER,
            "business_id:token": ITEM,
            "stars:float": _number(1, 5),
            "useful:float": _one_of("0", "1"),
            "funny:float": _one_of("0", "1"),
            "cool:float": _one_of("0", "1"),
            "date:float": TIME,
        },
        {"business_id:token": ITEM, "item_name:token_seq": NAME, **YELP_PLACE},
        ["item_name", "categories"],
    ),
    "yelp-2018": DataSet(
        {**TIMED, "useful:float": _one_of("0", "1"), "review_id:token": _token("r")},
        {"item_id:token": ITEM, "item_name:token_seq": NAME, **YELP_PLACE},
        ["item_name", "categories"],
    ),
    "steam-not-merged": DataSet(
        {
            "user_id:token": USER,
            "play_hours:float": _number(0, 90),
            "products:token": _token("p"),
            "product_id:token": ITEM,
            "page_order:float": _one_of("0", "1"),
            "timestamp:float": TIME,
            "early_access:token": _one_of("True", "False"),
            "page:float": _one_of("1", "2"),
            "found_funny:token": _some(_one_of("1", "2"), 0.1),
            "compensation:token": _some(_one_of("Product received for free"), 0.1),
        },
        {
            "app_name:token": TITLE,
            "developer:token": NAME,
            "early_access:token": _one_of("True", "False"),
            "genres:token_seq": lambda draw, i: ", ".join(draw.sample(GENRES, 2)),
            "id:token": ITEM,
            "metascore:float": _some(_number(20, 99), 0.2),
            "price:float": _number(1, 60),
            "publisher:token": NAME,
            "timestamp:float": _number(1e9, 1.5e9),
            "sentiment:token": _one_of("Very Positive", "Mostly Positive", "Mixed"),
            "specs:token_seq": _one_of("Single-player, Steam Cloud", "Multi-player"),
            "tags:token_seq": lambda draw, i: ", ".join(draw.sample(GENRES, 3)),
            "title:token": TITLE,
        },
        ["app_name", "developer", "genres", "publisher", "specs", "tags", "title"],
    ),
    "lastfm": DataSet(
        {
            "user_id:token": USER,
            "artist_id:token": ITEM,
            "weight:float": _number(1, 9000),
            "tag_value:token_seq": _words(0, 3),
        },
        {
            "artist_id:token": ITEM,
            "name:token": NAME,
            "url:token": _link,
            "picture_url:token": _some(_link),
        },
        ["name"],
        has_times=False,
    ),
    "book-crossing": DataSet(
        RATED,
        {
            "item_id:token": ITEM,
            "book_title:token_seq": TITLE,
            "book_author:token_seq": _words(2, 2),
            "publication_year:float": _year,
            "publisher:token_seq": NAME,
        },
        ["book_title", "book_author", "publisher"],
        has_times=False,
    ),
    "netflix": DataSet(
        {
            "item_id:token": ITEM,
            "user_id:token": USER,
            "rating:float": _one_of("1", "2", "3", "4", "5"),
            "timestamp:float": TIME,
        },
        {},
        None,
    ),
    "mind-small-train": DataSet(
        {
            "user_id:token": USER,
            "item_id:token": ITEM,
            "label:float": _one_of("0", "1"),
            "timestamp:float": TIME,
        },
        {
            "item_id:token": ITEM,
            "category:token_seq": _one_of("news", "sports", "finance"),
            "sub_category:token_seq": _one_of("newsus", "golf", "markets"),
            "title:token_seq": TITLE,
            "abstract:token_seq": _some(PROSE, 0.9),
            "url:token_seq": _link,
            "title_entities:token_seq": _json,
            "abstract_entities:token_seq": _some(_json),
        },
        ["category", "sub_category", "title", "abstract"],
    ),
}


def write(folder: Path, name: str, stem: str | None = None, seed: int = 0) -> Path:
    """The files of a data set in `folder`, named after `stem` (default: the data set's name)."""
    draw, data, stem = random.Random(seed), DATA_SETS[name], stem or name
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(u, n) for u in range(N_USERS) for n in range(LENGTH)]
    draw.shuffle(rows)
    lines = ["\t".join(data.inter)]
    for number, (user, n) in enumerate(rows):
        given = {USER: f"u{user}", ITEM: f"{100 + (7 * user + n) % N_ITEMS}", TIME: str(START + n)}
        lines.append("\t".join(_cell(m, given, draw, number) for m in data.inter.values()))
    (folder / f"{stem}.inter").write_text("\n".join(lines) + "\n", encoding="utf-8")
    if data.item:
        lines = ["\t".join(data.item)]
        for i in range(N_ITEMS):
            given = {ITEM: str(100 + i)}
            lines.append("\t".join(_cell(m, given, draw, i) for m in data.item.values()))
        (folder / f"{stem}.item").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def _cell(maker: Maker | str, given: dict[str, str], draw: random.Random, number: int) -> str:
    return given[maker] if isinstance(maker, str) else maker(draw, number)
