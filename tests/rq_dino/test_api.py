"""RQ-DINO as a whole, on pictures of coloured shapes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.data import create_dataset
from tiny import coloured_shapes, dino_settings, settings, typed

from recbole_mscgrec.config.config import Config
from recbole_mscgrec.rq_dino.api import RQDinoResult, backbone_features, rq_dino
from recbole_mscgrec.rq_dino.backbone import Projection
from recbole_mscgrec.rq_dino.quantizer import perplexities
from recbole_mscgrec.rq_dino.settings import CONFIGURABLE
from recbole_mscgrec.rq_dino.training import DinoTraining, cosine
from recbole_mscgrec.rq_dino.views import Pixels
from recbole_mscgrec.semantic_ids.code_table import MISSING
from recbole_mscgrec.storage import checkpoint, schema
from recbole_mscgrec.tokenizer.pipeline import tokenize

SIZES = [6, 4]


def train(folder: Path, n: int = 32, log: bool = False, **changes: Any) -> RQDinoResult:
    return rq_dino(
        coloured_shapes(n),
        dino_settings(**changes),
        SIZES,
        seed=1,
        device="cpu",
        partial=folder / "image.partial.pth",
        log_dir=folder / "log" if log else None,
        show_progress=False,
        n_workers=0,
    )


def same(one: RQDinoResult, two: RQDinoResult) -> bool:
    """Equal but for the seconds."""
    rows = one.history["epochs"] == two.history["epochs"]
    return rows and all(torch.equal(a, b) for a, b in zip(one[:3], two[:3], strict=True))


def purity(groups: torch.Tensor, classes: torch.Tensor) -> float:
    """Share of items that belong to the most frequent class of their group."""
    counts = [torch.bincount(classes[groups == g]).max() for g in groups.unique()]
    return float(sum(counts)) / len(groups)


@pytest.mark.slow
def test_codes_tell_coloured_shapes_apart(tmp_path: Path) -> None:
    changes = {"epochs": 12, "quantize_after": 3, "learning_rate": 0.004, "out_dim": 64}
    made = train(tmp_path, 128, log=True, colour_jitter=0.0, **changes)
    history = made.history
    losses = [row["dino_loss"] for row in history["epochs"]]
    assert losses[-1] < losses[0] and losses[-1] < history["log_out_dim"] - 0.2
    assert made.codes.shape == (128, 2) and made.codes.dtype == torch.long
    for level, size in enumerate(SIZES):
        count = torch.bincount(made.codes[:, level], minlength=size)
        assert (count > 0).all() and perplexities([count])[0] >= size / 2
    colour = torch.arange(128) // 2 % 3
    assert purity(made.codes[:, 0], colour) > 0.7  # chance: about 0.4
    near = torch.cdist(made.quantized, made.quantized).fill_diagonal_(torch.inf).argmin(1)
    assert (colour[near] == colour).float().mean() > 0.7  # chance: 1/3
    assert list((tmp_path / "log").glob("events*")) and not list(tmp_path.glob("*.pth"))


def test_result_is_consistent_and_json_ready(tmp_path: Path) -> None:
    made = train(tmp_path)
    assert made.vectors.shape == made.quantized.shape == (32, 32)
    for code in made.codes.unique(dim=0):  # a code stands for one vector
        rows = made.quantized[(made.codes == code).all(1)]
        assert torch.equal(rows, rows[:1].expand_as(rows))
    history = json.loads(json.dumps(made.history))
    assert history["images_per_second"] > 0 and history["seconds"] > 0
    assert [("perplexity" in row) for row in history["epochs"]] == [False, True]
    assert same(made, train(tmp_path))


def test_codebooks_that_the_features_have_left_start_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All codewords but one far away after the second epoch: nearly every crop gets that one."""
    original = DinoTraining._save

    def lose(self: Any) -> None:
        if self.epoch == 2:
            for level, codebook in enumerate(self.student.quantizer.codebooks):
                away = codebook + 1e3
                away[0] = 0
                self.student.quantizer._set(level, away, torch.full((len(away),), 100.0))
        original(self)

    monkeypatch.setattr(DinoTraining, "_save", lose)
    rows = train(tmp_path, epochs=5).history["epochs"]
    assert max(rows[2]["perplexity"]) < 1.5 and not rows[2]["k_means"]
    assert rows[3]["k_means"] and min(rows[3]["perplexity"]) > 2.5


