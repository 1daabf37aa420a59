"""What an export keeps for new items, and that it belongs to the training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from new_item_files import write_export, write_new
from tiny import build, coloured_shapes, item_texts, rule_sequences, settings, write_dataset

from recbole_mscgrec.features.fusion import comparable
from recbole_mscgrec.new_items.add_command import add_items
from recbole_mscgrec.new_items.kept_encoders import kept_encoders
from recbole_mscgrec.semantic_ids.code_table import MISSING
from recbole_mscgrec.semantic_ids.residual_kmeans import ResidualQuantizer
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.export_folder import Export
from recbole_mscgrec.storage.errors import UserError

IMAGES: dict[str, Any] = {
    "modalities": ["collaborative", "text", "image"],
    "image_backbone_args": {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2},
    "image_size": 16,
    "image_local_size": 8,
    "image_n_local_crops": 1,
    "image_epochs": 2,
    "image_batch_size": 16,
    "image_workers": 0,
}


def code(export: Export, item: str, modality: str) -> list[int]:
    return export.table.codes[modality][export.items.index(item) + 1].tolist()


def paint(folder: Path, names: dict[str, int]) -> Path:
    """folder/images/TOKEN.png, the pictures with these numbers."""
    pictures = coloured_shapes(24)
    (folder / "images").mkdir(exist_ok=True)
    for name, number in names.items():
        pictures[number].save(folder / "images" / f"{name}.png")
    return folder / "images"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image_tokenizer": "features"},
        {"target_modality": "image", "image_projection": 4},
        {"target_modality": "fused"},
    ],
    ids=["rq_dino", "features", "target", "fused"],
)
def test_a_known_picture_gives_a_new_item_its_code(
    rule_folder: Path, changes: dict[str, Any], tmp_path: Path
) -> None:
    data = rule_folder / "data" / "rule"
    paint(data, {f"i{n}": n for n in range(20)})  # 10 of 30 items have none
    out = write_export(rule_folder, tmp_path / "out", **IMAGES, **changes)
    (tmp_path / "new").mkdir()
    images = paint(tmp_path / "new", {"n0": 4, "n1": 21})
    (images / "n2.png").write_bytes(b"no picture")
    new = write_new(tmp_path, {"n0": "", "n1": "fives2", "n2": "fives2"})
    assert add_items(out, new, images).added == ["n0", "n1", "n2"]
    export = export_folder.read(out)
    assert code(export, "n0", "image")[:2] == code(export, "i4", "image")[:2]
    assert code(export, "n0", "text") == [MISSING, MISSING]
    if export.table.target == "image":  # n2 has the mean of its neighbours by text
        assert code(export, "n0", "image")[2] != code(export, "i4", "image")[2]
    else:
        assert code(export, "n2", "image") == [MISSING, MISSING]


def test_without_its_weights_the_image_encoder_cannot_be_kept(rule_folder: Path) -> None:
    paint(rule_folder / "data" / "rule", {f"i{n}": n for n in range(20)})
    built = build("MSCGRec", "rule", settings(rule_folder, **IMAGES))
    (file,) = (rule_folder / "cache").glob("image_encoder-*")
    file.unlink()
    with pytest.raises(
        UserError, match="image encoder is not in cache_dir .*image-.*again.*--with"
    ):
        kept_encoders(built.model, built.train._dataset)


@pytest.mark.parametrize("target", ["collaborative", "given", "fused"])
def test_vectors_made_elsewhere(rule_folder: Path, target: str, tmp_path: Path) -> None:
    """A modality of the user's own; the new vectors come from a file of the same form."""
    draw = torch.Generator().manual_seed(0)
    rows = {f"i{i}": torch.randn(4, generator=draw).tolist() for i in range(25)}
    file, more = tmp_path / "vectors.json", tmp_path / "more.json"
    file.write_text(json.dumps(rows))
    more.write_text(json.dumps({"n0": rows["i7"], "n9": rows["i8"]}))
    chosen = {"modalities": ["collaborative", "given"], "vectors_file": {"given": str(file)}}
    out = write_export(
        rule_folder, tmp_path / "out", target_modality=target, history_vectors=True, **chosen
    )
    new = write_new(tmp_path, {"n0": "", "n1": ""})
    with pytest.raises(UserError, match="2 items .* no usable given: first n0, n1"):
        add_items(out, new)
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps({"n0": [1.0, 2.0]}))
    with pytest.raises(UserError, match="new given vectors have 2 numbers, those .* training 4"):
        add_items(out, new, vectors={"given": str(wrong)})
    assert add_items(out, new, vectors={"given": str(more)}, skip_empty=True).added == ["n0"]
    export = export_folder.read(out)
    assert code(export, "n0", "given")[:2] == code(export, "i7", "given")[:2]
    twin = export.items.index("i7") + 1
    assert torch.equal(export.vectors["given"][-1], export.vectors["given"][twin])


