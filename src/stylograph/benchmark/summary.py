"""From rows to figures: means over sentences with intervals, and which pictures stand for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stylograph.benchmark.methods import BUILT_IN, EXPLAINED
from stylograph.benchmark.rows import Bench, means, rank
from stylograph.benchmark.tasks import GROUPS, TASKS

REPLICATES = 2000
SHARES = ("clean", "success", "leak", "kept", "identity", "drift")
"""The figures with an interval."""
EVERYTHING = "all"
REFERENCE = ("direction", "auto")
"""What the others are compared with, where it is there."""
CASES = 4
"""Best, median and worst pictures shown."""


@dataclass(frozen=True)
class Figure:
    """A mean over sentences with its 95 % interval; NaN where nothing was counted."""

    mean: float
    low: float
    high: float

    def record(self) -> list[float | None]:
        """JSON-ready: mean, low, high."""
        return [None if math.isnan(v) else round(v, 4) for v in (self.mean, self.low, self.high)]


@dataclass(frozen=True, eq=False)
class Column:
    """A method at a strength: all its rows."""

    method: str
    strength: str
    clip: str
    """Name of the CLIP, where there are several."""
    control: bool
    rows: tuple[dict[str, Any], ...]
    """Finished ones."""

    @property
    def name(self) -> str:
        """What to call it."""
        strength = "" if self.strength == "own" else f", {self.strength}"
        return f"{self.method}{strength}{f' · {self.clip}' if self.clip else ''}"

    @property
    def says(self) -> str:
        """What it is, in a line."""
        return EXPLAINED.get(self.method) or next(
            (str(r["says"]) for r in self.rows if r.get("says")), "a function of your own"
        )

    def of(self, sentences: Sequence[str]) -> list[dict[str, Any]]:
        """Its rows about these sentences."""
        return [row for row in self.rows if row["task"]["sentence"] in sentences]


@dataclass(frozen=True, eq=False)
class Summary:
    """What the reports show."""

    columns: tuple[Column, ...]
    """Methods in the order of the package, then others, controls last."""
    groups: dict[str, tuple[str, ...]]
    """Group -> its sentences, in order; last all of them."""
    figures: dict[tuple[str, str], dict[str, Figure]]
    """(name of the column, group) -> figure by name."""
    against: dict[tuple[str, str], Figure]
    """(name of the column, group) -> its success minus that of the reference, on the sentences and people both have."""
    reference: Column | None

    def count(self, column: Column, group: str) -> int:
        """How many of a group's sentences a column has."""
        return len(column.of(self.groups[group]))

    def seconds(self, column: Column, group: str) -> float:
        """Mean seconds of a sentence with all its pictures."""
        taken = [row["seconds"] for row in column.of(self.groups[group])]
        return sum(taken) / len(taken) if taken else math.nan

    def record(self) -> list[dict[str, Any]]:
        """JSON-ready: one entry for every column and group."""
        return [
            {
                "method": column.method,
                "strength": column.strength,
                "clip": column.clip or None,
                "control": column.control,
                "group": group,
                "sentences": self.count(column, group),
                "of": len(sentences),
                "seconds": round(self.seconds(column, group), 3),
                **{name: figure.record() for name, figure in self.figures[column.name, group].items()},
                "success minus reference": (
                    self.against[column.name, group].record() if (column.name, group) in self.against else None
                ),
            }
            for column in self.columns
            for group, sentences in self.groups.items()
            if self.count(column, group)
        ]


