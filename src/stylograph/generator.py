"""A StyleGAN2 generator of any shape: latent codes in, images out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylograph.errors import LatentsError, StylographError, WeightsError, one_of
from stylograph.nets.mapper import LatentMapper, MapperConfig
from stylograph.nets.stylegan2 import Layer, StyleGAN2, StyleGAN2Config
from stylograph.types import Latents
from stylograph.weights import REGISTRY, Checkpoint, locate, read, write
from stylograph.weights.tensors import hash_tensors

NOISE_MODES = ("const", "random", "none")
STATISTICS_SAMPLES = 10_000


@dataclass(frozen=True)
class StyleStatistics:
    """Mean and standard deviation of every StyleSpace channel, [sum of channels] each."""

    mean: Tensor
    std: Tensor


class Generator:
    """A StyleGAN2 generator with its own account of its layers.

    Its weights are frozen: gradients flow to the latents you render, never to the network.
    """

    def __init__(
        self,
        net: StyleGAN2,
        *,
        mapper: LatentMapper | None = None,
        provenance: dict[str, Any] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """mapper: a latent mapper in W+ that sampled latents go through (StyleGAN-NADA's latent-mapper mining)."""
        self.net = net.eval().requires_grad_(False)
        self.mapper = None if mapper is None else mapper.eval().requires_grad_(False)
        self.config: StyleGAN2Config = net.config
        self.layers: tuple[Layer, ...] = net.config.layers
        self.provenance = dict(provenance or {})
        self.notes = tuple(notes)
        self.dtype = torch.float32
        self._statistics: dict[tuple[float, torch.device], StyleStatistics] = {}

    # ---------------------------------------------------------------- making

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        offline: bool = False,
        on_step: Callable[[int, int | None], None] | None = None,
    ) -> Generator:
        """Loads a generator from a known name, a file, a URL or a hub id.

        source: "avatars", a name listed by `stylograph models`, a path to a rosinality .pt, an NVIDIA .pkl or a
            stylograph .safetensors file, an http(s) URL, or a hub id "owner/repo:file".
        dtype: precision of the synthesis network's activations; images are float32 in any case.
        offline: use only what is already on this machine.
        on_step: called with (bytes done, bytes in total or None) while downloading.
        Raises `WeightsError` (or its subclass `DownloadError`). No code in the file is ever executed.
        """
        generator = cls.from_checkpoint(read(locate(source, offline=offline, on_step=on_step))).to(device, dtype)
        if str(source) in REGISTRY:
            generator.provenance.setdefault("root", str(source))
        return generator

    @classmethod
    def from_checkpoint(cls, checkpoint: Checkpoint) -> Generator:
        """Builds the network a checkpoint describes and fills it; every tensor has to fit."""
        try:
            config = StyleGAN2Config.from_dict(checkpoint.config)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"got a checkpoint with a config this version cannot read: {error}") from None
        with torch.device("meta"):
            net = StyleGAN2(config)
        tensors = dict(checkpoint.tensors)
        tensors.setdefault("mapping.w_avg", torch.zeros(config.w_dim))
        expected = {name: tuple(t.shape) for name, t in net.state_dict().items()}
        found = {name: tuple(t.shape) for name, t in tensors.items()}
        if expected != found:
            wrong = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
            examples = "; ".join(f"{k}: got {found.get(k)}, expected {expected.get(k)}" for k in wrong[:3])
            raise WeightsError(f"got {len(wrong)} tensors that do not fit the network: {examples}")
        net.to_empty(device="cpu")
        net.load_state_dict(tensors)
        net.reset_kernels()
        mapper = None if checkpoint.mapper is None else _mapper(*checkpoint.mapper, config)
        generator = cls(net, mapper=mapper, provenance=checkpoint.provenance, notes=checkpoint.notes)
        if "mapping.w_avg" not in checkpoint.tensors:
            net.mapping.w_avg.copy_(generator.w_samples().mean(0))
        return generator

    @classmethod
    def random(cls, config: StyleGAN2Config, *, seed: int = 0) -> Generator:
        """An untrained generator of the given shape, for tests and benchmarks."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return cls(StyleGAN2(config), provenance={"untrained": True, "seed": seed})

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> Generator:
        """Moves the weights to `device` and/or sets the precision of activations; returns self."""
        if device is not None:
            self.net.to(device)
            if self.mapper is not None:
                self.mapper.to(device)
        if dtype is not None:
            self.dtype = dtype
        return self

    # ---------------------------------------------------------------- facts

    @property
    def resolution(self) -> int:
        return self.config.resolution

    @property
    def resolutions(self) -> tuple[int, ...]:
        return self.config.resolutions

    @property
    def z_dim(self) -> int:
        return self.config.z_dim

    @property
    def w_dim(self) -> int:
        return self.config.w_dim

    @property
    def num_ws(self) -> int:
        return self.config.num_ws

    @property
    def s_dim(self) -> int:
        """Length of a StyleSpace vector."""
        return self.layers[-1].s_slice.stop

    @property
    def layer_widths(self) -> tuple[tuple[str, int], ...]:
        """Name and number of channels of every layer, in StyleSpace order."""
        return tuple((layer.name, layer.channels) for layer in self.layers)

    @property
    def device(self) -> torch.device:
        return self.net.mapping.w_avg.device

    @property
    def root(self) -> str | None:
        """The known name ("avatars", "ffhq-1024", ...) of the generator it is, or was adapted from, if there is one."""
        return self.provenance.get("root")

    @property
    def ancestors(self) -> tuple[str, ...]:
        """Digests of the generators it was adapted from, nearest first: their edits and latents work on it too."""
        return tuple(self.provenance.get("ancestors", ()))

    @property
    def lineage(self) -> tuple[str, ...]:
        """Its own digest and its ancestors': an edit made for any of these works on it."""
        return (self.digest, *self.ancestors)

    @cached_property
    def digest(self) -> str:
        """sha256 over the config and all tensors: the same network in another file format has the same digest."""
        state = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        tensors = self.net.state_dict()
        if self.mapper is not None:
            state.update(json.dumps(self.mapper.config.to_dict(), sort_keys=True).encode())
            tensors |= {f"mapper.{name}": tensor for name, tensor in self.mapper.state_dict().items()}
        return hash_tensors(state, tensors)

    def __repr__(self) -> str:
        c = self.config
        return f"Generator({c.resolution}x{c.resolution}, num_ws={c.num_ws}, w_dim={c.w_dim}, s_dim={self.s_dim})"

    # ---------------------------------------------------------------- latents

    def map(
        self,
        z: Tensor | np.ndarray,
        *,
        truncation: float = 1.0,
        label: int | Sequence[int] | Tensor | None = None,
        truncation_cutoff: int | None = None,
        mined: bool = True,
    ) -> Latents:
        """Mapping network: z [N, z_dim] -> latents in W, or in W+ when `truncation_cutoff` is given or a mapper follows.

        truncation: psi in w_avg + psi·(w - w_avg); 1 leaves w alone.
        label: class index, one index per row, or one-hot [N, c_dim]; required by conditional generators only.
        truncation_cutoff: truncate only the first so many of the `num_ws` vectors.
        mined: apply the generator's latent mapper, if it has one.
        """
        codes = torch.as_tensor(z, dtype=torch.float32, device=self.device)
        if codes.ndim != 2 or codes.shape[1] != self.z_dim:
            raise LatentsError(f"got z of shape {list(codes.shape)}; expected [N, {self.z_dim}]")
        w = self.net.mapping(codes, self._one_hot(label, len(codes)))
        average = self.net.mapping.w_avg
        mapper = self.mapper if mined else None
        if truncation_cutoff is None and mapper is None:
            return Latents("w", w if truncation == 1 else average.lerp(w, truncation), self)
        ws = w[:, None].repeat(1, self.num_ws, 1)
        ws[:, :truncation_cutoff] = average.lerp(ws[:, :truncation_cutoff], truncation)
        return Latents("w+", ws if mapper is None else ws + mapper.residual(ws), self)

    def sample(
        self,
        n: int = 1,
        *,
        seed: int | Sequence[int] = 0,
        truncation: float = 0.7,
        label: int | Sequence[int] | Tensor | None = None,
        mined: bool = True,
    ) -> Latents:
        """Random latents in W, or in W+ if the generator has a latent mapper and `mined` is not False.

        seed: image i is drawn from `seed + i`, or from `seed[i]`. The z of a seed is that of NVIDIA's generate.py,
            so seeds people share mean the same pictures here.
        label: see `map`; a conditional generator without it gets a class drawn from the same seed.
        """
        if n < 1:
            raise LatentsError(f"got n={n}; expected at least one image")
        seeds = [seed + i for i in range(n)] if isinstance(seed, int) else [int(s) for s in seed]
        if len(seeds) != n:
            raise LatentsError(f"got {len(seeds)} seeds for {n} images; expected one each")
        if any(not 0 <= s < 2**32 for s in seeds):
            raise LatentsError(f"got seeds {seeds}; expected whole numbers from 0 to {2**32 - 1}")
        streams = [np.random.RandomState(s) for s in seeds]
        z = np.stack([stream.randn(self.z_dim) for stream in streams])
        if label is None and self.config.c_dim:
            label = [int(stream.randint(self.config.c_dim)) for stream in streams]
        return self.map(z, truncation=truncation, label=label, mined=mined)

    def mean(self, n: int = 1) -> Latents:
        """The average latent in W, `n` times."""
        return Latents("w", self.net.mapping.w_avg.expand(n, -1).clone(), self)

    def styles(self, latents: Latents) -> Latents:
        """W or W+ -> S: every layer's style vector (StyleSpace, Wu et al. 2021), as laid out by `layers`.

        ToRGB styles are without the 1/√C gain, as in StyleCLIP. Latents already in S come back unchanged.
        """
        self._check(latents)
        if latents.space == "s":
            return latents
        return Latents("s", self.net.synthesis.styles(self.w_plus(latents).tensor.float()), self)

    def w_plus(self, latents: Latents) -> Latents:
        """W -> W+: the same vector for every layer. Latents already in W+ come back; there is no way back from S."""
        self._check(latents)
        ws = latents.tensor.to(self.device)
        if latents.space == "s":
            raise LatentsError("got latents in 's'; expected W or W+: StyleSpace codes have no W+ code in general")
        return Latents("w+", ws[:, None].repeat(1, self.num_ws, 1) if latents.space == "w" else ws, self)

    def w_samples(self, n: int = STATISTICS_SAMPLES, *, seed: int = 5) -> Tensor:
        """[n, w_dim] untruncated draws from W, before any latent mapper (uniform over the classes of a conditional generator)."""
        stream = np.random.RandomState(seed)
        z = stream.randn(n, self.z_dim)
        label = stream.randint(self.config.c_dim, size=n).tolist() if self.config.c_dim else None
        return self.map(z, label=label, mined=False).tensor

    def style_statistics(self, *, truncation: float = 0.7) -> StyleStatistics:
        """Mean and population standard deviation of every S channel under truncated sampling.

        The affine layers are linear, so both follow exactly from mean and covariance of the W samples (10 000; the
        StyleCLIP code measures 100 000 S codes, truncation 0.7).
        """
        found = self._statistics.get((truncation, self.device))
        if found is None:  # asked for again and again, and ten thousand passes of the mapping network
            w = self.w_samples().double()
            mean = self.net.mapping.w_avg.double().lerp(w.mean(0), truncation)
            covariance = torch.cov(w.T, correction=0) * truncation**2
            matrix = self.style_matrix().double()
            std = (matrix * (covariance @ matrix)).sum(0).clamp_min(0).sqrt().float()
            found = StyleStatistics(self.styles(Latents("w", mean.float()[None])).tensor[0], std)
            self._statistics[truncation, self.device] = found
        return found

    def style_matrix(self) -> Tensor:
        """[w_dim, sum of channels]: how S follows W, s = w·A + b (all affine layers side by side, one w for all)."""
        axes = torch.eye(self.w_dim, device=self.device)
        moved, still = (self.styles(Latents("w", w)).tensor for w in (axes, torch.zeros_like(axes[:1])))
        return moved - still

    # ---------------------------------------------------------------- images

    def render(
        self, latents: Latents, *, noise: str = "const", up_to: int | None = None, seed: int | None = None
    ) -> Tensor:
        """Latents -> images [N, 3, H, W] in float32, nominally in [-1, 1], not clamped.

        noise: "const" uses the noise maps of the checkpoint, "random" draws new ones (from `seed` if given),
            "none" leaves noise out. Generators without noise inputs render the same in all three.
        up_to: stop at this lower resolution; the smaller image is the generator's own (skip connections), not a
            reduced copy of the large one.
        Differentiable with respect to `latents.tensor`.
        """
        if noise not in NOISE_MODES:
            raise StylographError(one_of(str(noise), NOISE_MODES, "noise mode"))
        resolution = self.resolution if up_to is None else up_to
        if resolution not in self.resolutions:
            raise StylographError(one_of(str(up_to), map(str, self.resolutions), "up_to"))
        s = self.styles(latents).tensor.to(self.device).float()
        rng = None if seed is None else torch.Generator().manual_seed(seed)
        stop = self.net.stop_index(resolution)
        image = self.net.synthesis.run(s, noise=noise, rng=rng, dtype=self.dtype, stop=stop).image
        assert image is not None
        return image

    # ---------------------------------------------------------------- files

    def checkpoint(self) -> Checkpoint:
        """The generator as plain data, in the NVIDIA layout's names."""
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in self.net.state_dict().items()}
        mapper = None
        if self.mapper is not None:
            mapper = self.mapper.config.to_dict(), {n: t.detach().cpu() for n, t in self.mapper.state_dict().items()}
        return Checkpoint(
            "stylegan2", self.config.to_dict(), tensors, "stylograph", self.provenance, self.notes, mapper
        )

    def save(self, path: str | Path, *, format: str | None = None) -> list[str]:
        """Writes the generator, atomically.

        format: "safetensors" or "rosinality"; by default what the file name's ending says (.safetensors, .pt).
        Returns remarks on what the chosen format could not hold. Raises `WeightsError` if it cannot hold the network.
        """
        return write(self.checkpoint(), Path(path), format=format)

    # ---------------------------------------------------------------- checks

    def _check(self, latents: Latents) -> None:
        if not isinstance(latents, Latents):
            raise LatentsError(
                f"got {type(latents).__name__}; expected Latents, e.g. generator.sample(4) or Latents('w', tensor)"
            )
        want = {"w": [self.w_dim], "w+": [self.num_ws, self.w_dim], "s": [self.s_dim]}[latents.space]
        if list(latents.tensor.shape[1:]) != want:
            got = list(latents.tensor.shape)
            raise LatentsError(f"got latents in {latents.space!r} of shape {got}; this generator takes {['N', *want]}")

    def _one_hot(self, label: int | Sequence[int] | Tensor | None, n: int) -> Tensor | None:
        classes = self.config.c_dim
        if not classes:
            if label is not None:
                raise LatentsError("got a label; this generator is unconditional, leave the label out")
            return None
        if label is None:
            raise LatentsError(f"got no label; this generator is conditional, pass label=0..{classes - 1}")
        if isinstance(label, Tensor) and label.ndim == 2:
            one_hot = label.to(self.device, torch.float32)
        else:
            index = torch.as_tensor(label, device=self.device).reshape(-1)
            if index.is_floating_point() or int(index.min()) < 0 or int(index.max()) >= classes:
                raise LatentsError(f"got label {label}; expected whole numbers from 0 to {classes - 1}")
            one_hot = torch.nn.functional.one_hot(index.long(), classes).float()
        if len(one_hot) == 1:
            one_hot = one_hot.expand(n, -1)
        if tuple(one_hot.shape) != (n, classes):
            raise LatentsError(f"got labels of shape {list(one_hot.shape)}; expected [{n}, {classes}]")
        return one_hot


def _mapper(config: Mapping[str, Any], tensors: Mapping[str, Tensor], generator: StyleGAN2Config) -> LatentMapper:
    """The latent mapper of a checkpoint. Raises `WeightsError` unless it is one in W+ that fits the generator."""
    try:
        shape = MapperConfig.from_dict(dict(config))
        if (shape.space, shape.length, shape.width) != ("w+", generator.num_ws, generator.w_dim):
            raise ValueError(f"it maps {shape.space} codes [{shape.length}, {shape.width}]")
        mapper = LatentMapper(shape)
        mapper.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise WeightsError(
            f"got a generator with a damaged latent mapper ({error}); expected one for W+ codes "
            f"[{generator.num_ws}, {generator.w_dim}]; make or download the file again"
        ) from None
    return mapper
