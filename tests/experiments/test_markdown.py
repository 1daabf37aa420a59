"""Markdown of a table: every cell where it belongs."""

from __future__ import annotations

import itertools
import re

from test_report import ranks, row

from recbole_mscgrec.experiments.markdown import markdown
from recbole_mscgrec.experiments.report import Measured, table


def parsed(text: str, title: str) -> list[dict[str, str]]:
    """The first table after a heading: a dict from header to cell per line."""
    lines = text.split(title, 1)[1].splitlines()
    begin = next(n for n, line in enumerate(lines) if line.startswith("| "))
    table = list(itertools.takewhile(lambda line: line.startswith("| "), lines[begin:]))
    head, _, *rows = ([c.strip() for c in re.split(r"(?<!\\)\|", x)[1:-1]] for x in table)
    assert all(len(cells) == len(head) for cells in rows)
    # Later columns may share a name (p, interval): the first is kept.
    return [dict(reversed(list(zip(head, cells, strict=True)))) for cells in rows]


def example() -> str:
    better = {1: ranks(*[1] * 20), 2: ranks(*[1] * 20)}
    worse = {1: ranks(*[0] * 20)}
    rows = [row("ours", {1: 0.25, 2: 0.35}, better), row("theirs", {1: 0.125}, worse)]
    failed = Measured("bad | row", "BPR", "what for", {}, {}, {1: "boom |\nnext", 2: "boom"})
    return markdown(table([*rows, failed]))


def test_accuracy() -> None:
    ours, theirs, failed = parsed(example(), "# rule")
    assert ours["test ndcg@10"] == "0.3000 ± 0.0707" and ours["seeds"] == "1, 2"
    assert ours["valid ndcg@10"] == "0.6000 ± 0.1414"
    assert theirs["test recall@10"] == "0.1250"
    assert failed["row"] == r"bad \| row" and failed["seeds"] == "none"
    assert failed["valid ndcg@10"] == failed["test ndcg@10"] == ""


def test_significance() -> None:
    (against,) = parsed(example(), "more than chance?")
    assert against["ours minus"] == "theirs" and against["users"] == "20"
    assert against["seeds"] == "1"  # the one that both have
    assert against["ndcg@10"] == "+1.0000" and against["95% interval"] == "+1.0000 to +1.0000"
    assert against["p"] == "< 0.0001"
    assert "10,000 resamples (random seed 0)" in example()


def test_cost_diversity_and_failures() -> None:
    text = example()
    ours, theirs = parsed(text, "## Seconds and memory")
    assert (ours["seconds"], ours["data"], ours["train"]) == ("16", "1.0", "15.0")
    assert (ours["peak MB"], ours["after data"], theirs["parameters"]) == ("102", "52", "1,234")
    assert "GPU MB" not in ours
    assert parsed(text, "## Diversity")[0]["itemcoverage@10"] == "0.5000 ± 0.0000"
    failed = parsed(text, "## Without a result")
    assert [line["seed"] for line in failed] == ["1", "2"] and failed[1]["why"] == "boom"
    assert r"| bad \| row | 1 | boom \| next |" in text
    assert "| what for |" in text


def test_a_table_without_any_result_says_why() -> None:
    text = markdown(table([Measured("a", "Pop", "", {}, {}, {1: "no data"})]))
    assert text.startswith("# No result") and "| a | 1 | no data |" in text


def test_other_list_lengths_are_shown_where_the_usual_ones_were_not_measured() -> None:
    short = row("a", {1: 0.5})
    short.results[1]["test_result"] = {"ndcg@3": 0.5, "giniindex@3": 0.75}
    text = markdown(table([short]))
    assert parsed(text, "# rule")[0]["test ndcg@3"] == "0.5000"
    assert parsed(text, "## Diversity")[0]["giniindex@3"] == "0.7500"


def test_names_of_rows_are_text_and_never_markup() -> None:
    name = "<script>*a* [x](http://y) `b`</script>"
    text = markdown(table([Measured(name, "BPR", name, {}, {}, {1: name})]))
    assert text.count(r"&lt;script>\*a\* \[x\](http://y) \`b\`&lt;/script>") == 4
    assert "<script" not in text
