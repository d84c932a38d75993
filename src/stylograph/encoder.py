"""From a picture to its latent code by one look, without optimisation.

"avatars" is the encoder of the embedded world; for photos of faces take "e4e-ffhq", or pass a file of encoder4editing
(Tov et al. 2021) or pixel2style2pixel (Richardson et al. 2021). Such a file belongs to one generator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stylograph.assets import ASSETS
from stylograph.errors import StylographError, WeightsError
from stylograph.images import resize
from stylograph.nets.e4e import SIDE, EncoderConfig, FaceEncoder
from stylograph.nets.inverter import load_inverter
from stylograph.types import HasStyles, Latents
from stylograph.weights.download import OnBytes, locate
from stylograph.weights.registry import plan
from stylograph.weights.tensors import fill, read_state_dict

ENCODERS = "a face encoder of e4e or pSp (.pt)"
KINDS = {"Encoder4Editing": "e4e", "GradualStyleEncoder": "psp"}
"""What a file's opts say -> kind of encoder: tensors of the two have the same names and shapes."""
AVERAGE = "latent_avg"
SIDES = tuple(4 << i for i in range(11))
"""Sides of a generator's pictures."""


class Generates(HasStyles, Protocol):
    """What an encoder asks of a generator."""

    @property
    def num_ws(self) -> int: ...

    @property
    def w_dim(self) -> int: ...


class Encoder:
    """A frozen network that looks at a picture and says which W+ code a generator draws it from.

    name: "avatars", another known name, or the name of the file.
    size: side of the pictures it works on; others are resampled (64 for the avatars, 256 for e4e and pSp, which expect
        faces aligned like those of FFHQ).
    num_ws, w_dim: shape of its codes.
    digest_of_generator: of the generator it was trained for, if the file says so.
    """

    def __init__(
        self,
        network: nn.Module,
        look: Callable[[Tensor], Tensor],
        *,
        name: str,
        size: int,
        num_ws: int,
        w_dim: int,
        digest_of_generator: str | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self._look = look
        self.name = name
        self.size = size
        self.num_ws = num_ws
        self.w_dim = w_dim
        self.digest_of_generator = digest_of_generator

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        device: str | torch.device = "cpu",
        offline: bool = False,
        on_step: OnBytes | None = None,
    ) -> Encoder:
        """The encoder of a source.

        source: "avatars", "e4e-ffhq" (downloaded once), or a checkpoint of encoder4editing or pixel2style2pixel: a path,
            an http(s) URL or a hub id "owner/repo:file". The generator many of them carry along is not read.
        offline: use only files that are on this machine.
        on_step: called with (bytes done, bytes in total or None) while downloading.
        Raises `WeightsError` for a file that holds another network, among them encoders of ReStyle (they look several
        times), of cars and of pictures that are not RGB. No code in the file is executed.
        """
        if str(source) == "avatars":
            return _avatars(ASSETS / "avatars" / "inverter.safetensors", device)
        path = locate(source, kind="encoder", offline=offline, on_step=on_step)
        return _public(path, device, name=path.stem if plan(source) is None else str(source))

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def encode(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1], any size -> W+ codes [N, num_ws, w_dim] in float32; differentiable.

        Of a picture that is not square the middle is taken. Larger ones are reduced by exact area averages; the original
        code of e4e and pSp reduces them by Pillow's bilinear filter, which is softer.
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise StylographError(f"got images of shape {list(images.shape)}; expected [N, 3, H, W] in [-1, 1]")
        if not bool(torch.isfinite(images.detach()).all()):
            raise StylographError("got images with NaN or infinite values; expected numbers in [-1, 1]")
        return self._look(images.to(self.device).float())

    def latents(self, images: Tensor, generator: Generates) -> Latents:
        """Images [N, 3, H, W] in [-1, 1], any size -> their latents in W+, bound to the generator; differentiable.

        Raises `WeightsError` for a generator whose codes have another shape, and for one that is neither the generator the
        encoder was trained for nor adapted from it, if the encoder knows its own.
        """
        if (self.num_ws, self.w_dim) != (generator.num_ws, generator.w_dim):
            raise WeightsError(
                f"got a generator of {generator.num_ws} vectors of {generator.w_dim} numbers; the encoder {self.name} gives "
                f"{self.num_ws} of {self.w_dim}; pass an encoder that was trained for this generator"
            )
        if self.digest_of_generator not in (None, *generator.lineage):
            raise WeightsError(
                f"got generator {generator.digest[:12]}; the encoder {self.name} was trained for "
                f"{str(self.digest_of_generator)[:12]}; pass that generator or one adapted from it, or another encoder"
            )
        return Latents("w+", self.encode(images), generator)


