"""The attribute space of the avatars: what is drawn, in which colours, and the words for it.

The order of the values is the order of the integer labels in ``labels.npz``; it is part of the data format.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

FACIAL_HAIR_PROBABILITY = 0.3


@dataclass(frozen=True)
class Value:
    """One value of an attribute: its DiceBear name (or colour) and the words a caption may use for it."""

    key: str
    """DiceBear variant name, or the name of the colour."""
    words: tuple[str, ...]
    """Phrases, the plainest first; the first one is the class name of the zero-shot tables."""
    colour: str = ""
    """``#rrggbb`` for colour attributes, empty for shapes."""


@dataclass(frozen=True)
class Attribute:
    """One label of a persona."""

    name: str
    option: str
    """Prefix of the DiceBear option: ``<option>Variant`` for shapes, ``<option>Color`` for colours."""
    values: tuple[Value, ...]

    def index(self, key: str) -> int:
        """Label of the value named `key`; raises KeyError that lists the known ones."""
        for position, value in enumerate(self.values):
            if value.key == key:
                return position
        known = ", ".join(value.key for value in self.values)
        raise KeyError(f"{self.name} has no value {key!r}; known: {known}")


def _shapes(name: str, option: str, table: Mapping[str, tuple[str, ...]]) -> Attribute:
    return Attribute(name, option, tuple(Value(key, words) for key, words in table.items()))


def _colours(name: str, option: str, table: Mapping[str, tuple[str, tuple[str, ...]]]) -> Attribute:
    return Attribute(name, option, tuple(Value(key, words, code) for key, (code, words) in table.items()))


