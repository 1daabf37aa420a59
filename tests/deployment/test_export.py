"""Export of a trained model: the Recommender answers as the model does."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import best_file, protocol, rule_sequences, settings, write_dataset

from recbole_mscgrec.cli import main
from recbole_mscgrec.deployment.export import export, export_of
from recbole_mscgrec.runner.quick_start import load_data_and_model, run
from recbole_mscgrec.serving import export_folder
from recbole_mscgrec.serving.recommender import Recommender
from recbole_mscgrec.storage import checkpoint

VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "sparse": {"history_vectors": True, "target_modality": "fused", "neighbour_prob": 0.2},
    "learned": {"learned_items": 30, "modality_mask_prob": 0.3},
    "some learned": {"learned_items": 7, "modality_mask_prob": 0.3},
    "paper": {
        "history_tokens": "code",
        "code_bias": True,
        "decoder": "t5",
        "encoder_attention": "bidirectional",
        "train_rows": "prefix",
    },
    "attention alone": {"conv_kernel_size": 0},
    "unconstrained": {"constrained_training": False},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_recommender_equals_the_model_to_the_last_digit(name: str, tmp_path: Path) -> None:
    write_dataset(
        tmp_path / "data", "rule", rule_sequences(), {f"i{i}": f"a{i} b{i % 3}" for i in range(30)}
    )
    chosen = {"modalities": ["collaborative", "text"], **VARIANTS[name]}
    run("MSCGRec", "rule", None, settings(tmp_path, **chosen))
    file = str(best_file(tmp_path / "saved", "MSCGRec"))
    export(file, tmp_path / "export")
    recommender = Recommender.load(tmp_path / "export")
    _, model, dataset, *_, test_data = load_data_and_model(file)
    checked = 0
    for batch in test_data:
        interaction = batch[0]
        with torch.inference_mode():
            beams = model.recommend(interaction)
        rows = interaction["item_id_list"].tolist()
        histories = [
            [str(t) for t in dataset.id2token("item_id", [i for i in row if i])] for row in rows
        ]
        for found, items, scores in zip(recommender.recommend(histories), *beams, strict=True):
            tokens = [str(t) for t in dataset.id2token("item_id", items)]
            assert [each.item for each in found] == tokens
            assert [each.score for each in found] == scores.tolist()
            checked += len(found)
    assert checked == 10 * 40


def test_what_the_folder_holds(trained: Path, tmp_path: Path) -> None:
    made = export(str(trained), tmp_path / "out")
    assert made.items[:3] != made.titles and made.titles is not None
    assert dict(zip(made.items, made.titles, strict=True))["i7"] == "Title7"
    assert made.max_history == 12 and made.beam_size == 10
    assert made.settings["dataset"] == "rule" and made.made_by["version"]
    assert [entry["what"] for entry in made.history] == ["export"]
    counts = dict(zip(made.items, made.popularity[1:].tolist(), strict=True))
    assert sum(counts.values()) > 0 and made.popularity[0] == 0
    with pytest.raises(ValueError, match="holds an export of generation 1: choose another folder"):
        export(str(trained), tmp_path / "out")
    export(str(trained), tmp_path / "out", overwrite=True)
    assert export_folder.read(tmp_path / "out").generation == 2


def test_the_command(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--model_file", str(trained), "--out", str(tmp_path / "out")]) == 0
    assert "Generation 1 with 30 items" in capsys.readouterr().out
    assert Recommender.load(tmp_path / "out").recommend([["i3", "i4"]], top=1)[0][0].item == "i5"
    assert main(["export", "--model_file", "no.pth", "--out", str(tmp_path / "other")]) == 1
    assert "model_file (no.pth) does not exist" in capsys.readouterr().err


def test_what_cannot_be_exported_is_told(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"codes_title_column \(nope\) is not a column"):
        export_of(str(trained), {"codes_title_column": "nope"})
    write_dataset(tmp_path / "data", "rule", rule_sequences())
    run("TiledSASRec", "rule", None, protocol(tmp_path, hidden_size=8, inner_size=8))
    other = best_file(tmp_path / "saved", "TiledSASRec")
    with pytest.raises(ValueError, match="holds TiledSASRec: only MSCGRec recommends"):
        export_of(str(other))
    with pytest.raises(ValueError, match="rescore_model is set, but a second model cannot"):
        export_of(str(trained), {"rescore_model": str(trained_twin(trained, tmp_path))})


def trained_twin(trained: Path, folder: Path) -> Path:
    """A TiledSASRec on the data of `trained`."""
    data = checkpoint.load(trained)["config"]["data_path"]
    place = {**protocol(folder / "twin", hidden_size=8, inner_size=8)}
    run("TiledSASRec", "rule", None, {**place, "data_path": str(Path(data).parent)})
    return best_file(folder / "twin" / "saved", "TiledSASRec")


def test_programs_are_written_with_the_export_or_for_one(
    trained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What programs find is tested in tests/deployment/test_exported_programs.py."""
    module = importlib.import_module("recbole_mscgrec.deployment.export")
    monkeypatch.setattr(module, "programs_of", lambda *_: {"encoder": b"1", "decoder_0": b"2"})
    folder = tmp_path / "out"
    assert main(["export", "--model_file", str(trained), "--out", str(folder)]) == 0
    assert not list(folder.glob("*.pt2"))
    assert main(["export", "--export", str(folder), "--format", "torch"]) == 0
    assert sorted(path.name for path in folder.glob("*.pt2")) == [
        "decoder_0-2.pt2",
        "encoder-2.pt2",
    ]
    made = export_folder.read(folder)
    assert [entry["what"] for entry in made.history] == ["export", "programs"]
    assert (folder / "model.safetensors").is_file()  # not written again
    again = ["export", "--model_file", str(trained), "--out", str(folder), "--overwrite"]
    assert main([*again, "--format", "torch"]) == 0
    assert sorted(path.name for path in folder.glob("*.pt2")) == [
        "decoder_0-3.pt2",
        "encoder-3.pt2",
    ]
    capsys.readouterr()
    for wrong, message in (
        (["--export", str(folder)], "--export goes with --format torch"),
        (["--model_file", str(trained)], "--model_file needs --out FOLDER"),
    ):
        assert main(["export", *wrong]) == 1
        assert message in capsys.readouterr().err
