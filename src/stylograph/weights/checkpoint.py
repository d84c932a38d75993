"""A checkpoint as plain data, and the shape of a StyleGAN2 read off its tensors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stylograph.errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

EXPECTED = "a StyleGAN2 checkpoint (rosinality .pt, NVIDIA .pkl or stylograph .safetensors)"


@dataclass(frozen=True)
class Checkpoint:
    """A generator as plain data."""

    arch: str
    """Always "stylegan2" for now."""
    config: dict[str, Any]
    """JSON-ready fields of `StyleGAN2Config`."""
    tensors: dict[str, Tensor]
    """Float32, contiguous, on the CPU, under the NVIDIA layout's names, without the constant low-pass kernels."""
    format: str
    """The layout it was read from: "rosinality", "nvidia" or "stylograph"."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """How it was made, as far as the file says."""
    notes: tuple[str, ...] = ()
    """What a user of this file should know."""
    mapper: tuple[Mapping[str, Any], Mapping[str, Tensor]] | None = None
    """Config and tensors of the latent mapper that sampled latents go through, if there is one."""


def refusal(what: str, todo: str) -> WeightsError:
    """The error about a file that is something else; the reader puts the file's name in front."""
    return WeightsError(f"got {what}; expected {EXPECTED}; {todo}")


def damaged(detail: str) -> WeightsError:
    """The error about a checkpoint that contradicts itself or ends too early."""
    return refusal(f"a damaged checkpoint ({detail})", "download or save the file again")


def infer_config(
    shapes: Mapping[str, tuple[int, ...]], *, conv_clamp: float | None = None, lr_multiplier: float = 0.01
) -> dict[str, Any]:
    """The config that tensors of these shapes belong to; the two arguments leave no trace in shapes.

    Raises `WeightsError` if any tensor is missing, unknown or of another shape than the rest implies.
    """

    def size(name: str, axis: int) -> int:
        shape = shapes.get(name, ())
        if axis >= len(shape) or shape[axis] < 1:
            raise damaged(f"{name} is missing or empty")
        return shape[axis]

    depth = 0
    while f"mapping.fc{depth}.weight" in shapes:
        depth += 1
    blocks = 0
    while blocks < 20 and f"synthesis.b{4 << blocks}.conv1.weight" in shapes:
        blocks += 1
    if not depth or not blocks:
        missing = "mapping.fc0.weight" if not depth else "synthesis.b4.conv1.weight"
        raise damaged(f"no {missing} among its {len(shapes)} tensors")
    conditional = "mapping.embed.weight" in shapes
    embed_features = size("mapping.embed.weight", 0) if conditional else 0
    config: dict[str, Any] = {
        "resolution": 4 << (blocks - 1),
        "channels": [size(f"synthesis.b{4 << i}.conv1.weight", 0) for i in range(blocks)],
        "z_dim": size("mapping.fc0.weight", 1) - embed_features,
        "w_dim": size("synthesis.b4.conv1.affine.weight", 1),
        "mapping_features": [size(f"mapping.fc{i}.weight", 0) for i in range(depth)],
        "c_dim": size("mapping.embed.weight", 1) if conditional else 0,
        "embed_features": embed_features,
        "img_channels": size("synthesis.b4.torgb.weight", 0),
        "conv_clamp": conv_clamp,
        "noise": "synthesis.b4.conv1.noise_strength" in shapes,
        "lr_multiplier": lr_multiplier,
    }
    if config["z_dim"] < 1:
        raise damaged("its mapping network takes no z")
    expected = expected_shapes(config)
    if "mapping.w_avg" not in shapes:
        del expected["mapping.w_avg"]
    if expected != dict(shapes):
        raise _misfit(shapes, expected)
    return config


