"""The export folder: what is written is read again, and never half of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from exports import N, tiny_export, transitions

from recbole_mscgrec.serving import export_files, export_folder
from recbole_mscgrec.serving.export_files import MANIFEST
from recbole_mscgrec.serving.recommender import Recommender
from recbole_mscgrec.storage import files


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def answer(folder: Path) -> list[Any]:
    return Recommender.load(folder).recommend([["a1", "a2"]], top=4)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    made = tiny_export(vectors={"m0": torch.randn(N + 1, 3).half()}, settings={"seed": 1})
    made.removed[3], made.added_in[4] = True, 2
    made.titles = ["tab\tand  break\n"] + ["ü"] * (N - 1)
    made.items[0] = "a 'quoted' \"token\""
    export_folder.write(tmp_path, made)
    assert names(tmp_path) == {
        *("manifest.json", "model.safetensors", "codes.safetensors", "items.txt", "titles.txt")
    }
    read = export_folder.read(tmp_path)
    assert read.items == made.items and read.titles == ["tab and break"] + ["ü"] * (N - 1)
    assert read.network == made.network and read.settings == {"seed": 1}
    for name in ("popularity", "removed", "added_in"):
        assert torch.equal(getattr(read, name).long(), getattr(made, name).long())
    assert read.table.to_plain().keys() == made.table.to_plain().keys()
    for name, codes in made.table.codes.items():
        assert torch.equal(read.table.codes[name], codes)
    assert torch.equal(read.vectors["m0"], made.vectors["m0"])
    for name, weight in made.weights.items():
        assert torch.equal(read.weights[name], weight)


def test_the_next_generation_replaces_the_last_one_under_new_names(tmp_path: Path) -> None:
    export_folder.write(tmp_path, tiny_export(), {"encoder": {"a": torch.ones(2)}})
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    made = tiny_export(generation=2)
    made.removed[5] = True
    export_folder.write(tmp_path, made, unchanged=["model", "encoder"])
    assert names(tmp_path) == {
        *("manifest.json", "model.safetensors", "encoder.safetensors"),
        *("codes-2.safetensors", "items-2.txt", "titles-2.txt"),
    }
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before
    assert export_folder.read(tmp_path).removed[5]
    further = export_folder.read_further(tmp_path, "encoder")
    assert further is not None and further["a"].tolist() == [1, 1]
    assert export_folder.read_further(tmp_path, "images") is None
    with pytest.raises(ValueError, match="holds generation 2, so generation 2 cannot be written"):
        export_folder.write(tmp_path, made)


def test_a_stop_before_any_file_leaves_the_old_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_folder.write(tmp_path, tiny_export())
    before = answer(tmp_path)
    real = files.written_whole
    for stop in range(1, 6):
        calls = iter(range(1, 100))

        def written(file: Any, setting: str = "", stop: int = stop, calls: Any = calls) -> Any:
            if next(calls) == stop:
                raise KeyboardInterrupt
            return real(file, setting)

        with monkeypatch.context() as patch:
            patch.setattr(files, "written_whole", written)
            with pytest.raises(KeyboardInterrupt):
                export_folder.write(tmp_path, tiny_export(seed=1, generation=2))
        assert answer(tmp_path) == before
    export_folder.write(tmp_path, tiny_export(seed=1, generation=2))
    assert answer(tmp_path) != before


@pytest.mark.parametrize("name", ["model.safetensors", "codes.safetensors", "items.txt"])
def test_a_changed_or_missing_file_is_named(tmp_path: Path, name: str) -> None:
    export_folder.write(tmp_path, tiny_export())
    file = tmp_path / name
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is damaged: its content differs"):
        export_folder.read(tmp_path)
    file.unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        export_folder.read(tmp_path)


def changed_manifest(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


def test_what_is_no_export_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not an export folder: it has no manifest.json. Make one"):
        export_folder.read(tmp_path)
    export_folder.write(tmp_path, tiny_export())
    changed_manifest(tmp_path, format=export_files.FORMAT + 1)
    with pytest.raises(ValueError, match="later version of this package .format 4, here 3."):
        export_folder.read(tmp_path)
    changed_manifest(tmp_path, format=1, beam_size="8")
    with pytest.raises(ValueError, match="beam_size"):
        export_folder.read(tmp_path)
    changed_manifest(tmp_path, beam_size=8, sizes={"collaborative": [1, 1, 1], "text": [1]})
    with pytest.raises(ValueError, match=str(tmp_path)):
        export_folder.read(tmp_path)
    (tmp_path / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        export_folder.read(tmp_path)


def test_transitions_are_read_again_and_checked(tmp_path: Path) -> None:
    counted = transitions(N + 1)
    export_folder.write(tmp_path / "one", tiny_export(transitions=counted, transition_weight=0.4))
    read = export_folder.read(tmp_path / "one")
    assert read.transition_weight == 0.4 and read.transitions is not None
    for name, part in counted._asdict().items():
        assert torch.equal(getattr(read.transitions, name), part), name
    assert answer(tmp_path / "one") == Recommender(read).recommend([["a1", "a2"]], top=4)
    fewer = counted._replace(start=counted.start[:-1])
    made = tiny_export(transitions=fewer, transition_weight=0.4)
    export_folder.write(tmp_path / "two", made)
    with pytest.raises(ValueError, match="two is damaged: its transitions are not those of 24 it"):
        export_folder.read(tmp_path / "two")
    made = tiny_export(transition_weight=0.4)
    export_folder.write(tmp_path / "three", made)
    with pytest.raises(ValueError, match="lacks transitions"):
        export_folder.read(tmp_path / "three")


def test_a_folder_of_the_first_format_has_no_transitions(tmp_path: Path) -> None:
    export_folder.write(tmp_path, tiny_export())
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    del manifest["transition_weight"]
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "format": 1}))
    read = export_folder.read(tmp_path)
    assert (read.transition_weight, read.transitions) == (0.0, None)


@pytest.mark.parametrize("n", [0, 5, N])
def test_items_with_a_learned_vector_are_read_again(tmp_path: Path, n: int) -> None:
    made = tiny_export(learned_items=n)
    export_folder.write(tmp_path, made)
    read = export_folder.read(tmp_path)
    assert read.network.learned_items == n and (read.learned is None) == (n != 5)
    assert read.learned is None or torch.equal(read.learned, made.learned)
    assert answer(tmp_path) == Recommender(made).recommend([["a1", "a2"]], top=4)


@pytest.mark.parametrize("learned", [True, False])
def test_up_to_format_2_all_items_had_a_learned_vector_or_none(
    tmp_path: Path, learned: bool
) -> None:
    export_folder.write(tmp_path, tiny_export(learned_items=N * learned))
    before = answer(tmp_path)
    network = json.loads((tmp_path / MANIFEST).read_text())["network"]
    del network["learned_items"]
    changed_manifest(tmp_path, format=2, network={**network, "learned_vectors": learned})
    assert export_folder.read(tmp_path).network.learned_items == N * learned
    assert answer(tmp_path) == before


@pytest.mark.parametrize("ids", [[3, 2], [0, 4], [4, N + 1], []])
def test_items_that_cannot_have_a_learned_vector_are_refused(
    tmp_path: Path, ids: list[int]
) -> None:
    made = tiny_export(learned_items=5)
    made.learned = torch.tensor(ids, dtype=torch.int32)
    export_folder.write(tmp_path, made)
    with pytest.raises(ValueError, match="is damaged: its items with a learned vector"):
        export_folder.read(tmp_path)


def test_files_of_another_size_or_place_are_refused(tmp_path: Path) -> None:
    export_folder.write(tmp_path / "one", tiny_export())
    parts = json.loads((tmp_path / "one" / MANIFEST).read_text())["files"]
    parts["items"]["name"] = "../items.txt"
    (tmp_path / "items.txt").write_bytes((tmp_path / "one" / "items.txt").read_bytes())
    (tmp_path / "one" / "items.txt").unlink()
    changed_manifest(tmp_path / "one", files=parts)
    with pytest.raises(ValueError, match="one/items.txt is missing"):
        export_folder.read(tmp_path / "one")
    export_folder.write(tmp_path / "two", tiny_export(items=[f"a{i}" for i in range(N - 1)]))
    with pytest.raises(ValueError, match="different numbers of items"):
        export_folder.read(tmp_path / "two")


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    made = tiny_export()
    del made.weights["start"]
    with pytest.raises(ValueError, match="The export is damaged: model lacks start"):
        Recommender(made)


def test_a_token_with_a_line_break_is_refused(tmp_path: Path) -> None:
    made = tiny_export(items=["a\nb", *(f"a{i}" for i in range(1, N))])
    with pytest.raises(ValueError, match=r"token 'a\\nb' has a line break"):
        export_folder.write(tmp_path, made)
    assert not (tmp_path / MANIFEST).exists()
