"""The layout of rosinality/stylegan2-pytorch: a dict with the state dict `g_ema` and the vector `latent_avg`.

StyleCLIP, StyleGAN-NADA, e4e and pSp store their generators the same way, in part under other keys.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, BinaryIO

from stylograph.errors import WeightsError
from stylograph.weights.checkpoint import Checkpoint, check_fir, damaged, finish, style_layers
from stylograph.weights.sniff import explain

if TYPE_CHECKING:
    from torch import Tensor

# Inside a convolution or ToRGB: our name -> theirs.
_CONV = {
    "weight": "conv.weight",
    "bias": "activate.bias",
    "affine.weight": "conv.modulation.weight",
    "affine.bias": "conv.modulation.bias",
    "noise_strength": "noise.weight",
}
_TORGB = {**_CONV, "bias": "bias"}
# channels of the official code with channel_multiplier 1; it doubles those above 32
_OFFICIAL = {4: 512, 8: 512, 16: 512, 32: 512, 64: 256, 128: 128, 256: 64, 512: 32, 1024: 16}


def is_state_dict(names: Any) -> bool:
    """Whether these are the names of a generator in this layout."""
    return "input.input" in names and "style.1.weight" in names


def from_state_dict(tensors: dict[str, Tensor], latent_avg: Tensor | None) -> Checkpoint:
    """The generator with this state dict.

    latent_avg: [w_dim], [1, w_dim] or [num_ws, w_dim], or None if the file has none.
    """
    import torch

    if any(".iwt." in name for name in tensors):
        raise explain(tensors)
    left = dict(tensors)
    for name in [name for name in left if name.endswith((".blur.kernel", ".upsample.kernel"))]:
        check_fir(name, left.pop(name), 4.0)
    notes: list[str] = []
    found: dict[str, Tensor] = {}
    for theirs, ours in _names(left).items():
        if theirs in left:
            found[ours] = _to_canonical(ours, left.pop(theirs))
    if left:
        listed = ", ".join(sorted(left)[:3])
        raise damaged(f"{len(left)} tensors a StyleGAN2 generator does not have: {listed[:200]}")
    strengths = [name for name in found if name.endswith("noise_strength")]
    maps = [name for name in found if name.endswith("noise_const")]
    if maps and not any(bool(found[name].any()) for name in maps + strengths):
        for name in maps + strengths:  # what `save` writes for a generator without noise inputs
            del found[name]
    elif strengths and not maps:
        rng = torch.Generator().manual_seed(0)
        for name in strengths:
            side = int(name.split(".")[1].removeprefix("b"))
            found[name.replace("noise_strength", "noise_const")] = torch.randn(side, side, generator=rng)
        notes.append("no noise maps in the file; fixed ones were drawn, so details differ from other tools' pictures")
    if latent_avg is not None:
        rows = latent_avg.reshape(-1, latent_avg.shape[-1]) if latent_avg.ndim else latent_avg.reshape(1, 1)
        if not torch.equal(rows, rows[:1].expand_as(rows)):
            notes.append("the file's average latent differs from layer to layer; its mean over the layers is used")
        found["mapping.w_avg"] = rows[0].clone() if torch.equal(rows, rows[:1].expand_as(rows)) else rows.mean(0)
    return finish(found, format="rosinality", notes=notes)


def write(checkpoint: Checkpoint, stream: BinaryIO) -> list[str]:
    """Writes the generator; returns what the format could not hold. Raises `WeightsError` if it cannot hold it at all."""
    import torch

    config = checkpoint.config
    _refuse_unrepresentable(config)
    remarks = []
    if config["conv_clamp"] is not None:
        remarks.append(
            f"the rosinality format has no activation clamp: conv_clamp {config['conv_clamp']:g} is dropped, "
            "pictures may differ where activations are large"
        )
    sides = [4 << i for i in range(len(config["channels"]))]
    official = [[_OFFICIAL.get(side, 0) * (multiplier if side > 32 else 1) for side in sides] for multiplier in (1, 2)]
    if list(config["channels"]) not in official:
        remarks.append(
            f"channels {list(config['channels'])} are neither of the two tables of the official code: "
            "it will not load this file unchanged; tools that read the widths off the file will"
        )
    if config["z_dim"] != config["w_dim"] or any(width != config["w_dim"] for width in config["mapping_features"]):
        remarks.append(
            "the mapping network's widths are not all equal: the official code will not load this file unchanged"
        )
    if checkpoint.mapper is not None:
        remarks.append("the rosinality format has no room for the latent mapper: samples will be without its mining")
    if checkpoint.provenance:
        lost = (
            ": edits of the generators it was adapted from will be refused"
            if "ancestors" in checkpoint.provenance
            else ""
        )
        remarks.append(f"the rosinality format has no room for provenance; it is dropped{lost}")
    tensors = dict(checkpoint.tensors)
    if not config["noise"]:
        remarks.append("the generator has no noise inputs; noise maps and strengths are written as zeros")
        for name, resolution, _, _ in style_layers(config["channels"]):
            if "conv" in name:
                tensors[f"synthesis.{name}.noise_strength"] = torch.zeros([])
                tensors[f"synthesis.{name}.noise_const"] = torch.zeros(resolution, resolution)
    average = tensors.pop("mapping.w_avg", None)
    state = {theirs: _from_canonical(ours, tensors[ours]) for theirs, ours in _ours(config).items()}
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    for i in range(len(config["channels"]) - 1):
        state[f"convs.{2 * i}.conv.blur.kernel"] = torch.outer(taps, taps) / 16
        state[f"to_rgbs.{i}.upsample.kernel"] = torch.outer(taps, taps) / 16
    content: dict[str, Any] = {"g_ema": state}
    if average is not None:
        content["latent_avg"] = average.clone()
    torch.save(content, stream)
    return remarks


def _refuse_unrepresentable(config: dict[str, Any]) -> None:
    reasons = [
        (config["c_dim"] != 0, f"class labels (c_dim {config['c_dim']})"),
        (config["img_channels"] != 3, f"{config['img_channels']} image channels"),
        (not math.isclose(config["lr_multiplier"], 0.01, rel_tol=1e-5), f"lr_multiplier {config['lr_multiplier']:g}"),
    ]
    found = [text for wrong, text in reasons if wrong]
    if found:
        raise WeightsError(
            f"got a generator with {' and '.join(found)}; the rosinality format can only hold unconditional RGB "
            "generators with lr_multiplier 0.01; write .safetensors instead"
        )


def _names(tensors: dict[str, Tensor]) -> dict[str, str]:
    """theirs -> ours, as far as the numbers of layers in the file go."""
    indices = [int(m.group(1)) for name in tensors if (m := re.match(r"to_rgbs\.(\d{1,2})\.", name))]
    styles = [int(m.group(1)) for name in tensors if (m := re.match(r"style\.(\d{1,3})\.", name))]
    blocks = min(max(indices, default=-1) + 2, 16)
    return _ours({"channels": [0] * blocks, "mapping_features": [0] * max(styles, default=0)})


def _ours(config: dict[str, Any]) -> dict[str, str]:
    """theirs -> ours for all tensors, in the order the official module registers them."""
    names: dict[str, str] = {}
    for j in range(len(config["mapping_features"])):
        for kind in ("weight", "bias"):
            names[f"style.{j + 1}.{kind}"] = f"mapping.fc{j}.{kind}"
    names["input.input"] = "synthesis.b4.const"
    noise: dict[str, str] = {}
    for layer, resolution, _, _ in style_layers(config["channels"]):
        block = resolution.bit_length() - 4  # index among to_rgbs; -1 for 4x4
        kind = layer.partition(".")[2]
        if kind == "torgb":
            theirs, inside = ("to_rgb1" if block < 0 else f"to_rgbs.{block}"), _TORGB
        else:
            theirs, inside = ("conv1" if block < 0 else f"convs.{2 * block + int(kind[-1])}"), _CONV
            noise[f"noises.noise_{len(noise)}"] = f"synthesis.{layer}.noise_const"
        for ours_part, theirs_part in inside.items():
            if not (kind == "torgb" and ours_part == "noise_strength"):
                names[f"{theirs}.{theirs_part}"] = f"synthesis.{layer}.{ours_part}"
    return {**names, **noise}


def _to_canonical(ours: str, tensor: Tensor) -> Tensor:
    """Drops the axes of length 1 this layout adds; leaves other shapes for the shape check to refuse."""
    if ours.endswith("noise_const") and tensor.ndim == 4 and tensor.shape[:2] == (1, 1):
        return tensor[0, 0]
    if ours.endswith("noise_strength") and tensor.shape == (1,):
        return tensor[0]
    if ours.endswith("torgb.bias") and tensor.ndim == 4 and tensor.numel() == tensor.shape[1]:
        return tensor.reshape(-1)
    leading = ours.endswith("const") or (ours.endswith(".weight") and tensor.ndim == 5)
    return tensor[0] if leading and tensor.ndim and tensor.shape[0] == 1 else tensor


def _from_canonical(ours: str, tensor: Tensor) -> Tensor:
    if ours.endswith("noise_const"):
        tensor = tensor[None, None]
    elif ours.endswith("noise_strength"):
        tensor = tensor.reshape(1)
    elif ours.endswith("torgb.bias"):
        tensor = tensor.reshape(1, -1, 1, 1)
    elif ours.endswith("const") or (ours.endswith(".weight") and tensor.ndim == 4):
        tensor = tensor[None]
    return tensor.detach().clone().contiguous()