HAIR_STYLE = _shapes(
    "hair_style",
    "hair",
    {
        "bald": (
            "bald",
            "with a bald head",
            "without hair",
            "with no hair",
            "with a shaved head",
            "bald headed",
            "completely bald",
            "with a smooth head",
        ),
        "balding": (
            "balding",
            "with a receding hairline",
            "going bald",
            "with a half bald head",
            "losing hair",
            "with thinning hair",
        ),
        "beanie": (
            "wearing a beanie",
            "with a red beanie",
            "with a knitted hat",
            "in a red beanie",
            "with a woolly hat",
            "with a winter hat",
            "in a wool cap",
        ),
        "bobBangs": ("with a bob and side bangs", "with a bob haircut and a fringe", "with bangs"),
        "bobCut": ("with a straight bob cut", "with a bob cut", "with chin length hair"),
        "bunUndercut": (
            "with a small bun and an undercut",
            "with a top knot",
            "with a man bun",
            "with hair tied up in a small knot",
        ),
        "buzzcut": (
            "with a buzz cut",
            "with buzzed hair",
            "with a crew cut",
            "with cropped hair",
            "with a military haircut",
            "with very short hair",
        ),
        "cap": (
            "wearing a cap",
            "with an orange cap",
            "in a baseball cap",
            "with a cap",
            "with a trucker hat",
            "with a peaked cap",
            "with a sports cap",
        ),
        "curly": (
            "with big curly hair",
            "with an afro",
            "with a big afro",
            "with voluminous curls",
            "with a huge afro",
            "with fluffy hair",
            "with big round hair",
        ),
        "curlyBun": ("with a curly bun and a headband", "with curly hair tied up", "with a curly bun"),
        "curlyHighTop": ("with short curly hair", "with a curly high top", "with curls on top", "with a short afro"),
        "extraLong": (
            "with very long straight hair",
            "with very long hair",
            "with extra long hair",
            "with waist length hair",
            "with long straight hair down",
        ),
        "fade": ("with a fade haircut", "with a fade", "with a quiff and faded sides"),
        "long": ("with shoulder length hair", "with long round hair", "with medium length hair"),
        "mohawk": (
            "with a mohawk",
            "with a mohawk haircut",
            "with a punk mohawk",
            "with a punk haircut",
            "with a crest of hair",
        ),
        "pigtails": (
            "with pigtails",
            "with two pigtails",
            "with hair in pigtails",
            "with two bunches",
            "with hair in two bunches",
        ),
        "shortCombover": ("with a short combover", "with a short side parting", "with neat short hair"),
        "shortComboverChops": ("with sideburns", "with short hair and sideburns", "with long sideburns"),
        "sideShave": ("with a side shave", "with a half shaved head and long hair", "with a shaved side"),
        "straightBun": ("with a straight bun and a headband", "with a smooth bun and a headband", "with a round bun"),
    },
)
EYES = _shapes(
    "eyes",
    "eyes",
    {
        "glasses": (
            "wearing glasses",
            "with glasses",
            "with eyeglasses",
            "in spectacles",
            "wearing eyeglasses",
            "bespectacled",
            "with reading glasses",
            "with clear glasses",
        ),
        "happy": (
            "with happy eyes",
            "with happy closed eyes",
            "with laughing eyes",
            "with joyful eyes",
            "with merry eyes",
            "with smiling eyes",
        ),
        "open": (
            "with open eyes",
            "with plain open eyes",
            "with round eyes",
            "looking at the viewer",
            "with wide open eyes",
            "awake",
        ),
        "sleep": (
            "sleeping",
            "asleep",
            "with sleepy eyes",
            "with sleeping eyes",
            "drowsy",
            "tired",
            "dreaming",
            "with eyes shut",
        ),
        "sunglasses": (
            "wearing sunglasses",
            "with sunglasses",
            "in dark glasses",
            "in sunglasses",
            "with shades",
            "wearing shades",
            "with black sunglasses",
            "in dark shades",
        ),
        "wink": ("winking", "with a wink", "with one eye closed", "giving a wink", "with one eye shut"),
    },
)
MOUTH = _shapes(
    "mouth",
    "mouth",
    {
        "bigSmile": (
            "with a big smile",
            "grinning",
            "laughing",
            "showing teeth",
            "with a toothy smile",
            "with a wide smile",
            "with a broad smile",
            "with a wide grin",
            "with white teeth",
            "overjoyed",
            "delighted",
        ),
        "frown": (
            "frowning",
            "with a frown",
            "looking sad",
            "with a sad mouth",
            "unhappy",
            "upset",
            "disappointed",
            "depressed",
            "displeased",
            "with a down turned mouth",
        ),
        "lips": (
            "with red lips",
            "wearing lipstick",
            "with pink lips",
            "with full lips",
            "with painted lips",
            "wearing red lipstick",
        ),
        "pacifier": (
            "with a pacifier",
            "sucking a pacifier",
            "with a dummy",
            "with a blue pacifier",
            "with a baby pacifier",
            "with a pacifier in the mouth",
        ),
        "smile": (
            "with a closed smile",
            "with a gentle smile",
            "smiling with a closed mouth",
            "with a slight smile",
            "with a small smile",
            "with a polite smile",
        ),
        "smirk": (
            "smirking",
            "with a smirk",
            "with a crooked smile",
            "with a sly smile",
            "smug",
            "with a half smile",
            "with a cheeky smile",
        ),
        "surprise": (
            "surprised",
            "with an open mouth",
            "looking surprised",
            "with a surprised mouth",
            "shocked",
            "speechless",
            "in shock",
            "with a round mouth",
            "with a round open mouth",
        ),
    },
)
NOSE = _shapes(
    "nose",
    "nose",
    {
        "mediumRound": ("with a big nose", "with a round nose", "with a wide nose"),
        "smallRound": ("with a small nose", "with a tiny nose"),
        "wrinkles": ("with wrinkles", "with a wrinkled face", "with wrinkled cheeks", "looking old"),
    },
)
CLOTHES = _shapes(
    "clothes",
    "clothes",
    {
        "checkered": ("in a checkered shirt", "wearing a plaid shirt", "with a checked shirt"),
        "rounded": ("in a round shirt", "in a sweater", "wearing a jumper"),
        "small": ("in a wrap top", "in a small robe", "with narrow shoulders"),
        "squared": ("in a t-shirt", "wearing a t-shirt", "with square shoulders"),
    },
)
FACIAL_HAIR = _shapes(
    "facial_hair",
    "facialHair",
    {
        "none": (
            "clean shaven",
            "without a beard",
            "with no beard",
            "with a shaved face",
            "beardless",
            "smooth shaven",
            "freshly shaved",
        ),
        "beardMustache": (
            "with a full beard",
            "with a thick beard",
            "with a beard and a mustache",
            "with a big beard",
            "with a bushy beard",
            "with a long beard",
            "with a heavy beard",
        ),
        "goatee": ("with a goatee", "with a circle beard", "with a round goatee", "with a chin beard"),
        "pyramid": (
            "with a curved mustache",
            "with a handlebar mustache",
            "with a pointed moustache",
            "with a thin mustache",
            "with a twirled mustache",
        ),
        "shadow": (
            "with stubble",
            "with a beard shadow",
            "unshaven",
            "with a short stubble beard",
            "with a five o clock shadow",
            "with designer stubble",
            "with a stubbly face",
        ),
        "soulPatch": ("with a soul patch", "with a chin tuft", "with a tiny beard on the chin"),
        "walrus": (
            "with a thick mustache",
            "with a walrus mustache",
            "with a bushy mustache",
            "with a big mustache",
            "with a heavy moustache",
        ),
    },
)
HAIR_COLOUR = _colours(
    "hair_colour",
    "hair",
    {
        "black": ("#1c1a24", ("black", "dark", "jet black")),
        "brown": ("#6c4545", ("brown", "brunette", "dark brown")),
        "blond": ("#e9c46a", ("blond", "blonde", "yellow", "golden", "light yellow", "sandy")),
        "red": ("#d1492e", ("red", "ginger", "orange", "copper", "fiery red", "bright red", "rusty")),
        "gray": ("#b9bcc9", ("gray", "grey", "white", "silver", "light gray")),
        "pink": ("#ec6f9e", ("pink", "hot pink", "rose", "bubblegum pink")),
        "blue": ("#3d6fd9", ("blue", "bright blue", "royal blue", "sapphire")),
        "green": ("#3fa66b", ("green", "bright green", "jade", "grass green")),
    },
)
SKIN = _colours(
    "skin",
    "skin",
    {
        "pale": ("#f6d1bd", ("pale skin", "very light skin", "fair skin", "pale white skin", "white skin")),
        "light": ("#eeb4a4", ("light skin", "rosy skin")),
        "tan": ("#d78774", ("tan skin", "tanned skin", "sunburnt skin", "olive skin")),
        "brown": ("#b16a5b", ("brown skin",)),
        "dark": ("#623d36", ("dark skin", "black skin", "dark brown skin", "deep brown skin", "very dark skin")),
    },
)
CLOTHES_COLOUR = _colours(
    "clothes_colour",
    "clothing",
    {
        "blue": ("#456dff", ("blue", "bright blue", "royal blue")),
        "green": ("#6dbb58", ("green", "grass green")),
        "pink": ("#f55d81", ("pink", "rose", "coral", "hot pink")),
        "purple": ("#7555ca", ("purple", "violet", "lavender")),
        "red": ("#e24553", ("red", "bright red", "cherry red")),
        "teal": ("#54d7c7", ("teal", "turquoise", "aqua", "cyan")),
        "yellow": ("#f3b63a", ("yellow", "orange", "golden", "mustard")),
    },
)
BACKGROUND = _colours(
    "background",
    "background",
    {
        "blue": ("#b6e3f4", ("blue", "light blue", "sky blue", "pale blue")),
        "purple": ("#c0aede", ("purple", "violet", "lilac", "lavender", "pale purple")),
        "pink": ("#ffd5dc", ("pink", "light pink", "pale pink")),
        "yellow": ("#ffdfbf", ("yellow", "beige", "orange", "cream", "light orange")),
        "white": ("#f4f4f4", ("white", "plain", "blank")),
        "green": ("#d1f0d1", ("green", "light green", "mint", "pale green")),
    },
)

