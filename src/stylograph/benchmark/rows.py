"""One row of the benchmark: what the judge saw in every picture, kept in a folder as soon as it is known."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from stylograph import __version__
from stylograph.benchmark.tasks import Task
from stylograph.errors import OutputError, StylographError
from stylograph.files import replacing
from stylograph.metrics import Judge, leakage, visible

MEASURE = 1
"""Version of what is measured: rows of another one are not mixed with these."""
TILE = 128
"""Pictures are kept for the report at most this large."""
COLUMNS = 16


class Opinion(Protocol):
    """What a judge has to have, besides a `digest` or a `network`: see `stylograph.metrics.Judge`."""

    attributes: dict[str, tuple[str, ...]]
    hidden: dict[str, Any]

    def probabilities(self, images: Tensor) -> dict[str, Tensor]: ...


def outcomes(
    judge: Judge | Opinion, task: Task, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """What became of every picture, JSON-ready, from what `judge.probabilities` says before and after.

    counted: it counts for success: all that is wanted can be seen before, and is not all there yet.
    reached: all that is wanted is seen afterwards, each the most probable value.
    p: probability of all that is wanted, [before, after].
    leaked: attribute -> [value before, value after], of those that nobody asked to change (`stylograph.metrics.leakage`).
    compared: how many attributes could be compared, of how many (`attributes`).
    """
    count = len(next(iter(before.values())))
    there = [torch.ones(count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)]
    p = [torch.ones(count), torch.ones(count)]
    can = [torch.ones(count, dtype=torch.bool), torch.ones(count, dtype=torch.bool)]
    for name, values in task.wants.items():
        wanted = torch.tensor([_value(judge, name, value) for value in values])
        for side, told in enumerate((before, after)):
            there[side] &= torch.isin(told[name].argmax(1), wanted)
            p[side] = p[side] * told[name][:, wanted].sum(1)
            can[side] &= visible(told, judge.hidden)[name]
    leak = leakage(before, after, hidden=judge.hidden, exempt=(*task.wants, *task.exempt))
    rows = []
    for i in range(count):
        leaked = {
            name: [judge.attributes[name][int(told[name][i].argmax())] for told in (before, after)]
            for name, changed in leak.changed.items()
            if bool(changed[i])
        }
        rows.append(
            {
                "counted": bool(can[0][i] & ~there[0][i]),
                "reached": bool(can[1][i] & there[1][i]),
                "p": [round(float(side[i]), 4) for side in p],
                "leaked": leaked,
                "compared": sum(int(table[i]) for table in leak.compared.values()),
                "attributes": len(leak.compared),
            }
        )
    return rows


def _value(judge: Any, attribute: str, name: str) -> int:
    if attribute not in judge.attributes or name not in judge.attributes[attribute]:
        known = ", ".join(judge.attributes.get(attribute, ())) or f"attributes {', '.join(judge.attributes)}"
        raise StylographError(f"got {attribute} {name!r} in a task; the judge knows {known}")
    return judge.attributes[attribute].index(name)


def means(pictures: list[dict[str, Any]]) -> dict[str, float]:
    """The figures of one row from its pictures; NaN where nothing counts.

    success: share that reached it among those counted. clean: among the same, those that did and leaked nothing.
    leak: changed attributes among compared ones. coverage: compared ones among all.
    kept: share of all pictures in which nothing leaked.
    identity, drift: means, as far as they were measured.
    """
    counted = [p for p in pictures if p["counted"]]
    compared = sum(p["compared"] for p in pictures)
    found = {
        "success": _share(sum(p["reached"] for p in counted), len(counted)),
        "clean": _share(sum(p["reached"] and not p["leaked"] for p in counted), len(counted)),
        "leak": _share(sum(len(p["leaked"]) for p in pictures), compared),
        "kept": _share(sum(not p["leaked"] for p in pictures), len(pictures)),
        "coverage": _share(compared, sum(p["attributes"] for p in pictures)),
        "counted": float(len(counted)),
    }
    for name in ("identity", "drift"):
        values = [p[name] for p in pictures if p.get(name) is not None]
        found[name] = _share(sum(values), len(values))
    return found


def score(judge: Judge, task: Task, before: Tensor, after: Tensor) -> dict[str, float]:
    """`means` of pictures [N, 3, H, W] in [-1, 1] before and after an edit."""
    return means(outcomes(judge, task, judge.probabilities(before), judge.probabilities(after)))


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


def rank(picture: Mapping[str, Any]) -> float:
    """The order of best, median and worst: probability of what was asked minus the share of leaks, in [-1, 1]."""
    return picture["p"][1] - len(picture["leaked"]) / max(1, picture["compared"])


def digest(record: Any) -> str:
    """Of anything JSON-ready."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


# -------------------------------------------------------------------- the folder


