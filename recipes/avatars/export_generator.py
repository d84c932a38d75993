"""Turn a training state (or the warm start) into the generator file the package ships.

``python -m recipes.avatars.export_generator --state .work/generator/state.pt --out generator.safetensors``
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from stylograph.nets.stylegan2 import StyleGAN2, StyleGAN2Config
from stylograph.weights import Checkpoint, write

DROPPED = (".noise_const", ".noise_strength", ".resample_filter")
"""Flat shapes want no noise, and the resampling kernels are constants."""


@dataclass(frozen=True)
class ExportConfig:
    """What to export, and where to."""

    state: Path
    """Training state (``.pt``) or a ``.safetensors`` file with ``G_ema.*``."""
    out: Path
    """The file to write."""


def generator_config(
    resolution: int, *, channel_base: int = 2048, channel_max: int = 128, width: int = 128, layers: int = 4
) -> StyleGAN2Config:
    """The avatars generator: channels min(base/r, max), z = w = `width`, no noise."""
    sides = [4 << i for i in range(resolution.bit_length() - 2)]
    channels = tuple(min(channel_base // side, channel_max) for side in sides)
    return StyleGAN2Config(
        resolution=resolution,
        channels=channels,
        z_dim=width,
        w_dim=width,
        mapping_features=(width,) * layers,
        noise=False,
    )


def read_warm_start(path: Path, part: str) -> dict[str, Tensor]:
    """Tensors of one part (``G``, ``G_ema`` or ``D``) of a warm start file, prefix and constants dropped."""
    with safe_open(path, "pt") as file:
        keys = [key for key in file.keys() if key.startswith(f"{part}.")]  # noqa: SIM118
        if not keys:
            raise SystemExit(f"{path} has no tensors {part}.*; expected a warm start file")
        return {key[len(part) + 1 :]: file.get_tensor(key) for key in keys if not key.endswith(DROPPED)}


def load_ema(path: Path) -> tuple[StyleGAN2, dict[str, Any]]:
    """The averaged generator of a training state or warm start, and its provenance."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        config = generator_config(int(metadata["resolution"]))
        tensors, images = read_warm_start(path, "G_ema"), int(metadata["images_seen"])
        training = "adversarial"
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
        config = StyleGAN2Config.from_dict(state["generator_config"])
        tensors, images = state["ema"], state["images"]
        training = "latents paired with renders (recipes/avatars/codes.py), adversarial losses in the later phases"
    net = StyleGAN2(config)
    net.load_state_dict(tensors)
    provenance = {
        "recipe": "recipes/avatars/train_generator.py",
        "training": training,
        "images_seen": images,
        "data": "DiceBear style 'personas' by Draftbit, CC BY 4.0, drawn by recipes/avatars/render.py",
    }
    return net.eval().requires_grad_(False), provenance


def export(config: ExportConfig) -> None:
    """Write the averaged generator as a package file."""
    net, provenance = load_ema(config.state)
    tensors = {key: value.float().contiguous() for key, value in net.state_dict().items()}
    write(Checkpoint("stylegan2", net.config.to_dict(), tensors, "stylograph", provenance), config.out)
    print(f"{config.out}: {net.config.resolution} px, {provenance['images_seen']} images seen")


if __name__ == "__main__":
    import tyro

    export(tyro.cli(ExportConfig))
