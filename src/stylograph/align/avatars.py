"""Avatars in pictures: the square canvas their drawing fills, found by the locator of the embedded world."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from stylograph.align.geometry import Found, Quad
from stylograph.align.warp import crop
from stylograph.assets import ASSETS
from stylograph.errors import WeightsError
from stylograph.files import load_tensors
from stylograph.images import to_tensor
from stylograph.nets.locator import STRIDE, UNIT, Locator, LocatorConfig

if TYPE_CHECKING:
    from PIL.Image import Image

SHIPPED = ASSETS / "avatars" / "locator.safetensors"
RECIPE = "recipes.avatars.train_locator"


@dataclass(frozen=True)
class AvatarConfig:
    """How avatars are looked for."""

    threshold: float = 0.4
    """Lowest score of an avatar at the last look."""
    first: float = 0.2
    """Lowest score at the looks before the last."""
    looks: int = 2
    """1: the whole picture only. More: then each find by itself, as often as that."""
    around: float = 1.25
    """What is looked at again is so much larger than the square found."""
    snap: float = 0.05
    """A square whose corners are on average no farther from those of a square picture, in its sides, is the picture."""
    most: int = 16
    """No more finds than these are looked at again."""


class AvatarAligner:
    """Finds avatars of the embedded world's style and the squares their drawings fill."""

    def __init__(self, network: Locator, *, config: AvatarConfig | None = None) -> None:
        self.network = network.eval().requires_grad_(False)
        self.config = config or AvatarConfig()

    @classmethod
    def from_pretrained(
        cls, path: Path = SHIPPED, *, device: str | torch.device = "cpu", config: AvatarConfig | None = None
    ) -> AvatarAligner:
        """The locator of a file. Raises `WeightsError` for another file, and one whose parts do not fit."""
        tensors, record = load_tensors(path, "locator")
        try:
            network = Locator(LocatorConfig.from_dict(record["config"]))
            network.load_weights(tensors)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise WeightsError(
                f"{path}: got a locator file that contradicts itself ({' '.join(str(error).split())[:200]}); expected "
                f"one written by {RECIPE}; write it again"
            ) from error
        return cls(network.to(device), config=config)

    @torch.no_grad()
    def find(self, picture: Image) -> list[Found]:
        """The avatars of an "RGB" picture, by area times score; none if there are none.

        The search is made for avatars of a fifth of the shorter side and more, turned by up to 35 degrees.
        """
        # Five times what the network sees of a scene is all it needs to see the smallest avatar by itself.
        factor = max(1, min(picture.size) // (5 * self.network.config.size))
        small = picture.reduce(factor) if factor > 1 else picture
        found = self._afar(small)
        for _ in range(1, self.config.looks):
            found = _apart(self._again(small, found))
        found = [
            Found(self._snapped(face.quad.scaled(factor), picture), face.score)
            for face in found
            if face.score >= self.config.threshold
        ]
        return sorted(found, key=lambda face: face.quad.side**2 * face.score, reverse=True)

    def _afar(self, picture: Image) -> list[Found]:
        """Finds in the whole picture, the best first."""
        from PIL.Image import Resampling

        shape = self.network.config
        scale = min(shape.size / min(picture.size), 8 * shape.size / max(picture.size))
        width, height = (max(1, round(side * scale)) for side in picture.size)
        how = Resampling.BOX if scale < 1 else Resampling.BICUBIC
        scene = to_tensor(picture.resize((width, height), how))
        scene = F.pad(scene, (0, -width % shape.step, 0, -height % shape.step))
        found = [
            Found(Quad.around((x * picture.width / width, y * picture.height / height), side / scale, angle), score)
            for score, x, y, side, angle in self._peaks(scene)[0]
            if score >= self.config.first and 0 < x < width and 0 < y < height
        ]
        return _apart(found)[: self.config.most]

    def _again(self, picture: Image, found: list[Found]) -> list[Found]:
        """The same finds, each seen by itself, upright and as large as the network knows avatars best."""
        if not found:
            return []
        size = self.network.config.size
        views = [face.quad.enlarged(self.config.around) for face in found]
        better = []
        for view, peaks in zip(views, self._peaks(torch.cat([crop(picture, view, size) for view in views]))):
            # What was found is in the middle; a neighbour may be in view too.
            near = [
                p for p in peaks if p[0] >= self.config.first and math.dist(p[1:3], (size / 2, size / 2)) < size / 4
            ]
            if near:
                score, x, y, side, angle = max(near)
                down = torch.stack([-view.across[1], view.across[0]])
                center = view.corners[0] + (x * view.across + y * down) / size
                better.append(Found(Quad.around(center.tolist(), side * view.side / size, view.angle + angle), score))
        return better

    def _peaks(self, scenes: Tensor) -> list[list[tuple[float, ...]]]:
        """For each scene (score, x, y, side in pixels, angle) of the cells that stand out among their neighbours."""
        maps = self.network(scenes.to(next(self.network.parameters()).device)).cpu().double()
        scores = maps[:, :1].sigmoid()
        stands_out = scores == F.max_pool2d(scores, 3, 1, 1)
        rows, columns = (torch.arange(side, dtype=torch.float64) + 0.5 for side in maps.shape[-2:])
        numbers = torch.cat([maps[:, 1:2] + columns, maps[:, 2:3] + rows[:, None], maps[:, 3:]], 1)
        # Neighbours tell of the same avatar: their mean, by how sure they are, is better than what the peak says.
        numbers = F.avg_pool2d(numbers * scores, 3, 1, 1) / F.avg_pool2d(scores, 3, 1, 1)
        peaks = []
        for values, score, chosen in zip(numbers, scores[:, 0], stands_out[:, 0]):
            chosen = chosen & (score > 0.01)
            x, y, size, sine, cosine = values[:, chosen]
            side, angle = UNIT * size.clamp(-4, 4).exp(), torch.atan2(sine, cosine)
            peaks.append(list(zip(*(v.tolist() for v in (score[chosen], x * STRIDE, y * STRIDE, side, angle)))))
        return peaks

    def _snapped(self, quad: Quad, picture: Image) -> Quad:
        """The whole picture if it is square and the square found is it but for what the network cannot see."""
        whole = Quad.middle(*picture.size)
        far = (quad.corners - whole.corners).norm(dim=1).mean() / whole.side
        return whole if picture.width == picture.height and float(far) <= self.config.snap else quad


def _apart(found: list[Found]) -> list[Found]:
    """The best first, without those whose middle lies well inside a better one."""
    kept: list[Found] = []
    for face in sorted(found, key=lambda face: face.score, reverse=True):
        if all(
            float((face.quad.center - other.quad.center).norm()) > 0.4 * max(face.quad.side, other.quad.side)
            for other in kept
        ):
            kept.append(face)
    return kept