@dataclass(frozen=True)
class Folder:
    """Where rows are kept: `rows/<key>.json` with a sheet of the edited pictures, `worlds/<key>` with what they share,
    `domains/<key>` likewise for adapted generators.

    Folders of several machines can be copied together.
    """

    path: Path

    def prepare(self) -> None:
        """Makes the folders. Raises `OutputError`."""
        try:
            for name in ("rows", "worlds", "domains", "work"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"{self.path}: could not be used as a folder ({reason}); name another") from error

    @property
    def work(self) -> Path:
        """For what is made on the way: mappers, maps, half-done trainings."""
        return self.path / "work"

    def keep(self, kind: str, key: str, record: Mapping[str, Any], images: Tensor | None = None) -> None:
        """Writes a row or a world; the record last, so that what has a record is whole."""
        if images is not None:
            save_tiles(images, self.path / kind / f"{key}.webp")
        with replacing(self.path / kind / f"{key}.json") as temporary:
            temporary.write_text(json.dumps(record) + "\n")

    def read(self, kind: str, key: str) -> dict[str, Any] | None:
        """What was kept, or None; a damaged file is as good as none."""
        try:
            record = json.loads((self.path / kind / f"{key}.json").read_text())
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) and record.get("key") == key else None

    def all(self, kind: str = "rows") -> list[dict[str, Any]]:
        """Everything kept of a kind, oldest first."""
        found = (self.read(kind, path.stem) for path in (self.path / kind).glob("*.json"))
        return sorted((row for row in found if row is not None), key=lambda row: row.get("made", {}).get("at", 0))

    def tiles(self, kind: str, key: str) -> list[Any]:
        """The pictures of a row or a world (Pillow), in order; none if they are gone."""
        path = self.path / kind / f"{key}.webp"
        return load_tiles(path) if path.exists() else []


def save_tiles(images: Tensor, path: Path) -> None:
    """Pictures [N, 3, H, W] in [-1, 1], reduced to at most `TILE`, on one sheet of square tiles."""
    from PIL import Image

    from stylograph.images import resize
    from stylograph.render import to_uint8

    side = min(TILE, *images.shape[-2:])
    pixels = to_uint8(resize(images.float(), side)).numpy()
    columns = min(COLUMNS, len(pixels))
    picture = Image.new("RGB", (columns * side, math.ceil(len(pixels) / columns) * side))
    for i, tile in enumerate(pixels):
        picture.paste(Image.fromarray(tile), (i % columns * side, i // columns * side))
    with replacing(path) as temporary:
        # The sheet says how many pictures it holds and how large they are.
        exif = Image.Exif()
        exif[0x010E] = json.dumps({"count": len(pixels), "side": side})
        picture.save(temporary, format="WEBP", quality=90, method=4, exif=exif)


def load_tiles(path: Path) -> list[Any]:
    """What `save_tiles` wrote, as a list of Pillow pictures; empty if it cannot be read."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            told = json.loads(picture.getexif()[0x010E])
            count, side = int(told["count"]), int(told["side"])
            whole = picture.convert("RGB")
    except (OSError, UnidentifiedImageError, KeyError, ValueError, TypeError):
        return []
    columns = max(1, whole.width // side)
    boxes = [(i % columns * side, i // columns * side) for i in range(count)]
    return [whole.crop((x, y, x + side, y + side)) for x, y in boxes]


# -------------------------------------------------------------------- all of them


@dataclass(frozen=True, eq=False)
class Bench:
    """What is known in the end."""

    folder: Folder
    world: str
    """Key of the pictures and the judge these rows are about."""
    rows: list[dict[str, Any]]
    """Finished and failed ones, also those of earlier runs and other machines in the folder."""
    domains: list[dict[str, Any]]
    """The same of adapted generators."""
    remarks: list[str]
    asked: frozenset[str] = frozenset()
    """Keys of the rows this run was asked for."""

    @property
    def failed(self) -> list[dict[str, Any]]:
        """Rows asked for that came to nothing, each with its "error"."""
        return [row for row in (*self.rows, *self.domains) if "error" in row and row["key"] in self.asked]

    def lines(self) -> list[str]:
        """What to tell the user."""
        failed = [line_of(row) for row in self.failed]
        done = sum("error" not in row for row in (*self.rows, *self.domains))
        report = self.folder.path / "report.html"
        return [*self.remarks, *failed, f"{done} rows, {len(failed)} failed; wrote {report}, report.md and bench.json"]


def made() -> dict[str, Any]:
    """With what and on what."""
    return {
        "stylograph": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "at": round(time.time()),
    }


def line_of(row: dict[str, Any]) -> str:
    """A row in one line."""
    edit = "task" in row
    name = f"{row['method']}, {row['strength']}" if edit else row["adapter"]
    name = f"{name}: {row['task' if edit else 'domain']['sentence']}"
    if "error" in row:
        return f"{name}: failed, {row['error']}"
    if edit:
        figures = means(row["pictures"])
        return f"{name}: success {figures['success']:.2f}, leak {figures['leak']:.2f}, {row['seconds']:.0f} s"
    figures = row["figures"]
    return f"{name}: KID {figures['kid']:.0f}, target {figures['target']:.2f}, {row['seconds']:.0f} s"
