"""Faces through OpenCV: what a detector says becomes FFHQ's squares in the picture's own pixels."""

import builtins
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from stylograph.align.faces import FaceAligner, FaceConfig
from stylograph.align.geometry import ffhq_quad
from stylograph.errors import AlignError, WeightsError


def row(x, y, unit, score):
    """A face as YuNet tells it: box, the person's right eye (left in the picture), left eye, nose, mouth, score."""
    points = [(2, 2), (6, 2), (4, 4), (2.5, 6), (5.5, 6)]
    return [x, y, 8 * unit, 8 * unit, *(c for px, py in points for c in (x + px * unit, y + py * unit)), score]


def landmarks(x, y, unit):
    return [[x + px * unit, y + py * unit] for px, py in [(2, 2), (6, 2), (4, 4), (2.5, 6), (5.5, 6)]]


class Detector:
    """Stands for cv2.FaceDetectorYN: `see` makes rows of the picture's size (width, height) and pixels."""

    def __init__(self, see):
        self.see, self.size, self.looks = see, None, []

    def setInputSize(self, size):
        self.size = size

    def detect(self, pixels):
        assert pixels.flags["C_CONTIGUOUS"]
        assert pixels.dtype == np.uint8
        assert pixels.shape == (self.size[1], self.size[0], 3)
        self.looks.append(self.size)
        rows = self.see(self.size, pixels)
        return 1, None if rows is None else np.array(rows, np.float32)


@pytest.fixture
def cv2(monkeypatch):
    fake = SimpleNamespace(error=type("error", (Exception,), {}))
    monkeypatch.setitem(sys.modules, "cv2", fake)
    return fake


@pytest.mark.usefixtures("cv2")
class TestFind:
    def test_a_small_picture_as_it_is(self):
        found = FaceAligner(Detector(lambda *_: [row(10, 20, 5, 0.9)])).find(Image.new("RGB", (100, 80)))
        assert len(found) == 1
        assert found[0].score == pytest.approx(0.9)
        assert found[0].landmarks.tolist() == landmarks(10, 20, 5)
        assert found[0].quad.corners.tolist() == ffhq_quad(landmarks(10, 20, 5)).corners.tolist()

    def test_a_large_picture_is_reduced_and_the_places_scaled_back(self):
        detector = Detector(lambda *_: [row(64, 32, 10, 0.8)])
        found = FaceAligner(detector).find(Image.new("RGB", (2560, 1280)))
        assert detector.looks == [(640, 320)]
        assert np.allclose(found[0].landmarks, np.array(landmarks(64, 32, 10)) * 4)

    def test_prominent_ones_first(self):
        rows = [row(0, 0, 4, 0.99), row(60, 60, 10, 0.75), row(30, 0, 4.2, 0.8)]
        found = FaceAligner(Detector(lambda *_: rows)).find(Image.new("RGB", (200, 200)))
        assert [round(face.score, 2) for face in found] == [0.75, 0.99, 0.8]

    def test_looks_again_at_other_sizes(self):
        detector = Detector(lambda size, _: [row(10, 10, 5, 0.9)] if size[0] == 320 else None)
        found = FaceAligner(detector).find(Image.new("RGB", (1280, 640)))
        assert detector.looks == [(640, 320), (320, 160)]
        assert np.allclose(found[0].landmarks, np.array(landmarks(10, 10, 5)) * 4)
        detector = Detector(lambda *_: None)
        assert FaceAligner(detector).find(Image.new("RGB", (3000, 10))) == []
        assert detector.looks == [(640, 2), (320, 1), (1280, 4)]
        detector = Detector(lambda *_: None)
        assert FaceAligner(detector).find(Image.new("RGB", (100, 100))) == []
        assert detector.looks == [(100, 100)]  # no picture is enlarged

    def test_blue_comes_first(self):
        seen = []
        picture = Image.new("RGB", (9, 9), (10, 20, 30))
        FaceAligner(Detector(lambda _, pixels: seen.append(pixels[0, 0].tolist()))).find(picture)
        assert seen == [[30, 20, 10]]

    def test_a_face_without_a_square_is_left_out(self):
        swapped = row(10, 20, 5, 0.9)
        swapped[4:6], swapped[6:8] = swapped[6:8], swapped[4:6]
        found = FaceAligner(Detector(lambda *_: [swapped, row(50, 50, 3, 0.9)])).find(Image.new("RGB", (100, 80)))
        assert len(found) == 1

    def test_another_network(self, cv2):
        with pytest.raises(
            WeightsError, match=r"x\.onnx: got a detector with results of shape \[1, 3\]; expected .*YuNet"
        ):
            FaceAligner(Detector(lambda *_: [[1, 2, 3]]), name="x.onnx").find(Image.new("RGB", (9, 9)))

        def fail(*_):
            raise cv2.error("Layer with requested\nid=-1 not found")

        with pytest.raises(
            WeightsError, match=r"x\.onnx: got a file that is no such network \(Layer with requested id=-1"
        ):
            FaceAligner(Detector(fail), name="x.onnx").find(Image.new("RGB", (9, 9)))


class TestLoading:
    def test_options_reach_the_detector(self, cv2, tmp_path):
        given = []
        cv2.FaceDetectorYN = SimpleNamespace(create=lambda *options: given.append(options))
        (tmp_path / "a.onnx").write_bytes(b"x")
        FaceAligner.from_pretrained(tmp_path / "a.onnx", config=FaceConfig(threshold=0.6, overlap=0.2))
        assert given == [(str(tmp_path / "a.onnx"), "", (640, 640), 0.6, 0.2, 5000)]

    def test_without_opencv(self, monkeypatch, tmp_path):
        real = builtins.__import__

        def refuse(name, *rest):
            if name == "cv2":
                raise ImportError(name)
            return real(name, *rest)

        monkeypatch.setattr(builtins, "__import__", refuse)
        with pytest.raises(AlignError, match=r"pip install 'stylograph\[align\]'"):
            FaceAligner.from_pretrained(tmp_path / "a.onnx")

    @pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", bytes(range(256)) * 40])
    def test_no_onnx_file(self, tmp_path, content):
        pytest.importorskip("cv2")
        (tmp_path / "yunet.onnx").write_bytes(content)
        with pytest.raises(
            WeightsError, match=r"yunet\.onnx: got a file that is no such network .*expected .*YuNet"
        ) as told:
            FaceAligner.from_pretrained(tmp_path / "yunet.onnx")
        assert "\n" not in str(told.value)

    def test_no_file(self, tmp_path):
        pytest.importorskip("cv2")
        with pytest.raises(WeightsError, match="no file"):
            FaceAligner.from_pretrained(tmp_path / "gone.onnx")
        with pytest.raises(WeightsError, match="got no file"):
            FaceAligner.from_pretrained(tmp_path)
