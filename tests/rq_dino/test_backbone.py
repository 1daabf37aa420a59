"""The image encoder: timm models by name and size, and weights from files."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from tiny import dino_settings

from recbole_mscgrec.rq_dino.backbone import Projection, make_backbone

CONVOLUTIONS = {"backbone": "resnet10t", "backbone_args": {}, "size": 32, "local_size": 16}


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    return make_backbone(dino_settings()).model.state_dict()


def equal(backbone: torch.nn.Module, weights: dict[str, torch.Tensor]) -> bool:
    state = backbone.model.state_dict()
    return all(torch.equal(state[name], value) for name, value in weights.items())


@pytest.mark.parametrize("changes", [{}, {"size": 20, "local_size": 12}, CONVOLUTIONS])
def test_any_model_and_size(changes: dict[str, Any]) -> None:
    settings = dino_settings(**changes)
    backbone = make_backbone(settings)
    for size in (settings.size, settings.local_size):
        assert backbone(torch.zeros(2, 3, size, size)).shape == (2, backbone.width)


def test_images_are_scaled_as_the_model_expects() -> None:
    backbone = make_backbone(dino_settings(**CONVOLUTIONS)).eval()
    assert backbone.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    grey = torch.full((1, 3, 32, 32), 0.5)
    scaled = (0.5 - backbone.mean) / backbone.std
    assert torch.allclose(backbone(grey), backbone.model(scaled.expand(1, 3, 32, 32)))


def test_weight_files(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    plain, wrapped = tmp_path / "a.safetensors", tmp_path / "b.pth"
    safetensors.torch.save_file(weights, plain)
    nested = {f"module.backbone.{name}": value for name, value in weights.items()}
    torch.save({"teacher": {**nested, "module.head.weight": torch.zeros(3)}, "epoch": 4}, wrapped)
    for file in (plain, wrapped):
        assert equal(make_backbone(dino_settings(weights=str(file))), weights)
    assert not equal(make_backbone(dino_settings()), weights)


def test_weights_of_another_image_size(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Position embeddings are interpolated."""
    file = tmp_path / "a.safetensors"
    safetensors.torch.save_file(weights, file)
    backbone = make_backbone(dino_settings(weights=str(file), size=32))
    name = "blocks.1.mlp.fc1.weight"
    assert torch.equal(backbone.model.state_dict()[name], weights[name])
    assert backbone.model.pos_embed.shape[1] == 65 and weights["pos_embed"].shape[1] == 17


class Danger:
    def __reduce__(self) -> Any:
        return (print, ("this must not run",))


def test_a_file_that_could_run_code_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "a.pth"
    file.write_bytes(pickle.dumps({"state_dict": Danger()}, protocol=2))
    with pytest.raises(ValueError, match="image_weights .*a.pth.* could run code"):
        make_backbone(dino_settings(weights=str(file)))
    assert "this must not run" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backbone": "vit_tiny"},
            "'vit_tiny' is not a model of timm; the nearest .*vit_tiny",
        ),
        ({"weights": "gone.pth"}, "image_weights .gone.pth. is neither 'hub' nor a file"),
        ({"local_size": 7}, r"does not accept image_local_size \(7\)"),
        ({"backbone_args": {"patch_sise": 4}}, "cannot be made with image_size 16.*patch_sise"),
        ({**CONVOLUTIONS, "backbone_args": {"global_pool": ""}}, "instead of one vector"),
    ],
)
def test_what_cannot_be_made(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_backbone(dino_settings(**changes))


@pytest.mark.parametrize("content", [{}, {"state_dict": {}}, torch.ones(3), [1], None, {3: 4}])
def test_a_file_without_weights_is_named_and_the_hub_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", asked.append)
    file = tmp_path / "a.pth"
    torch.save(content, file)
    with pytest.raises(ValueError, match=r"image_weights \(.*a.pth\) holds"):
        make_backbone(dino_settings(weights=str(file)))
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"image_weights \(.*a.pth\) is damaged"):
        make_backbone(dino_settings(weights=str(file)))
    assert not asked


def test_weights_that_are_no_numbers(tmp_path: Path, weights: dict[str, torch.Tensor]) -> None:
    file, name = tmp_path / "a.pth", "blocks.1.mlp.fc1.weight"
    torch.save({**weights, name: weights[name] * torch.nan}, file)
    with pytest.raises(ValueError, match=rf"a.pth.*{name} holds NaN or infinity"):
        make_backbone(dino_settings(weights=str(file)))


def test_weights_of_another_model(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    safetensors.torch.save_file({"conv.weight": torch.zeros(3)}, file)
    with pytest.raises(ValueError, match="image_weights"):
        make_backbone(dino_settings(weights=str(file)))


def test_a_hub_out_of_reach_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", unreachable)
    with pytest.raises(ValueError, match="not available .ConnectionError.*path as image_weights"):
        make_backbone(dino_settings(weights="hub"))


def test_projection_starts_as_principal_components() -> None:
    """Vectors whose direction varies most in coordinate 1, less in 2, hardly in 3; their lengths,
    which vary most of all, do not count."""
    n = 4000
    noise = torch.randn(n, 4, generator=torch.Generator().manual_seed(0))
    directions = torch.tensor([1.0, 0, 0, 0]) + noise * torch.tensor([0.0, 0.1, 0.05, 0.001])
    vectors = directions * torch.linspace(0.1, 10, n).unsqueeze(1)
    projection = Projection(4, 2)
    projection.start(vectors)
    out = projection(vectors).detach()
    assert out.shape == (n, 2)
    assert torch.allclose(out.mean(0), torch.zeros(2), atol=1e-4)
    variances = out.var(0).sort().values  # 0.1 and 0.05 squared, to a mean of 1
    assert variances.tolist() == pytest.approx([0.4, 1.6], rel=0.05)
    assert float(out.T.corrcoef()[0, 1].abs()) < 1e-3
    assert torch.allclose(projection(7 * vectors), projection(vectors), atol=1e-4)