def _avatars(path: Path, device: str | torch.device) -> Encoder:
    network, record = load_inverter(path)
    shape = network.config
    return Encoder(
        network.to(device),
        network,
        name="avatars",
        size=shape.size,
        num_ws=shape.num_ws,
        w_dim=shape.w_dim,
        digest_of_generator=record["generator"],
    )


def _public(path: Path, device: str | torch.device, *, name: str) -> Encoder:
    """The encoder in a checkpoint {"state_dict", "latent_avg", "opts"} of encoder4editing or pixel2style2pixel."""
    tensors, options = read_state_dict(path, prefix="encoder.", beside=[AVERAGE], expected=ENCODERS)
    average = tensors.pop(AVERAGE, None)
    try:
        config = _config(tensors, options, average)
        start = _start(config, options, average)
    except ValueError as error:
        raise WeightsError(f"{path}: got {error}; expected {ENCODERS}") from None
    with torch.device("meta"):  # hundreds of millions of random numbers take longer than reading the file
        network = FaceEncoder(config)
    fill(network, tensors, path=path, expected=ENCODERS)
    network, start = network.to(device), start.to(device)
    return Encoder(
        network,
        lambda images: network(resize(images, SIDE)) + start,
        name=name,
        size=SIDE,
        num_ws=config.num_ws,
        w_dim=config.w_dim,
    )


def _config(tensors: Mapping[str, Tensor], options: Mapping[str, Any], average: Tensor | None) -> EncoderConfig:
    """The shape of an encoder, from its tensors as far as they tell it. Raises `ValueError` that says what it is instead."""
    first = tensors.get("input_layer.0.weight")
    channels = first.shape[1] if first is not None and first.ndim == 4 else 0
    if channels == 6:
        raise ValueError(
            "an encoder of ReStyle, which looks several times at picture and reconstruction; pass an e4e file"
        )
    if channels not in (0, 3):
        raise ValueError(f"an encoder of pictures with {channels} channels, such as sketches; pass one of photographs")
    if str(options.get("dataset_type")).startswith("car"):
        raise ValueError("an encoder of cars, which wants pictures of 256 x 192 pixels; pass one of square pictures")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    heads = sum(name.startswith("styles.") and name.endswith(".linear.weight") for name in tensors)
    if not heads:
        return EncoderConfig.from_shapes("w", _num_ws(options, average), shapes)
    stated = options.get("encoder_type")
    if stated not in KINDS:
        told = "do not say its encoder_type" if stated is None else f"say encoder_type {str(stated)[:40]!r}"
        raise ValueError(
            f"an encoder whose opts {told}; files of e4e and pSp hold tensors of the same names, so that it has to be one "
            f"of {', '.join(KINDS)}; pass the file as its authors published it"
        )
    return EncoderConfig.from_shapes(KINDS[stated], heads, shapes)


def _num_ws(options: Mapping[str, Any], average: Tensor | None) -> int:
    """How many vectors the codes of an encoder with a single head have: two per resolution of the generator."""
    if average is not None and average.ndim == 2 and len(average) > 1:
        return len(average)
    side = options.get("stylegan_size", options.get("output_size"))
    if type(side) is not int or side not in SIDES:
        raise ValueError(
            "an encoder that does not say how large its generator's pictures are; add output_size to its opts"
        )
    return 2 * SIDES.index(side) + 2


def _start(config: EncoderConfig, options: Mapping[str, Any], average: Tensor | None) -> Tensor:
    """What the codes are relative to: the file's average latent, [1 or num_ws, w_dim], or zero."""
    wanted = options.get("start_from_latent_avg", average is not None)
    if not wanted:
        return torch.zeros(1, config.w_dim)
    if average is None:
        raise ValueError(f"an encoder that starts from an average latent the file lacks; add it as {AVERAGE!r}")
    rows = average[None] if average.ndim == 1 else average
    if rows.ndim != 2 or len(rows) not in (1, config.num_ws) or rows.shape[1] != config.w_dim:
        raise ValueError(
            f"an average latent of shape {list(average.shape)} beside codes [{config.num_ws}, {config.w_dim}]"
        )
    return rows
