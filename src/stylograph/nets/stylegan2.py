"""StyleGAN2 generator (Karras et al. 2020), one implementation for every public checkpoint layout.

Module and parameter names are those of the NVIDIA PyTorch layout. Three things differ from the reference code,
none of them in the numbers: activations are modulated instead of weights (one shared convolution for the whole
batch), tensors are channels-last, and synthesis can stop, hand out its state and go on from it later.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylograph.nets.modulation import SQRT2, FusedStyleConv, demodulation, fir_kernel, upsample_image


@dataclass(frozen=True)
class StyleGAN2Config:
    """Shape of a StyleGAN2 generator; every field can be read off a checkpoint."""

    resolution: int
    """Side of the output image, a power of two."""
    channels: tuple[int, ...]
    """Feature channels of the blocks 4x4, 8x8, ... up to `resolution`."""
    z_dim: int
    w_dim: int
    mapping_features: tuple[int, ...]
    """Output width of every mapping layer; the last one is `w_dim`."""
    c_dim: int = 0
    """Number of class labels, 0 for an unconditional generator."""
    embed_features: int = 0
    """Width of the label embedding."""
    img_channels: int = 3
    conv_clamp: float | None = None
    """Bound on activations (NVIDIA models trained in mixed precision), in force in every precision."""
    noise: bool = True
    """Whether the layers have noise inputs."""
    lr_multiplier: float = 0.01
    """Run-time factor of mapping weights and biases."""

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> StyleGAN2Config:
        """The config of a checkpoint's metadata (lists become tuples; unknown fields are an error)."""
        unknown = set(values) - {f.name for f in fields(cls)}
        if unknown:
            raise ValueError(f"unknown config fields: {', '.join(sorted(unknown))}")
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @property
    def resolutions(self) -> tuple[int, ...]:
        return tuple(4 << i for i in range(len(self.channels)))

    @property
    def num_ws(self) -> int:
        """Number of W+ vectors: one per 3x3 convolution, one more for the last ToRGB."""
        return 2 * len(self.channels)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """All style-driven layers in the order they run, which is also the order of StyleSpace."""
        found: list[Layer] = []
        start = 0
        for i, resolution in enumerate(self.resolutions):
            c_in, c_out = self.channels[max(i - 1, 0)], self.channels[i]
            rows = [("conv0", c_in, 2 * i - 1)] if i else []
            rows += [("conv1", c_out, 2 * i), ("torgb", c_out, 2 * i + 1)]
            for name, width, w_index in rows:
                stop = start + width
                found.append(
                    Layer(f"b{resolution}.{name}", resolution, width, name == "torgb", w_index, slice(start, stop))
                )
                start = stop
        return tuple(found)


@dataclass(frozen=True)
class Layer:
    """One style-driven layer of a generator."""

    name: str
    """Module path below `synthesis`, e.g. "b64.conv0"."""
    resolution: int
    """Side of the layer's output."""
    channels: int
    """Length of its style vector: the layer's input channels."""
    to_rgb: bool
    w_index: int
    """Which W+ vector drives it."""
    s_slice: slice
    """Where its style vector sits in a StyleSpace tensor [N, sum of channels]."""


@dataclass(frozen=True)
class State:
    """Where synthesis stands: the next layer to run, features so far, image so far.

    Everything in it depends only on the styles of layers before `layer`.
    """

    layer: int
    x: Tensor | None
    """[N, C, r, r] in the compute precision."""
    image: Tensor | None
    """[N, img_channels, r, r] in float32."""

    def repeat(self, times: int) -> State:
        """The state of the batch said `times` over: item i of repeat k is row k·N + i."""
        return State(self.layer, *(None if t is None else t.repeat(times, 1, 1, 1) for t in (self.x, self.image)))