def expected_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor of a StyleGAN2 with this config."""
    w_dim, widths = config["w_dim"], list(config["mapping_features"])
    shapes: dict[str, tuple[int, ...]] = {"mapping.w_avg": (w_dim,)}
    if config["c_dim"]:
        shapes["mapping.embed.weight"] = (config["embed_features"], config["c_dim"])
        shapes["mapping.embed.bias"] = (config["embed_features"],)
    for i, (n_in, n_out) in enumerate(zip([config["z_dim"] + config["embed_features"], *widths], widths)):
        shapes[f"mapping.fc{i}.weight"] = (n_out, n_in)
        shapes[f"mapping.fc{i}.bias"] = (n_out,)
    if widths[-1] != w_dim:
        raise damaged(f"its mapping network ends with {widths[-1]} numbers, its synthesis takes {w_dim}")
    for name, resolution, c_in, c_out in style_layers(config["channels"]):
        kernel, width = (3, c_out) if "conv" in name else (1, config["img_channels"])
        prefix = f"synthesis.{name}"
        shapes[f"{prefix}.weight"] = (width, c_in, kernel, kernel)
        shapes[f"{prefix}.bias"] = (width,)
        shapes[f"{prefix}.affine.weight"] = (c_in, w_dim)
        shapes[f"{prefix}.affine.bias"] = (c_in,)
        if config["noise"] and kernel == 3:
            shapes[f"{prefix}.noise_strength"] = ()
            shapes[f"{prefix}.noise_const"] = (resolution, resolution)
    shapes["synthesis.b4.const"] = (config["channels"][0], 4, 4)
    return shapes


def style_layers(channels: list[int]) -> Iterator[tuple[str, int, int, int]]:
    """(name, resolution, input channels, output channels) of every style-driven layer, in running order."""
    for i, width in enumerate(channels):
        resolution = 4 << i
        if i:
            yield f"b{resolution}.conv0", resolution, channels[i - 1], width
        yield f"b{resolution}.conv1", resolution, width, width
        yield f"b{resolution}.torgb", resolution, width, width


def finish(
    tensors: dict[str, Tensor],
    *,
    format: str,
    conv_clamp: float | None = None,
    lr_multiplier: float = 0.01,
    provenance: dict[str, Any] | None = None,
    notes: list[str] | None = None,
) -> Checkpoint:
    """The checked checkpoint of these canonical tensors: shapes fit each other, all numbers are finite."""
    import torch

    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    config = infer_config(shapes, conv_clamp=conv_clamp, lr_multiplier=lr_multiplier)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            raise damaged(f"{name} holds {tensor.dtype}, not floating point numbers")
        if not bool(torch.isfinite(tensor).all()):
            raise damaged(f"{name} holds NaN or infinite values")
    remarks = list(notes or [])
    if "mapping.w_avg" not in tensors:
        remarks.append("no average latent in the file; it will be estimated from random samples")
    return Checkpoint(
        arch="stylegan2",
        config=config,
        tensors={name: tensor.to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()},
        format=format,
        provenance=provenance or {},
        notes=tuple(remarks),
    )


def check_fir(name: str, kernel: Tensor, gain: float) -> None:
    """Refuses a low-pass kernel other than the usual outer([1,3,3,1])/64 times `gain`."""
    import torch

    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    usual = torch.outer(taps, taps) * (gain / 64)
    if tuple(kernel.shape) != (4, 4) or not torch.allclose(kernel.float(), usual, atol=1e-6):
        raise refusal(
            f"a StyleGAN2 whose resampling filter {name} is not the usual [1, 3, 3, 1]",
            "use a generator trained with the default filter",
        )


def number(value: object, what: str) -> float:
    """A finite float out of a file, or `WeightsError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise damaged(f"{what} is no finite number")  # never print the value: it may be anything, and endless
    return float(value)


def _misfit(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> WeightsError:
    wrong = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))

    def show(shape: tuple[int, ...] | None) -> str:
        return "nothing" if shape is None else str(list(shape))

    examples = [f"{name[:80]}: got {show(found.get(name))}, expected {show(expected.get(name))}" for name in wrong[:3]]
    return damaged(f"{len(wrong)} tensors do not fit a StyleGAN2: {'; '.join(examples)}")
