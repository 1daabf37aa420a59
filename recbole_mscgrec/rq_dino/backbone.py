"""The image encoder: any timm model, from scratch, from the hub or from a weight file. If this
backbone is frozen, a linear map on top of it is trained instead."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import timm
import torch
from torch import nn

from recbole_mscgrec.rq_dino.settings import RQDinoSettings
from recbole_mscgrec.storage import checkpoint, schema
from recbole_mscgrec.storage.errors import UserError, one_line

Tensor = torch.Tensor
HUB = "hub"
_WRAPPERS = ("teacher", "state_dict", "model", "student")  # keys that may hold the weights
_PREFIXES = ("module.", "backbone.", "encoder.")


class Backbone(nn.Module):
    """A timm model with its colour normalization: images (B, 3, S, S) in 0..1 -> (B, D).

    Attributes:
        width: D.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model: nn.Module = model
        self.width: int = model.num_features
        for name in ("mean", "std"):
            value = torch.tensor(model.pretrained_cfg[name]).view(3, 1, 1)
            self.register_buffer(name, value, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.model((images - self.mean) / self.std)


class Projection(nn.Module):
    """The trained part of an encoder with a frozen backbone: a linear map (B, F) -> (B, D) of the
    backbone's vectors. These are scaled to the same length first, because lengths carry little
    information and would dominate the codes.

    Attributes:
        width: D.
    """

    def __init__(self, n_features: int, width: int) -> None:
        super().__init__()
        self.linear, self.width = nn.Linear(n_features, width), width

    def forward(self, features: Tensor) -> Tensor:
        return self.linear(_one_length(features.float()))

    @torch.no_grad()
    def start(self, features: Tensor) -> None:
        """Initialize with the D principal components of the features (n, F) of the catalogue,
        scaled to a mean variance of 1. D is at most n and F.
        """
        features = _one_length(features.double())
        mean = features.mean(dim=0)
        variances, directions = torch.linalg.eigh((features - mean).T.cov())
        directions = directions[:, -self.width :].T / variances[-self.width :].mean().sqrt()
        self.linear.weight.copy_(directions)
        self.linear.bias.copy_(-directions @ mean)


def _one_length(x: Tensor) -> Tensor:
    """Scale rows (B, F) to a mean square of 1."""
    return nn.functional.normalize(x, dim=-1) * x.size(-1) ** 0.5


def make_backbone(settings: RQDinoSettings, drop_path: float = 0.0) -> Backbone:
    """`image_backbone` without its classifier, for images of `image_size` and `image_local_size`.

    The weights are random (`image_weights` unset), timm's pretrained ones (`hub`), or from a
    .safetensors or .pth file, which is read without running code from it.

    Args:
        drop_path: rate of stochastic depth.

    Raises:
        UserError: the name is unknown, the model does not accept the arguments or sizes, or the
            weights are not available or do not fit.
    """
    source: dict[str, Any] = {}
    if settings.weights == HUB:
        source = {"pretrained": True}
    elif settings.weights:
        weights = _read_weights(Path(settings.weights))
        source = {"pretrained": True, "pretrained_cfg_overlay": {"state_dict": weights}}
    try:
        backbone = Backbone(_create(settings, {**source, "drop_path_rate": drop_path}))
    except Exception as error:  # timm, the hub and the network raise many types
        raise UserError(_explain(settings, error)) from error
    if settings.weights and settings.weights != HUB:
        _check_match(settings, set(backbone.model.state_dict()), set(weights))
    _check_sizes(settings, backbone)
    return backbone


def _create(settings: RQDinoSettings, options: dict[str, Any]) -> Any:
    """Create the model. Transformers must be told the image size, and that it varies; convolutional
    networks do not accept these arguments."""
    options = {"num_classes": 0, **options, **settings.backbone_args}
    sized = {"img_size": settings.size, "dynamic_img_size": True}
    try:
        return timm.create_model(settings.backbone, **sized, **options)
    except TypeError as error:
        if not any(f"'{name}'" in str(error) for name in sized):
            raise
    return timm.create_model(settings.backbone, **options)


def _explain(settings: RQDinoSettings, error: Exception) -> str:
    reason = f"({type(error).__name__}: {one_line(error)})"
    if settings.backbone not in timm.list_models():
        name = settings.backbone.partition(".")[0]
        if name not in timm.list_models():
            near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.3)
            near = near or ["vit_tiny_patch16_224", "resnet18"]
            return (
                f"image_backbone {settings.backbone!r} is not a model of timm; the nearest names "
                f"are {', '.join(near)}."
            )
    if settings.weights == HUB:
        return (
            f"image_weights=hub: the pretrained {settings.backbone} is not available {reason}. The "
            "hub may be unreachable: download the file elsewhere and set its path as "
            "image_weights, or leave image_weights unset to train from scratch."
        )
    return (
        f"image_backbone {settings.backbone!r} cannot be made with image_size {settings.size}, "
        f"image_backbone_args {settings.backbone_args} and image_weights {settings.weights} "
        f"{reason}: check these."
    )


