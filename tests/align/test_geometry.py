"""Squares and FFHQ's square of a face, against numbers worked out by hand."""

import math

import numpy as np
import pytest
import torch

from stylograph.align.geometry import Found, Quad, ffhq_quad
from stylograph.errors import AlignError, ImageError

UPRIGHT = [[40, 50], [60, 50], [50, 60], [42, 70], [58, 70]]


def near(quad, corners, tolerance=1e-9):
    wanted = corners if isinstance(corners, torch.Tensor) else torch.from_numpy(np.array(corners, np.float64))
    assert quad.corners.dtype == torch.float64
    assert float((quad.corners - wanted).abs().max()) < tolerance, quad.tolist()


class TestFFHQ:
    def test_wide_face(self):
        # e = (20, 0), m = (0, 20): half side max(2·20, 1.8·20) = 40, middle (50, 50 + 0.1·20).
        near(ffhq_quad(UPRIGHT), [[10, 12], [10, 92], [90, 92], [90, 12]])

    def test_long_face(self):
        # m = (0, 40): half side max(2·20, 1.8·40) = 72, middle (50, 54).
        near(
            ffhq_quad([[40, 50], [60, 50], [0, 0], [45, 90], [55, 90]]),
            [[-22, -18], [-22, 126], [122, 126], [122, -18]],
        )

    def test_turned_head(self):
        # e = (20, 0), m = (5, 20): x along (20 + 20, 0 - 5) = (40, -5), scaled to length max(40, 1.8·√425 = 37.1).
        x = np.array([40.0, -5.0]) * 40 / math.sqrt(1625)
        y = np.array([-x[1], x[0]])
        c = np.array([50 + 0.5, 50 + 2.0])
        near(ffhq_quad([[40, 50], [60, 50], [3, 9], [50, 70], [60, 70]]), [c - x - y, c - x + y, c + x + y, c + x - y])

    @pytest.mark.parametrize("quarter", range(4))
    def test_turned_pictures(self, quarter):
        # A picture turned clockwise by 90 degrees: (x, y) -> (-y, x). Top left of the face goes along with it.
        points = [
            [complex(x, y) * 1j**quarter for x, y in part]
            for part in (UPRIGHT, [[10, 12], [10, 92], [90, 92], [90, 12]])
        ]
        landmarks, corners = ([[p.real, p.imag] for p in part] for part in points)
        quad = ffhq_quad(landmarks)
        near(quad, corners)
        assert math.isclose(math.cos(quad.angle), math.cos(quarter * math.pi / 2), abs_tol=1e-9)
        assert math.isclose(math.sin(quad.angle), math.sin(quarter * math.pi / 2), abs_tol=1e-9)

    def test_follows_every_similarity(self):
        rng = torch.Generator().manual_seed(0)
        face = torch.tensor(UPRIGHT, dtype=torch.float64) + torch.randn(5, 2, generator=rng, dtype=torch.float64)
        for _ in range(20):
            scale, turn = 10 ** float(torch.rand((), generator=rng) * 2 - 1), float(torch.rand((), generator=rng) * 7)
            shift = torch.randn(2, generator=rng, dtype=torch.float64) * 500
            matrix = scale * torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
            moved = ffhq_quad(face @ matrix.double().T + shift)
            near(moved, ffhq_quad(face).corners @ matrix.double().T + shift, 1e-4 * scale)

    def test_the_nose_does_not_matter_and_68_points_will_do(self):
        points = torch.full((68, 2), 7.0)
        ring = torch.tensor([[-3.0, 0], [-1, -2], [1, -2], [3, 0], [1, 2], [-1, 2]])
        points[36:42], points[42:48] = ring + torch.tensor([40.0, 50]), ring + torch.tensor([60.0, 50])
        points[48], points[54] = torch.tensor([42.0, 70]), torch.tensor([58.0, 70])
        near(ffhq_quad(points), [[10, 12], [10, 92], [90, 92], [90, 12]])

    @pytest.mark.parametrize(
        ("landmarks", "said"),
        [
            ([UPRIGHT[i] for i in (1, 0, 2, 4, 3)], "eye on the left of the picture"),
            ([[50, 50]] * 5, "eye on the left"),
            ([[40, 50], [60, 50], [50, 60], [42, 50], [58, 50]], "eye on the left"),  # mouth between the eyes
            ([[40, 50], [60, 50], [50, 60], [42, math.nan], [58, 70]], "not finite"),
            ([[40, 50], [60, 50], [50, 60], [42, 70], [math.inf, 70]], "not finite"),
            (UPRIGHT[:4], r"shape \[4, 2\]; expected \[5, 2\] or \[68, 2\]"),
            (UPRIGHT[0], r"shape \[2\]"),
            ([["a", "b"]] * 5, "pairs of numbers"),
            ([[1], [2, 3]], "pairs of numbers"),
            (None, "pairs of numbers"),
        ],
    )
    def test_no_face(self, landmarks, said):
        with pytest.raises(AlignError, match=said):
            ffhq_quad(landmarks)
        assert issubclass(AlignError, ImageError)


class TestQuad:
    def test_measures(self):
        quad = Quad.around((10, 20), 8, math.radians(90))
        near(quad, [[14, 16], [6, 16], [6, 24], [14, 24]])  # what was the left side is on top
        assert math.isclose(quad.side, 8)
        assert math.isclose(quad.angle, math.pi / 2)
        near(quad.enlarged(1.5), [[16, 14], [4, 14], [4, 26], [16, 26]])
        near(quad.scaled(0.5), [[7, 8], [3, 8], [3, 12], [7, 12]])
        near(Quad(quad.tolist()), quad.corners)

    def test_middle(self):
        near(Quad.middle(7, 4), [[1, 0], [1, 4], [5, 4], [5, 0]])
        near(Quad.middle(4, 9), [[0, 2], [0, 6], [4, 6], [4, 2]])
        near(Quad.middle(1, 1), [[0, 0], [0, 1], [1, 1], [1, 0]])

    @pytest.mark.parametrize(
        ("corners", "said"),
        [
            ([[0, 0], [0, 4], [8, 4], [8, 0]], "expected a square"),
            ([[0, 0], [8, 0], [8, 8], [0, 8]], "expected a square"),  # mirrored
            ([[0, 0], [0, 8], [9, 9], [8, 0]], "expected a square"),
            ([[3, 3]] * 4, "expected a square"),
            ([[0, 0], [0, 8], [8, 8]], r"shape \[3, 2\]"),
            ([[0, 0], [0, 8], [8, math.nan], [8, 0]], "not finite"),
            ([[0, 0], [0, 1e9], [1e9, 1e9], [1e9, 0]], "not finite or beyond"),
        ],
    )
    def test_no_square(self, corners, said):
        with pytest.raises(AlignError, match=said):
            Quad(corners)

    def test_found_says_nothing_by_itself(self):
        found = Found(Quad.middle(2, 2), 0.5)
        assert (found.landmarks, found.remark) == (None, None)
