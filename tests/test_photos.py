"""Picture files to inversions: aligned, remembered, in folders, and put back where they came from."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from inversion.kit import Oracle, Pixels, inversion_of
from PIL import Image

from stylograph.align.find import MiddleSquare, load_aligner
from stylograph.align.geometry import Found, Quad
from stylograph.errors import ImageError, OutputError, WeightsError
from stylograph.generator import Generator
from stylograph.inversion.config import InvertConfig
from stylograph.photos import Album, Edited, Studio

ENCODE = InvertConfig(stages=("encoder",))


@pytest.fixture
def studio(tiny, tmp_path):
    codes = tiny.w_plus(tiny.sample(8, seed=4)).tensor
    (tmp_path / "cache").mkdir()
    return Studio(tiny, ENCODE, Pixels(), MiddleSquare(), "none", encoder=Oracle(codes), cache=tmp_path / "cache")


@pytest.fixture
def pictures(tmp_path):
    """Three pictures of 48 x 40 pixels, each with noise of its own."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return [folder / f"{i}.png" for i in range(3)]


class TestStudio:
    def test_inverts_the_square_the_aligner_found(self, studio, pictures):
        (found,) = studio.invert(pictures[:1])
        middle = np.asarray(Image.open(pictures[0]))[:, 4:44]
        assert found.inversion.source["quad"] == Quad.middle(48, 40).tolist()
        assert found.inversion.source["size"] == [48, 40]
        aligned = found.inversion.aligned.permute(1, 2, 0).float()
        assert abs(float(aligned.mean()) - float(middle.mean())) < 1.5

    def test_a_bad_picture_does_not_stop_the_others(self, studio, pictures, tmp_path):
        bad = tmp_path / "pictures" / "1.png"
        bad.write_bytes(b"no picture")
        found = list(studio.invert(pictures))
        assert [outcome.inversion is None for outcome in found] == [False, True, False]
        assert "no readable picture" in found[1].error
        assert torch.equal(found[2].inversion.codes, studio.encoder.codes[1:2])

    def test_the_same_picture_is_inverted_once(self, studio, pictures):
        first = list(studio.invert(pictures))
        asked = studio.encoder.asked
        again = list(studio.invert(pictures))
        assert studio.encoder.asked == asked == 3
        assert all(torch.equal(a.inversion.codes, b.inversion.codes) for a, b in zip(first, again))

    def test_but_not_with_other_settings(self, studio, pictures):
        list(studio.invert(pictures[:1]))
        list(replace(studio, config=replace(ENCODE, lambda_identity=0.7)).invert(pictures[:1]))
        assert studio.encoder.asked == 2

    def test_a_copy_of_a_picture_keeps_its_own_path(self, studio, pictures, tmp_path):
        list(studio.invert(pictures[:1]))
        other = tmp_path / "other.png"
        other.write_bytes(pictures[0].read_bytes())
        (found,) = studio.invert([other])
        assert studio.encoder.asked == 1
        assert found.inversion.source["path"] == str(other)

    def test_inversions_are_read_as_they_are(self, studio, tiny, tmp_path):
        path = inversion_of(tiny).save(tmp_path / "me.safetensors")
        (found,) = studio.invert([path])
        assert studio.encoder.asked == 0
        assert torch.equal(found.inversion.codes, inversion_of(tiny).codes)

    def test_those_of_another_generator_are_told(self, studio, tiny, tmp_path):
        path = inversion_of(Generator.random(tiny.config, seed=9)).save(tmp_path / "them.safetensors")
        (found,) = studio.invert([path])
        assert found.inversion is None
        assert found.error.startswith(str(path))
        assert "invert the picture again" in found.error

    def test_landmarks_by_hand(self, studio, pictures):
        config = replace(ENCODE, landmarks="18,15 30,15 24,20 19,27 29,27")
        (found,) = replace(studio, config=config).invert(pictures[:1])
        assert found.inversion.source["aligner"] == "landmarks"
        assert found.inversion.source["quad"] != Quad.middle(48, 40).tolist()

    def test_the_face_that_is_asked_for(self, studio, pictures):
        class Two:
            def find(self, picture):
                return [Found(Quad.around((20, 20), 30), 0.9), Found(Quad.around((30, 20), 12), 0.8)]

        several = replace(studio, aligner=Two(), aligner_name="two")
        (largest,) = several.invert(pictures[:1])
        assert "2 faces" in largest.remark
        (second,) = replace(several, config=replace(ENCODE, face=2)).invert(pictures[:1])
        assert Quad(second.inversion.source["quad"]).side == pytest.approx(12)
        (none,) = replace(several, config=replace(ENCODE, face=3)).invert(pictures[:1])
        assert none.inversion is None

    def test_without_a_face_there_is_a_way_on(self, studio, pictures):
        class Nobody:
            def find(self, picture):
                return []

        (found,) = replace(studio, aligner=Nobody()).invert(pictures[:1])
        assert "--landmarks" in found.error


