"""Squares of a picture that a generator knows, and the one that belongs to a face's landmarks.

Coordinates are x (right) and y (down) in pixels of the picture; pixel (0, 0) covers [0, 1] x [0, 1], so its middle is
(0.5, 0.5), and the corners of a picture are (0, 0) and (width, height).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stylograph.errors import AlignError

LARGEST = 1e7
"""Coordinates beyond are no coordinates of a picture."""


@dataclass(frozen=True, eq=False)
class Quad:
    """A square at any place, of any size and rotation.

    corners: [4, 2] in the order top left, bottom left, bottom right, top right of what it holds (FFHQ's order);
        numbers of any kind, kept as float64.
    Raises `AlignError` for corners that are not finite or not those of a square, and for a mirrored one.
    """

    corners: Tensor

    def __post_init__(self) -> None:
        corners = points_of(self.corners, "corners of a square")
        if corners.shape != (4, 2):
            raise AlignError(f"got corners of shape {list(corners.shape)}; expected [4, 2]")
        down, _, across = (corners[i] - corners[0] for i in (1, 2, 3))
        turned = torch.stack([-across[1], across[0]])
        side, off = float(across.norm()), float((down - turned).norm())
        off = max(off, float((corners[0] + across + down - corners[2]).norm()))
        if side < 1e-3 or off > 1e-3 * side:
            raise AlignError(
                f"got corners {_written(corners)}; expected a square: top left, bottom left, bottom right, top right"
            )
        object.__setattr__(self, "corners", corners)

    @classmethod
    def around(cls, center: Sequence[float], side: float, angle: float = 0.0) -> Quad:
        """The square with this middle and side, its content turned clockwise (as seen) by `angle` in radians."""
        across = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64) * side / 2
        return cls._of(torch.as_tensor(center, dtype=torch.float64), across)

    @classmethod
    def _of(cls, center: Tensor, across: Tensor) -> Quad:
        """From the middle and the half side that points right."""
        down = torch.stack([-across[1], across[0]])
        c = center
        return cls(torch.stack([c - across - down, c - across + down, c + across + down, c + across - down]))

    @classmethod
    def middle(cls, width: int, height: int) -> Quad:
        """The largest square in the middle of a picture, on whole pixels."""
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return cls.around((left + side / 2, top + side / 2), side)

    @property
    def across(self) -> Tensor:
        """The upper side from left to right, [2]; turned clockwise by 90 degrees it is the left side downwards."""
        return self.corners[3] - self.corners[0]

    @property
    def center(self) -> Tensor:
        """[2]."""
        return self.corners.mean(0)

    @property
    def side(self) -> float:
        return float(self.across.norm())

    @property
    def angle(self) -> float:
        """How far the content is turned clockwise (as seen), in radians from -pi to pi."""
        return math.atan2(float(self.across[1]), float(self.across[0]))

    def enlarged(self, factor: float) -> Quad:
        """With the same middle, the side `factor` times as long."""
        return Quad.around(self.center.tolist(), self.side * factor, self.angle)

    def scaled(self, factor: float) -> Quad:
        """The same place in a picture `factor` times as large."""
        return Quad(self.corners * factor)

    def tolist(self) -> list[list[float]]:
        """The corners as plain numbers, for JSON; `Quad(numbers)` is the way back."""
        return self.corners.tolist()


@dataclass(frozen=True, eq=False)
class Found:
    """A face (or an avatar) in a picture."""

    quad: Quad
    """The square to cut out."""
    score: float
    """How sure the detector is, 0 to 1."""
    landmarks: Tensor | None = None
    """[5, 2] or [68, 2], if they are known."""
    remark: str | None = None
    """What a user should know about this choice."""


def ffhq_quad(landmarks: Tensor | Sequence[Sequence[float]]) -> Quad:
    """The square FFHQ's pictures were cut out along (Karras et al. 2019, "A Style-Based Generator Architecture").

    landmarks: [5, 2] (the eye on the left of the picture, the other eye, tip of the nose, corner of the mouth on the
        left, the other corner) or the [68, 2] of iBUG 300-W.
    With e from eye to eye and m from the middle of the eyes to that of the mouth: the side is 2·max(2·|e|, 1.8·|m|),
    its direction that of e and m together, its middle a tenth of m below the eyes. Raises `AlignError` for numbers
    that are not finite, of another shape, or that no face has (left and right exchanged).
    """
    points = points_of(landmarks, "landmarks")
    if points.shape not in ((5, 2), (68, 2)):
        raise AlignError(f"got landmarks of shape {list(points.shape)}; expected [5, 2] or [68, 2]")
    if len(points) == 5:
        left, right, mouth = points[0], points[1], (points[3] + points[4]) / 2
    else:
        left, right, mouth = points[36:42].mean(0), points[42:48].mean(0), (points[48] + points[54]) / 2
    eyes, e = (left + right) / 2, right - left
    m = mouth - eyes
    size = max(2.0 * float(e.norm()), 1.8 * float(m.norm()))
    if float(e[0] * m[1] - e[1] * m[0]) <= 1e-3 * size**2:
        raise AlignError(
            f"got landmarks with the eyes at {_written(torch.stack([left, right]))} and the mouth at "
            f"{_written(mouth[None])}; expected a face: first the eye on the left of the picture, the mouth below; "
            "check the order"
        )
    x = e - torch.stack([-m[1], m[0]])
    return Quad._of(eyes + 0.1 * m, x / x.norm() * size)


def points_of(values: Any, what: str) -> Tensor:
    """[N, 2] float64 of anything that holds finite numbers."""
    try:
        points = torch.as_tensor(values, dtype=torch.float64).detach().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise AlignError(f"got {what} that are not pairs of numbers; expected x and y of each point") from None
    if points.ndim != 2 or points.shape[1] != 2:
        raise AlignError(f"got {what} of shape {list(points.shape)}; expected [N, 2], x and y of each point")
    if not bool((points.abs() <= LARGEST).all()):
        raise AlignError(f"got {what} with values that are not finite or beyond {LARGEST:g}; expected pixels")
    return points


def _written(points: Tensor) -> str:
    return " ".join(f"{x:.5g},{y:.5g}" for x, y in points.tolist())