def _check_sizes(settings: RQDinoSettings, backbone: nn.Module) -> None:
    """Check both image sizes by a forward pass, before any slow work."""
    backbone.eval()
    sizes = {"image_size": settings.size}
    if settings.n_local_crops:
        sizes["image_local_size"] = settings.local_size
    for key, size in sizes.items():
        try:
            with torch.no_grad():
                features = backbone(torch.zeros(1, 3, size, size))
        except Exception as error:
            raise UserError(
                f"image_backbone {settings.backbone!r} does not accept {key} ({size}) "
                f"({one_line(error)}): a multiple of its patch size fits; without local crops "
                "(image_n_local_crops=0) only image_size counts."
            ) from error
        if features.dim() != 2 or features.size(1) < 2:
            raise UserError(
                f"image_backbone {settings.backbone!r} gives {tuple(features.shape)} for one image "
                "instead of one vector: choose another one, or set global_pool in "
                "image_backbone_args."
            )


# --- weight files ---------------------------------------------------------------------------------


def _read_weights(file: Path) -> dict[str, Tensor]:
    """The weights, name -> tensor, without the wrappers and prefixes that training programs add."""
    if not file.is_file():
        raise UserError(
            f"image_weights ({file}) is neither 'hub' nor a file: give the path of a .safetensors "
            "or .pth file."
        )
    try:
        if file.suffix == ".safetensors":
            state = safetensors.torch.load_file(file)
        else:
            state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged or pickled file
        raise UserError(
            f"image_weights ({file}) is damaged or holds more than plain tensors, which is not "
            f"loaded because it could run code ({one_line(error)}): convert it to .safetensors."
        ) from error
    if not isinstance(state, dict):
        raise UserError(
            f"image_weights ({file}) holds one {type(state).__name__}: it must hold a dict of "
            "weights by name."
        )
    checkpoint.check_size(state, f"image_weights ({file})")
    for name in _WRAPPERS:
        if isinstance(state.get(name), dict):
            state = state[name]
    named = {k: v for k, v in state.items() if isinstance(k, str)}
    weights = {k: v for k, v in named.items() if isinstance(v, torch.Tensor)}
    if not weights:
        raise UserError(
            f"image_weights ({file}) holds no weights but {[*state][:3]}: it must hold a dict of "
            "weights by name."
        )
    schema.check(weights, schema.WEIGHTS, f"image_weights ({file})", "a file of weights")
    for prefix in _PREFIXES:
        if any(name.startswith(prefix) for name in weights):
            weights = {n.removeprefix(prefix): w for n, w in weights.items() if prefix in n}
    return weights


def _check_match(settings: RQDinoSettings, wanted: set[str], given: set[str]) -> None:
    """Raise UserError if more than a tenth of the weights are missing: timm would leave these
    layers random without a warning."""
    lacking = sorted(wanted - given)
    if len(lacking) > len(wanted) // 10:
        raise UserError(
            f"image_weights ({settings.weights}) lacks {len(lacking)} of the {len(wanted)} tensors "
            f"of {settings.backbone}, such as {lacking[:3]}; it holds {sorted(given)[:3]}: use a "
            "file made for this backbone."
        )