ATTRIBUTES: dict[str, Attribute] = {
    attribute.name: attribute
    for attribute in (
        HAIR_STYLE, EYES, MOUTH, NOSE, CLOTHES, FACIAL_HAIR, HAIR_COLOUR, SKIN, CLOTHES_COLOUR, BACKGROUND,
    )
}  # fmt: skip
HAIR_COLOUR_HIDDEN = ("bald", "beanie", "cap")
"""Hair styles under which the hair colour cannot be seen (both hats have a fixed colour)."""
MOUTH_HIDDEN = ("beardMustache",)
"""Facial hair that paints its own mouth over the drawn one."""


def sample_labels(count: int, *, seed: int) -> dict[str, np.ndarray]:
    """Draw every attribute uniformly, facial hair with probability 0.3; returns int64 arrays [count] by name."""
    rng = np.random.default_rng(seed)
    labels = {name: rng.integers(len(attribute.values), size=count) for name, attribute in ATTRIBUTES.items()}
    bearded = rng.random(count) < FACIAL_HAIR_PROBABILITY
    labels["facial_hair"] = np.where(bearded, rng.integers(1, len(FACIAL_HAIR.values), size=count), 0)
    return labels


def persona_options(labels: Mapping[str, int]) -> dict[str, object]:
    """DiceBear options that draw the persona with these labels (one integer per attribute name)."""
    options: dict[str, object] = {"seed": "persona"}
    for name, attribute in ATTRIBUTES.items():
        value = attribute.values[labels[name]]
        if value.colour:
            options[f"{attribute.option}Color"] = [value.colour]
        elif value.key != "none":
            options[f"{attribute.option}Variant"] = value.key
    options["facialHairProbability"] = 100 if labels["facial_hair"] else 0
    options["facialHairColor"] = options["hairColor"]
    return options


def visible_mask(labels: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """Boolean [N]: where the attribute `name` can be seen in the picture (hats and full beards hide things)."""
    shown = np.ones(len(labels[name]), dtype=bool)
    if name == "hair_colour":
        # A beard has the same colour, but nobody calls a bald man with a red beard red haired.
        hidden = [HAIR_STYLE.index(key) for key in HAIR_COLOUR_HIDDEN]
        shown = ~np.isin(labels["hair_style"], hidden)
    if name == "mouth":
        shown = ~np.isin(labels["facial_hair"], [FACIAL_HAIR.index(key) for key in MOUTH_HIDDEN])
    return shown
