"""From a picture to the square a generator wants: who looks for it, and which find is meant."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch

from stylograph.align.geometry import Found, Quad
from stylograph.errors import AlignError, one_of

if TYPE_CHECKING:
    from PIL.Image import Image

ALIGNERS = ("avatars", "faces", "none")


class Aligner(Protocol):
    """What finds faces in pictures."""

    def find(self, picture: Image) -> list[Found]:
        """The faces of an "RGB" picture, the most prominent first; none if there are none."""


class MiddleSquare:
    """The aligner "none": the largest square in the middle of a picture, for pictures that are aligned already."""

    def find(self, picture: Image) -> list[Found]:
        return [Found(Quad.middle(*picture.size), 1.0)]


def load_aligner(
    source: str = "faces", *, weights: str | Path = "yunet", device: str | torch.device = "cpu", offline: bool = False
) -> Aligner:
    """The aligner called "avatars", "faces" or "none".

    weights: the detector "faces" uses: "yunet", a path, an http(s) URL or a hub id. offline: use only files that are
    on this machine. Raises `AlignError` for another name or a missing extra, `WeightsError` for a file that is no
    detector, `DownloadError` for one that cannot be fetched.
    """
    if source == "none":
        return MiddleSquare()
    if source == "avatars":
        from stylograph.align.avatars import AvatarAligner

        return AvatarAligner.from_pretrained(device=device)
    if source == "faces":
        from stylograph.align.faces import FaceAligner

        return FaceAligner.from_pretrained(weights, offline=offline)
    raise AlignError(one_of(source, ALIGNERS, "aligner"))


def locate_face(picture: Image, aligner: Aligner, *, index: int | None = None) -> Found:
    """The face of an "RGB" picture that is meant.

    index: which one in the aligner's order, from 0. None takes the first, which is the most prominent, and says so in
        its `remark` if there are others.
    Raises `AlignError` if there is none, or none with this number (messages count from 1, as --face does).
    """
    found = aligner.find(picture)
    if not found:
        raise AlignError(
            f"got a picture of {picture.width} x {picture.height} pixels without a face that could be found; expected "
            "one at least; give its landmarks by hand (--landmarks), take the middle of the picture as it is "
            "(--align none), or pass another picture"
        )
    if index is None:
        first = found[0]
        if len(found) == 1:
            return first
        return replace(first, remark=f"found {len(found)} faces and took the most prominent; --face chooses another")
    if not 0 <= index < len(found):
        several = f"{len(found)} faces; expected a number from 1 to {len(found)}" if len(found) > 1 else "one face"
        raise AlignError(f"got face number {index + 1} of a picture with {several}")
    return found[index]
