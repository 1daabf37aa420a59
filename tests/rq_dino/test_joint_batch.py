"""RQ-DINO in two and three processes is that of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import coloured_shapes, dino_settings, in_processes

from recbole_mscgrec.rq_dino.api import backbone_features, rq_dino
from recbole_mscgrec.rq_dino.joint_batch import Part
from recbole_mscgrec.rq_dino.training import DinoTraining
from recbole_mscgrec.rq_dino.views import Pixels
from recbole_mscgrec.storage import processes
from recbole_mscgrec.storage.errors import UserError

SIZES = [6, 4]
# The gradient of a key's bias is zero but for rounding, which Adam would scale to full steps.
WITHOUT_BIAS = {"patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2, "qkv_bias": False}


class Training(DinoTraining):
    """With one k-means, on equal vectors: on those of a later epoch, rounding would decide which of
    several equally good runs names the codewords."""

    def _unfit(self) -> bool:
        return not self.student.quantizer.ready


def trained(file: Path, **changes: Any) -> dict[str, Any]:
    """All weights and buffers of a training, and its history without seconds."""
    fixed = {"backbone_args": WITHOUT_BIAS, "restart_below": 0.9, "quantize_after": 0}
    chosen = dino_settings(**{**fixed, **changes})
    pixels = Pixels(coloured_shapes(33), chosen)
    made = Training(pixels, chosen, SIZES, seed=1, device="cpu", partial=file)
    made.run()
    parts = {"student": made.student, "teacher": made.teacher, "targets": made.targets}
    return {
        "pixels": pixels.stored,
        "weights": {f"{k}.{n}": v for k, m in parts.items() for n, v in m.state_dict().items()},
        "epochs": made.history["epochs"],
    }


def check_same(found: dict[str, Any], one: dict[str, Any]) -> None:
    assert torch.equal(found["pixels"], one["pixels"])
    for name, value in one["weights"].items():
        torch.testing.assert_close(found["weights"][name], value, atol=1e-5, rtol=1e-5, msg=name)
    for row, expected in zip(found["epochs"], one["epochs"], strict=True):
        assert row.pop("perplexity", []) == pytest.approx(expected.get("perplexity", []))
        rest = {name: value for name, value in expected.items() if name != "perplexity"}
        assert row == pytest.approx(rest, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("n", "changes"),
    [
        (2, {}),
        (3, {"teacher_balance": "centre"}),
        (2, {"projection": 8, "n_local_crops": 0}),
    ],
)
def test_training_is_that_of_one_process(tmp_path: Path, n: int, changes: dict[str, Any]) -> None:
    """33 images in batches of 17 and 16, with random views and restarted codewords."""
    one = trained(tmp_path / "one.pth", **changes)
    assert sum(row["restarted"] for row in one["epochs"]) > 0
    first, *others = in_processes(n, lambda: trained(tmp_path / "several.pth", **changes))
    check_same(first, one)
    for other in others:
        assert all(map(torch.equal, other["weights"].values(), first["weights"].values()))


def test_stochastic_depth_differs_by_process(tmp_path: Path) -> None:
    """All weights are nevertheless the same in both."""

    def draw() -> tuple[float, dict[str, Any]]:
        made = trained(tmp_path / "file.pth", drop_path=0.5)
        return float(torch.rand(1)), made["weights"]

    (one, weights), (other, same_weights) = in_processes(2, draw)
    assert one != other
    assert all(map(torch.equal, weights.values(), same_weights.values()))


@pytest.mark.slow
def test_an_interrupted_training_goes_on_with_another_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, file = trained(tmp_path / "whole.pth", epochs=3), tmp_path / "several.pth"
    original = DinoTraining._record

    def interrupted(self: Any, *args: Any) -> None:
        if self.epoch == 1:
            raise KeyboardInterrupt
        original(self, *args)

    def stopped() -> None:
        monkeypatch.setattr(DinoTraining, "_record", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trained(file, epochs=3)

    in_processes(2, stopped)
    for found in in_processes(3, lambda: trained(file, epochs=3)):
        check_same(found, whole)


def result(folder: Path, images: Any, **changes: Any) -> Any:
    options = {"device": "cpu", "log_dir": None, "show_progress": False, "n_workers": 0}
    partial = folder / "partial.pth"
    return rq_dino(images, dino_settings(**changes), SIZES, seed=1, partial=partial, **options)


def test_codes_and_files(tmp_path: Path) -> None:
    """Every image has the code that is nearest to its vector, and nothing is left over."""
    images = coloured_shapes(40)
    first, second = in_processes(2, lambda: tuple(result(tmp_path, images)))
    assert all(map(torch.equal, first[:3], second[:3]))
    assert first[0].shape == (40, 2) and first[4].keys() == second[4].keys()
    assert not list(tmp_path.iterdir())


def test_features_are_those_of_one_process() -> None:
    """To the last digit, with fewer batches than processes, too."""
    options = {"device": "cpu", "n_workers": 0, "show_progress": False, "seed": 1}

    def features() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return backbone_features(coloured_shapes(40), dino_settings(batch_size=16), **options)

    vectors, encoder = features()
    for n in (2, 4):
        for found, weights in in_processes(n, features):
            assert torch.equal(found, vectors)
            assert all(torch.equal(weights[name], encoder[name]) for name in encoder)


def test_gradients_reach_the_rows_of_this_process() -> None:
    """The gradient of a function of all rows is the sum of those of the processes."""

    def both() -> tuple[torch.Tensor, torch.Tensor]:
        part = Part(5)
        views = torch.arange(10.0).view(2, 5, 1)[:, part.rows].flatten(0, 1).requires_grad_()
        whole = part.joint(views)
        (whole[:5] * whole[5:]).sum().backward()
        gradient = torch.zeros(2, 5)
        gradient[:, part.rows] = views.grad.view(2, -1)
        return whole.detach().flatten(), processes.sum_of(gradient)

    expected = torch.arange(10.0).view(2, 5)
    for whole, gradient in in_processes(2, both):
        assert torch.equal(whole, expected.flatten())
        assert torch.equal(gradient, expected.flip(0))


def test_fewer_images_in_a_batch_than_processes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 processes share .* in 16 batches give 2: raise image_b"):
        in_processes(3, lambda: trained(tmp_path / "file.pth", batch_size=2))


def test_batch_norm_on_cpus(tmp_path: Path) -> None:
    changes = {"backbone": "resnet10t", "backbone_args": {}, "size": 32, "local_size": 32}
    message = "image_backbone 'resnet10t' uses BatchNorm, .* on GPUs only: choose a backbone"
    with pytest.raises(UserError, match=message):
        in_processes(2, lambda: trained(tmp_path / "file.pth", **changes))
