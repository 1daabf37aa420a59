"""The next generation: what stays as it was, to the last digit, and what follows from new items."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import N, tiny_export
from new_item_files import write_new
from tiny import item_texts

from recbole_mscgrec.deployment.export import add_programs, export
from recbole_mscgrec.new_items import generations
from recbole_mscgrec.new_items.add_command import add_items
from recbole_mscgrec.new_items.generations import NAME, with_items
from recbole_mscgrec.new_items.new_codes import NewCodes
from recbole_mscgrec.semantic_ids.code_table import MISSING, free_leaves
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.export_folder import Export
from recbole_mscgrec.serving.recommender import Recommender
from recbole_mscgrec.storage import lock
from recbole_mscgrec.storage.errors import UserError

Tensor = torch.Tensor


def grown(export: Export, n: int) -> Export:
    """With n items b0, b1, ... that have the first free target codes and no text."""
    table = export.table
    codes = {
        "a": free_leaves(table.target_codes, table.sizes["a"], n),
        "text": torch.full((n, 2), MISSING),
    }
    return with_items(export, [f"b{i}" for i in range(n)], [""] * n, NewCodes(codes, {}))


def log_probs(export: Export) -> Tensor:
    """The log-probability (L, N) of each level of the first N items after one history."""
    network = Recommender(export).network
    encoded, items = network.encode(torch.tensor([[4, 10, 2]])), torch.arange(1, N + 1)
    limit = torch.full((1, N), 2)
    with torch.no_grad():
        return network.level_log_probs(encoded, limit, items, items - 1, export.constrained)


@pytest.mark.parametrize("learned", [0, 5, 24])
def test_an_old_item_loses_only_what_its_new_siblings_get(learned: int) -> None:
    """At each level the items below one node lose the same, and nothing if the node has no new
    child."""
    before = tiny_export(learned_items=learned)
    after = grown(before, 7)
    lost = log_probs(before) - log_probs(after)
    old, new = before.table.target_codes, after.table.target_codes[N:]
    seen = {True: 0, False: 0}
    for level in range(3):
        children = {tuple(code) for code in old[:, : level + 1].tolist()}
        grew = {c[:-1] for code in new.tolist() if (c := tuple(code[: level + 1])) not in children}
        groups: dict[tuple[int, ...], list[float]] = {}
        for code, loss in zip(old.tolist(), lost[level].tolist(), strict=True):
            groups.setdefault(tuple(code[:level]), []).append(loss)
        for node, losses in groups.items():
            assert losses == pytest.approx([losses[0]] * len(losses), abs=1e-5)
            assert losses[0] > 1e-4 if node in grew else losses[0] == pytest.approx(0, abs=1e-6)
            seen[node in grew] += 1
    assert seen[True] > 1 and seen[False] > 1


def test_without_the_constraint_old_items_keep_their_scores_exactly() -> None:
    before = tiny_export(constrained=False)
    assert torch.equal(log_probs(before), log_probs(grown(before, 7)))


def test_learned_vectors_stay_with_their_items_and_nodes_and_new_ones_are_zero() -> None:
    before = tiny_export(learned_items=24)
    after = grown(before, 7)
    old, new = Recommender(before).network, Recommender(after).network
    items = torch.arange(1, N + 8)
    vectors = new.history.item_embedding.weight[items]
    assert torch.equal(vectors[:N], old.history.item_embedding.weight[items[:N]])
    assert not vectors[N:].any()
    old_path, new_path = old.tree.path(items[:N]), new.tree.path(items)
    pairs = zip(old.node_vectors.levels, new.node_vectors.levels, strict=True)
    for level, (mine, theirs) in enumerate(pairs):
        nodes, path = old_path[level + 2].long(), new_path[level + 2].long()
        assert torch.equal(theirs.weight[path[:N]], mine.weight[nodes])
        fresh = sorted(set(path.tolist()) - set(path[:N].tolist()))
        assert fresh and not theirs.weight[fresh].any()


def test_where_only_some_items_have_learned_vectors_new_ones_have_no_row() -> None:
    before = tiny_export(learned_items=5)
    after = grown(before, 7)
    assert after.weights is before.weights
    old, new = Recommender(before).network, Recommender(after).network
    items = torch.arange(1, N + 8)
    rows = new.history.item_embedding.rows(items)
    assert torch.equal(rows[:N], old.history.item_embedding.rows(items[:N]))
    assert not rows[N:].any() and sorted(rows.unique().tolist()) == list(range(6))
    old_path, new_path = old.tree.path(items[:N]), new.tree.path(items)
    pairs = zip(old.node_vectors.levels, new.node_vectors.levels, strict=True)
    for depth, (mine, theirs) in enumerate(pairs, start=2):
        nodes, path = old_path[depth].long(), new_path[depth].long()
        assert torch.equal(theirs.rows(path[:N]), mine.rows(nodes))
        fresh = sorted(set(path.tolist()) - set(path[:N].tolist()))
        assert fresh and not theirs.rows(torch.tensor(fresh)).any()


def test_everything_else_is_extended() -> None:
    before = tiny_export()
    after = grown(before, 2)
    assert after.items == [*before.items, "b0", "b1"] and after.titles[-2:] == ["", ""]
    assert after.popularity.tolist() == [*before.popularity.tolist(), 0, 0]
    assert after.added_in.tolist() == [0] * (N + 1) + [2, 2]
    assert after.removed.sum() == 0 and after.table.n_items == N + 3
    assert after.weights is before.weights


# --- writing --------------------------------------------------------------------------------------


def interrupt(patch: pytest.MonkeyPatch, owner: Any, name: str, call: int, error: Any) -> None:
    """Raise an error in the given call of a function; calls before and after work."""
    calls, original = [0], getattr(owner, name)

    def counted(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] == call:
            raise error
        return original(*arguments, **options)

    patch.setattr(owner, name, counted)


@pytest.mark.parametrize("variant", ["default", "learned", "some learned"])
@pytest.mark.parametrize("call", range(1, 6))
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")]
)
def test_a_stop_between_any_two_files_leaves_the_old_generation(
    exported: Any, variant: str, call: int, error: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    folder, new = exported(variant), write_new(tmp_path, {"n1": "fives2"})
    n_files = 4 + (variant == "learned")  # codes, items, titles, manifest; and the model
    with monkeypatch.context() as patch:
        interrupt(patch, os, "replace", call, error)
        if call <= n_files:
            with pytest.raises((KeyboardInterrupt, UserError)):
                add_items(folder, new)
            assert Recommender.load(folder).generation == 1
    done = add_items(folder, new, skip_known=True)
    found = Recommender.load(folder)
    assert done.generation == found.generation == 2 and found.items[-1] == "n1"


def test_a_stop_after_the_manifest_leaves_the_new_generation(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, new = exported("default"), write_new(tmp_path, {"n1": "fives2"})
    # The manifest is the fourth file; then the three old files are removed.
    with monkeypatch.context() as patch:
        interrupt(patch, export_folder.Path, "unlink", 6, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            add_items(folder, new)
    assert Recommender.load(folder).generation == 2


def test_only_one_process_at_a_time_writes_a_generation(exported: Any, tmp_path: Path) -> None:
    folder, new = exported("default"), write_new(tmp_path, item_texts(1))
    match = "Another process writes a generation of .*: process "
    with lock.claim(folder / NAME, "works"):
        with pytest.raises(UserError, match=match):
            add_items(folder, new)
        with pytest.raises(UserError, match=match):
            add_programs(folder)
        with pytest.raises(UserError, match=match):  # before the model is read
            export("no.pth", folder, overwrite=True)


def test_the_manifest_tells_what_was_done(exported: Any, tmp_path: Path) -> None:
    folder = exported("default")
    with generations.opened(folder) as export:
        generations.write(folder, export, "add-items", "add-items --x", n_added=0)
    (entry,) = export_folder.read(folder).history
    assert entry["generation"] == 2 and entry["what"] == "add-items" and entry["n_added"] == 0
    assert entry["n_items"] == 30 and entry["command"] == "add-items --x"
    assert entry["version"] and entry["date"].startswith("20")
