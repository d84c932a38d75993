"""From picture files to codes: opened, aligned, inverted, many at a time, and none of them stops the others."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylograph.errors import ImageError, InvertError, OutputError, StylographError, WeightsError
from stylograph.files import file_digest, replacing

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from stylograph.align.find import Aligner
    from stylograph.align.geometry import Found
    from stylograph.edit.base import Recogniser
    from stylograph.encoder import Encoder
    from stylograph.generator import Generator
    from stylograph.images import Photo
    from stylograph.inversion.config import InvertConfig
    from stylograph.inversion.inversion import Inversion
    from stylograph.inversion.likeness import Distance
    from stylograph.types import OnStep

BATCH = 16
"""Pictures inverted together."""
INVERSION = ".safetensors"
MANIFEST = "manifest.json"
LONGEST = 200
"""Bytes of a file name without its ending; file systems take 255 with it."""


@dataclass(frozen=True)
class Outcome:
    """What became of one picture."""

    path: Path
    inversion: Inversion | None = None
    error: str | None = None
    """Why there is none."""
    remark: str | None = None
    """What a user should know about how it was aligned."""


@dataclass(frozen=True)
class Studio:
    """The models pictures are inverted with, and the settings."""

    generator: Generator
    config: InvertConfig
    distance: Distance
    aligner: Aligner
    aligner_name: str
    encoder: Encoder | None = None
    identity: Recogniser | None = None
    models: Mapping[str, str | None] = field(default_factory=dict)
    """Digests of all of these, so that nothing made by others is taken for theirs."""
    cache: Path | None = None
    """Folder that keeps what was inverted, so that the same picture is not inverted twice."""
    on_step: OnStep | None = None

    def invert(self, paths: Sequence[Path]) -> Iterator[Outcome]:
        """What became of every file, in their order: pictures are inverted, inversions (.safetensors) read.

        A picture that cannot be read, or in which no face is found, is an outcome; settings that make no sense raise.
        """
        for first in range(0, len(paths), BATCH):
            yield from self._batch(paths[first : first + BATCH])

    def _batch(self, paths: Sequence[Path]) -> list[Outcome]:
        import torch

        from stylograph.inversion.invert import invert

        outcomes: dict[int, Outcome] = {}
        waiting: dict[int, tuple[Tensor, dict[str, Any], Path | None]] = {}
        for i, path in enumerate(paths):
            if path.suffix.lower() == INVERSION:
                outcomes[i] = read(path, self.generator)
                continue
            try:
                digest = picture_digest(path)
                place = None if self.cache is None else self.cache / self._key(path, digest)
                kept = None if place is None else _kept(place, path)
                if kept is None:
                    image, source = self._aligned(path, digest)
                    waiting[i] = image, source, place
                    outcomes[i] = Outcome(path, remark=source.get("remark"))
                else:
                    outcomes[i] = Outcome(path, kept, remark=kept.source.get("remark"))
            except ImageError as error:
                outcomes[i] = Outcome(path, error=_about(path, error))
        if waiting:
            images, sources, places = zip(*waiting.values())
            made = invert(
                self.generator,
                torch.cat(images),
                self.distance,
                encoder=self.encoder,
                identity=self.identity,
                config=self.config,
                sources=sources,
                on_step=self.on_step,
            )
            for i, inversion, place in zip(waiting, made, places, strict=True):
                outcomes[i] = replace(outcomes[i], inversion=inversion)
                if place is not None:
                    with suppress(StylographError):  # a full disk costs time, not the result
                        inversion.save(place)
        return [outcomes[i] for i in range(len(paths))]

    @property
    def task(self) -> dict[str, Any]:
        """What an inversion depends on beside the picture, JSON-ready."""
        landmarks = self.config.landmarks
        with suppress(OSError, RuntimeError, TypeError):  # a file of landmarks may hold others tomorrow
            file = Path(landmarks or "").expanduser()
            landmarks = file_digest(file) if file.is_file() else landmarks
        return {
            "generator": self.generator.digest,
            "aligner": self.aligner_name,
            "distance": self.distance.name,
            "models": dict(self.models),
            "settings": asdict(replace(self.config, landmarks=landmarks)),
        }

    def _key(self, path: Path, digest: str) -> str:
        """Name of the cached inversion of a picture. Where landmarks are given, those of this picture count."""
        from stylograph.align.landmarks import read_landmarks

        given = self.config.landmarks
        points = read_landmarks(given, picture=path).tolist() if given else None
        task = self.task | {"settings": asdict(replace(self.config, landmarks=None))}
        text = json.dumps([digest, points, task], sort_keys=True)
        return f"{hashlib.sha256(text.encode()).hexdigest()[:24]}{INVERSION}"

    def _aligned(self, path: Path, digest: str) -> tuple[Tensor, dict[str, Any]]:
        """The square of a picture that is inverted, [1, 3, S, S], and what to remember of it."""
        from stylograph.align.warp import crop
        from stylograph.images import open_photo

        picture = open_photo(path).picture
        found = self._find(path, picture)
        source = {
            "path": str(path),
            "sha256": digest,
            "size": list(picture.size),
            "quad": found.quad.tolist(),
            "aligner": "landmarks" if self.config.landmarks else self.aligner_name,
            **({"remark": found.remark} if found.remark else {}),
        }
        return crop(picture, found.quad, self.generator.resolution), source

    def _find(self, path: Path, picture: Image) -> Found:
        from stylograph.align.find import locate_face
        from stylograph.align.landmarks import landmarked

        if self.config.landmarks:
            return landmarked(self.config.landmarks, picture=path)
        face = self.config.face
        return locate_face(picture, self.aligner, index=None if face is None else face - 1)


def picture_digest(path: Path) -> str:
    """sha256 of a picture's file. Raises `ImageError` for what is no file, or cannot be read."""
    from stylograph.images import WANTED, picture_file

    try:
        return file_digest(picture_file(path))
    except OSError as error:
        raise ImageError(f"{path}: got a file that cannot be read ({error.strerror}); {WANTED}") from None