class Dense(nn.Module):
    """Fully connected layer with equalised learning rate: y = x·(W·m/√in)ᵀ + b·m."""

    def __init__(self, n_in: int, n_out: int, *, lr_multiplier: float = 1.0, bias_init: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / lr_multiplier)
        self.bias = nn.Parameter(torch.full([n_out], bias_init / lr_multiplier))
        self.lr_multiplier = lr_multiplier

    def forward(self, x: Tensor) -> Tensor:
        gain = self.lr_multiplier / math.sqrt(self.weight.shape[1])
        return F.linear(x, self.weight * gain, self.bias * self.lr_multiplier)


def normalize_2nd_moment(x: Tensor) -> Tensor:
    """x / √(mean(x²) + 1e-8) over the last axis ("pixel norm" of the mapping network)."""
    return x * (x.square().mean(-1, keepdim=True) + 1e-8).rsqrt()


class Mapping(nn.Module):
    """z [N, z_dim] (and a label [N, c_dim]) -> w [N, w_dim]."""

    w_avg: Tensor

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        widths = [config.z_dim + config.embed_features, *config.mapping_features]
        self.depth = len(config.mapping_features)
        if config.c_dim:
            self.embed = Dense(config.c_dim, config.embed_features)
        for i in range(self.depth):
            self.add_module(f"fc{i}", Dense(widths[i], widths[i + 1], lr_multiplier=config.lr_multiplier))
        self.register_buffer("w_avg", torch.zeros(config.w_dim))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        x = normalize_2nd_moment(z)
        if label is not None:
            x = torch.cat([x, normalize_2nd_moment(self.embed(label))], dim=1)
        for i in range(self.depth):
            x = F.leaky_relu(getattr(self, f"fc{i}")(x), 0.2) * SQRT2
        return x


class StyleConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU."""

    noise_const: Tensor
    up_kernel: Tensor

    def __init__(self, c_in: int, c_out: int, resolution: int, config: StyleGAN2Config, *, up: bool) -> None:
        super().__init__()
        self.affine = Dense(config.w_dim, c_in, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(c_out, c_in, 3, 3).contiguous(memory_format=torch.channels_last))
        self.bias = nn.Parameter(torch.zeros(c_out))
        self.clamp = config.conv_clamp
        self.resolution = resolution
        self.up = up
        self.has_noise = config.noise
        if config.noise:
            self.noise_strength = nn.Parameter(torch.zeros([]))
            self.register_buffer("noise_const", torch.randn(resolution, resolution))
        if up:
            self.register_buffer("up_kernel", fir_kernel(4.0), persistent=False)

    def forward(self, x: Tensor, style: Tensor, *, noise: str = "const", rng: torch.Generator | None = None) -> Tensor:
        """x [N, C_in, r, r] under style [N, C_in] -> [N, C_out, r', r'], r' = 2r for an up-sampling layer.

        Equal to convolving each sample with its own weight W·s·d(s), but s and d scale activations instead, so the
        whole batch shares one convolution.
        """
        scale = demodulation(self.weight, style)
        if x.dtype in (torch.float16, torch.bfloat16):
            # Keep products small: this factor cancels exactly, so it needs no gradient.
            size = style.detach().abs().amax(1, keepdim=True).clamp_min(1e-8) * math.sqrt(self.weight[0].numel())
            style, scale = style / size, scale * size
        noise_map = self.noise_map(x, noise, rng) if self.has_noise and noise != "none" else None
        up_kernel = self.up_kernel if self.up else None
        weight = self.weight.to(x.dtype)
        return FusedStyleConv.apply(x, style, scale, weight, self.bias, noise_map, up_kernel, self.clamp)

    def noise_map(self, x: Tensor, noise: str, rng: torch.Generator | None) -> Tensor:
        if noise == "const":
            return self.noise_const * self.noise_strength
        shape = (x.shape[0], 1, self.resolution, self.resolution)
        # Drawn where the generator lives (usually the CPU), so a seed means the same picture on every device.
        drawn = torch.randn(shape, generator=rng, device=rng.device if rng else x.device)
        return drawn.to(self.noise_strength) * self.noise_strength


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to the image, without demodulation. Styles exclude the 1/√C gain."""

    def __init__(self, c_in: int, config: StyleGAN2Config) -> None:
        super().__init__()
        self.affine = Dense(config.w_dim, c_in, bias_init=1.0)
        self.weight = nn.Parameter(torch.randn(config.img_channels, c_in, 1, 1))
        self.bias = nn.Parameter(torch.zeros(config.img_channels))
        self.clamp = config.conv_clamp

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        n, c, h, w = x.shape
        # Here it is the weight that is modulated: 3·C numbers instead of C·H·W, and nothing large to keep for backward.
        weight = self.weight[:, :, 0, 0] * (style / math.sqrt(c))[:, None, :]  # [N, 3, C]
        rows = x.permute(0, 2, 3, 1).reshape(n, h * w, c)
        image = torch.bmm(rows, weight.to(x.dtype).transpose(1, 2)).to(self.bias.dtype) + self.bias
        image = image.view(n, h, w, -1).permute(0, 3, 1, 2)
        return image if self.clamp is None else image.clamp(-self.clamp, self.clamp)


