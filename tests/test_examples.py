"""The notebooks of examples/ run, and their stored outputs are those of a whole run."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient

import recbole_mscgrec

PROJECT = Path(recbole_mscgrec.__file__).resolve().parent.parent
EXAMPLES = PROJECT / "examples"
SEEN = ["Star Wars", "Empire Strikes Back, The", "Raiders of the Lost Ark"]


def notebook(name: str) -> Any:
    return nbformat.read(EXAMPLES / name, as_version=4)


def tables(cell: Any) -> list[pd.DataFrame]:
    pages = [o["data"]["text/html"] for o in cell.outputs if "text/html" in o.get("data", {})]
    return [_table(page) for page in pages]


def _table(page: str) -> pd.DataFrame:
    """The table of a page as pandas writes it: a header, and rows named by their first cell."""
    rows = [
        re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.S)
        for row in re.findall(r"<tr[^>]*>(.*?)</tr>", page, flags=re.S)
    ]
    header, body = rows[0], [row for row in rows[1:] if any(row[1:])]
    return pd.DataFrame([r[1:] for r in body], columns=header[1:], index=[r[0] for r in body])


def check_ml_100k(book: Any) -> None:
    """What the outputs must hold, whatever the machine."""
    cells = [cell for cell in book.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [1, 2, 3, 4]
    kinds = [o for cell in cells for o in cell.outputs]
    assert not [o for o in kinds if o.output_type == "error" or o.get("name") == "stderr"]
    scores = cells[0].outputs[0]["data"]["text/plain"]
    assert re.fullmatch(r"\{'recall@10': 0\.\d+, 'ndcg@10': 0\.\d+\}", scores)

    (health,) = tables(cells[1])
    assert list(health.index) == ["collaborative", "text"]
    assert set(health["items"]) == {"1349.0"}
    assert all(1 < float(value) <= 32 for value in health["perplexity of level 1"])

    (alike,) = tables(cells[2])
    printed = "".join(o.get("text", "") for o in cells[2].outputs)
    first = re.search(r"share the first codeword (\d+)\.", printed)[1]
    assert alike["movie_title"].iloc[0] == "Toy Story" and len(alike) > 1
    assert {code.strip("()").split(", ")[0] for code in alike["code"]} == {first}
    # Toy Story's class is Animation Children's Comedy.
    assert sum("Children" in words or "Animation" in words for words in alike["class"]) >= 5

    (best,) = tables(cells[3])
    assert len(best) == 10 == best.index.nunique() and not set(best["movie_title"]) & set(SEEN)
    scores = best["log_probability"].astype(float)
    assert scores.is_monotonic_decreasing and scores.max() < 0


def test_the_stored_outputs_of_ml_100k_hold_what_the_text_says() -> None:
    check_ml_100k(notebook("ml-100k.ipynb"))


@pytest.mark.slow
def test_ml_100k_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer epochs."""
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    book = notebook("ml-100k.ipynb")
    for cell in book.cells:
        cell.source, n = re.subn(r'epochs": \d+,', 'epochs": 1,', cell.source)
        cell.outputs, cell.execution_count = [], None
        assert n == 2 * ("from recbole_mscgrec import run" in cell.source)
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(book, timeout=300, kernel_name="python3", resources=where).execute()
    check_ml_100k(book)


def test_links_of_the_examples_lead_somewhere() -> None:
    texts = [(EXAMPLES / "README.md").read_text(encoding="utf-8")]
    texts += [cell.source for cell in notebook("ml-100k.ipynb").cells]
    links = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", "\n".join(texts))
    assert len(links) > 3
    assert [link for link in links if not (EXAMPLES / link).exists()] == []


def test_every_notebook_is_listed() -> None:
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert [p.name for p in EXAMPLES.glob("*.ipynb") if f"]({p.name})" not in listed] == []