def summarise(found: Bench) -> Summary:
    """Everything the reports say about edits, from the rows."""
    done = [row for row in found.rows if "pictures" in row]
    clips = {row["clip"]["digest"]: row["clip"]["name"] for row in done if not row["control"]}
    keys = dict.fromkeys(
        (row["method"], row["strength"], "" if row["control"] else row["clip"]["digest"])
        for row in sorted(done, key=_order)
    )
    columns = []
    for method, strength, clip in keys:
        rows = [r for r in done if (r["method"], r["strength"]) == (method, strength)]
        control = rows[0]["control"]
        newest = {r["task"]["sentence"]: r for r in rows if control or r["clip"]["digest"] == clip}
        name = "" if control or len(clips) < 2 else _clip_name(clips, clip)
        columns.append(Column(method, strength, name, control, tuple(newest.values())))
    groups = _groups(done)
    figures, against = {}, {}
    reference = next((c for c in columns if (c.method, c.strength) == REFERENCE), None)
    reference = reference or next((c for c in columns if not c.control), None)
    for column in columns:
        for group, sentences in groups.items():
            if rows := column.of(sentences):
                figures[column.name, group] = intervals(rows)
                if reference is not None and column is not reference and (base := reference.of(sentences)):
                    difference = paired(rows, base)
                    if difference is not None:
                        against[column.name, group] = difference
    return Summary(tuple(columns), groups, figures, against, reference)


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    known = list(BUILT_IN)
    place = known.index(row["method"]) if row["method"] in known else len(known)
    return row["control"], place, row["method"], row["strength"] != "fixed", row["clip"]["name"]


def _clip_name(clips: dict[str, str], digest: str) -> str:
    name = clips[digest]
    return name if list(clips.values()).count(name) == 1 else f"{name} {digest[:6]}"


def _groups(rows: list[dict[str, Any]]) -> dict[str, tuple[str, ...]]:
    """What nothing was tuned on comes first; all of them last, if there is more than one group."""
    first = {"held out": 0, "two wishes": 1, "tuned": 3}
    place = {task.sentence: i for i, task in enumerate(TASKS)}
    tasks = {row["task"]["sentence"]: row["task"]["group"] for row in rows}
    tasks = dict(sorted(tasks.items(), key=lambda item: (place.get(item[0], len(place)), item[0])))
    names = sorted(set(tasks.values()), key=lambda name: (first.get(name, 2), name))
    groups = {name: tuple(s for s, group in tasks.items() if group == name) for name in names}
    return groups | ({EVERYTHING: tuple(s for part in groups.values() for s in part)} if len(groups) > 1 else {})


def described(group: str) -> str:
    """What a group of sentences is, in words."""
    return "all sentences" if group == EVERYTHING else GROUPS.get(group, f"sentences “{group}”")


# -------------------------------------------------------------------- intervals


def wilson(part: int, whole: int, *, z: float = 1.959964) -> Figure:
    """A share with Wilson's 95 % interval (1927); NaN of nothing."""
    if not whole:
        return Figure(math.nan, math.nan, math.nan)
    p, n = part / whole, whole
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = max(0.0, middle - half), min(1.0, middle + half)
    return Figure(p, low if part else 0.0, high if part < whole else 1.0)


def _parts(rows: Sequence[dict[str, Any]], name: str) -> tuple[Tensor, Tensor]:
    """Numerators and denominators [S, N] of a figure: a row's figure is the ratio of their sums."""
    tops, bottoms = [], []
    for row in rows:
        pictures = row["pictures"]
        if name in ("success", "clean"):
            bottom = [float(p["counted"]) for p in pictures]
            top = [float(p["counted"] and p["reached"] and (name == "success" or not p["leaked"])) for p in pictures]
        elif name == "leak":
            top, bottom = [float(len(p["leaked"])) for p in pictures], [float(p["compared"]) for p in pictures]
        elif name == "kept":
            top, bottom = [float(not p["leaked"]) for p in pictures], [1.0] * len(pictures)
        else:
            bottom = [float(p.get(name) is not None) for p in pictures]
            top = [float(p.get(name) or 0) for p in pictures]
        tops.append(top)
        bottoms.append(bottom)
    return torch.tensor(tops, dtype=torch.double), torch.tensor(bottoms, dtype=torch.double)


def _draws(sentences: int, pictures: int) -> tuple[Tensor, Tensor]:
    """How often every sentence [B, S] and every picture [B, N] is drawn in each replicate; always the same."""
    rng = torch.Generator().manual_seed(0)
    counts = []
    for size in (pictures, sentences):
        rows = torch.randint(size, (REPLICATES, size), generator=rng)
        counts.append(torch.zeros(REPLICATES, size).double().scatter_add_(1, rows, torch.ones(rows.shape).double()))
    return counts[1], counts[0]


