"""What the judge saw, in numbers; and rows that are kept."""

import json
import math

import pytest
import torch

from stylograph.benchmark.rows import Folder, load_tiles, means, outcomes, rank, save_tiles, score
from stylograph.benchmark.tasks import Task
from stylograph.errors import OutputError, StylographError
from stylograph.metrics import Judge, leakage

from .kit import BRIGHT, ColourJudge


def told(**tables):
    return {name: torch.tensor(rows) for name, rows in tables.items()}


class Opinionated:
    attributes = {"hat": ("no", "yes"), "hair": ("red", "blue"), "skin": ("pale", "dark")}  # noqa: RUF012
    hidden = {"hair": ("hat", [1])}  # noqa: RUF012


NO, YES = [0.9, 0.1], [0.1, 0.9]
UNSURE = [0.55, 0.45]


class TestOutcomes:
    def test_every_case_of_one_wish(self):
        # there already, reached, missed, hidden before, hidden after
        before = told(hat=[NO, NO, NO, YES, NO], hair=[YES, NO, NO, NO, NO], skin=[NO] * 5)
        after = told(hat=[NO, NO, NO, NO, YES], hair=[YES, YES, NO, YES, YES], skin=[NO, NO, YES, NO, NO])
        rows = outcomes(Opinionated(), Task("x", {"hair": ("blue",)}), before, after)
        assert [row["counted"] for row in rows] == [False, True, True, False, True]
        assert [row["reached"] for row in rows] == [True, True, False, True, False]
        assert [list(row["leaked"]) for row in rows] == [[], [], ["skin"], ["hat"], ["hat"]]
        assert rows[2]["leaked"] == {"skin": ["pale", "dark"]}
        assert rows[1]["p"] == [pytest.approx(0.1), pytest.approx(0.9)]
        figures = means(rows)
        assert figures["counted"] == 3
        assert figures["success"] == pytest.approx(1 / 3)
        assert figures["clean"] == pytest.approx(1 / 3)
        assert figures["leak"] == pytest.approx(3 / 10)
        assert figures["kept"] == pytest.approx(2 / 5)

    def test_success_that_leaks_is_not_clean(self):
        rows = outcomes(
            Opinionated(),
            Task("x", {"hair": ("blue",)}),
            told(hat=[NO], hair=[NO], skin=[NO]),
            told(hat=[NO], hair=[YES], skin=[YES]),
        )
        figures = means(rows)
        assert (figures["success"], figures["clean"], figures["leak"]) == (1, 0, 0.5)

    def test_two_wishes_are_both(self):
        task = Task("x", {"hair": ("blue",), "skin": ("dark",)})
        before = told(hat=[NO] * 3, hair=[NO, YES, YES], skin=[NO, NO, YES])
        after = told(hat=[NO] * 3, hair=[YES] * 3, skin=[NO, YES, YES])
        rows = outcomes(Opinionated(), task, before, after)
        assert [row["counted"] for row in rows] == [True, True, False]
        assert [row["reached"] for row in rows] == [False, True, True]
        assert all(not row["leaked"] for row in rows)
        assert rows[0]["p"][1] == pytest.approx(0.9 * 0.1)

    def test_what_is_exempt_or_unsure_is_no_leak(self):
        before, after = told(hat=[NO], hair=[NO], skin=[NO]), told(hat=[NO], hair=[UNSURE], skin=[YES])
        (row,) = outcomes(Opinionated(), Task("x", {"hat": ("yes",)}, ("skin",)), before, after)
        assert (row["leaked"], row["compared"], row["attributes"]) == ({}, 0, 1)

    def test_a_judge_that_does_not_know(self):
        before = told(hat=[NO], hair=[NO], skin=[NO])
        for wants, said in (({"nose": ("big",)}, "attributes hat"), ({"hair": ("green",)}, "red, blue")):
            with pytest.raises(StylographError, match=said):
                outcomes(Opinionated(), Task("x", wants), before, before)

    def test_nothing_counts(self):
        figures = means(
            outcomes(Opinionated(), Task("x", {"hair": ("blue",)}), *[told(hat=[YES], hair=[NO], skin=[NO])] * 2)
        )
        assert math.isnan(figures["success"])
        assert figures["leak"] == 0
        assert math.isnan(figures["identity"])

    def test_it_is_the_leakage_of_metrics(self):
        judge = Judge.from_pretrained()
        rng = torch.Generator().manual_seed(0)
        images = torch.rand((6, 3, 48, 48), generator=rng) * 2 - 1
        pair = images, images.flip(3).roll(1, 0)
        task = Task("x", {"eyes": ("sunglasses",)})
        share = leakage(*map(judge.probabilities, pair), hidden=judge.hidden, exempt=("eyes",))
        found = score(judge, task, *pair)
        assert found["leak"] == pytest.approx(share.share, nan_ok=True)
        assert found["coverage"] == pytest.approx(share.coverage)


def test_rank_is_probability_minus_leaks():
    assert rank({"p": [0.0, 0.8], "leaked": {"a": []}, "compared": 4}) == pytest.approx(0.55)
    assert rank({"p": [0.0, 1.0], "leaked": {}, "compared": 0}) == 1


class TestFolder:
    def test_what_is_kept_comes_back(self, tmp_path):
        folder = Folder(tmp_path / "deep" / "out")
        folder.prepare()
        images = torch.rand(3, 3, 16, 16) * 2 - 1
        folder.keep("rows", "k", {"key": "k", "made": {"at": 2}}, images)
        folder.keep("rows", "a", {"key": "a", "made": {"at": 1}})
        assert [row["key"] for row in folder.all()] == ["a", "k"]
        assert len(folder.tiles("rows", "k")) == 3
        assert folder.tiles("rows", "a") == []

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"key": "other"}', "null"])
    def test_a_damaged_row_is_no_row(self, tmp_path, text):
        folder = Folder(tmp_path)
        folder.prepare()
        (tmp_path / "rows" / "k.json").write_text(text)
        assert folder.read("rows", "k") is None
        assert folder.all() == []

    def test_a_file_in_its_place(self, tmp_path):
        (tmp_path / "out").write_text("")
        with pytest.raises(OutputError, match="name another"):
            Folder(tmp_path / "out").prepare()


@pytest.mark.parametrize("shape", [(1, 3, 16, 16), (20, 3, 24, 16), (2, 3, 300, 300), (2, 3, 1, 1)])
def test_tiles_go_round(tmp_path, shape):
    colours = torch.linspace(-1, 1, shape[0])[:, None, None, None].expand(shape)
    save_tiles(colours, tmp_path / "t.webp")
    tiles = load_tiles(tmp_path / "t.webp")
    assert len(tiles) == shape[0]
    side = min(128, *shape[2:])
    for tile, colour in zip(tiles, colours):
        assert tile.size == (side, side)
        pixel = tile.getpixel((side // 2, side // 2))
        assert all(abs(c - (float(colour[0, 0, 0]) * 127.5 + 128)) < 9 for c in pixel)


def test_other_pictures_are_no_tiles(tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.webp")
    (tmp_path / "b.webp").write_bytes(b"nothing")
    assert load_tiles(tmp_path / "a.webp") == load_tiles(tmp_path / "b.webp") == []


def test_json_has_no_tensors(tmp_path):
    judge, images = ColourJudge(), torch.rand(2, 3, 8, 8)
    json.dumps(outcomes(judge, BRIGHT, judge.probabilities(images), judge.probabilities(-images)))
