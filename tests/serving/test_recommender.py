"""Recommendations by token: equal to the model's own, with filters, fallbacks and clear errors."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import N, tiny_export

from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.recommender import BFLOAT16, Recommender
from recbole_mscgrec.storage.errors import UserError


@pytest.fixture(scope="module")
def model() -> Recommender:
    return Recommender(tiny_export())


def best(model: Recommender, history: list[str], **options: Any) -> list[str]:
    (found,) = model.recommend([history], **options)
    return [each.item for each in found]


def test_a_wide_beam_ranks_items_by_their_exact_probability(model: Recommender) -> None:
    history = ["a3", "a9", "a1"]
    (found,) = model.recommend([history], top=N, beam_size=N)
    ids = torch.tensor([[4, 10, 2]])
    encoded, limit = model.network.encode(ids), torch.tensor([[2]])
    items = torch.arange(1, N + 1)
    with torch.no_grad():
        levels = model.network.level_log_probs(
            encoded, limit.expand(1, N), items, torch.arange(N), True
        )
    exact = levels.sum(0)
    assert [each.item for each in found] == [f"a{i}" for i in exact.argsort(descending=True)]
    torch.testing.assert_close(
        torch.tensor([each.score for each in found]), exact.sort(descending=True).values
    )
    codes = model.export.table.target_codes
    assert all(list(each.code) == codes[int(each.item[1:])].tolist() for each in found)


def test_bfloat16_rounds_the_scores_and_no_more(model: Recommender) -> None:
    half = Recommender(tiny_export(), precision=BFLOAT16)
    (exact,) = model.recommend([["a3", "a9", "a1"]], top=N, beam_size=N)
    (rounded,) = half.recommend([["a3", "a9", "a1"]], top=N, beam_size=N)
    expected = {each.item: each.score for each in exact}
    differences = [abs(each.score - expected[each.item]) for each in rounded]
    assert 0 < max(differences) < 0.1
    assert sum(math.exp(each.score) for each in rounded) == pytest.approx(1)


def test_another_precision_is_refused() -> None:
    with pytest.raises(UserError, match="precision \\(float16\\) must be float32 or bfloat16"):
        Recommender(tiny_export(), precision="float16")


def test_only_the_last_items_of_a_history_are_read(model: Recommender) -> None:
    long = ["a20", "a21", "a3", "a9", "a1", "a4", "a2"]
    assert best(model, long) == best(model, long[-5:])
    assert best(model, long) != best(model, long[:5])


def test_histories_of_one_call_do_not_influence_each_other(model: Recommender) -> None:
    histories = [["a3"], ["a4", "a9", "a11", "a2"], ["a7", "a7"]]
    together = model.recommend(histories, top=5)
    for history, found in zip(histories, together, strict=True):
        (alone,) = model.recommend([history], top=5)
        assert [each.item for each in alone] == [each.item for each in found]


def test_exclusions_and_allowed_items_leave_the_rest_in_order(model: Recommender) -> None:
    history = ["a3", "a9"]
    everything = best(model, history, top=N, beam_size=N)
    rest = [i for i in everything if i not in ("a3", "a9")]
    assert best(model, history, top=N, beam_size=N, exclude_seen=True) == rest
    assert best(model, history, top=3, exclude=["a3", "a9", "a9"], beam_size=N) == rest[:3]
    some = ["a9", "a1", "a17", "a3"]
    chosen = [i for i in everything if i in some]
    assert best(model, history, top=N, allowed=some) == chosen
    shared = model.sub_catalogue(some)
    assert best(model, history, top=N, allowed=shared) == chosen
    two = model.recommend([history, ["a1"]], top=N, allowed=shared, exclude_seen=True)
    assert {each.item for each in two[1]} == {"a9", "a17", "a3"}
    left = [i for i in chosen if i not in history]
    assert best(model, history, top=N, allowed=some, exclude_seen=True) == left
    for form in (set, np.array):  # as stock is often kept
        assert best(model, history, top=N, allowed=form(some)) == chosen
        assert best(model, history, top=N, allowed=[form(some)]) == chosen


def test_a_sub_catalogue_of_another_recommender_is_refused(model: Recommender) -> None:
    """Its ids may stand for other items: a new export can have as many items in another order."""
    other = Recommender(tiny_export(items=[f"a{i}" for i in reversed(range(N))]))
    with pytest.raises(ValueError, match="allowed is a sub-catalogue of another Recommender"):
        model.recommend([["a3"]], allowed=other.sub_catalogue(["a9"]))


def test_restrictions_per_history(model: Recommender) -> None:
    histories = [["a3"], ["a3"], ["a3"]]
    options: dict[str, Any] = {"top": 3, "beam_size": N}
    allowed, exclude = [["a1", "a2"], ["a5"], ["a6", "a3"]], [[], [], ["a3"]]
    found = model.recommend(histories, allowed=allowed, exclude=exclude, **options)
    assert [sorted(each.item for each in row) for row in found] == [["a1", "a2"], ["a5"], ["a6"]]
    with pytest.raises(ValueError, match="allowed holds 2 lists for 3 histories"):
        model.recommend(histories, allowed=allowed[:2])


def test_removed_items_are_not_recommended_but_may_stand_in_histories() -> None:
    model = Recommender(tiny_export())
    everything = best(model, ["a3", "a9"], top=N, beam_size=N)
    export = tiny_export()
    export.removed[[4, 6]] = True  # a3 and a5
    fewer = Recommender(export)
    rest = [i for i in everything if i not in ("a3", "a5")]
    assert best(fewer, ["a3", "a9"], top=N, beam_size=N) == rest
    found = fewer.recommend([["a1"], ["a2"]], allowed=[["a1"], ["a3"]])
    assert [[each.item for each in row] for row in found] == [["a1"], []]
    options = {"allowed": ["a3"], "fallback": "popular"}
    assert fewer.recommend([[], ["a2"]], **options) == [[], []]


def test_the_most_frequent_items_for_an_empty_history_on_request(model: Recommender) -> None:
    with pytest.raises(ValueError, match="History 1 is empty.*fallback='popular'"):
        model.recommend([["a1"], []])
    found = model.recommend([["a1"], []], top=3, fallback="popular", exclude=["a23"])
    assert [each.item for each in found[1]] == ["a22", "a21", "a20"]
    assert found[0] == model.recommend([["a1"]], top=3, exclude=["a23"])[0]


def test_unknown_tokens_are_named_with_similar_ones(model: Recommender) -> None:
    with pytest.raises(ValueError, match="history names the unknown item 'a99'.*similar.*a9"):
        model.recommend([["a1", "a99"]])
    with pytest.raises(ValueError, match="exclude names the unknown item 'b' and 1 more"):
        model.recommend([["a1"]], exclude=["b", "c"])
    with pytest.raises(ValueError, match="must hold item tokens, which are text, not 7"):
        model.recommend([[7]])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="history must be a list of item tokens, not the text"):
        model.recommend(["a1,a2"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, r"top \(0\) must be from 1 to the number of items \(24\)"),
        ({"top": 25}, r"top \(25\)"),
        ({"top": 9, "beam_size": 8}, r"beam_size \(8\) must be at least top \(9\)"),
        ({"fallback": "random"}, r"fallback \(random\) must be 'popular'"),
        ({"cold_share": 1.5}, r"cold_share \(1.5\) must be from 0 to 1"),
    ],
)
def test_arguments_out_of_range_are_refused(
    model: Recommender, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.recommend([["a1"]], **options)


def test_places_for_items_added_later() -> None:
    export = tiny_export()
    export.added_in[[5, 8, 11]] = 2  # a4, a7, a10
    model, history = Recommender(export), ["a3", "a9"]
    plain = best(model, history, top=N, beam_size=N)
    cold = [i for i in plain if i in ("a4", "a7", "a10")]
    warm = [i for i in plain if i not in cold]
    half = best(model, history, top=6, beam_size=N, cold_share=0.5)
    assert half[1::2] == cold
    left = [i for i in plain if i not in cold[:1]]
    assert half[0] == plain[0] and set(half[::2]) - set(cold) <= set(left)
    assert best(model, history, top=4, cold_share=0.0) == best(model, history, top=4)
    only_warm = best(model, history, top=4, beam_size=N, cold_share=0.5, exclude=cold)
    assert only_warm == warm[:4]


def test_history_items_that_share_levels_with_an_item(model: Recommender) -> None:
    codes = {item: model.code_of(item) for item in model.items}
    history = ["a1", "a2", "a3", "a4", "a5", "a2"]
    for item in ("a7", "a2"):
        shared = model.explain(history, item)
        for each in shared:
            assert each.code[: each.n_levels] == codes[item][: each.n_levels]
            assert each.n_levels == 3 or each.code[each.n_levels] != codes[item][each.n_levels]
        assert [e.n_levels for e in shared] == sorted((e.n_levels for e in shared), reverse=True)
        expected = {h for h in history if codes[h][0] == codes[item][0]}
        assert {each.item for each in shared} == expected
    with pytest.raises(ValueError, match="history names the unknown item 'a99'"):
        model.explain(["a99"], "a7")
    with pytest.raises(ValueError, match="history must be a list of item tokens, not the text"):
        model.explain("a1", "a7")


def test_neither_recbole_nor_pandas_is_imported(tmp_path: Path) -> None:
    export_folder.write(tmp_path, tiny_export())
    program = (
        "import sys, time, torch\n"
        "start = time.process_time()\n"
        "from recbole_mscgrec.serving.recommender import Recommender\n"
        f"model = Recommender.load({str(tmp_path)!r})\n"
        "print(len(model.recommend([['a1']], top=3)[0]), time.process_time() - start)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    first, modules = done.stdout.splitlines()
    assert first.split()[0] == "3"
    assert float(first.split()[1]) < 2  # seconds of the processor
    heavy = (
        "recbole pandas scipy sklearn transformers timm PIL yaml fastapi filelock jinja2".split()
    )
    assert not set(heavy) & set(modules.split())