def _replicates(top: Tensor, bottom: Tensor, sentences: Tensor, pictures: Tensor) -> Tensor:
    """Mean over sentences of every replicate [B]; sentences in which nothing counts are left out."""
    whole = pictures @ bottom.T
    share = (pictures @ top.T) / whole.clamp_min(1e-12)
    weight = sentences * (whole > 0)
    return (weight * share).sum(1) / weight.sum(1)


def intervals(rows: Sequence[dict[str, Any]]) -> dict[str, Figure]:
    """Mean over sentences of every figure, each with a 95 % interval.

    The pigeonhole bootstrap (Owen, 2007): sentences and pictures are drawn anew independently of each other, as every
    sentence is tried on the same pictures; percentiles of 2000 replicates. A share all pictures agree on has no spread
    to draw from: it gets Wilson's interval of all the pictures.
    """
    found = {}
    sentences, pictures = _draws(len(rows), len(rows[0]["pictures"]))
    for name in SHARES:
        top, bottom = _parts(rows, name)
        values = [means(row["pictures"])[name] for row in rows]
        known = [v for v in values if not math.isnan(v)]
        found[name] = (
            _interval(sum(known) / len(known), _replicates(top, bottom, sentences, pictures)) if known else NONE
        )
        if name in ("clean", "success", "leak", "kept") and found[name].low == found[name].high:
            pooled = wilson(round(float(top.sum())), round(float(bottom.sum())))
            found[name] = replace(pooled, mean=found[name].mean)
    return found


def paired(rows: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]], name: str = "success") -> Figure | None:
    """Difference of two columns on the sentences both have, the same draws for both; None if they share none."""
    other = {row["task"]["sentence"]: row for row in base}
    pairs = [(row, other[row["task"]["sentence"]]) for row in rows if row["task"]["sentence"] in other]
    if not pairs:
        return None
    draws = _draws(len(pairs), len(pairs[0][0]["pictures"]))
    mine, theirs = (_parts(side, name) for side in zip(*pairs))
    difference = _replicates(*mine, *draws) - _replicates(*theirs, *draws)
    both = [means(side["pictures"])[name] for pair in pairs for side in pair]
    deltas = [a - b for a, b in zip(both[::2], both[1::2]) if not math.isnan(a - b)]
    return _interval(sum(deltas) / len(deltas), difference) if deltas else None


NONE = Figure(math.nan, math.nan, math.nan)


def _interval(mean: float, replicates: Tensor) -> Figure:
    values = replicates[replicates.isfinite()]
    if not len(values):
        return Figure(mean, math.nan, math.nan)
    low, high = torch.quantile(values, torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return Figure(mean, low, high)


# -------------------------------------------------------------------- pictures that stand for them


@dataclass(frozen=True)
class Shown:
    """One picture of a row."""

    row: dict[str, Any]
    index: int

    @property
    def picture(self) -> dict[str, Any]:
        return self.row["pictures"][self.index]


def cases(column: Column) -> dict[str, list[Shown]]:
    """The best, the middle and the worst of all pictures that count, by `rank`; of a sentence at most one each."""
    everything = [Shown(row, i) for row in column.rows for i, p in enumerate(row["pictures"]) if p["counted"]]
    everything.sort(key=lambda shown: (-rank(shown.picture), shown.picture["seed"], shown.row["task"]["sentence"]))
    middle = sorted(range(len(everything)), key=lambda i: (abs(i - (len(everything) - 1) / 2), i))
    orders = {"best": everything, "median": [everything[i] for i in middle], "worst": everything[::-1]}
    return {name: _one_each(order) for name, order in orders.items()}


def _one_each(order: Sequence[Shown]) -> list[Shown]:
    found: dict[str, Shown] = {}
    for shown in order:
        found.setdefault(shown.row["task"]["sentence"], shown)
    return list(found.values())[:CASES]


def first_counted(columns: Sequence[Column], sentence: str) -> int | None:
    """Index of the first picture that counts for a sentence: the same for every method, chosen by nobody."""
    for column in columns:
        for row in column.of((sentence,)):
            return next((i for i, p in enumerate(row["pictures"]) if p["counted"]), None)
    return None
