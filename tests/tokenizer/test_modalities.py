"""Stages: images through a stand-in for RQ-DINO, files in a stage's place, modalities that lack."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import N_ITEMS, in_processes, settings, tokens_of, train_split, typed

from recbole_mscgrec.runner.quick_start import run
from recbole_mscgrec.semantic_ids.code_table import MISSING
from recbole_mscgrec.storage import cache
from recbole_mscgrec.tokenizer import modalities, pipeline
from recbole_mscgrec.tokenizer.modalities import IMAGE_ENCODER, Features, stage_of
from recbole_mscgrec.tokenizer.pipeline import tokenize

ALL = ["collaborative", "text", "image"]


def colour(image: Image.Image) -> torch.Tensor:
    return torch.tensor(image.getpixel((0, 0))).float()


class Result(NamedTuple):
    codes: torch.Tensor
    vectors: torch.Tensor
    quantized: torch.Tensor
    history: dict[str, list[float]]
    encoder: dict[str, torch.Tensor]


@pytest.fixture
def dino(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A stand-in for dino.py: vectors are colours, codes their red and green; records its calls."""
    calls: list[dict[str, Any]] = []

    def rq_dino(images: Any, settings: Any, codebook_sizes: Any, **options: Any) -> Result:
        calls.append({"by": "rq_dino", "n": len(images), "sizes": codebook_sizes, **options})
        vectors = torch.stack([colour(images[i]) for i in range(len(images))])
        encoder = {"encoder.weight": torch.ones(1)}
        return Result(vectors[:, :2].long(), vectors, vectors + 1, {"loss": [2.0, 1.0]}, encoder)

    def backbone_features(images: Any, settings: Any, **options: Any) -> tuple[torch.Tensor, Any]:
        calls.append({"by": "backbone_features", "n": len(images), **options})
        vectors = torch.stack([colour(images[i]) for i in range(len(images))])
        return vectors, {"encoder.weight": torch.zeros(1)}

    module = ModuleType("recbole_mscgrec.rq_dino.api")
    module.rq_dino, module.backbone_features = rq_dino, backbone_features
    monkeypatch.setitem(sys.modules, "recbole_mscgrec.rq_dino.api", module)
    return calls


def kept_encoder(config: Any, train: Any) -> dict[str, torch.Tensor] | None:
    """The weights that the image stage has left in the cache."""
    stage = stage_of("image", typed(config, train), train)
    return cache.load(typed(config, train).run.cache_dir, IMAGE_ENCODER, stage.key)