def test_codes_made_elsewhere_as_the_target(rule_folder: Path, tmp_path: Path) -> None:
    """A new item has the content code of the known item with the nearest text."""
    file = tmp_path / "codes.json"
    file.write_text(json.dumps({f"i{i}": [i // 5, i % 2] for i in range(30)}))
    chosen = {"modalities": ["text", "given"], "codes_file": {"given": str(file)}}
    out = write_export(rule_folder, tmp_path / "out", target_modality="given", **chosen)
    add_items(out, write_new(tmp_path, {"n0": item_texts()["i7"], "n1": item_texts()["i6"]}))
    export = export_folder.read(out)
    # i6 has (1, 0) with one other item, so n1 is the third and last one there. i7 has (1, 1), which
    # is full, and then so is all below 1: n0 gets the first free leaf.
    assert code(export, "n1", "given") == [1, 0, 2] and code(export, "n0", "given") == [0, 1, 2]
    assert len(export.table.target_codes.unique(dim=0)) == 32


def test_vectors_and_codes_made_elsewhere_as_the_target(rule_folder: Path, tmp_path: Path) -> None:
    """The nearest known item is that by the target's own vectors, not by the text."""
    codes, vectors, more = (tmp_path / f"{name}.json" for name in ("codes", "vectors", "more"))
    codes.write_text(json.dumps({f"i{i}": [i // 5, i % 5] for i in range(30)}))
    vectors.write_text(json.dumps({f"i{i}": [float(i), 1.0] for i in range(30)}))
    more.write_text(json.dumps({"n0": [21.8, 1.0]}))
    out = write_export(
        rule_folder,
        tmp_path / "out",
        modalities=["text", "given"],
        codes_file={"given": str(codes)},
        vectors_file={"given": str(vectors)},
        target_modality="given",
    )
    new = write_new(tmp_path, {"n0": item_texts()["i7"]})
    with pytest.raises(UserError, match="1 new items need .* but only 0 of 30 are free"):
        add_items(out, new, vectors={"given": str(more)})
    codes.write_text(json.dumps({f"i{i}": [i // 5, i % 5 % 4] for i in range(30)}))
    out = write_export(
        rule_folder,
        tmp_path / "other",
        modalities=["text", "given"],
        codes_file={"given": str(codes)},
        vectors_file={"given": str(vectors)},
        target_modality="given",
    )
    add_items(out, new, vectors={"given": str(more)})
    # The content code of i22 is (4, 2), with room for two; that of i7 is (1, 2).
    assert code(export_folder.read(out), "n0", "given") == [4, 2, 1]


def test_interactions_alone_give_new_items_no_code(rule_folder: Path, tmp_path: Path) -> None:
    out = write_export(rule_folder, tmp_path / "out", modalities=["collaborative"])
    with pytest.raises(UserError, match="trained on interactions or given codes alone"):
        add_items(out, write_new(tmp_path, {"n0": "fives1"}))


def test_the_kept_means_are_those_of_the_training(rule_folder: Path) -> None:
    texts = item_texts()
    del texts["i4"]
    write_dataset(rule_folder / "data", "rule", rule_sequences(), texts)
    chosen = {"modalities": ["collaborative", "text"], "history_vectors": True}
    built = build("MSCGRec", "rule", settings(rule_folder, **chosen))
    kept = kept_encoders(built.model, built.train._dataset)
    known, mean = kept.files["features"], kept.files["encoders"]["mean.text"]
    vectors, present = known["vectors.text"].float(), known["present.text"]
    again = torch.nn.functional.normalize(vectors - mean, dim=1) * present.unsqueeze(1)
    torch.testing.assert_close(again, comparable(vectors, present), atol=2e-3, rtol=0)
    assert kept.plan["modalities"] == {"text": "text"} and present.sum() == 29
    assert kept.plan["widths"] == {"collaborative": 8, "text": 8}
    assert kept.plan["text"]["columns"] == ["title"] and kept.plan["item_column"] == "item_id"


def test_a_code_that_another_device_rounds_otherwise_is_no_change(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {"modalities": ["text"], "target_modality": "text"}
    built = build("MSCGRec", "rule", settings(rule_folder, **chosen))
    encode = ResidualQuantizer.encode

    def otherwise(self: ResidualQuantizer, vectors: Any) -> Any:
        codes = encode(self, vectors).clone()
        codes[3, 0] = (codes[3, 0] + 1) % self.codebook_sizes[0]
        return codes

    monkeypatch.setattr(ResidualQuantizer, "encode", otherwise)
    kept_encoders(built.model, built.train._dataset)  # the code of the training is the nearest


@pytest.mark.parametrize("collision", ["extra_level", "redistribute"])
def test_changed_texts_are_noticed(rule_folder: Path, collision: str) -> None:
    chosen = {"modalities": ["text"], "target_modality": "text", "collision": collision}
    built = build("MSCGRec", "rule", settings(rule_folder, **chosen))
    train = built.train._dataset
    kept_encoders(built.model, train)
    write_dataset(
        rule_folder / "data",
        "rule",
        rule_sequences(),
        {f"i{i}": f"word{i % 7} other{i % 4}" for i in range(30)},
    )
    with pytest.raises(UserError, match="items have other text codes than in training: .*changed"):
        kept_encoders(built.model, train)
    (rule_folder / "data" / "rule" / "rule.item").unlink()
    with pytest.raises(UserError, match="trained with text, but no item has it"):
        kept_encoders(built.model, train)


def test_codebooks_that_are_not_there_are_told(rule_folder: Path) -> None:
    built = build(
        "MSCGRec", "rule", settings(rule_folder, modalities=["text"]) | {"target_modality": "text"}
    )
    built.model.code_state["codebooks"] = {}
    with pytest.raises(UserError, match="holds no codebooks of text: .*earlier version. Train"):
        kept_encoders(built.model, built.train._dataset)


def test_the_cache_is_not_needed(rule_folder: Path) -> None:
    built = build("MSCGRec", "rule", settings(rule_folder, modalities=["collaborative", "text"]))
    kept = kept_encoders(built.model, built.train._dataset)
    shutil.rmtree(rule_folder / "cache")
    again = kept_encoders(built.model, built.train._dataset)
    for file, tensors in kept.files.items():
        assert all(torch.equal(again.files[file][name], t) for name, t in tensors.items())
