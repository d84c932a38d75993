"""Bad input: every row of docs/bad-input.md is a case here, and every case here is a row there."""

import contextlib
import io
import json
import os
import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bad_pictures import COMMANDS, FILES, IGNORED, UNREADABLE, face, flat, wide
from conftest import TINY
from PIL import Image

from stylograph import Generator, Inversion, photos
from stylograph.cli import main

DOC = Path(__file__).parents[1] / "docs" / "bad-input.md"
LOOK = ("--invert.stages", "encoder", "--align", "none")
FAST = ("--strength", "1", "--direction.method", "universal")
GLASSES = "a person wearing sunglasses"
CHEEKS = [[36, 52], [88, 52], [62, 72], [44, 92], [80, 92]]
"""Landmarks of a face in the middle of 128 x 128 pixels."""
STORIES = []
"""Rows of the tests that take more than one command."""


def story(given, happens):
    STORIES.append((given, happens))
    return lambda test: test


def quietly(*arguments):
    """Runs the command outside of a test; exit code and messages."""
    with contextlib.redirect_stderr(io.StringIO()) as told:
        try:
            main([str(a) for a in arguments])
        except SystemExit as stop:
            return stop.code, told.getvalue()
    return 0, told.getvalue()


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """A folder of small files to use and misuse."""
    folder = tmp_path_factory.mktemp("kit")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("STYLOGRAPH_CACHE", str(tmp_path_factory.mktemp("cache")))
        face().save("me.png")
        face(1).save("you.png")
        flat((50, 50)).save("blank.png")
        flat((17000, 2)).save("long.png")
        Path("bad.png").write_text("no picture")
        Path("one.json").write_text(json.dumps({"me.png": CHEEKS}))
        assert quietly("invert", "me.png", "-o", "code.safetensors", *LOOK)[0] == 0
        assert quietly("edit", GLASSES, *FAST, "--seed", 1, "-o", "x.png", "--save-edit", "edit.safetensors")[0] == 0
        Path("x.png").unlink()
        Path("code-inverted.png").rename("drawn.png")
        mine = Inversion.load("code.safetensors")
        replace(mine, generator_digest="0" * 64).save("other.safetensors")
        Generator.random(TINY, seed=1).save("generator.safetensors")
        Path("damaged.safetensors").write_bytes(Path("code.safetensors").read_bytes()[:-100])
    return folder


@pytest.fixture
def place(kit, tmp_path, monkeypatch):
    """A copy of the kit, in which the test runs."""
    here = tmp_path / "here"
    shutil.copytree(kit, here)
    monkeypatch.setenv("STYLOGRAPH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.chdir(here)
    return here


def content(folder):
    """Every file under a folder, and folders with None."""
    paths = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in paths if not p.is_fifo()}


# ------------------------------------------------------------------ files, all in one go


@dataclass(frozen=True)
class Run:
    folder: Path
    out: Path
    code: int
    told: str

    def entry(self, name):
        return json.loads((self.out / "manifest.json").read_text())["pictures"].get(str(self.folder / name))

    def inversion(self, name):
        return Inversion.load(self.out / self.entry(name)["file"])


@pytest.fixture(scope="module")
def album(kit, tmp_path_factory):
    """All the files of the table, good and bad, in one command."""
    root = tmp_path_factory.mktemp("files")
    folder, out = root / "pictures", root / "out"
    shutil.copytree(
        kit,
        folder,
        ignore=lambda *_: ["me.png", "you.png", "blank.png", "bad.png", "drawn.png", "long.png", "code.safetensors"],
    )
    (folder / "deeper").mkdir()
    for name in IGNORED:
        face().save(folder / name, format="PNG")
    for file in FILES:
        file.make(folder / file.name)

    def enough(*_):
        raise TimeoutError("it waits for a file that will never have content")

    named = [folder / file.name for file in FILES if file.named]
    signal.signal(signal.SIGALRM, enough)
    signal.alarm(120)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STYLOGRAPH_CACHE", str(root / "cache"))
            code, told = quietly("invert", folder, *named, "-o", out, *LOOK)
    finally:
        signal.alarm(0)
    return Run(folder, out, code, told)