def paint(folder: Path, items: range, name: str = "images") -> Path:
    """<data set>/<name>/ with pictures whose red and green are below 6 and differ per item."""
    images = folder / "data" / "rule" / name
    images.mkdir(exist_ok=True)
    for i in items:
        Image.new("RGB", (4, 4), (i // 6, i % 6, 7 * i)).save(images / f"i{i}.png")
    return images


# --- images ---------------------------------------------------------------------------------------


def test_codes_of_rq_dino_are_the_table(rule_folder: Path, dino: list[dict[str, Any]]) -> None:
    paint(rule_folder, range(20))
    config, train = train_split(rule_folder, image_workers=0)
    tokens = tokenize(typed(config, train), train)
    assert tokens.table.modalities == ALL and tokens.table.sizes["image"] == [6, 6]
    for i in range(N_ITEMS):
        code = tokens.table.codes["image"][train.token2id("item_id", f"i{i}")].tolist()
        assert code == ([i // 6, i % 6] if i < 20 else [MISSING, MISSING])
    assert tokens.health["image"]["n_missing"] == 10 and tokens.seconds["image"] > 0
    (call,) = dino
    expected = {"by": "rq_dino", "n": 20, "sizes": [6, 6], "n_workers": 0, "show_progress": False}
    assert call.items() >= {**expected, "seed": 2020, "device": config["device"]}.items()
    assert call["partial"].parent == rule_folder / "cache" and call["log_dir"]
    (history,) = (rule_folder / "cache").glob("image-*.history.json")
    assert json.loads(history.read_text()) == {"loss": [2.0, 1.0]}
    assert kept_encoder(config, train) == {"encoder.weight": torch.ones(1)}


def test_features_of_the_frozen_backbone_are_quantized(
    rule_folder: Path, dino: list[dict[str, Any]]
) -> None:
    paint(rule_folder, range(20))
    config, train = train_split(rule_folder, image_tokenizer="features")
    vectors, present, codes, *_ = stage_of("image", typed(config, train), train).make()
    assert codes is None and int(present.sum()) == 20
    assert vectors[train.token2id("item_id", "i8")].tolist() == [1, 2, 56]
    table = tokenize(typed(config, train), train).table
    assert torch.equal(table.codes["image"][:, 0] != MISSING, present)
    assert [call["by"] for call in dino] == ["backbone_features"]
    assert kept_encoder(config, train) == {"encoder.weight": torch.zeros(1)}


def test_image_stage_is_made_again_only_when_it_must(
    rule_folder: Path, dino: list[dict[str, Any]]
) -> None:
    images = paint(rule_folder, range(20))
    first = tokens_of(rule_folder).table
    again = tokens_of(rule_folder, hidden_size=32, image_workers=1).table
    assert torch.equal(first.codes["image"], again.codes["image"]) and len(dino) == 1
    copy = paint(rule_folder, range(20), "copy")
    tokens_of(rule_folder, image_dir=str(copy))  # the same content
    assert len(dino) == 1
    Image.new("RGB", (4, 4), (5, 5, 5)).save(images / "i3.png")
    tokens_of(rule_folder)
    assert len(dino) == 2
    for changes in ({"image_tokenizer": "features"}, {"seed": 7}, {"codebook_size": [6, 7]}):
        n_before = len(dino)
        tokens_of(rule_folder, **changes)
        assert len(dino) == n_before + 1, changes
    n_before = len(dino)
    tokens_of(rule_folder, image_tokenizer="features", codebook_size=5)  # quantized anew only
    assert len(dino) == n_before


def test_runs_at_the_same_time_make_a_stage_once(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three runs that begin with an empty cache train one SASRec, and quantize once."""
    made = rule_folder / "made.txt"

    def counted(module: Any, name: str) -> None:
        original = getattr(module, name)

        def call(*args: Any) -> Any:
            with made.open("a") as file:
                file.write(f"{name}\n")
            time.sleep(0.5)  # the others come here in the meantime, if they can
            return original(*args)

        monkeypatch.setattr(module, name, call)

    counted(modalities, "collaborative_vectors")
    counted(pipeline, "quantize")
    config, train = train_split(rule_folder)
    chosen = typed(config, train)
    tables = in_processes(3, lambda: tokenize(chosen, train).table.to_plain(), group=False)
    assert sorted(made.read_text().split()) == ["collaborative_vectors", "quantize"]
    for plain in tables[1:]:
        assert all(torch.equal(plain["codes"][m], codes) for m, codes in tables[0]["codes"].items())
    assert not list(rule_folder.rglob("*.held"))


def test_image_as_the_target_takes_codes_of_the_nearest_items(
    rule_folder: Path, dino: list[dict[str, Any]]
) -> None:
    """An item without image gets the code of the item that is nearest by its vector in text."""
    paint(rule_folder, range(1, N_ITEMS))
    texts = np.eye(N_ITEMS, dtype=np.float32)
    texts[0] = texts[17] + 0.1
    file = rule_folder / "text.npz"
    np.savez(file, tokens=[f"i{i}" for i in range(N_ITEMS)], vectors=texts)
    config, train = train_split(
        rule_folder,
        modalities=["text", "image"],
        target_modality="image",
        vectors_file={"text": str(file)},
    )
    tokens = tokenize(typed(config, train), train)
    report = tokens.health["image"]
    assert (report["filled_from_neighbours"], report["filled_free_leaf"]) == (1, 0)
    code = tokens.table.codes["image"][train.token2id("item_id", "i0")].tolist()
    assert code[:2] == [17 // 6, 17 % 6]
    assert len(torch.unique(tokens.table.target_codes, dim=0)) == N_ITEMS


def test_image_alone_as_the_target_takes_free_leaves(
    rule_folder: Path, dino: list[dict[str, Any]]
) -> None:
    paint(rule_folder, range(20))
    tokens = tokens_of(rule_folder, modalities=["image"], target_modality="image")
    report = tokens.health["image"]
    assert (report["filled_from_neighbours"], report["filled_free_leaf"]) == (0, 10)
    assert tokens.table.sizes["image"] == [6, 6]  # 30 different codes need no collision level


def test_no_images_are_one_line_that_says_where_they_belong(
    rule_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        tokens = tokens_of(rule_folder)
    assert tokens.table.modalities == ["collaborative", "text"]
    (line,) = [r.message for r in caplog.records if "image" in r.message]
    assert line.startswith("Modalities: collaborative, text. No item has image (no image at ")
    assert str(rule_folder / "data" / "rule" / "images" / "ITEM.jpg") in line
    with pytest.raises(ValueError, match="target_modality image: no item has it; choose another"):
        tokens_of(rule_folder, target_modality="image")


def test_only_unusable_images_leave_the_modality_out(
    rule_folder: Path, dino: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    (paint(rule_folder, range(0)) / "i3.png").write_bytes(b"")
    assert tokens_of(rule_folder).table.modalities == ["collaborative", "text"]
    assert "i3.png: empty file" in caplog.text and "No item has image" in caplog.text
    assert dino == []


def test_unknown_image_tokenizer(rule_folder: Path) -> None:
    with pytest.raises(
        ValueError, match="image_tokenizer .'vae'. must be one of rq_dino, features"
    ):
        tokens_of(rule_folder, image_tokenizer="vae")


def test_a_whole_run_in_which_items_lack_images(
    rule_folder: Path, dino: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    """Trained, saved and loaded with images of some items, and tested without any."""
    (paint(rule_folder, range(20)) / "i3.png").write_bytes(b"no image")
    chosen = settings(rule_folder, eval_drop_modality="image", modality_mask_prob=0.3)
    result = run("MSCGRec", "rule", config_dict=chosen)
    assert result["code_health"]["image"]["n_missing"] == 11 and "image" in result["seconds"]
    assert set(result["test_without"]["image"]) == set(result["test_result"])
    (file,) = [f for f in (rule_folder / "saved").glob("*.pth") if ".last" not in f.name]
    shutil.rmtree(rule_folder / "cache")
    shutil.rmtree(rule_folder / "data" / "rule" / "images")  # a saved model holds its codes
    again = run("MSCGRec", "rule", config_dict={**chosen, "model_file": str(file)})
    for key in ("test_result", "test_without", "code_health"):
        assert again[key] == result[key]
    assert len(dino) == 1


# --- made elsewhere -------------------------------------------------------------------------------


def write_codes(folder: Path, n: int = N_ITEMS, name: str = "codes.json") -> str:
    """Codes (i // 7, i % 3, 0) of the items i0 ... i<n-1>."""
    file = folder / name
    file.write_text(json.dumps({f"i{i}": [i // 7, i % 3, 0] for i in range(n)}))
    return str(file)


def write_vectors(folder: Path, n: int = N_ITEMS, name: str = "vectors.npz") -> str:
    """Random vectors of the items i0 ... i<n-1>."""
    rows = np.random.default_rng(0).normal(size=(n, 5))
    np.savez(folder / name, tokens=[f"i{i}" for i in range(n)], vectors=rows)
    return str(folder / name)


def test_codes_of_a_file_take_the_place_of_a_stage(
    rule_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "recbole_mscgrec.tokenizer.modalities.text_vectors", None
    )  # must not be called
    config, train = train_split(rule_folder, codes_file={"text": write_codes(rule_folder, 20)})
    tokens = tokenize(typed(config, train), train)
    assert tokens.table.sizes["text"] == [3, 3, 1]
    assert tokens.table.codes["text"][train.token2id("item_id", "i8")].tolist() == [1, 2, 0]
    assert tokens.health["text"]["n_missing"] == 10
    assert not list((rule_folder / "cache").glob("text-*"))


def test_vectors_of_a_file_are_quantized(rule_folder: Path) -> None:
    tokens = tokens_of(rule_folder, vectors_file={"text": write_vectors(rule_folder, 25)})
    assert tokens.table.sizes["text"] == [6, 6] and tokens.health["text"]["n_missing"] == 5


def test_a_modality_of_its_own(rule_folder: Path) -> None:
    tokens = tokens_of(
        rule_folder,
        modalities=["collaborative", "audio", "genome"],
        vectors_file={"audio": write_vectors(rule_folder)},
        codes_file={"genome": write_codes(rule_folder)},
    )
    assert tokens.table.modalities == ["collaborative", "audio", "genome"]
    assert tokens.table.sizes["genome"] == [5, 3, 1]


def test_given_vectors_take_the_place_of_images(rule_folder: Path) -> None:
    tokens = tokens_of(rule_folder, vectors_file={"image": write_vectors(rule_folder, 25)})
    assert tokens.health["image"]["n_missing"] == 5


def test_given_codes_as_the_target_with_and_without_vectors(rule_folder: Path) -> None:
    """All 30 items in the target, although the file has 20: by neighbours, and by free leaves."""
    changes = {"target_modality": "text", "codes_file": {"text": write_codes(rule_folder, 20)}}
    tokens = tokens_of(rule_folder, **changes)
    report = tokens.health["text"]
    assert (report["filled_from_neighbours"], report["filled_free_leaf"]) == (10, 0)
    tokens = tokens_of(rule_folder, **changes, modalities=["text"])
    report = tokens.health["text"]
    assert (report["filled_from_neighbours"], report["filled_free_leaf"]) == (0, 10)
    assert len(torch.unique(tokens.table.target_codes, dim=0)) == N_ITEMS
    assert tokens.table.sizes["text"][:3] == [3, 3, 1] and len(tokens.table.sizes["text"]) == 4


def test_vectors_beside_given_codes_complete_another_target(rule_folder: Path) -> None:
    """audio brings codes of its own; its vectors tell which items are alike."""
    both = {
        "codes_file": {"audio": write_codes(rule_folder), "text": write_codes(rule_folder, 29)},
        "modalities": ["text", "audio"],
        "target_modality": "text",
    }
    without = tokens_of(rule_folder, **both).health["text"]
    assert (without["filled_from_neighbours"], without["filled_free_leaf"]) == (0, 1)
    with_vectors = {"vectors_file": {"audio": write_vectors(rule_folder)}}
    report = tokens_of(rule_folder, **both, **with_vectors).health["text"]
    assert (report["filled_from_neighbours"], report["filled_free_leaf"]) == (1, 0)


def test_unique_given_codes_get_no_further_level(rule_folder: Path) -> None:
    """And codebook_size says nothing about them: 64 codewords, 30 items."""
    (rule_folder / "c.json").write_text(json.dumps({f"i{i}": [i // 6, i % 6] for i in range(30)}))
    tokens = tokens_of(
        rule_folder,
        modalities=["text"],
        target_modality="text",
        codes_file={"text": str(rule_folder / "c.json")},
        codebook_size=64,
    )
    assert tokens.table.sizes["text"] == [5, 6]


def test_history_vectors_without_any_vectors_are_refused(rule_folder: Path) -> None:
    changes = {"modalities": ["text"], "target_modality": "text", "history_vectors": True}
    with pytest.raises(ValueError, match=r"only codes for \['text'\]: leave history_vectors out"):
        tokens_of(rule_folder, **changes, codes_file={"text": write_codes(rule_folder)})


def test_a_changed_file_counts_in_the_fingerprint(rule_folder: Path) -> None:
    config, train = train_split(rule_folder, codes_file={"text": write_codes(rule_folder)})
    key = stage_of("text", typed(config, train), train).key
    assert stage_of("text", typed(config, train), train).key == key
    before = tokenize(typed(config, train), train).table.codes["text"]
    write_codes(rule_folder, 29)
    assert stage_of("text", typed(config, train), train).key != key
    assert not torch.equal(tokenize(typed(config, train), train).table.codes["text"], before)


def test_given_features_are_as_the_file_says(rule_folder: Path) -> None:
    config, train = train_split(rule_folder, vectors_file={"text": write_vectors(rule_folder, 3)})
    features = stage_of("text", typed(config, train), train).make()
    assert isinstance(features, Features) and features.codes is None
    assert int(features.present.sum()) == 3 and features.vectors.shape == (31, 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modalities": ["collaborative", "audio"]}, "out of .*'text'.*needs a file"),
        ({"codes_file": {"audio": "c.json"}}, r"codes_file names \['audio'\], which is not in"),
        ({"vectors_file": {"imgae": "c.npz"}}, r"vectors_file names \['imgae'\]"),
        ({"codes_file": {"text": "gone.json"}}, r"codes of text \(gone.json\): .*does not exist"),
        (
            {"modalities": ["collaborative", "a/b"], "codes_file": {"a/b": "c.json"}},
            "must be a list of different names",
        ),
    ],
)
def test_what_does_not_fit_is_refused(
    rule_folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tokens_of(rule_folder, **changes)
