"""add-items: the codes that new items get, and what it refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from new_item_files import VARIANTS, write_new
from tiny import item_texts

import recbole_mscgrec
from recbole_mscgrec.cli import main
from recbole_mscgrec.new_items.add_command import add_items, parser
from recbole_mscgrec.new_items.remove_command import remove_items
from recbole_mscgrec.semantic_ids.code_table import FUSED, MISSING
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.export_files import read_manifest
from recbole_mscgrec.serving.export_folder import Export
from recbole_mscgrec.serving.metrics import Metrics
from recbole_mscgrec.serving.recommender import Recommender
from recbole_mscgrec.serving.reloading import Reloader
from recbole_mscgrec.storage.errors import UserError

NEW = {"n1": "new fives2 thirds1", "n0": item_texts()["i7"], "n2": "fives5"}


def code(export: Export, item: str, modality: str | None = None) -> list[int]:
    table = export.table
    return table.codes[modality or table.target][export.items.index(item) + 1].tolist()


def by_token(export: Export) -> dict[str, list[list[int]]]:
    return {
        item: [code(export, item, name) for name in export.table.codes] for item in export.items
    }


def test_transitions_lead_to_new_items_by_their_texts(exported: Any, tmp_path: Path) -> None:
    """n0 has the text of i7, so what is like i7 is like n0."""
    folder = exported("default")
    add_items(folder, write_new(tmp_path, NEW))
    made = Recommender.load(folder)
    assert made.transitions is not None
    ids = {token: made.items.index(token) + 1 for token in ("i5", "i7", "n0", "n2")}
    history = torch.tensor([[ids["i5"]]])  # in the same group of five as i7
    found = made.transitions(history, torch.tensor([1]))[0]
    rules = made.transitions(history, torch.tensor([1]), texts=False)[0]
    assert found[ids["n0"]] > 10 * rules[ids["n0"]]
    assert rules[ids["n0"]] == rules[ids["n2"]] > 0
    again = made.transitions(torch.tensor([[ids["n0"]]]), torch.tensor([1]))[0]
    assert again.argmax() == ids["i7"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_new_items_join_and_no_code_moves(exported: Any, variant: str, tmp_path: Path) -> None:
    folder = exported(variant)
    before = export_folder.read(folder)
    done = add_items(folder, write_new(tmp_path, NEW))
    assert done == (2, ["n0", "n1", "n2"], [], [])
    after = export_folder.read(folder)
    assert by_token(after).items() >= by_token(before).items()
    assert after.items == [*before.items, "n0", "n1", "n2"]
    assert after.table.sizes == before.table.sizes  # and the codes are unique: the tree checks it
    if after.table.target != "text":  # the same text has the same code, and nobody has used them
        assert code(after, "n0", "text") == code(after, "i7", "text")
        assert code(after, "n0", "collaborative")[0] == MISSING or variant not in ("text", "fused")
    else:  # the same content code, with the next free number
        number = sum(c[:2] == code(after, "i7")[:2] for c in before.table.target_codes.tolist())
        assert code(after, "n0") == [*code(after, "i7")[:2], number]
    model = Recommender.load(folder)
    (found,) = model.recommend([["i3", "n1"]], top=33, beam_size=33)
    assert {each.item for each in found} == set(after.items)
    (added,) = model.recommend([["i3"]], top=3, cold_share=1.0)
    assert {each.item for each in added} == {"n0", "n1", "n2"}


def test_the_order_of_the_file_does_not_matter(exported: Any, tmp_path: Path) -> None:
    folder = exported("default")
    add_items(folder, write_new(tmp_path, NEW))
    first = export_folder.read(folder)
    folder = exported("default")
    add_items(folder, write_new(tmp_path, dict(reversed(NEW.items()))))
    second = export_folder.read(folder)
    assert second.items == first.items
    assert torch.equal(second.table.target_codes, first.table.target_codes)


def test_a_missing_collaborative_vector_is_the_mean_of_the_nearest_items(
    exported: Any, tmp_path: Path
) -> None:
    """The five items of i7's group are nearest to the group's word."""
    folder = exported("redistributed")
    features = export_folder.read_further(folder, "features")
    encoders = export_folder.read_further(folder, "encoders")
    before = export_folder.read(folder)
    add_items(folder, write_new(tmp_path, {"n": "fives1"}))
    rows = [before.items.index(f"i{i}") + 1 for i in range(5, 10)]
    mean = features["vectors.collaborative"][rows].float().mean(dim=0)
    first, second = encoders["codebook.collaborative"].split([6, 6])
    leaves = (first[:, None] + second[None]).flatten(0, 1)
    taken = before.table.target_codes @ torch.tensor([6, 1])
    cost = (leaves - mean).square().sum(1)
    own = (first - mean).square().sum(1).argmin()
    own = 6 * own + (second - (mean - first[own])).square().sum(1).argmin()
    cost[taken] = torch.inf
    best = int(own) if int(own) not in taken else int(cost.argmin())
    assert code(export_folder.read(folder), "n") == [best // 6, best % 6]


def test_vectors_of_new_items_are_those_of_known_ones_with_the_same_text(
    exported: Any, tmp_path: Path
) -> None:
    folder = exported("fused")
    add_items(folder, write_new(tmp_path, NEW))
    export = export_folder.read(folder)
    twin = export.items.index("i7") + 1
    assert export.table.target == FUSED
    torch.testing.assert_close(export.vectors["text"][31], export.vectors["text"][twin])
    assert not export.vectors["collaborative"][31:].any()
    assert export.vectors["text"].dtype == torch.float16


@pytest.mark.parametrize("variant", ["learned", "some learned"])
def test_three_generations_and_an_item_that_goes_and_comes_back(
    exported: Any, variant: str, tmp_path: Path
) -> None:
    folder = exported(variant)
    add_items(folder, write_new(tmp_path, {"n0": "fives2"}))
    first = export_folder.read(folder)
    assert remove_items(folder, ["n0", "i4"]) == 3
    done = add_items(folder, write_new(tmp_path, {"n1": "fives2", "n0": "another text now"}))
    assert done == (4, ["n1"], ["n0"], [])
    last = export_folder.read(folder)
    assert by_token(last).items() > by_token(first).items()
    assert last.added_in[-2:].tolist() == [2, 4] and last.removed.sum() == 1
    assert [entry["what"] for entry in last.history] == ["add-items", "remove-items", "add-items"]
    assert [entry["n_items"] for entry in last.history] == [31, 29, 31]
    assert last.history[-1]["n_added"] == last.history[-1]["n_restored"] == 1
    assert last.titles[-2:] == ["fives2", "fives2"]
    (found,) = Recommender.load(folder).recommend([["n0", "i4"]], top=31, beam_size=32)
    assert {each.item for each in found} == set(last.items) - {"i4"}
    names = {part["name"] for part in read_manifest(folder)["files"].values()}
    there = {file.name for file in folder.iterdir()} - {"manifest.json"}
    model = "model-4.safetensors" if variant == "learned" else "model.safetensors"
    assert there == names and model in names and "encoders.safetensors" in names


def test_items_that_are_there_are_named_or_skipped(exported: Any, tmp_path: Path) -> None:
    folder, new = exported("default"), write_new(tmp_path, {"n0": "fives1", "i3": "x", "i9": "x"})
    with pytest.raises(UserError, match=r"2 items of .* already: first i3, i9\. .*--skip_known"):
        add_items(folder, new)
    assert add_items(folder, new, skip_known=True) == (2, ["n0"], [], ["i3", "i9"])
    assert add_items(folder, new, skip_known=True) == (2, [], [], ["i3", "i9", "n0"])
    assert export_folder.read(folder).generation == 2  # nothing new: nothing written


def test_items_without_a_known_word_are_named_or_skipped(exported: Any, tmp_path: Path) -> None:
    new = write_new(tmp_path, {"n0": "fives1", "n1": "", "n2": "neverseen"})
    folder = exported("default")
    with pytest.raises(
        UserError, match=r"2 items .* no usable text: first n1, n2\. .*--skip_empty"
    ):
        add_items(folder, new)
    assert add_items(folder, new, skip_empty=True) == (2, ["n0"], [], ["n1", "n2"])


def test_a_full_tree_is_told_with_its_numbers(exported: Any, tmp_path: Path) -> None:
    folder = exported("redistributed")  # 36 leaves, 30 of them taken
    with pytest.raises(UserError, match="7 new items need .* only 6 of 36 are free .* train again"):
        add_items(folder, write_new(tmp_path, {f"n{i}": "fives1" for i in range(7)}))
    add_items(folder, write_new(tmp_path, {f"n{i}": "fives1" for i in range(6)}))
    assert len(Recommender.load(folder).items) == 36


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("item_id:token name:token_seq", r"lacks title: .* columns item_id, title for .* has item"),
        ("id:token title:token_seq", "lacks item_id: "),
    ],
)
def test_an_item_file_with_other_columns_is_refused(
    exported: Any, header: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        add_items(exported("default"), write_new(tmp_path, NEW, header))


def test_other_wrong_input_is_refused(exported: Any, tmp_path: Path) -> None:
    folder, new = exported("default"), write_new(tmp_path, NEW)
    with pytest.raises(UserError, match=r"no.item \(--items\) does not exist"):
        add_items(folder, tmp_path / "no.item")
    with pytest.raises(UserError, match="--images: the model was trained without images"):
        add_items(folder, new, images=tmp_path)
    with pytest.raises(UserError, match="--vectors text=.*not trained with vectors_file for text"):
        add_items(folder, new, vectors={"text": "x.npz"})
    with pytest.raises(UserError, match=r"cold_share \(1.5\) must be from 0 to 1"):
        add_items(folder, new, cold_share=1.5)
    with pytest.raises(UserError, match="is not an export folder"):
        add_items(tmp_path, new)
    (folder / "encoders.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match="encoders.safetensors is damaged"):
        add_items(folder, new)


def test_the_command(exported: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, new = exported("default"), write_new(tmp_path, {**NEW, "i3": "x"})
    words = ["add-items", "--export", str(folder), "--items", str(new)]
    assert main(words) == 1 and "are in the export already" in capsys.readouterr().err
    assert main([*words, "--skip_known", "--cold_share=0.2"]) == 0
    out = capsys.readouterr().out
    assert f"Generation 2 of {folder}: 3 items added, 0 restored, 1 left out." in out
    export = export_folder.read(folder)
    assert export.cold_share == 0.2
    command = f"recbole-mscgrec add-items --export {folder} --items {new}"
    assert export.history[-1]["command"] == f"{command} --skip_known --cold_share=0.2"
    assert main([*words, "--skip_known", "--vectors", "audio"]) == 1
    assert "--vectors audio: write NAME=FILE" in capsys.readouterr().err


def test_an_export_without_encoders_takes_no_items(exported: Any, tmp_path: Path) -> None:
    folder = exported("default")
    export = export_folder.read(folder)
    plain = replace(export, new_items={}, generation=1)
    export_folder.write(tmp_path / "plain", plain)
    with pytest.raises(UserError, match="keeps no encoders, .* again without --without_new_items"):
        add_items(tmp_path / "plain", write_new(tmp_path, NEW))
    assert remove_items(tmp_path / "plain", ["i3"]) == 2


def test_a_changed_manifest_is_named(exported: Any, tmp_path: Path) -> None:
    folder = exported("default")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["new_items"]["text"]["columns"] = "title"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"manifest.json is not an .*: text.columns must be a list"):
        add_items(folder, write_new(tmp_path, NEW))


def test_a_service_takes_the_new_generation_over(exported: Any, tmp_path: Path) -> None:
    folder = exported("default")
    watching = Reloader(folder, Recommender.load, Metrics())
    assert watching.poll() is None
    add_items(folder, write_new(tmp_path, NEW), cold_share=0.5)
    model = watching.poll()
    assert model is not None and model.generation == 2
    (found,) = model.recommend([["i3"]], top=6)
    assert [each.item in NEW for each in found] == [False, True] * 3


def test_the_page_names_the_options() -> None:
    page = Path(recbole_mscgrec.__file__).resolve().parent.parent / "docs" / "new-items.md"
    named = re.findall(r"^\| `(--\w+)` \|", page.read_text(encoding="utf-8"), flags=re.M)
    options = [option for action in parser()._actions for option in action.option_strings]
    assert named == [option for option in options if option not in ("-h", "--help")]