class Synthesis(nn.Module):
    """Style vectors -> image."""

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.layers = config.layers
        for i, resolution in enumerate(config.resolutions):
            block = nn.Module()
            c_in, c_out = config.channels[max(i - 1, 0)], config.channels[i]
            if i == 0:
                block.const = nn.Parameter(torch.randn(c_out, 4, 4))
            else:
                block.conv0 = StyleConv(c_in, c_out, resolution, config, up=True)
            block.conv1 = StyleConv(c_out, c_out, resolution, config, up=False)
            block.torgb = ToRGB(c_out, config)
            self.add_module(f"b{resolution}", block)

    def styles(self, ws: Tensor) -> Tensor:
        """W+ [N, num_ws, w_dim] -> S [N, sum of channels] (the affine layers)."""
        return torch.cat([self.get_submodule(f"{la.name}.affine")(ws[:, la.w_index]) for la in self.layers], dim=1)

    def run(
        self,
        s: Tensor,
        *,
        noise: str = "const",
        rng: torch.Generator | None = None,
        dtype: torch.dtype = torch.float32,
        start: State | None = None,
        stop: int | None = None,
    ) -> State:
        """Runs layers from `start` up to (not including) index `stop`, in `dtype`.

        s: [N, sum of channels]. Only the styles of the layers that run are read, so a state computed once can be
        continued under many different styles of the later layers.
        """
        state = start or State(0, None, None)
        x, image = state.x, state.image
        if x is None:
            const = self.get_parameter("b4.const").to(dtype)
            x = const.expand(s.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        stop = len(self.layers) if stop is None else stop
        for layer in self.layers[state.layer : stop]:
            module = self.get_submodule(layer.name)
            style = s[:, layer.s_slice]
            if layer.to_rgb:
                rgb = module(x, style)
                image = rgb if image is None else upsample_image(image) + rgb
            else:
                x = module(x, style, noise=noise, rng=rng)
        return State(stop, x, image)


class StyleGAN2(nn.Module):
    """Mapping and synthesis under one roof; parameter names are the NVIDIA layout's."""

    def __init__(self, config: StyleGAN2Config) -> None:
        super().__init__()
        self.config = config
        self.mapping = Mapping(config)
        self.synthesis = Synthesis(config)

    def reset_kernels(self) -> None:
        """Fills the constant low-pass kernels, which no checkpoint holds (after `to_empty`)."""
        for module in self.modules():
            if isinstance(module, StyleConv) and module.up:
                module.up_kernel.copy_(fir_kernel(4.0))

    def stop_index(self, resolution: int) -> int:
        """The layer index after which the image of `resolution` is complete."""
        return 1 + max(i for i, la in enumerate(self.config.layers) if la.resolution == resolution and la.to_rgb)

    def forward(self, ws: Tensor, *, noise: str = "const", dtype: torch.dtype = torch.float32) -> Tensor:
        """W+ [N, num_ws, w_dim] -> image [N, img_channels, R, R], nominally in [-1, 1] (training entry)."""
        image = self.synthesis.run(self.synthesis.styles(ws), noise=noise, dtype=dtype).image
        assert image is not None
        return image