class TestAlbum:
    def test_goes_on_where_it_was_left(self, studio, pictures, tmp_path):
        album = Album(tmp_path / "album", studio.task)
        for outcome in studio.invert(pictures[:2]):
            album.add(outcome)
        again = Album(tmp_path / "album", studio.task)
        assert again.pending(pictures) == pictures[2:]

    def test_changed_pictures_and_lost_files_are_done_again(self, studio, pictures, tmp_path):
        album = Album(tmp_path / "album", studio.task)
        for outcome in studio.invert(pictures):
            album.add(outcome)
        assert album.pending(pictures) == []
        Image.new("RGB", (40, 40), "red").save(pictures[0])
        (tmp_path / "album" / "1.safetensors").unlink()
        assert album.pending(pictures) == pictures[:2]

    def test_failures_are_written_down_and_tried_again(self, studio, pictures, tmp_path):
        pictures[1].write_bytes(b"")
        album = Album(tmp_path / "album", studio.task)
        for outcome in studio.invert(pictures):
            album.add(outcome)
        told = json.loads((tmp_path / "album" / "manifest.json").read_text())["pictures"]
        assert "got" in told[str(pictures[1])]["error"]
        assert told[str(pictures[0])]["verdict"] in ("very close", "close", "recognisable", "poor")
        assert album.pending(pictures) == pictures[1:2]

    def test_other_settings_begin_anew(self, studio, pictures, tmp_path):
        album = Album(tmp_path / "album", studio.task)
        for outcome in studio.invert(pictures):
            album.add(outcome)
        other = replace(studio, config=replace(ENCODE, enough=0.5))
        assert Album(tmp_path / "album", other.task).pending(pictures) == pictures

    def test_pictures_of_one_name_do_not_meet(self, studio, pictures, tmp_path):
        beside = tmp_path / "more"
        beside.mkdir()
        twins = [pictures[0], pictures[0].with_suffix(".webp"), beside / "0.png"]
        Image.open(pictures[1]).save(twins[1])
        Image.open(pictures[2]).save(twins[2])
        album = Album(tmp_path / "album", studio.task)
        for outcome in studio.invert(twins):
            album.add(outcome)
        assert len(list((tmp_path / "album").glob("*.safetensors"))) == 3

    def test_a_manifest_nobody_can_read(self, studio, tmp_path):
        (tmp_path / "album").mkdir()
        (tmp_path / "album" / "manifest.json").write_text("[")
        with pytest.raises(WeightsError, match="delete it"):
            Album(tmp_path / "album", studio.task)

    def test_a_file_in_the_folders_place(self, studio, tmp_path):
        (tmp_path / "album").write_text("")
        with pytest.raises(OutputError, match="cannot be made"):
            Album(tmp_path / "album", studio.task)


class TestEdited:
    def test_only_the_square_changes(self, studio, pictures):
        (found,) = studio.invert(pictures[:1])
        photo = Edited(found.inversion, torch.ones(1, 3, 32, 32), None).pasted()
        before, after = (np.asarray(p) for p in (Image.open(pictures[0]), photo.picture))
        assert np.array_equal(before[:, :4], after[:, :4])
        assert np.array_equal(before[:, 44:], after[:, 44:])
        assert (after[10:30, 14:34] > 250).all()

    def test_no_change_leaves_the_picture_as_it_is(self, studio, pictures):
        (found,) = studio.invert(pictures[:1])
        same = found.inversion.image
        photo = Edited(found.inversion, same, same).pasted()
        assert np.array_equal(np.asarray(Image.open(pictures[0])), np.asarray(photo.picture))

    def test_another_picture_at_the_same_place(self, studio, pictures):
        (found,) = studio.invert(pictures[:1])
        Image.new("RGB", (48, 40)).save(pictures[0])
        with pytest.raises(ImageError, match="another picture"):
            Edited(found.inversion, found.inversion.image, None).pasted()

    def test_a_picture_that_is_gone(self, studio, pictures):
        (found,) = studio.invert(pictures[:1])
        pictures[0].unlink()
        with pytest.raises(ImageError, match="no file"):
            Edited(found.inversion, found.inversion.image, None).pasted()


def test_the_aligner_that_does_nothing():
    assert isinstance(load_aligner("none"), MiddleSquare)
