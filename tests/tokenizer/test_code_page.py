"""The page of what codes mean: its numbers by hand, its escaping, and what a browser shows."""

from __future__ import annotations

import base64
import html
import io
import json
import math
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from recbole_mscgrec.semantic_ids import code_table
from recbole_mscgrec.semantic_ids.code_table import MISSING, CodeTable
from recbole_mscgrec.tokenizer.code_page import (
    describe,
    groups_of,
    items_of,
    levels,
    page_data,
    render,
)
from recbole_mscgrec.tokenizer.item_cards import Cards, thumbnail

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NASTY = "</script><script>document.title='broken'</script><img src=x onerror=alert(1)>"
SETTINGS = {
    "dataset": "films <b>",
    "n_levels": 2,
    "codebook_size": 4,
    "collision": "extra_level",
    "text_columns": ["title"],
    "codes_file": {"text": "mine.json"},
    "quantizer": None,
}


def cards(n: int) -> Cards:
    """n items: film i of popularity i, War where i is even, Drama in all but the last."""
    words = [["Drama"] + (["War"] if i % 2 == 0 else []) for i in range(n - 1)] + [[]]
    titles = [f"Film {i}" for i in range(n)]
    posters = [thumbnail(Image.new("RGB", (40, 64), "navy"))] + [""] * (n - 1)
    return Cards([f"t{i}" for i in range(n)], titles, words, list(range(n)), posters, "title", "g")


