"""What is asked for, and what the judge has to see afterwards. No heavy imports: the command line builds on this."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

NEUTRAL = "a person"
FIRST_SEED = 200
"""Seed of the first picture. The automatic strength's settings were chosen on seeds 1 to 24."""


@dataclass(frozen=True)
class Task:
    """A sentence, what the judge has to see afterwards, and what changes with it by nature."""

    sentence: str
    wants: Mapping[str, tuple[str, ...]]
    """Attribute -> values, any of which will do. Of several attributes all are wanted."""
    exempt: tuple[str, ...] = ()
    """Attributes that may change as well."""
    group: str = "own"
    """Sentences of one group have a mean of their own."""

    def record(self) -> dict[str, Any]:
        """Plain JSON-ready values."""
        return {**asdict(self), "wants": {name: list(v) for name, v in self.wants.items()}, "exempt": list(self.exempt)}


def _tasks(group: str, *rows: tuple[str, dict[str, tuple[str, ...]], tuple[str, ...]]) -> tuple[Task, ...]:
    return tuple(Task(sentence, wants, exempt, group) for sentence, wants, exempt in rows)


TUNED = _tasks(
    "tuned",
    ("a person wearing sunglasses", {"eyes": ("sunglasses",)}, ()),
    ("a person wearing glasses", {"eyes": ("glasses",)}, ()),
    ("a sleeping person", {"eyes": ("sleep",)}, ()),
    ("a person with a big smile", {"mouth": ("bigSmile",)}, ()),
    ("a person with a pacifier", {"mouth": ("pacifier",)}, ()),
    ("a surprised person", {"mouth": ("surprise",)}, ()),
    ("a person with blue hair", {"hair_colour": ("blue",)}, ()),
    ("a person with blond hair", {"hair_colour": ("blond",)}, ()),
    ("a bald person", {"hair_style": ("bald",)}, ()),
    ("a person with long hair", {"hair_style": ("long", "extraLong")}, ()),
    ("a person wearing a beanie", {"hair_style": ("beanie",)}, ()),
    ("a person with a full beard", {"facial_hair": ("beardMustache",)}, ("mouth",)),
    ("a person with dark skin", {"skin": ("dark",)}, ()),
    ("a person in a green shirt", {"clothes_colour": ("green",)}, ()),
    ("a person on a pink background", {"background": ("pink",)}, ()),
)
"""The settings of the automatic strength were chosen on these sentences, with this judge."""
HELD_OUT = _tasks(
    "held out",
    ("a person with red hair", {"hair_colour": ("red",)}, ()),
    ("a person with gray hair", {"hair_colour": ("gray",)}, ()),
    ("a sad person", {"mouth": ("frown",)}, ()),
    ("a person wearing a cap", {"hair_style": ("cap",)}, ()),
    ("a person with a mohawk", {"hair_style": ("mohawk",)}, ()),
    ("a person with pale skin", {"skin": ("pale",)}, ()),
    ("a person in a purple shirt", {"clothes_colour": ("purple",)}, ()),
    ("a person on a green background", {"background": ("green",)}, ()),
)
"""These were first looked at when everything was chosen."""
TWO = _tasks(
    "two wishes",
    ("a person with blue hair wearing sunglasses", {"hair_colour": ("blue",), "eyes": ("sunglasses",)}, ()),
    ("a surprised person with red hair", {"mouth": ("surprise",), "hair_colour": ("red",)}, ()),
    ("a person wearing glasses in a yellow shirt", {"eyes": ("glasses",), "clothes_colour": ("yellow",)}, ()),
    ("a smiling person on a blue background", {"mouth": ("smile", "bigSmile"), "background": ("blue",)}, ()),
)
"""Two things in one sentence; success is both."""
TASKS = (*TUNED, *HELD_OUT, *TWO)
QUICK = (TUNED[0], TUNED[6], HELD_OUT[2], HELD_OUT[6])
"""A first impression within a minute."""
GROUPS = {
    "tuned": "sentences the automatic strength was tuned on",
    "held out": "sentences nothing was tuned on",
    "two wishes": "sentences that ask for two things at once",
}
"""Group -> what it is, for reports."""