@pytest.mark.parametrize("file", FILES, ids=lambda file: ascii(file.name[:20]))
def test_a_file(album, file):
    if file.name == "mem.png" and not UNREADABLE.exists():
        pytest.skip("this system has no file that nobody can read")
    entry = album.entry(file.name)
    if file.said:
        assert file.said in entry["error"]
        assert "got" in entry["error"]
        assert "\n" not in entry["error"]
        assert "file" not in entry
        assert f"left out {album.folder / file.name}: " in album.told
        return
    inversion = album.inversion(file.name)
    drawn = inversion.aligned.permute(1, 2, 0).numpy().astype(float)
    assert np.abs(drawn - file.wanted()).mean() <= file.off + 1e-9
    assert entry["verdict"] in ("very close", "close", "recognisable", "poor")
    assert inversion.source["path"] == str(album.folder / file.name)


def test_turned_pictures_have_one_inversion(album):
    codes = [album.inversion(f"turned{i}.jpg").codes for i in range(1, 9)]
    far = torch.dist(codes[0], album.inversion("twin.bmp").codes)
    assert all(torch.dist(code, codes[0]) < 0.1 * far for code in codes)
    mirrored = np.asarray(wide().transpose(Image.Transpose.FLIP_LEFT_RIGHT)).astype(float)
    assert np.abs(mirrored - np.asarray(wide())).mean() > 6  # or no orientation would matter


@pytest.mark.parametrize("name", IGNORED)
def test_what_a_folder_is_not_searched_for(album, name):
    assert album.entry(name) is None


@story("one bad file among many good ones", "it does not stop the others; it is named, and the exit code is 1")
def test_the_others_are_done(album):
    here = [file for file in FILES if album.entry(file.name) is not None]
    bad = sum(bool(file.said) for file in here)
    assert album.code == 1
    assert f"{len(here) - bad} inverted, 0 were there already, {bad} failed" in album.told
    written = [p.name for p in album.out.iterdir()]
    assert len(written) == len(here) - bad + 1
    assert all(not name.startswith(".") or name == ".hidden.safetensors" for name in written)


# ------------------------------------------------------------------ one command each


@pytest.mark.parametrize(
    "command",
    COMMANDS,
    ids=lambda command: command.given,
)
def test_a_command(say, place, folders, command):
    (place / "empty").mkdir()
    (place / "one").mkdir()
    face().save(place / "one" / "a.png")
    before = content(place)
    words = [str(folders[0]) if word == "CLIP" else word.replace("LONG", "x" * 250) for word in command.words]
    settings = LOOK if words[0] == "invert" else (*LOOK, *FAST)
    code, _, told = say(words[0], *settings, *words[1:])
    assert (code, command.said in " ".join(told.split())) == (command.code, True), told
    after = content(place)
    assert set(after) - set(before) == set(command.makes)
    assert {name: after.get(name) for name in before} == before  # and what was there is as it was


# ------------------------------------------------------------------ one thing after another


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())["pictures"]


@story(
    "Ctrl-C in the middle of many pictures",
    "exit code 130; what is done is kept, and the same command goes on with the rest",
)
def test_interrupted(say, place, monkeypatch):
    whole, calls = photos.Studio._batch, []

    def stop_at_the_second(studio, paths):
        calls.append(paths)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return whole(studio, paths)

    command = ("invert", *LOOK, "me.png", "you.png", "bad.png", "blank.png", "-o", "out")
    with monkeypatch.context() as patch:
        patch.setattr(photos, "BATCH", 2)
        patch.setattr(photos.Studio, "_batch", stop_at_the_second)
        code, _, told = say(*command)
    assert code == 130
    assert "goes on" in told
    assert sorted(p.name for p in Path("out").iterdir()) == ["manifest.json", "me.safetensors", "you.safetensors"]
    assert list(manifest(Path("out"))) == ["me.png", "you.png"]
    first = Path("out/me.safetensors").stat().st_mtime_ns
    code, _, told = say(*command)
    assert code == 1
    assert "1 inverted, 2 were there already, 1 failed" in told
    assert list(manifest(Path("out"))) == ["me.png", "you.png", "bad.png", "blank.png"]
    assert Path("out/me.safetensors").stat().st_mtime_ns == first