def page_of(rows: list[list[int]], name: str = "text", **changes: Any) -> dict[str, Any]:
    """Page of a table with these codes in `text`, and the two-level target `own`."""
    own = [[i // 4, i % 4, 0] for i in range(len(rows))]
    tables = {"own": own, "text": rows}
    padded = {k: torch.tensor([[MISSING] * len(v[0]), *v]) for k, v in tables.items()}
    table = CodeTable(padded, {"own": [16, 4, 1], "text": [4] * len(rows[0])}, "own")
    health = code_table.health(table, {"own": 2, "text": len(rows[0])})
    given = cards(len(rows))._replace(**changes)
    return page_data(table, health[name], name, given, SETTINGS)


ROWS = [[0, 0], [0, 0], [0, 1], [1, 3], [MISSING] * 2, [0, 2]]


# --- data -----------------------------------------------------------------------------------------


def test_words_of_a_group_by_hand() -> None:
    # 8 items with words: Drama in 8, War in 2, Noir in 2, Rare in 1.
    catalogue = Counter(Drama=8, War=2, Noir=2, Rare=1)
    members = [["Drama", "War"], ["Drama", "War"], ["Drama", "Noir", "Rare"], ["Drama"], []]
    made = describe(members, catalogue, 8)
    assert made["n"] == 5
    assert made["characteristic"] == [["War", 2.0, 2]]  # (2 / 4) / (2 / 8); Noir is in one only
    assert made["frequent"] == [["Drama", 1.0], ["War", 0.5], ["Noir", 0.25]]
    assert made["coherence"] == pytest.approx((4 * math.log2(1) + 2 * math.log2(2)) / 8, abs=1e-3)


def test_a_word_has_to_be_in_a_tenth_of_the_items() -> None:
    members = [["a", "b"]] * 2 + [["a"]] * 19
    assert describe(members, Counter(a=40, b=2), 40)["characteristic"] == []
    assert describe(members[:20], Counter(a=40, b=2), 40)["characteristic"] == [["b", 2.0, 2]]


def test_a_group_without_words() -> None:
    made = describe([[], []], Counter(), 0)
    assert made == {"n": 2, "characteristic": [], "frequent": [], "coherence": 0.0}


def test_groups_are_the_prefixes_of_one_and_two_content_levels() -> None:
    table = [[0, 1, 2, 0], [0, 1, 3, 0], [0, 2, 0, 0], None]
    groups = groups_of(table, [["w"]] * 4, 3)
    assert {prefix: group["n"] for prefix, group in groups.items()} == {"0": 3, "0.1": 2, "0.2": 1}
    assert set(groups_of([[7, 0]], [[]], 1)) == {"7"}


def test_items_are_in_the_order_of_popularity() -> None:
    given = Cards(["b", "a", "c"], ["B", "A", "C"], [[], [], ["w"]], [2, 2, 5], ["", "", "xx"])
    made = items_of([[0], None, [1]], given)
    assert [item["token"] for item in made] == ["c", "a", "b"]
    assert made[0] == {
        "token": "c", "title": "C", "words": ["w"], "popularity": 5, "poster": "xx", "code": [1]
    }  # fmt: skip
    assert made[1]["code"] is None


def test_the_collision_level_is_named() -> None:
    page = page_of(ROWS, "own")
    assert [level["name"] for level in page["levels"]] == ["level 1", "level 2", "collision"]
    assert page["target"] and page["settings"]["collision"] == "extra_level"
    assert [level["name"] for level in levels(page_of(ROWS)["health"])] == ["level 1", "level 2"]


def test_settings_are_those_of_the_modality() -> None:
    page = page_of(ROWS)
    assert page["settings"] == {
        "n_levels": "2",
        "codebook_size": "4",
        "text_columns": "['title']",
        "codes_file": "mine.json",
    }


def test_a_large_catalogue_shows_its_most_popular_items(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_mscgrec.tokenizer.code_page._MOST_ITEMS", 2)
    page = page_of(ROWS)
    assert [item["token"] for item in page["items"]] == ["t5", "t4"]
    assert page["groups"]["0"]["n"] == 4 and page["n_items"] == 6
    assert "2 most popular of 6 items" in render(page)


# --- the file -------------------------------------------------------------------------------------


def test_nothing_of_the_data_becomes_markup() -> None:
    titles = [NASTY] + [f"Film {i}" for i in range(5)]
    text = render(page_of(ROWS, titles=titles, tokens=[NASTY, *"abcde"], words=[[NASTY]] * 6))
    assert NASTY not in text and "films <b>" not in text
    assert text.count("<script") == 2 and text.count("</script>") == 2
    stored = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.S)
    page = json.loads(stored[1])
    assert page["items"][-1]["title"] == NASTY and page["dataset"] == "films <b>"


def test_nothing_is_loaded_from_anywhere() -> None:
    text = render(page_of(ROWS))
    assert "default-src 'none'" in text
    assert not re.findall(r"https?://|//\w+\.\w+|@import|url\(", text)


# --- in a browser ---------------------------------------------------------------------------------

Shown = Callable[..., str]
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium: apt-get install chromium"
)


@pytest.fixture
def shown(tmp_path: Path) -> Shown:
    """Visible DOM of a page at an address, after a script of the test's own was run."""

    def dump(page: dict[str, Any], address: str = "", script: str = "") -> str:
        file = tmp_path / "codes_text.html"
        text = render(page).replace("</body>", f"<script>{script}</script></body>")
        file.write_text(text, encoding="utf-8")
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += ["--virtual-time-budget=3000", f"--user-data-dir={tmp_path / 'profile'}"]
        done = subprocess.run(
            [*command, file.as_uri() + address], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
        return re.sub(r"<script.*?</script>", "", done.stdout, flags=re.S)

    return dump


def sheets(dom: str) -> dict[str, list[str]]:
    """Code of each sheet -> titles of its items, in their order on the page."""
    found = re.findall(r'<section class="sheet" data-code="([\d.]+)">(.*?)</section>', dom, re.S)
    return {code: titles_of(content) for code, content in found}


def titles_of(dom: str) -> list[str]:
    return [html.unescape(t) for t in re.findall(r'<span class="title">(.*?)</span>', dom)]


def text_of(dom: str) -> str:
    body = re.sub(r"<(style|noscript).*?</\1>", "", dom, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


@needs_browser
def test_first_level_then_second_by_a_click_and_back(shown: Shown) -> None:
    page = page_of(ROWS)
    first = shown(page)
    assert sheets(first) == {"0": ["Film 5", "Film 2", "Film 1", "Film 0"], "1": ["Film 3"]}
    assert "5 items in 2 codes of level 1" in text_of(first)
    assert first.count("data:image/jpeg;base64,") == 1 and "Drama 100 %" in text_of(first)
    click = "document.querySelector('[data-code=\"0\"] h2 a').click();"
    second = shown(page, script=click)
    assert sheets(second) == {"0.0": ["Film 1", "Film 0"]}
    alone = second[second.index("Codes with one item") :]
    assert titles_of(alone) == ["Film 5", "Film 2"]  # by popularity
    assert "4 items in 3 codes of level 2" in text_of(second)
    # A click is a change of the address: a link to it shows the same, and back leads back.
    assert sheets(shown(page, "#code=0")) == sheets(second)
    back = f"{click} setTimeout(() => history.back(), 300);"
    assert sheets(shown(page, script=back)) == sheets(first)


@needs_browser
def test_search_item_and_missing(shown: Shown) -> None:
    titles = ["Amélie", "Film 1", "Film 2", "Film 3", "Film 4", NASTY]
    page = page_of(ROWS, titles=titles)
    assert titles_of(shown(page, "#q=amelie")) == ["Amélie"]
    typed = "search.value = 'T2'; search.dispatchEvent(new Event('input'));"
    assert titles_of(shown(page, script=typed)) == ["Film 2"]
    assert "No item's title or token contains “nothing”" in text_of(shown(page, "#q=nothing"))
    one = shown(page, "#item=t0")
    assert "Amélie" in text_of(one) and titles_of(one) == ["Film 1", NASTY, "Film 2"]
    assert "The same code 1 item" in text_of(one)
    assert "The same first codeword 2 items" in text_of(one)
    click = "document.querySelector('.facts a').click();"
    assert titles_of(shown(page, script=click)) == ["Film 4"]
    assert "No item has the code 9" in text_of(shown(page, "#code=9"))
    assert "<title>text codes of" in one  # NASTY did not run


@needs_browser
def test_sorting_and_the_rest_of_a_large_sheet(shown: Shown) -> None:
    rows = [[1, i % 4] for i in range(30)] + [[0, 0], [2, 1], [2, 1]]
    words = [["Drama"]] * 30 + [["Noir"], ["War"], ["War"]]
    page = page_of(rows, words=words)
    assert list(sheets(shown(page))) == ["1", "2", "0"]
    assert list(sheets(shown(page, "#sort=code"))) == ["0", "1", "2"]
    assert list(sheets(shown(page, "#sort=coherence"))) == ["2", "1", "0"]
    dom = shown(page)
    assert len(sheets(dom)["1"]) == 24 and "and 6 more" in dom
    more = shown(page, script="document.querySelector('button').click();")
    assert len(sheets(more)["1"]) == 30 and "and 6 more" not in more


@needs_browser
def test_without_posters_items_are_lines(shown: Shown) -> None:
    dom = shown(page_of(ROWS, posters=[""] * 6))
    assert "<img" not in dom and 'class="items lines"' in dom
    assert sheets(dom)["0"] == ["Film 5", "Film 2", "Film 1", "Film 0"]


def test_a_thumbnail_is_what_the_page_embeds() -> None:
    made = page_of(ROWS)["items"][-1]["poster"]
    with Image.open(io.BytesIO(base64.b64decode(made))) as image:
        assert image.size == (40, 64)
