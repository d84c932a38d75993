"""How well an edit did: did it reach what was asked for, and what else did it change?

The judge is a classifier that no method has seen: it was trained on drawings with known attributes and is never part of
a loss. It knows the avatars only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylograph.assets import ASSETS
from stylograph.errors import StylographError, one_of
from stylograph.nets.recogniser import Recogniser, RecogniserConfig, load_recogniser, look_at

CONFIDENT = 0.6
"""Least probability of a decision that `leakage` believes."""

Probabilities = Mapping[str, Tensor]
"""Attribute -> [N, values], rows sum to 1."""
Hidden = Mapping[str, tuple[str, Collection[int]]]
"""Attribute -> (the other attribute that can hide it, the values of that one which do)."""


class Judge:
    """Names what an avatar shows.

    attributes: attribute -> names of its values, in the order of their indices.
    hidden: which attributes cannot be seen under which values of another: hair colour under hats and on bald heads,
        the mouth under a full beard (which has a mouth painted into it). What the judge says about a hidden attribute
        means nothing.
    accuracy: share of right decisions on held-out drawings, by kind of picture ("clean", "blurred", "distorted").
    The nose is not judged: its three kinds differ in a few pale pixels.
    """

    def __init__(
        self,
        network: Recogniser,
        attributes: Mapping[str, tuple[str, ...]],
        *,
        hidden: Mapping[str, tuple[str, Collection[int]]],
        accuracy: Mapping[str, Mapping[str, float]],
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.attributes = dict(attributes)
        self.hidden = dict(hidden)
        self.accuracy = accuracy

    @classmethod
    def from_pretrained(cls, source: str | Path = "avatars", *, device: str | torch.device = "cpu") -> Judge:
        """The judge of the avatars, or one from a file written by `recipes.avatars.train_judge`.

        Raises `WeightsError` for a file that holds none.
        """
        path = ASSETS / "avatars" / "judge.safetensors" if str(source) == "avatars" else Path(source)
        network, told = load_recogniser(path, "judge", recipe="recipes.avatars.train_judge", read=_read)
        return cls(network.to(device), told["attributes"], hidden=told["hidden"], accuracy=told["accuracy"])

    def value(self, attribute: str, name: str) -> int:
        """Index of an attribute's value. Raises `StylographError` that lists what there is."""
        if attribute not in self.attributes:
            raise StylographError(one_of(attribute, self.attributes, "attribute"))
        values = self.attributes[attribute]
        if name not in values:
            raise StylographError(one_of(name, values, f"{attribute} value"))
        return values.index(name)

    def probabilities(self, images: Tensor) -> dict[str, Tensor]:
        """Images [N, 3, H, W] in [-1, 1], any size -> attribute -> probabilities [N, values] on the CPU."""
        parts = look_at(self.network, images, self.network)
        return {name: torch.cat([part[name] for part in parts]).softmax(1).cpu() for name in self.attributes}

    def labels(self, images: Tensor) -> dict[str, Tensor]:
        """Images [N, 3, H, W] in [-1, 1] -> attribute -> index of the most probable value [N]."""
        return {name: table.argmax(1) for name, table in self.probabilities(images).items()}

    def names(self, images: Tensor) -> list[dict[str, str]]:
        """What every picture shows, in words; hidden attributes are left out."""
        told = self.probabilities(images)
        seen = visible(told, self.hidden)
        return [
            {n: self.attributes[n][int(told[n][i].argmax())] for n in self.attributes if bool(seen[n][i])}
            for i in range(len(images))
        ]


def _read(config: RecogniserConfig, record: dict[str, Any]) -> dict[str, Any]:
    attributes = {str(name): tuple(map(str, values)) for name, values in record["attributes"].items()}
    if {name: len(values) for name, values in attributes.items()} != dict(config.outputs):
        raise ValueError("its attributes and its outputs do not fit")
    hidden = {
        name: (rule["attribute"], frozenset(map(attributes[rule["attribute"]].index, rule["values"])))
        for name, rule in record["hidden"].items()
    }
    return {"attributes": attributes, "hidden": hidden, "accuracy": record.get("accuracy", {})}


def visible(probabilities: Probabilities, hidden: Hidden) -> dict[str, Tensor]:
    """Attribute -> bool [N]: it can be seen, as far as the judge is right about what would hide it."""
    shown = {name: torch.ones(len(table), dtype=torch.bool) for name, table in probabilities.items()}
    for name, (other, values) in hidden.items():
        if name in shown:
            shown[name] = probabilities[other][:, sorted(values)].sum(1) < 0.5
    return shown


