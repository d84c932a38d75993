"""How different two pictures look: a distance of what networks see in them, not of pixels."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stylograph.embed import Clip
from stylograph.errors import StylographError


class Perceptual:
    """The distance of LPIPS (Zhang et al. 2018, eq. 1), on the layers of a CLIP and without trained weights.

    Every layer's features are scaled to unit length place by place; the squared differences are averaged over places
    and layers. 0 for equal pictures, 2 for ones that have nothing in common.
    """

    def __init__(self, clip: Clip) -> None:
        self.clip = clip
        self.name = f"feature maps of {clip.name}"

    def see(self, images: Tensor) -> list[Tensor]:
        """What is compared, of images [N, 3, H, W] in [-1, 1]: unit vectors [N, C, places] of every layer."""
        return [F.normalize(part, dim=1, eps=1e-6) for part in self.clip.feature_maps(images)]

    def distance(self, images: Tensor, seen: list[Tensor]) -> Tensor:
        """Distance [N] of images (N, or one) from others of which `seen` is what was seen; differentiable."""
        pairs = zip(self.see(images), seen, strict=True)
        return torch.stack([(a - b).square().sum(1).mean(1) for a, b in pairs]).mean(0)


class Lpips:
    """LPIPS itself, AlexNet with its trained weights, from the package `lpips` (extra `lpips`).

    That package needs torchvision and fetches AlexNet on first use. Not run by stylograph's authors.
    """

    name = "lpips (alex)"

    def __init__(self, device: str | torch.device = "cpu") -> None:
        try:
            import lpips
        except ImportError as error:
            raise StylographError(
                f"got 'lpips', which cannot be imported ({error}); expected the extra: pip install 'stylograph[lpips]'; "
                "or leave the setting out, which compares pictures by CLIP's layers"
            ) from None
        self.net: Any = lpips.LPIPS(net="alex", verbose=False).to(device).eval().requires_grad_(False)

    def see(self, images: Tensor) -> list[Tensor]:
        """The images themselves, at most 256 pixels large, as in PTI."""
        return [images if images.shape[-1] <= 256 else F.adaptive_avg_pool2d(images, 256)]

    def distance(self, images: Tensor, seen: list[Tensor]) -> Tensor:
        """Distance [N] of images (N, or one) from others of which `seen` is what was seen; differentiable."""
        return self.net(self.see(images)[0].expand_as(seen[0]), seen[0]).flatten()
