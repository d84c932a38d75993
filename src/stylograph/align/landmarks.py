"""Landmarks of a face by hand or from a file, for pictures in which no detector finds it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from stylograph.align.geometry import Found, ffhq_quad, points_of
from stylograph.errors import AlignError, one_of

EXPECTED = (
    "expected five points x,y in pixels: the eye on the left of the picture, the other eye, the tip of the nose, the "
    "corner of the mouth on the left, the other corner; or a JSON file with 5 or 68 of them"
)
_BY_HAND = re.compile(r"[\s\d.,;+\-eE]+")


def read_landmarks(source: str | Path, *, picture: str | Path | None = None) -> Tensor:
    """Landmarks [5, 2] or [68, 2] in pixels, float64.

    source: "x,y x,y x,y x,y x,y", or a JSON file with a list of 5 or 68 pairs [x, y], or with such a list for each
        of several file names.
    picture: the picture they belong to; its name chooses among several.
    Raises `AlignError` for text or files without such points. `ffhq_quad` says whether a face can have them.
    """
    if isinstance(source, str) and "," in source and _BY_HAND.fullmatch(source):
        what = f"landmarks {source[:100]!r}"
        try:
            numbers = [float(number) for number in re.split(r"[\s,;]+", source.strip(" \t\n,;"))]
        except ValueError as error:
            raise AlignError(f"got {what} ({error}); {EXPECTED}") from None
        return _landmarks([numbers[i : i + 2] for i in range(0, len(numbers), 2)], what)
    try:
        path = Path(source).expanduser()
        if not path.is_file():
            raise AlignError(
                f"got landmarks {str(source)[:200]!r}, neither points nor a file that is there; {EXPECTED}"
            )
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError) as error:  # a RecursionError is a RuntimeError
        reason = error.strerror if isinstance(error, OSError) else str(error)[:100]
        raise AlignError(f"{str(source)[:200]}: got a file that is no readable JSON ({reason}); {EXPECTED}") from None
    if isinstance(content, dict):
        content = _chosen(content, path, picture)
    return _landmarks(content, f"{path}: landmarks")


def landmarked(source: str | Path, *, picture: str | Path | None = None) -> Found:
    """The face `read_landmarks` reads, with FFHQ's square around it."""
    landmarks = read_landmarks(source, picture=picture)
    return Found(ffhq_quad(landmarks), 1.0, landmarks)


def _chosen(content: dict[str, Any], path: Path, picture: str | Path | None) -> Any:
    """The entry of a picture in a file with several."""
    if picture is None:
        raise AlignError(f"{path}: got landmarks of {len(content)} pictures; expected those of one; say of which")
    name = Path(picture).name
    for key, value in content.items():
        if name in (key, Path(key).name):
            return value
    raise AlignError(f"{path}: got no landmarks of this picture; {one_of(name, list(content)[:50], 'the name')}")


def _landmarks(values: Any, what: str) -> Tensor:
    """5 or 68 points of whatever was read."""
    rows = values if isinstance(values, list) else []
    flat = [number for row in rows if isinstance(row, list) and len(row) == 2 for number in row]
    if len(rows) not in (5, 68) or len(flat) != 2 * len(rows) or any(type(n) not in (int, float) for n in flat):
        raise AlignError(f"got {what}, which are not 5 or 68 pairs of numbers; {EXPECTED}")
    return points_of(values, what)