@pytest.mark.parametrize("changes", [{"drop_path": 0.2}, {"projection": 8}])
def test_an_interrupted_run_goes_on_to_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    whole = train(tmp_path, epochs=4, **changes)
    original = DinoTraining._save

    def interrupted(self: Any) -> None:
        original(self)
        if self.epoch == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(DinoTraining, "_save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, epochs=4, **changes)
    monkeypatch.setattr(DinoTraining, "_save", original)
    torch.manual_seed(99)
    assert same(train(tmp_path, epochs=4, **changes), whole)


def test_projection_is_learned_behind_a_frozen_backbone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its vectors stay a linear map of the backbone's unit vectors, and no longer the first one."""
    chosen = dino_settings(projection=8, learning_rate=0.01, epochs=4)
    made = train(tmp_path, 64, **asdict(chosen))
    assert made.vectors.shape == (64, 8) and "random weights" in caplog.text
    options = {"device": "cpu", "n_workers": 0, "show_progress": False}
    features, _ = backbone_features(coloured_shapes(64), chosen, seed=1, **options)
    inputs = torch.cat([torch.nn.functional.normalize(features, dim=1), torch.ones(64, 1)], dim=1)
    fitted = inputs.double() @ torch.linalg.lstsq(inputs.double(), made.vectors.double()).solution
    assert torch.allclose(fitted, made.vectors.double(), atol=1e-3)
    first = Projection(32, 8)
    first.start(features)
    assert not torch.allclose(first(features), made.vectors, atol=0.05)


def test_a_damaged_partial_file_is_named_and_ignored(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train(tmp_path)
    (tmp_path / "image.partial.pth").write_bytes(b"no checkpoint")
    assert same(train(tmp_path), whole)
    assert "the stage starts again" in caplog.text and "image.partial.pth" in caplog.text


def test_the_generators_of_the_run_are_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(tmp_path, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_dino_without_quantization_gets_codes_by_k_means(tmp_path: Path) -> None:
    made = train(tmp_path, quantize=False)
    assert all("perplexity" not in row for row in made.history["epochs"])
    assert made.codes.shape == (32, 2)
    error = (made.vectors - made.quantized).square().sum()
    assert error < (made.vectors - made.vectors.mean(0)).square().sum()


def test_loss_that_is_not_finite_stops_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nan = lambda *_: torch.tensor(float("nan"))  # noqa: E731
    monkeypatch.setattr("recbole_mscgrec.rq_dino.training.dino_loss", nan)
    with pytest.raises(ValueError, match="loss is nan in epoch 1: lower image_learning_rate"):
        train(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, r"image_epochs \(0\) must be a whole number of at least 1"),
        ({"learning_rate": float("nan")}, r"image_learning_rate \(nan\) must be above 0"),
        ({"teacher_momentum": 1.0}, r"^RQDinoSettings.teacher_momentum \(1.0\) must be at least"),
        ({"global_scale": [0.9, 0.2]}, r"Settings.global_scale \(\[0.9, 0.2\]\) must be 0 <= low"),
        ({"local_scale": 0.3}, r"^RQDinoSettings.local_scale \(0.3\) must be"),
        ({"teacher_balance": "none"}, "^RQDinoSettings.teacher_balance .'none'. must be one of"),
        ({"projection": 0}, r"image_projection \(0\) must be a whole number of at least 1"),
        ({"batch_size": [3]}, r"image_batch_size \(\[3\]\) must be a whole number"),
    ],
)
def test_settings_out_of_range(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train(tmp_path, **changes)


def test_more_codewords_than_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"codebook_size \(6\) must not exceed .* images \(5\)"):
        train(tmp_path, 5)


@pytest.mark.parametrize(("n", "width"), [(40, 33), (8, 9)])
def test_projection_wider_than_what_there_is(
    tmp_path: Path, n: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused before the catalogue goes through the backbone, which can take hours."""
    monkeypatch.setattr("recbole_mscgrec.rq_dino.training.encode", None)
    message = rf"image_projection \({width}\) must be at most .* vectors \(32\) and .* \({n}\)"
    with pytest.raises(ValueError, match=message):
        train(tmp_path, n, projection=width)


def test_features_of_a_random_backbone(caplog: pytest.LogCaptureFixture) -> None:
    options = {"device": "cpu", "n_workers": 0, "show_progress": False}
    images = coloured_shapes(5)
    one, _ = backbone_features(images, dino_settings(), seed=1, **options)
    assert one.shape == (5, 32) and "random weights" in caplog.text
    assert torch.equal(one, backbone_features(images, dino_settings(), seed=1, **options)[0])
    assert not torch.equal(one, backbone_features(images, dino_settings(), seed=2, **options)[0])


def test_cosine_schedule() -> None:
    rates = [cosine(step, 14, 1.0, 0.2, warmup=4) for step in range(15)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0] and rates[4] == 1.0
    assert rates[9] == pytest.approx(0.6) and rates[14] == pytest.approx(0.2)


def test_first_epoch_leaves_the_prototypes(tmp_path: Path) -> None:
    chosen = dino_settings(freeze_last_layer=1)
    file = tmp_path / "p.pth"
    pixels = Pixels(coloured_shapes(32), chosen)
    made = DinoTraining(pixels, chosen, SIZES, seed=0, device="cpu", partial=file)
    before = made.student.head.prototypes.detach().clone()
    prototypes = []

    class Bar:
        def update(self) -> None:
            prototypes.append(made.student.head.prototypes.detach().clone())

    made._train_epoch(Bar())
    made.epoch += 1
    made._train_epoch(Bar())
    assert len(prototypes) == 4
    assert torch.equal(prototypes[1], before) and not torch.equal(prototypes[2], before)
    made._save()
    kept = checkpoint.load(file, rule=schema.INTERRUPTED_RQ_DINO)
    assert set(kept) >= {"teacher", "optimizer", "history"}


def test_stage_with_the_keys_of_the_yaml(rule_folder: Path) -> None:
    """Config -> images of a folder -> RQ-DINO -> code table, and the second time from the cache."""
    folder = rule_folder / "data" / "rule" / "images"
    folder.mkdir()
    for i, image in enumerate(coloured_shapes(20)):
        image.save(folder / f"i{i}.png")
    tiny = dino_settings(epochs=2)
    names = {f"image_{name}": getattr(tiny, name) for name in CONFIGURABLE}
    chosen = settings(rule_folder, **names, modalities=["text", "image"], target_modality="text")
    config = Config("MSCGRecTokenizer", "rule", config_dict=chosen)
    dataset = create_dataset(config).build()[0]
    table = tokenize(typed(config, dataset), dataset).table
    codes = table.codes["image"][1:]
    assert table.sizes["image"] == [6, 6] and int((codes[:, 0] != MISSING).sum()) == 20
    (history,) = (rule_folder / "cache").glob("image-*.history.json")
    assert len(json.loads(history.read_text())["epochs"]) == 2
    assert list(Path("log_tensorboard").glob("RQ-DINO-rule-*/events*"))
    stamp = history.stat().st_mtime_ns
    assert torch.equal(tokenize(typed(config, dataset), dataset).table.codes["image"][1:], codes)
    assert history.stat().st_mtime_ns == stamp
