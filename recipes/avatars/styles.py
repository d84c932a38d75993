"""The other avatar styles (target domains): how to draw each, and the words for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class OtherStyle:
    """One DiceBear style and how captions may call it."""

    words: tuple[str, ...]
    """Noun phrases without article, the plainest first; the first is the class name of the zero-shot tables."""
    person: bool = True
    """Whether it shows a person, so that "a person" and "a face" are true of it."""
    options: Mapping[str, object] = field(default_factory=dict)
    """Extra DiceBear options."""


_EMOJI_GROUND = {"backgroundColor": ["#ffd93b", "#fcbc34", "#f6d594", "#d9915b", "#71cf62", "#059ff2"]}

STYLES: dict[str, OtherStyle] = {
    "adventurer": OtherStyle(("comic head with thick outlines", "comic character", "comic book adventurer")),
    "avataaars": OtherStyle(("flat cartoon portrait", "cartoon person", "cartoon avatar")),
    "big-ears": OtherStyle(("cartoon head with big ears", "face with big ears", "big eared character")),
    "big-smile": OtherStyle(("cartoon head turned to the side", "head in side view", "cartoon head in profile")),
    "bottts": OtherStyle(("robot", "robot head", "cute robot", "android", "machine face"), person=False),
    "cameo": OtherStyle(("minimal two tone face", "minimalist face", "simple flat head"), person=False),
    "clay": OtherStyle(("clay monster", "clay figure", "plasticine monster", "claymation creature"), person=False),
    "critters": OtherStyle(("cute monster", "pastel monster", "paper monster", "little critter"), person=False),
    "croodles": OtherStyle(("doodle", "scribbled doodle of a face", "hand drawn doodle", "scribble")),
    "cutouts": OtherStyle(("cubist paper cutout", "paper cutout face", "paper collage", "cubist face")),
    "dylan": OtherStyle(("minimal cartoon face", "flat poster face", "bold flat cartoon face")),
    "fun-emoji": OtherStyle(("emoji", "emoticon", "smiley", "yellow emoji"), person=False, options=_EMOJI_GROUND),
    "line-face": OtherStyle(("face made of a few lines", "abstract line face", "few lines"), person=False),
    "lorelei": OtherStyle(("black and white ink drawing", "ink drawing", "manga drawing", "black and white comic")),
    "marbles": OtherStyle(("colourful marble", "shiny ball with a face", "rainbow ball", "marble"), person=False),
    "micah": OtherStyle(("illustration with bold lines", "bold line illustration", "editorial illustration")),
    "miniavs": OtherStyle(("geometric character", "mini avatar in side view", "geometric flat character")),
    "moods": OtherStyle(("pastel smiley", "soft button face", "rounded emoji button", "mood face"), person=False),
    "notionists": OtherStyle(("black and white line drawing", "line drawing", "monochrome line art", "line art")),
    "open-peeps": OtherStyle(("hand drawn person", "hand drawn comic person", "sketchy comic portrait")),
    "pixel-art": OtherStyle(("pixel art", "pixel art face", "8 bit character", "pixelated face", "retro pixel sprite")),
    "pixelbot": OtherStyle(("led display face", "dot matrix face", "glowing screen face"), person=False),
    "planets": OtherStyle(("planet", "planet in space", "globe", "planet with rings"), person=False),
    "shadows": OtherStyle(("silhouette", "shadow of a person", "dark silhouette", "shadow")),
    "sprouts": OtherStyle(("potted plant", "plant in a pot", "flower pot with a face", "flower"), person=False),
    "stack": OtherStyle(("stack of stones", "pile of stones", "stone tower", "stacked pebbles"), person=False),
    "thumbs": OtherStyle(("thumb with a face", "thumb", "finger puppet", "ghost blob"), person=False),
    "toon-head": OtherStyle(("toon portrait", "television cartoon character", "animated series character")),
    "voxel-art": OtherStyle(("voxel person", "blocky voxel figure", "block toy person", "block game character")),
    "voxel-bot": OtherStyle(("voxel robot", "blocky robot", "toy robot made of cubes", "3d block robot"), person=False),
}
PERSONA_STYLE = ("flat illustration", "flat vector avatar", "simple flat portrait", "flat design avatar")
"""Words for the style of the personas themselves."""