def success(after: Probabilities, attribute: str, values: int | Iterable[int]) -> Tensor:
    """bool [N]: the most probable value of `attribute` in the edited pictures is one of `values`.

    A picture that had the value before the edit counts as well; leave such pictures out of the test set. Whether the
    attribute is visible is not asked: a hidden one gives a meaningless decision.
    """
    if attribute not in after:
        raise StylographError(one_of(attribute, after, "attribute"))
    wanted = torch.tensor([values] if isinstance(values, int) else sorted(values))
    return torch.isin(after[attribute].argmax(1), wanted)


@dataclass(frozen=True, eq=False)
class Leakage:
    """What else an edit changed; see `leakage` for what counts."""

    changed: dict[str, Tensor]
    """Attribute -> bool [N]: another decision than before. Only where it was compared."""
    compared: dict[str, Tensor]
    """Attribute -> bool [N]: visible and confident before and after."""

    @property
    def share(self) -> float:
        """Changed decisions among the compared ones, all pictures and attributes together; NaN if there are none."""
        return _ratio(self.changed.values(), self.compared.values())

    @property
    def coverage(self) -> float:
        """Share of decisions that could be compared. A low one means `share` says little."""
        total = sum(table.numel() for table in self.compared.values())
        return sum(int(table.sum()) for table in self.compared.values()) / total if total else float("nan")

    @property
    def by_attribute(self) -> dict[str, float]:
        """`share` of each attribute."""
        return {name: _ratio([self.changed[name]], [self.compared[name]]) for name in self.changed}

    @property
    def by_image(self) -> Tensor:
        """`share` of each picture, [N]; NaN for a picture of which nothing could be compared."""
        changed, compared = (torch.stack(list(t.values())).sum(0).float() for t in (self.changed, self.compared))
        return changed / compared


def leakage(
    before: Probabilities,
    after: Probabilities,
    *,
    hidden: Hidden,
    exempt: Collection[str] = (),
    confidence: float = CONFIDENT,
) -> Leakage:
    """How many attributes an edit changed that it was not asked to change.

    before, after: `Judge.probabilities` of the same N pictures before and after the edit.
    hidden: `Judge.hidden`.
    exempt: attributes that may change: the one asked for, and what changes with it by nature.
    confidence: decisions below this probability, before or after, are not compared.

    An attribute of a picture is compared if it is visible and the judge is confident about it, both before and after;
    it has changed if the two decisions differ. The share is taken over compared attributes, so every attribute and
    picture weighs the same.

    What this flatters. A change the judge is unsure of is no change: an edit that smears a mouth until nobody can read
    it costs nothing here but `coverage`. An attribute that the edit hides (a hat over blue hair) is not counted; the
    hat is, under hair style, unless that is exempt. Only decisions count: a shirt that turns from blue to another blue,
    a moved head, a lost outline or a changed nose go unseen. And a judge that errs in the same way before and after
    hides a change, while its errors on soft pictures, where they differ, look like one: compare with
    the share between two harmless versions of the same picture.
    """
    if set(before) != set(after) or any(before[name].shape != after[name].shape for name in before):
        raise StylographError(
            f"got probabilities of {_shapes(before)} before and {_shapes(after)} after the edit; expected the same "
            "judge's opinion on the same pictures"
        )
    for name in exempt:
        if name not in before:
            raise StylographError(one_of(name, before, "attribute"))
    seen_before, seen_after = visible(before, hidden), visible(after, hidden)
    changed, compared = {}, {}
    for name in before:
        if name in exempt:
            continue
        (sure0, value0), (sure1, value1) = before[name].max(1), after[name].max(1)
        compared[name] = seen_before[name] & seen_after[name] & (sure0 >= confidence) & (sure1 >= confidence)
        changed[name] = compared[name] & (value0 != value1)
    return Leakage(changed, compared)


def _ratio(parts: Iterable[Tensor], wholes: Iterable[Tensor]) -> float:
    whole = sum(int(table.sum()) for table in wholes)
    return sum(int(table.sum()) for table in parts) / whole if whole else float("nan")


def _shapes(tables: Probabilities) -> dict[str, Any]:
    return {name: list(table.shape) for name, table in tables.items()}
