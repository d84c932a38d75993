"""Landmarks by hand and from files."""

import json
import os
from pathlib import Path

import pytest

from stylograph.align.landmarks import landmarked, read_landmarks
from stylograph.errors import AlignError

FACE = [[40, 50], [60, 50], [50, 60], [42, 70], [58, 70.5]]


@pytest.mark.parametrize(
    "text",
    [
        "40,50 60,50 50,60 42,70 58,70.5",
        " 40, 50; 60,50;\n50,60 42,70,58,70.5 ",
        "4e1,50 60.0,+50 50,60 42,70 58,7.05E1",
    ],
)
def test_by_hand(text):
    assert read_landmarks(text).tolist() == FACE


def test_files(tmp_path, monkeypatch):
    (tmp_path / "one.json").write_text(json.dumps(FACE))
    assert read_landmarks(tmp_path / "one.json").tolist() == FACE
    assert read_landmarks(str(tmp_path / "one.json"), picture="any.png").tolist() == FACE
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_landmarks("~/one.json").tolist() == FACE
    several = {"a.png": FACE, "photos/b.png": [[i, i] for i in range(68)]}
    (tmp_path / "all.json").write_text(json.dumps(several))
    assert read_landmarks(tmp_path / "all.json", picture=Path("/some/where/a.png")).tolist() == FACE
    assert read_landmarks(tmp_path / "all.json", picture="b.png").shape == (68, 2)
    with pytest.raises(AlignError, match=r"got the name 'c\.png'; expected one of: .*a\.png"):
        read_landmarks(tmp_path / "all.json", picture="c.png")
    with pytest.raises(AlignError, match="of 2 pictures; expected those of one; say of which"):
        read_landmarks(tmp_path / "all.json")


def test_become_the_square_of_a_face():
    found = landmarked("40,50 60,50 50,60 42,70 58,70")
    assert found.quad.tolist() == [[10, 12], [10, 92], [90, 92], [90, 12]]
    assert found.landmarks.shape == (5, 2)
    with pytest.raises(AlignError, match="check the order"):
        landmarked("60,50 40,50 50,60 58,70 42,70")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1,2 3,4", "which are not 5 or 68 pairs"),
        ("1,2 3,4 5,6 7,8 9", "which are not 5 or 68 pairs"),
        ("1,2 3,4 5,6 7,8 --9,10", "could not convert"),
        ("1,2 3,4 5,6 7,8 9,1e999", "not finite"),
        (",", "could not convert"),
        ("", "neither points nor a file"),
        ("landmarks.jsn", "neither points nor a file"),
        ("~nobody-of-that-name/a.json", "no readable JSON|neither points nor a file"),
        ("a" * 5000, "File name too long"),
        ("a\0b", "neither points nor a file|no readable JSON"),
    ],
)
def test_no_points(text, said):
    with pytest.raises(AlignError, match=said) as told:
        read_landmarks(text)
    assert len(str(told.value)) < 800


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no readable JSON"),
        ("[[1, 2], [3, 4]", "no readable JSON"),
        ("[" * 100_000, "no readable JSON"),
        ("3", "not 5 or 68 pairs"),
        ("null", "not 5 or 68 pairs"),
        ('"12345"', "not 5 or 68 pairs"),
        ('["12", "34", "56", "78", "90"]', "not 5 or 68 pairs"),
        ("[[1, 2], [3, 4], [5, 6], [7, 8], [9, true]]", "not 5 or 68 pairs"),
        ("[[1, 2], [3, 4], [5, 6], [7, 8], [9, NaN]]", "not finite"),
        ("[[1, 2], [3, 4], [5, 6], [7, 8], [9, " + "9" * 400 + "]]", "pairs of numbers"),
        ("[[1, 2, 3], [3, 4, 5], [5, 6, 7], [7, 8, 9], [9, 10, 11]]", "not 5 or 68 pairs"),
        ('{"a.png": 3}', "not 5 or 68 pairs"),
    ],
)
def test_files_without_points(tmp_path, content, said):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(AlignError, match=said):
        read_landmarks(tmp_path / "a.json", picture="a.png")


def test_files_that_are_none(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    for name, said in {"pipe.json": "neither points", "bytes.json": "no readable JSON", ".": "neither points"}.items():
        with pytest.raises(AlignError, match=said):
            read_landmarks(tmp_path / name)
