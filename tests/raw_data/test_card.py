"""The data card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_mscgrec.raw_data.card import date_of, state_in, write_card


def facts(**changes: Any) -> dict[str, Any]:
    return {
        "name": "d",
        "version": "1.0",
        "command": "recbole-mscgrec prepare csv",
        "use": "recbole-mscgrec --dataset=d",
        "title": "tables",
        "terms": "yours",
        "notes": [],
        "files": [("a|b.csv", 1234)],
        "steps": [("read", 1000, 30, 20), ("rest", 600, 20, 10)],
        "repeated_pairs": 7,
        "has_times": True,
        "first_time": 0,
        "last_time": 1588687728923 * 10**6,
        "with_rating": 300,
        "items": {
            "n": 10,
            "without": 2,
            "repeated": 0,
            "with_text": 8,
            "columns": {"title": 8, "price": 0, "image_url": 5},
            "cleaned": {"texts cleaned": 3},
        },
        "bad": 0,
        "bad_first": [],
        **changes,
    }


def test_the_card_tells_the_counts(tmp_path: Path) -> None:
    file = tmp_path / "d.card.md"
    write_card(file, facts(), {"key": "k"})
    text = file.read_text()
    for line in (
        "| a\\|b.csv | 1,234 |",
        "| rest | 600 | 20 | 10 |",
        "- Interactions per user: 30.0; per item: 60.0; density: 300.0000%.",
        "- Repeated pairs of user and item dropped: 7.",
        "- Time span: 1970-01-01T00:00:00Z to 2020-05-05T14:08:48Z; "
        "timestamps are seconds since 1970.",
        "- Interactions with a rating: 50.0%.",
        "- Items: 10, of which 2 have no row in the raw files.",
        "- Texts cleaned: 3.",
        "- Columns left out, because no item has a value: price.",
        "| any text | 80.0% |",
        "| image_url | 50.0% |",
    ):
        assert f"{line}\n" in text
    assert "Bad lines" not in text and state_in(file) == {"key": "k"}


def test_a_card_without_items_and_with_bad_lines(tmp_path: Path) -> None:
    file = tmp_path / "d.card.md"
    more = {"items": None, "bad": 2, "bad_first": ["a, line 3: x"], "has_times": False}
    write_card(file, facts(**more, with_rating=0, repeated_pairs=None), {})
    text = file.read_text()
    assert "- Skipped: 2. The first:\n- a, line 3: x\n" in text
    assert "## Items" not in text and "rating" not in text and "Repeated" not in text
    assert "Times: none" in text


def test_a_card_by_hand_has_no_state(tmp_path: Path) -> None:
    file = tmp_path / "d.card.md"
    assert state_in(file) is None
    for text in ("# d\n", "<!-- prepare: {broken -->\n"):
        file.write_text(text)
        assert state_in(file) is None


def test_dates() -> None:
    assert date_of(-1) == "1969-12-31T23:59:59Z" and date_of(10**9) == "1970-01-01T00:00:01Z"
