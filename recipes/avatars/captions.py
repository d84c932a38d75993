"""Captions that say part of what a picture shows, together with what they claim.

A caption is a text plus claims: for some attributes, how true each value makes it (1 true, 0 false, 0.5 cannot
tell). A caption is therefore judged against every picture of a batch, not only the one it was written for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from recipes.avatars.attributes import ATTRIBUTES, visible_mask
from recipes.avatars.styles import PERSONA_STYLE, STYLES
from stylograph.templates import IMAGENET_TEMPLATES

STYLE_NAMES = ("personas", *STYLES)
"""Label order of the extra attribute ``style``: the personas, then the other styles."""
NOUNS = (
    "person", "face", "portrait", "human", "man", "woman", "character", "head", "guy", "human face", "adult",
    "boy", "girl", "cartoon person", "lady", "gentleman", "fellow", "kid", "someone",
)  # fmt: skip
ANYTHING = ("avatar", "picture", "image", "icon", "profile picture")
_PLACES = {
    "hair_colour": (
        "with {} hair", "with {} hair", "with {} colored hair", "with hair dyed {}", "{} haired", "whose hair is {}",
    ),
    "clothes_colour": ("in a {} shirt", "wearing {} clothes", "in a {} sweater", "with a {} shirt", "dressed in {}"),
    "background": ("on a {} background", "in front of a {} background", "with a {} background"),
    "skin": ("with {}",),
}  # fmt: skip
_BEARDS = ("beardMustache", "goatee", "shadow", "soulPatch")
GROUPS: tuple[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    ("hair_style", ("curly", "curlyBun", "curlyHighTop"), (), ("with curly hair", "with curls", "curly haired")),
    ("hair_style", ("long", "extraLong"), ("sideShave", "bobBangs", "bobCut"), ("with long hair", "long haired")),
    ("hair_style", ("shortCombover", "shortComboverChops", "buzzcut", "fade"), ("curlyHighTop", "balding", "mohawk"),
     ("with short hair", "short haired")),
    ("hair_style", ("beanie", "cap"), (), ("with a hat", "wearing a hat", "in a hat", "wearing headgear", "with a hat on the head")),
    ("hair_style", ("bunUndercut", "curlyBun", "straightBun"), (), ("with a bun", "with a hair bun", "with hair in a bun")),
    ("hair_style", ("curlyBun", "straightBun"), (), ("with a headband", "wearing a headband", "with a pink headband")),
    ("hair_style", ("bobBangs", "bobCut"), (), ("with a bob", "with a bob haircut")),
    ("eyes", ("glasses", "sunglasses"), (), ("with eyewear", "wearing eyewear")),
    ("eyes", ("happy", "open", "sleep", "wink"), (), ("without glasses", "with no glasses", "not wearing glasses")),
    ("eyes", ("sleep",), ("happy", "wink"), ("with closed eyes", "with eyes closed")),
    ("mouth", ("smile", "bigSmile"), ("smirk",), ("smiling", "with a smile", "happy", "with a happy smile", "cheerful", "glad", "in a good mood")),
    ("mouth", ("frown",), ("lips",), ("sad", "grumpy", "angry", "in a bad mood", "cross", "with a sad face")),
    ("facial_hair", ("beardMustache",), ("goatee", "shadow", "soulPatch"), ("with a beard", "bearded", "wearing a beard")),
    ("facial_hair", ("pyramid", "walrus"), ("beardMustache",), ("with a mustache", "with a moustache", "mustached")),
    ("facial_hair", (*_BEARDS, "pyramid", "walrus"), (), ("with facial hair",)),
    ("nose", ("wrinkles",), (), ("old", "elderly", "aged")),
)  # fmt: skip
"""(attribute, values that make it true, values that leave it open, phrases)."""
_WEIGHTS = {
    "hair_style": 3.0, "eyes": 3.0, "mouth": 3.0, "facial_hair": 2.0, "hair_colour": 3.0, "nose": 1.0, "clothes": 1.0,
    "skin": 1.0, "clothes_colour": 1.5, "background": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Caption:
    """A text and its claims."""

    text: str
    claims: dict[str, np.ndarray] = field(default_factory=dict)
    """By attribute name (or ``style``): float32 [values], 1 where the value makes the caption true."""


@dataclass(frozen=True)
class Phrase:
    """One way to say something about one attribute."""

    text: str
    attribute: str
    claim: np.ndarray
    """float32 [values of the attribute]."""


def _claim(attribute: str, true: Iterable[str], open_: Iterable[str] = ()) -> np.ndarray:
    table = ATTRIBUTES[attribute]
    claim = np.zeros(len(table.values), dtype=np.float32)
    for key in open_:
        claim[table.index(key)] = 0.5
    for key in true:
        claim[table.index(key)] = 1.0
    return claim


def _exclusive(attribute: str) -> list[list[Phrase]]:
    """For every value of the attribute the phrases that only this value makes true."""
    places = _PLACES.get(attribute, ("{}",))
    return [
        [
            Phrase(place.format(word), attribute, _claim(attribute, [value.key]))
            for word in value.words
            for place in places
        ]
        for value in ATTRIBUTES[attribute].values
    ]


PHRASES = {name: _exclusive(name) for name in ATTRIBUTES}
"""Phrases by attribute and value."""
_GROUPED = [
    Phrase(text, attribute, _claim(attribute, true, open_))
    for attribute, true, open_, texts in GROUPS
    for text in texts
]


def style_claim(true: Iterable[str], open_: Iterable[str] = ()) -> np.ndarray:
    """Claim about the style: float32 [styles]."""
    claim = np.zeros(len(STYLE_NAMES), dtype=np.float32)
    claim[[STYLE_NAMES.index(name) for name in open_]] = 0.5
    claim[[STYLE_NAMES.index(name) for name in true]] = 1.0
    return claim


_PEOPLE = ("personas", *(name for name, style in STYLES.items() if style.person))
_PERSON_CLAIM = style_claim(_PEOPLE)
_FACE_CLAIM = style_claim(_PEOPLE, set(STYLE_NAMES) - {"planets", "stack"})
_ANY_CLAIM = style_claim(STYLE_NAMES)


def article(words: str) -> str:
    """`words` with "a" or "an" in front."""
    return ("an " if words[0] in "aeiou8" else "a ") + words


def wrap(text: str, rng: np.random.Generator) -> str:
    """Give `text` (without article) an article or nothing, or put it with or without article into a template."""
    roll = rng.random()
    if roll < 0.5:
        return article(text)
    if roll < 0.58:
        return text
    body = article(text) if roll < 0.85 else text
    return IMAGENET_TEMPLATES[rng.integers(len(IMAGENET_TEMPLATES))].format(body)


def compose(phrases: list[Phrase], noun: str, rng: np.random.Generator) -> str:
    """A noun phrase without article out of phrases: one-word ones may stand before the noun, the rest follow it."""
    before, after = [], []
    for phrase in phrases:
        plain = not phrase.text.startswith(("with", "wearing ", "in ", "on ", "looking ", "showing ", "whose ", "suck",
                                            "giving ", "going ", "dressed ", "not ", "smiling with"))  # fmt: skip
        if plain and (phrase.text.endswith("haired") or phrase.text in _ADJECTIVES or rng.random() < 0.5):
            before.append(phrase.text)
        else:
            after.append(phrase.text)
    joint = (" and ", ", ", " ")[rng.integers(3)]
    return " ".join([*before, noun, joint.join(after)]).strip()


_ADJECTIVES = ("old", "elderly", "aged", "sad", "grumpy", "angry", "happy", "cheerful", "bearded", "mustached")


def _phrase(attribute: str, value: int, rng: np.random.Generator) -> Phrase:
    """A phrase about `attribute` that `value` makes true."""
    if rng.random() < 0.4:
        grouped = [p for p in _GROUPED if p.attribute == attribute and p.claim[value] == 1]
        if grouped:
            return grouped[rng.integers(len(grouped))]
    choices = PHRASES[attribute][value]
    return choices[0] if rng.random() < 0.25 else choices[rng.integers(len(choices))]


_NAMES = tuple(_WEIGHTS)
_SHARES = np.array([_WEIGHTS[name] for name in _NAMES]) / sum(_WEIGHTS.values())
_BARE = re.compile(r"^(with|wearing|in|on|showing|dressed in)( an?)? ")


def persona_caption(labels: dict[str, int], seen: dict[str, bool], rng: np.random.Generator) -> Caption:
    """A caption that is true of the persona with these labels; `seen` tells which attributes are visible."""
    count = int(rng.choice(5, p=(0.1, 0.45, 0.25, 0.15, 0.05)))
    chosen = [n for n in rng.choice(_NAMES, size=count, replace=False, p=_SHARES) if seen[n]] if count else []
    phrases = [_phrase(name, labels[name], rng) for name in chosen]
    claims = {phrase.attribute: phrase.claim for phrase in phrases}
    if len(phrases) == 1 and rng.random() < 0.12:
        return Caption(_BARE.sub("", phrases[0].text), claims | {"style": _PERSON_CLAIM})
    roll = rng.random()
    if roll < 0.12:
        look = PERSONA_STYLE[rng.integers(len(PERSONA_STYLE))]
        inner = compose(phrases, "person", rng)
        return Caption(wrap(f"{look} of {article(inner)}", rng), claims | {"style": style_claim(["personas"])})
    if not phrases and roll < 0.25:
        return Caption(wrap(ANYTHING[rng.integers(len(ANYTHING))], rng), {"style": _ANY_CLAIM})
    noun = "person" if roll < 0.5 else "face" if roll < 0.65 else NOUNS[rng.integers(len(NOUNS))]
    claim = _FACE_CLAIM if "face" in noun or noun in ("head", "portrait", "character") else _PERSON_CLAIM
    return Caption(wrap(compose(phrases, noun, rng), rng), claims | {"style": claim})


_STYLE_FORMS = ("{}", "{}", "{}", "avatar in the style of a {}", "{} avatar", "picture in {} style", "{} portrait")


def style_text(words: str, person: bool, rng: np.random.Generator) -> str:
    """One way to name a picture in the style called `words`, without article."""
    forms = (*_STYLE_FORMS, "{} of a person", "person in {} style", "person drawn as a {}") if person else _STYLE_FORMS
    return forms[rng.integers(len(forms))].format(words)


def style_caption(style: str, rng: np.random.Generator) -> Caption:
    """A caption true of pictures in `style` (one of the other styles)."""
    entry = STYLES[style]
    if entry.person and rng.random() < 0.15:
        return Caption(wrap(NOUNS[rng.integers(len(NOUNS))], rng), {"style": _PERSON_CLAIM})
    words = entry.words[0] if rng.random() < 0.35 else entry.words[rng.integers(len(entry.words))]
    # A word may belong to two styles ("voxel robot" is a robot too): similar words leave the truth open.
    last = words.split()[-1]
    open_ = [n for n, other in STYLES.items() if any(last in w.split() for w in other.words)]
    return Caption(wrap(style_text(words, entry.person, rng), rng), {"style": style_claim([style], open_)})


def class_prompts(name: str, rng: np.random.Generator) -> tuple[list[str], str]:
    """One prompt per value of the attribute `name` (or ``style``) and one that says nothing, all in the same frame."""
    order, frame = rng.integers(2**32, size=2)
    noun = "person" if rng.random() < 0.5 else NOUNS[rng.integers(len(NOUNS))]
    if name == "style":
        words = [PERSONA_STYLE, *(style.words for style in STYLES.values())]
        texts = [w[0] if rng.random() < 0.5 else w[rng.integers(len(w))] for w in words]
    else:
        phrases = [p[0] if rng.random() < 0.4 else p[rng.integers(len(p))] for p in PHRASES[name]]
        texts = [compose([phrase], noun, np.random.default_rng(order)) for phrase in phrases]
    wrapped = [wrap(text, np.random.default_rng(frame)) for text in (*texts, noun)]
    return wrapped[:-1], wrapped[-1]


def group_prompt(name: str, rng: np.random.Generator) -> tuple[str, str, np.ndarray] | None:
    """A prompt that several values of `name` make true, one that says nothing in the same frame, and the claim."""
    choices = [phrase for phrase in _GROUPED if phrase.attribute == name]
    if not choices:
        return None
    order, frame = rng.integers(2**32, size=2)
    noun = "person" if rng.random() < 0.5 else NOUNS[rng.integers(len(NOUNS))]
    phrase = choices[rng.integers(len(choices))]
    text = compose([phrase], noun, np.random.default_rng(order))
    return wrap(text, np.random.default_rng(frame)), wrap(noun, np.random.default_rng(frame)), phrase.claim


def plain_prompts(name: str) -> list[str]:
    """The prompts of the zero-shot table: "a person ..." with the first words of every value."""
    if name == "style":
        return [article(PERSONA_STYLE[0]), *(article(style.words[0]) for style in STYLES.values())]
    rng = np.random.default_rng(0)
    return [article(compose([phrases[0]], "person", rng)) for phrases in PHRASES[name]]


def truth(captions: list[Caption], labels: dict[str, np.ndarray]) -> np.ndarray:
    """How true each caption is of each picture: float32 [captions, pictures] of 0, 0.5 and 1.

    `labels` holds ``style`` and every attribute, int [pictures]; -100 means not known or not visible.
    """
    result = np.ones((len(captions), len(labels["style"])), dtype=np.float32)
    for row, caption in enumerate(captions):
        for name, claim in caption.claims.items():
            values = labels[name]
            known = np.where(values >= 0, claim[np.maximum(values, 0)], 0.5)
            result[row] = np.minimum(result[row], known)
    return result


def seen_at(labels: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Which attributes are visible: boolean [N] by name."""
    return {name: visible_mask(labels, name) for name in ATTRIBUTES}


def words_of(text: str) -> list[str]:
    """Lower-case words as the tokenizer sees them."""
    return re.sub(r"[^a-z0-9 ]", " ", text.lower()).split()


def vocabulary() -> list[str]:
    """Every word a caption can hold, sorted."""
    return sorted(set(_all_words()))


def _all_words() -> Iterator[str]:
    texts = [phrase.text for values in PHRASES.values() for phrases in values for phrase in phrases]
    texts += [phrase.text for phrase in _GROUPED] + [*NOUNS, *ANYTHING, *PERSONA_STYLE, *IMAGENET_TEMPLATES]
    texts += [words for style in STYLES.values() for words in style.words]
    texts += [
        "a an the and of one this is without not person drawn as in style portrait avatar picture photo image",
        *_STYLE_FORMS,
    ]
    for text in texts:
        yield from words_of(text.replace("{}", ""))
