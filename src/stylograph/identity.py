"""Who is in the picture: unit vectors that are close for one person, whatever the expression.

"avatars" is the small net of the embedded world; for photos of faces take "arcface", or pass its `model_ir_se50.pth`,
the network behind the identity loss of StyleCLIP, e4e and pSp. Its file is not part of stylograph.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylograph.assets import ASSETS
from stylograph.errors import StylographError
from stylograph.nets.irse50 import ALIGNED, IRSE50, face_crop
from stylograph.nets.recogniser import load_recogniser
from stylograph.weights.download import locate
from stylograph.weights.tensors import fill, read_state_dict

OUTPUT = "identity"
"""Name of the recogniser's output that is the embedding."""
FACES = "a face recogniser (ArcFace IR-SE50, model_ir_se50.pth)"


class Identity:
    """A frozen recogniser.

    name: "avatars" or the name of the file.
    size: side of the pictures it works on; others are resampled (64 for the avatars, 256 for ArcFace, which expects
        faces aligned like those of FFHQ).
    """

    def __init__(self, network: nn.Module, look: Callable[[Tensor], Tensor], *, name: str, size: int) -> None:
        self.network = network.eval().requires_grad_(False)
        self._look = look
        self.name = name
        self.size = size

    @classmethod
    def from_pretrained(
        cls, source: str | Path, *, device: str | torch.device = "cpu", offline: bool = False
    ) -> Identity:
        """The recogniser of a source.

        source: "avatars", "arcface" (downloaded once), or an IR-SE50 file (a plain state dict): a path, an http(s) URL
            or a hub id "owner/repo:file".
        offline: use only files that are on this machine.
        Raises `WeightsError` for a file that holds another network. No code in the file is executed.
        """
        if str(source) == "avatars":
            return _avatars(ASSETS / "avatars" / "identity.safetensors", device)
        return _arcface(locate(source, kind="recogniser", offline=offline), device)

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def embed(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1], any size -> unit vectors [N, D] in float32; differentiable."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise StylographError(f"got images of shape {list(images.shape)}; expected [N, 3, H, W] in [-1, 1]")
        return F.normalize(self._look(images.to(self.device).float()), dim=1)

    def similarity(self, a: Tensor, b: Tensor) -> Tensor:
        """Cosines [N] of two batches, each of images [N, 3, H, W] or of vectors [N, D] from `embed`; 1 of a kind fits N."""
        u, v = (x.to(self.device) if x.ndim == 2 else self.embed(x) for x in (a, b))
        if len(u) != len(v) and 1 not in (len(u), len(v)):
            raise StylographError(f"got {len(u)} pictures to compare with {len(v)}; expected equal numbers, or one")
        return (u * v).sum(1)


def _avatars(path: Path, device: str | torch.device) -> Identity:
    recipe = "recipes.avatars.train_identity"
    network, size = load_recogniser(path, "identity", recipe=recipe, read=lambda config, _: config.size)
    network = network.to(device)
    return Identity(network, lambda images: network(images)[OUTPUT], name="avatars", size=size)


def _arcface(path: Path, device: str | torch.device) -> Identity:
    found, _ = read_state_dict(path, expected=FACES)
    with torch.device("meta"):  # 44 million random numbers take longer than reading the file
        network = IRSE50()
    fill(network, found, path=path, expected=FACES)
    network = network.to(device)
    return Identity(network, lambda images: network(face_crop(images)), name=Path(path).stem, size=ALIGNED)
