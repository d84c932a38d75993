"""Parent and child: two generators that share everything which does not train.

The child's frozen tensors are the parent's own, and the parent's pictures of a pool of latents are drawn and embedded once.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stylograph.edit.base import Recogniser
from stylograph.errors import AdaptError
from stylograph.generator import Generator
from stylograph.images import resize
from stylograph.nada.config import AdaptConfig
from stylograph.nada.target import Target
from stylograph.nets.stylegan2 import Layer, State, StyleGAN2

FIRST_SEED = 3_000_000_017
"""Of the latents to train on; far from the small seeds people look at."""


def convolutions(generator: Generator, patterns: Sequence[str] = ()) -> list[Layer]:
    """The 3x3 layers that may train. Raises `AdaptError` for patterns that name none (`edit.masks` says what they are)."""
    from stylograph.edit.masks import names_matching

    names = [layer.name for layer in generator.layers]
    chosen = set(names_matching(names, patterns)) if patterns else set(names)
    found = [layer for layer in generator.layers if layer.name in chosen and not layer.to_rgb]
    if not found:
        raise AdaptError(
            f"got layers {list(patterns)}, none of them a convolution; expected blocks or *.conv0, *.conv1"
        )
    return found


def parameters_of(net: StyleGAN2, layers: Iterable[Layer], config: AdaptConfig) -> dict[str, nn.Parameter]:
    """Name -> parameter of all that trains when these convolutions do.

    As in the paper that is weights, biases and noise strengths of the convolutions; affine layers, ToRGB, constant
    and mapping network stay frozen unless the settings say otherwise.
    """
    found: dict[str, nn.Parameter] = {}
    for layer in layers:
        for name, parameter in net.synthesis.get_submodule(layer.name).named_parameters():
            if config.affine or not name.startswith("affine."):
                found[f"synthesis.{layer.name}.{name}"] = parameter
    for name, parameter in net.named_parameters():
        is_rgb = ".torgb." in name and (config.affine or ".affine." not in name)
        if (
            (config.torgb and is_rgb)
            or (config.const and name.endswith(".const"))
            or (config.mapping and name.startswith("mapping."))
        ):
            found[name] = parameter
    return found


class Pool:
    """The latents of a training: `config.pool` to train on, then `config.held_out` to look at."""

    def __init__(self, generator: Generator, config: AdaptConfig) -> None:
        rng = torch.Generator().manual_seed(FIRST_SEED + config.seed)
        count, num_ws = config.pool + config.held_out, generator.num_ws
        self.z = torch.randn((count, 2, generator.z_dim), generator=rng).to(generator.device)
        cut = torch.randint(1, num_ws, (count,), generator=rng)
        mixed = (torch.rand(count, generator=rng) < config.mixing) & (torch.arange(count) < config.pool)
        self.cut = torch.where(mixed, cut, num_ws).to(generator.device)
        """From this W+ vector on the second latent is used (style mixing)."""
        classes = generator.config.c_dim
        self.label = torch.randint(classes, (count,), generator=rng) if classes else None

    def codes(self, net: StyleGAN2, rows: Tensor) -> Tensor:
        """W+ codes [N, num_ws, w_dim] of rows of the pool, through a mapping network; not truncated."""
        label = None
        if self.label is not None:
            label = F.one_hot(self.label[rows], net.config.c_dim).to(self.z).repeat_interleave(2, 0)
        first, second = net.mapping(self.z[rows].flatten(0, 1), label).unflatten(0, (-1, 2)).unbind(1)
        place = torch.arange(net.config.num_ws, device=self.z.device)
        use_first = place[None, :] < self.cut[rows][:, None]
        return torch.where(use_first[:, :, None], first[:, None], second[:, None])


class Twins:
    """A frozen parent, and a child that starts as its copy."""

    def __init__(
        self, parent: Generator, target: Target, config: AdaptConfig, identity: Recogniser | None = None
    ) -> None:
        self.parent, self.target, self.config, self.identity = parent, target, config, identity
        self.layers = convolutions(parent, config.layers)
        names = parameters_of(parent.net, self.layers, config)
        shared = [t for n, t in (*parent.net.named_parameters(), *parent.net.named_buffers()) if n not in names]
        self.net: StyleGAN2 = copy.deepcopy(parent.net, {id(tensor): tensor for tensor in shared})
        self.parameters = parameters_of(self.net, self.layers, config)
        """Everything that may ever train."""
        self.active: dict[str, nn.Parameter] = {}
        self.let_train(self.layers)
        self.pool = Pool(parent, config)
        rows = torch.arange(config.pool + config.held_out)
        parts = [*rows[: config.pool].split(self.chunk), *rows[config.pool :].split(self.chunk)]
        shown, people = [], []
        with torch.no_grad():
            for part in parts:
                pictures = self.parents_pictures(part)
                shown.append(self.shown(pictures))
                if identity is not None and (config.lambda_identity or int(part[0]) >= config.pool):
                    people.append(self.recognise(pictures))
            self.old = torch.cat([self.embed(part) for part in shown])
            """[P, D] embeddings of the parent's pictures."""
            self.pictures = torch.cat(shown)[: config.pool] if config.crops else None
            """Those to train on, as CLIP is shown them."""
        self.people = torch.cat(people) if people else None
        """The recogniser's vectors of the parent's pictures: of all with a loss of identity, of those to look at without."""

    @property
    def chunk(self) -> int:
        """Pictures computed at once."""
        return 1 if self.config.memory != "normal" else self.config.batch

    def let_train(self, layers: Sequence[Layer]) -> None:
        """Of the parameters that may train, only those of these convolutions do from now on."""
        self.active = parameters_of(self.net, layers, self.config)
        for parameter in self.parameters.values():
            parameter.requires_grad_(False)
            parameter.grad = None
        for parameter in self.active.values():
            parameter.requires_grad_(True)

    def release(self, weights: Mapping[str, Tensor]) -> StyleGAN2:
        """A network of its own, with these weights for what may train and copies of the parent's for the rest."""
        net = copy.deepcopy(self.parent.net)
        net.load_state_dict({**net.state_dict(), **weights})
        return net

    # ---------------------------------------------------------------- pictures

    def child_pictures(self, rows: Tensor, *, seed: int = 0) -> Tensor:
        """The child's pictures of rows of the pool; differentiable with respect to what trains.

        Nothing is kept for a backward pass of the layers before the first that trains.
        """
        return self.draw(self.net, self.pool.codes(self.net, rows), seed)

    def parents_pictures(self, rows: Tensor) -> Tensor:
        """The parent's pictures of rows of the pool."""
        return self.draw(self.parent.net, self.pool.codes(self.parent.net, rows), int(rows[0]))

    def draw(self, net: StyleGAN2, ws: Tensor, seed: int) -> Tensor:
        """A network's pictures of W+ codes, clamped: a loss that sees colours beyond black and white asks for more of them.

        Block by block, so that each can be computed twice instead of kept; each has noise of its own seed.
        """
        s = net.synthesis.styles(ws)
        twice = self.config.memory == "smallest" and torch.is_grad_enabled()
        state: State | None = None

        def block(state: State | None, end: int) -> State:
            rng = torch.Generator().manual_seed(seed * net.config.num_ws + end)
            return net.synthesis.run(
                s, noise=self.config.noise, rng=rng, dtype=self.parent.dtype, start=state, stop=end
            )

        for end in (i + 1 for i, layer in enumerate(net.synthesis.layers) if layer.to_rgb):
            state = checkpoint(block, state, end, use_reentrant=False) if twice else block(state, end)
        assert state is not None
        assert state.image is not None
        return state.image.clamp(-1, 1)

    # ---------------------------------------------------------------- what CLIP sees

    def see(self, child: Tensor, rows: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
        """Embeddings [N, D] of the child's pictures and the parent's of these rows, both through the same random crops."""
        if self.pictures is None:
            return self.embed(child), self.old[rows]
        window = crops(len(rows), self.config.crops, seed).to(child)
        with torch.no_grad():
            old = self.embed(cropped(self.pictures[rows], window))
        return self.embed(cropped(self.shown(child), window)), old

    def shown(self, pictures: Tensor) -> Tensor:
        """Pictures no larger than CLIP's input."""
        size = max(tower.size for tower in self.target.clip.towers)
        return resize(pictures, min(size, pictures.shape[-1]))

    def embed(self, pictures: Tensor) -> Tensor:
        return self.target.clip.embed_images(pictures).to(self.parent.device)

    # ---------------------------------------------------------------- what the recogniser sees

    def likeness(self, child: Tensor, rows: Tensor) -> Tensor:
        """Cosine [N] between the people in the child's pictures and in the parent's of these rows, uncropped."""
        assert self.people is not None
        people = self.people[rows - len(self.pool.z)]  # from the end: there may be only those to look at
        return (self.recognise(child) * people).sum(1)

    def recognise(self, pictures: Tensor) -> Tensor:
        assert self.identity is not None
        return self.identity.embed(pictures).to(self.parent.device)


def crops(n: int, most: float, seed: int) -> Tensor:
    """Affine maps [n, 2, 3] of random squares within a picture, their sides at most the part `most` smaller than it."""
    rng = torch.Generator().manual_seed(seed)
    side = 1 - most * torch.rand(n, generator=rng)
    place = (2 * torch.rand(n, 2, generator=rng) - 1) * (1 - side)[:, None]
    return torch.cat([torch.eye(2) * side[:, None, None], place[:, :, None]], dim=2)


def cropped(pictures: Tensor, window: Tensor) -> Tensor:
    """Pictures [N, C, H, W] seen through windows, at the same size."""
    grid = F.affine_grid(window, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, grid, padding_mode="border", align_corners=False)