def _kept(place: Path, path: Path) -> Inversion | None:
    """The inversion at a place, made of an equal picture before, as that of this path."""
    from stylograph.inversion.inversion import Inversion

    with suppress(StylographError):
        found = Inversion.load(place)
        return replace(found, source={**found.source, "path": str(path)})
    return None


def read(path: Path, generator: Generator) -> Outcome:
    """The inversion in a file, if it is one for this generator."""
    from stylograph.inversion.inversion import Inversion

    try:
        inversion = Inversion.load(path)
        inversion.check(generator)
    except (WeightsError, InvertError, OSError) as error:
        return Outcome(path, error=_about(path, error))
    return Outcome(path, inversion)


def _about(path: Path, error: Exception) -> str:
    """What went wrong, with the file's name in front."""
    text = str(error)
    return text if text.startswith(str(path)) else f"{path}: {text}"


class Album:
    """A folder of inversions, and the manifest that says what became of which picture.

    What is done is not done again, as long as picture, generator and settings are the same. Raises `WeightsError` for a
    manifest that cannot be read, `OutputError` if the folder cannot be made.
    """

    def __init__(self, folder: Path, task: Mapping[str, Any]) -> None:
        """task: what the inversions depend on beside the pictures, JSON-ready."""
        self.folder, self.task = folder, json.loads(json.dumps(task))
        self._make_folder(trial=True)
        self.pictures: dict[str, dict[str, Any]] = {}
        manifest = folder / MANIFEST
        if manifest.exists():
            try:
                told = json.loads(manifest.read_text())
                if told["task"] == self.task:
                    self.pictures = {str(name): dict(entry) for name, entry in told["pictures"].items()}
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                raise WeightsError(
                    f"{manifest}: got a manifest that cannot be read; delete it to begin anew, or choose another folder"
                ) from None

    def _make_folder(self, *, trial: bool = False) -> None:
        """Makes the folder, with something to put into it at hand; as a trial, only looks whether that will do."""
        folder = self.folder
        try:
            if trial:
                there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
                if not there.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, f"{there} is a file")
                if not os.access(there, os.W_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            else:
                folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(
                f"{folder}: got a folder that cannot be made or written to ({error.strerror}); choose another"
            ) from None

    def pending(self, paths: Sequence[Path]) -> list[Path]:
        """The pictures that are still to be done, or have changed; those that failed are tried again."""
        return [path for path in paths if not self._done(path)]

    def _done(self, path: Path) -> bool:
        if path.suffix.lower() == INVERSION and path.resolve().parent == self.folder.resolve():
            return True  # a picture's inversion, beside which it would be written again
        entry = self.pictures.get(str(path), {})
        there = bool(entry.get("file")) and (self.folder / str(entry["file"])).is_file()
        with suppress(ImageError):
            return there and "error" not in entry and entry.get("sha256") == picture_digest(path)
        return False

    def add(self, outcome: Outcome) -> None:
        """Writes the inversion of a picture and the manifest."""
        self._make_folder()
        before = self.pictures.get(str(outcome.path), {})
        # An inversion of the picture as it was stays, and keeps its name.
        entry: dict[str, Any] = {"error": outcome.error} | ({"file": before["file"]} if before.get("file") else {})
        if outcome.inversion is not None:
            file = self._name(outcome.path)
            outcome.inversion.save(self.folder / file)
            figures = outcome.inversion.figures
            entry = {"file": file, "sha256": outcome.inversion.source.get("sha256"), "verdict": figures.verdict}
            entry |= {"figures": asdict(figures), "stages": [stage.name for stage in outcome.inversion.stages]}
            entry |= {"remark": outcome.remark} if outcome.remark else {}
        self.pictures[str(outcome.path)] = entry
        with replacing(self.folder / MANIFEST) as temporary:
            temporary.write_text(json.dumps({"task": self.task, "pictures": self.pictures}, indent=1))

    def _name(self, path: Path) -> str:
        """A file name no other picture has, nor a file in the folder that is no inversion."""
        taken = {entry.get("file") for name, entry in self.pictures.items() if name != str(path)}
        digest = hashlib.sha256(os.fsencode(path)).hexdigest()
        stems = [path.stem, path.name, f"{path.stem[:LONGEST]}-{digest[:8]}", digest]
        names = [f"{stem}{INVERSION}" for stem in stems if len(os.fsencode(stem)) <= LONGEST]
        return next((name for name in names if name not in taken and self._free(name)), names[-1])

    def _free(self, name: str) -> bool:
        """Whether nothing is lost if a file of this name is written."""
        from stylograph.files import read_tensors

        with suppress(OSError, ValueError):
            return (read_tensors(self.folder / name)[1] or {}).get("format") == "inversion"
        return not (self.folder / name).exists()


@dataclass(frozen=True, eq=False)
class Edited:
    """A picture of one's own and its edit, to be put back in its place."""

    inversion: Inversion
    after: Tensor
    """[1, 3, S, S] in [-1, 1], the edited square."""
    before: Tensor | None
    """The same before the edit: then only the difference is put in. None puts in the whole square."""

    @property
    def path(self) -> Path:
        """Where the picture came from."""
        return Path(str(self.inversion.source.get("path", "")))

    def pasted(self) -> Photo:
        """The picture with its edit. Raises `ImageError` if its file is gone, or is another one by now."""
        from stylograph.align.geometry import Quad
        from stylograph.align.warp import paste
        from stylograph.images import open_photo

        source = self.inversion.source
        if not {"path", "sha256", "quad"} <= set(source):
            raise ImageError(
                "got an inversion that does not say which picture it is of; expected one of `stylograph invert`; "
                "invert the picture again"
            )
        photo = open_photo(self.path)
        if picture_digest(self.path) != source["sha256"]:
            raise ImageError(
                f"{self.path}: got another picture than the one that was inverted; bring that back, or invert again"
            )
        return paste(photo, self.after, Quad(source["quad"]), before=self.before)
