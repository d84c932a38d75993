"""Which face is meant, and who looks for it."""

import pytest
from PIL import Image

from stylograph.align.avatars import AvatarAligner
from stylograph.align.faces import FaceAligner
from stylograph.align.find import ALIGNERS, MiddleSquare, load_aligner, locate_face
from stylograph.align.geometry import Found, Quad
from stylograph.errors import AlignError, WeightsError

PICTURE = Image.new("RGB", (30, 20))


class Finds:
    def __init__(self, *scores):
        self.found = [Found(Quad.middle(8, 8), score) for score in scores]

    def find(self, picture):
        assert picture is PICTURE
        return self.found


def test_one_face():
    found = locate_face(PICTURE, Finds(0.9))
    assert (found.score, found.remark) == (0.9, None)


def test_several_faces():
    found = locate_face(PICTURE, Finds(0.9, 0.8, 0.7))
    assert found.score == 0.9
    assert "found 3 faces" in found.remark
    chosen = locate_face(PICTURE, Finds(0.9, 0.8, 0.7), index=2)
    assert (chosen.score, chosen.remark) == (0.7, None)


@pytest.mark.parametrize("index", [2, -1, 10**9])
def test_a_face_that_is_not_there(index):
    said = rf"number {index + 1} of a picture with 2 faces; expected a number from 1 to 2"
    with pytest.raises(AlignError, match=said):
        locate_face(PICTURE, Finds(0.9, 0.8), index=index)
    with pytest.raises(AlignError, match="of a picture with one face"):
        locate_face(PICTURE, Finds(0.9), index=index)


@pytest.mark.parametrize("index", [None, 0, 3])
def test_no_face(index):
    with pytest.raises(AlignError, match=r"30 x 20 pixels without a face.*--landmarks.*--align none.*another picture"):
        locate_face(PICTURE, Finds(), index=index)


def test_the_middle_square():
    aligner = load_aligner("none")
    assert isinstance(aligner, MiddleSquare)
    assert locate_face(PICTURE, aligner).quad.tolist() == [[5, 0], [5, 20], [25, 20], [25, 0]]


def test_names(tmp_path, monkeypatch):
    assert isinstance(load_aligner("avatars"), AvatarAligner)
    with pytest.raises(AlignError, match=r"got aligner 'face'; expected one of: faces, "):
        load_aligner("face")
    made = []
    monkeypatch.setattr(FaceAligner, "from_pretrained", lambda weights, *, offline: made.append((weights, offline)))
    load_aligner("faces", offline=True)
    load_aligner("faces", weights=tmp_path / "a.onnx")
    assert made == [("yunet", True), (tmp_path / "a.onnx", False)]
    assert set(ALIGNERS) == {"avatars", "faces", "none"}


def test_no_locator_in_the_file(tmp_path):
    with pytest.raises(WeightsError, match="no file is"):
        AvatarAligner.from_pretrained(tmp_path / "gone.safetensors")
