"""Faces in photos, found by YuNet (Wu et al. 2023, "YuNet: A Tiny Millisecond-level Face Detector") through OpenCV.

OpenCV comes with the extra `align`; the detector's file, some 230 kB, is not part of stylograph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from stylograph.align.geometry import Found, ffhq_quad
from stylograph.errors import AlignError, WeightsError
from stylograph.images import to_array
from stylograph.weights.download import locate

if TYPE_CHECKING:
    from PIL.Image import Image

NEEDED = "finding faces needs OpenCV, the extra `align`: pip install 'stylograph[align]'"
EXPECTED = "expected the face detector YuNet (.onnx) as the OpenCV Zoo publishes it, about 230 kB"


@dataclass(frozen=True)
class FaceConfig:
    """How faces are looked for."""

    sides: tuple[int, ...] = (640, 320, 1280)
    """Longest side the picture is reduced to, one after the other until a face is found: YuNet was trained on faces of
    10 to 300 pixels, so a face that fills the picture is found in a small copy, one in a crowd in a large one."""
    threshold: float = 0.7
    """Lowest score of a face."""
    overlap: float = 0.3
    """Two detections that share more than this part of their union are one face."""


class FaceAligner:
    """Finds faces and the squares FFHQ would cut out around them."""

    def __init__(self, detector: Any, *, name: str = "yunet", config: FaceConfig | None = None) -> None:
        """detector: a `cv2.FaceDetectorYN`. name: what error messages call its file."""
        self._detector = detector
        self._name = name
        self.config = config or FaceConfig()

    @classmethod
    def from_pretrained(
        cls, source: str | Path = "yunet", *, offline: bool = False, config: FaceConfig | None = None
    ) -> FaceAligner:
        """The detector of a source: "yunet", a path, an http(s) URL or a hub id "owner/repo:file".

        Raises `AlignError` without OpenCV, `WeightsError` for a file that is no YuNet. No code in the file is executed.
        """
        config = config or FaceConfig()
        cv2 = _opencv()
        path = locate(source, kind="detector", offline=offline)
        with _told(cv2, str(path)):
            if not path.is_file():
                raise WeightsError(f"{path}: got no file; {EXPECTED}")
            size = (config.sides[0], config.sides[0])
            detector = cv2.FaceDetectorYN.create(str(path), "", size, config.threshold, config.overlap, 5000)
        return cls(detector, name=str(path), config=config)

    def find(self, picture: Image) -> list[Found]:
        """The faces of an "RGB" picture, by area times score; none if there are none.

        Raises `WeightsError` if the file turns out to be another network.
        """
        longest = max(picture.size)
        tried = set()
        for side in self.config.sides:
            scale = min(1.0, side / longest)
            if scale not in tried and (faces := self._look(picture, scale)):
                return faces
            tried.add(scale)
        return []

    def _look(self, picture: Image, scale: float) -> list[Found]:
        """The faces of the picture at a scale, in the picture's own pixels."""
        import numpy as np
        from PIL.Image import Resampling

        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        small = picture if size == picture.size else picture.resize(size, Resampling.BOX)
        blue_first = np.ascontiguousarray(to_array(small)[:, :, ::-1])
        with _told(_opencv(), self._name):
            self._detector.setInputSize(size)
            _, rows = self._detector.detect(blue_first)
        if rows is None:
            return []
        rows = np.asarray(rows, np.float64)
        if rows.ndim != 2 or rows.shape[1] != 15:
            raise WeightsError(f"{self._name}: got a detector with results of shape {list(rows.shape)}; {EXPECTED}")
        back = torch.tensor([picture.width / size[0], picture.height / size[1]], dtype=torch.float64)
        found = []
        for row in torch.from_numpy(rows):
            # x, y, width, height, then the person's right eye, which is on the left of the picture, left eye, nose,
            # right and left corner of the mouth, then the score.
            landmarks = row[4:14].reshape(5, 2) * back
            with contextlib.suppress(AlignError):  # a face seen from behind has no square
                found.append(Found(ffhq_quad(landmarks), float(row[14]), landmarks))
        return sorted(found, key=lambda face: face.quad.side**2 * face.score, reverse=True)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise AlignError(NEEDED) from None
    return cv2


@contextlib.contextmanager
def _told(cv2: Any, name: str) -> Iterator[None]:
    """Says in one sentence what OpenCV objects to in the detector's file."""
    try:
        yield
    except cv2.error as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{name}: got a file that is no such network ({reason}); {EXPECTED}") from None