@story(
    "a full disk", "`could not be written`; every file is there as a whole or not at all, and the same command goes on"
)
@pytest.mark.parametrize("output", ["out", "a.safetensors"])
def test_a_full_disk(say, place, output):
    resource = pytest.importorskip("resource")
    before, limits = content(place), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        code, _, told = say("invert", *LOOK, "me.png", "you.png" if output == "out" else "--offline", "-o", output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code == 1
    assert "could not be written (" in told
    assert set(content(place)) - set(before) <= {"out"}
    assert not list(place.rglob(".*"))
    assert say("invert", *LOOK, "me.png", "-o", output)[0] == 0


@story("the folder of the pictures as the output", "the inversions lie beside the pictures; given again, nothing grows")
def test_the_folder_itself(say, place):
    for name in ("bad.png", "long.png", *(p.name for p in place.glob("*.safetensors"))):
        Path(name).unlink()
    assert say("invert", *LOOK, ".", "-o", ".")[0] == 0
    after = content(place)
    assert {"me.safetensors", "you.safetensors", "blank.safetensors"} <= set(after)
    code, _, told = say("invert", *LOOK, ".", "-o", ".")
    assert code == 0
    assert "0 inverted" in told
    assert content(place) == after


@story(
    "a file of another kind in the output folder, of a name that is wanted", "it stays; the inversion gets another name"
)
def test_files_of_others_are_spared(say, place):
    Path("out").mkdir()
    shutil.copy("generator.safetensors", "out/me.safetensors")
    assert say("invert", *LOOK, "me.png", "-o", "out")[0] == 0
    assert Path("out/me.safetensors").read_bytes() == Path("generator.safetensors").read_bytes()
    assert Inversion.load("out/me.png.safetensors").source["path"] == "me.png"


@story("a picture that was replaced since", "it is inverted again; the others are not")
def test_replaced(say, place):
    command = ("invert", *LOOK, "me.png", "you.png", "-o", "out")
    assert say(*command)[0] == 0
    before = Inversion.load("out/me.safetensors").codes
    shutil.copy("you.png", "me.png")
    assert "1 inverted, 1 were there already" in say(*command)[2]
    assert not torch.equal(Inversion.load("out/me.safetensors").codes, before)


@story("a picture that was good and is damaged or gone now", "it fails; its earlier inversion stays")
def test_gone_bad(say, place):
    command = ("invert", *LOOK, "me.png", "you.png", "-o", "out")
    assert say(*command)[0] == 0
    before = Path("out/me.safetensors").read_bytes()
    good = Path("me.png").read_bytes()
    Path("me.png").write_bytes(good[:100])
    code, _, told = say(*command)
    assert code == 1
    assert "0 inverted, 1 were there already, 1 failed" in told
    assert manifest(Path("out"))["me.png"]["file"] == "me.safetensors"
    assert Path("out/me.safetensors").read_bytes() == before
    Path("me.png").write_bytes(good)
    assert say(*command)[0] == 0
    assert "error" not in manifest(Path("out"))["me.png"]


@story("a file of landmarks that was changed since", "the pictures whose landmarks are others are inverted again")
def test_landmarks_count_as_they_are_now(say, place):
    command = ("invert", *LOOK, "me.png", "-o", "out", "--landmarks", "one.json")
    assert say(*command)[0] == 0
    assert "1 were there already" in say(*command)[2]
    before = Inversion.load("out/me.safetensors").source["quad"]
    Path("one.json").write_text(json.dumps({"me.png": [[x + 3, y] for x, y in CHEEKS]}))
    assert "1 inverted" in say(*command)[2]
    moved = np.array(Inversion.load("out/me.safetensors").source["quad"]) - before
    assert np.allclose(moved, [[3, 0]] * 4)


@story("equal pictures under two names, with landmarks of their own", "each is cut out at its own")
def test_equal_pictures_at_other_landmarks(say, place):
    shutil.copy("me.png", "twin.png")
    Path("two.json").write_text(json.dumps({"me.png": CHEEKS, "twin.png": [[x + 3, y] for x, y in CHEEKS]}))
    for name in ("me.png", "twin.png"):
        assert say("invert", *LOOK, name, "-o", "out", "--landmarks", "two.json")[0] == 0
    one, other = (np.array(Inversion.load(f"out/{n}.safetensors").source["quad"]) for n in ("me", "twin"))
    assert np.allclose(other - one, [[3, 0]] * 4)


@story("a damaged file among the kept inversions (the cache)", "it is made anew")
def test_a_damaged_cache(say, place, tmp_path):
    assert say("invert", *LOOK, "me.png", "-o", "out")[0] == 0
    kept = list((tmp_path / "cache" / "inversions").iterdir())
    assert len(kept) == 1
    kept[0].write_bytes(b"x" * 100)
    assert say("invert", *LOOK, "me.png", "-o", "again")[0] == 0
    assert torch.equal(Inversion.load("again/me.safetensors").codes, Inversion.load("out/me.safetensors").codes)
    assert Inversion.load(kept[0]).source["path"] == "me.png"


@story("a damaged manifest in the output folder", "`delete it to begin anew`; nothing is touched")
def test_a_damaged_manifest(say, place):
    Path("out").mkdir()
    Path("out/manifest.json").write_text("{")
    before = content(place)
    code, _, told = say("invert", *LOOK, "me.png", "-o", "out")
    assert code == 1
    assert "delete it to begin anew" in told
    assert content(place) == before


@story(
    "`--pasted` when the picture was changed since it was inverted",
    "`got another picture than the one that was inverted`",
)
@story("`--pasted` when the picture is gone since", "`a path where no file is`; the edit itself is written")
@pytest.mark.parametrize(("change", "said"), [("changed", "another picture"), ("gone", "a path where no file is")])
def test_pasting_into_what_is_no_more(say, place, change, said):
    shutil.copy("you.png", "me.png") if change == "changed" else Path("me.png").unlink()
    pasting = ("--image", "code.safetensors", "-o", "out.png", "--pasted", "p.png")
    code, _, told = say("edit", *FAST, *pasting, "a person wearing a hat")
    assert code == 1
    assert said in told
    assert Path("out.png").is_file()
    assert not Path("p.png").exists()


@story("`--pasted` with an inversion that does not say of which picture it is", "`invert the picture again`")
def test_pasting_into_nothing(say, place):
    replace(Inversion.load("code.safetensors"), source={}).save("code.safetensors")
    pasting = ("--image", "code.safetensors", "-o", "out.png", "--pasted", "p.png")
    code, _, told = say("edit", *FAST, *pasting, "a person wearing a hat")
    assert code == 1
    assert "invert the picture again" in told
    assert not Path("p.png").exists()


@story(
    "`rerun` when the picture was changed, or is gone",
    "`got other images than it was made with`, `a path where no file is`",
)
def test_again_with_another_picture(say, place):
    assert say("edit", *LOOK, *FAST, "a person wearing a hat", "--image", "me.png", "-o", "out.png")[0] == 0
    shutil.copy("you.png", "me.png")
    code, _, told = say("rerun", "out.png")
    assert (code, "got other images than it was made with" in told) == (1, True)
    Path("me.png").unlink()
    code, _, told = say("rerun", "out.png")
    assert (code, "a path where no file is" in told) == (1, True)
    assert not Path("out-again.png").exists()


@story("a cache folder that cannot be made", "nothing is kept there; everything else is as always")
def test_a_cache_that_cannot_be_made(say, place, monkeypatch):
    monkeypatch.setenv("STYLOGRAPH_CACHE", "one.json")
    assert "1 inverted" in say("invert", *LOOK, "me.png", "-o", "out")[2]


@story("a file name that is no text", "inverted")
def test_a_name_that_is_no_text(say, place):
    name = os.fsdecode(b"\xff.png")
    shutil.copy("me.png", name)
    assert "1 inverted" in say("invert", *LOOK, name, "-o", "out")[2]


@story("`--pasted` with two pictures of one name", "each has a file, the second with a number")
def test_pasting_two_pictures_of_one_name(say, place):
    for folder in ("a", "p"):
        Path(folder).mkdir()
    shutil.copy("you.png", "a/me.png")
    pictures = ("--image", "me.png", "a/me.png")
    say("edit", *LOOK, *FAST, "a person wearing a hat", *pictures, "-o", "o.png", "--pasted", "p")
    assert sorted(path.name for path in Path("p").iterdir()) == ["me-1.png", "me.png"]


@story("`--pasted` when one picture of several is gone", "the others are pasted; exit code 1")
def test_pasting_goes_on_after_one_that_is_gone(say, place):
    Path("p").mkdir()
    Path("me.png").unlink()
    pictures = ("--image", "code.safetensors", "you.png")
    code, *_ = say("edit", *LOOK, *FAST, "a person wearing a hat", *pictures, "-o", "o.png", "--pasted", "p")
    assert code == 1
    assert Path("p/you.png").is_file()


# ------------------------------------------------------------------ the table


def tables():
    """The tables of the document, each under its heading."""
    parts = {
        "Files": [file.row for file in FILES] + [(given, "not looked at") for given in IGNORED.values()],
        "Settings and outputs": [command.row for command in COMMANDS],
        "One thing after another": STORIES,
    }
    for heading, rows in parts.items():
        lines = [("what you give", "what happens"), ("---", "---"), *dict.fromkeys(rows)]
        yield f"## {heading}\n\n" + "".join(f"| {given} | {happens} |\n" for given, happens in lines)


def test_the_document_says_the_same():
    told = DOC.read_text(encoding="utf-8") if DOC.exists() else ""
    for table in tables():
        assert table in told, f"docs/bad-input.md is to hold\n\n{table}"
    rows = [line for line in told.splitlines() if line.startswith("| ")]
    assert len(rows) == sum(table.count("\n| ") for table in tables())
