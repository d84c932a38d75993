"""Zero-shot accuracy of the small CLIP on held-out renders, clean and distorted.

``python -m recipes.avatars.check_clip`` prints a table: for every attribute the share of pictures whose nearest
prompt ("a person <first words of the value>") is the right one. A second table redraws held-out personas with one
attribute changed, and compares how their embedding moves with how the text of that edit moves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from recipes.avatars.attributes import ATTRIBUTES, sample_labels
from recipes.avatars.augment import augment
from recipes.avatars.captions import STYLE_NAMES, plain_prompts
from recipes.avatars.render import HELD_OUT, HELD_OUT_STYLES, WORK, draw_persona, half_size, load_set, training_share
from recipes.avatars.synonyms import HELD_OUT as UNHEARD
from recipes.avatars.train_features import seen_labels, to_tensor
from stylograph.templates import IMAGENET_TEMPLATES

CLIP_FOLDER = Path(__file__).resolve().parents[2] / "src" / "stylograph" / "assets" / "avatars" / "clip"
EDITS: dict[str, dict[str, str]] = {
    "a person wearing sunglasses": {"eyes": "sunglasses"},
    "a person with glasses": {"eyes": "glasses"},
    "a sleeping person": {"eyes": "sleep"},
    "a smiling person": {"mouth": "smile"},
    "a person with a big smile": {"mouth": "bigSmile"},
    "a sad person": {"mouth": "frown"},
    "a surprised person": {"mouth": "surprise"},
    "a person with a pacifier": {"mouth": "pacifier"},
    "a person with blue hair": {"hair_colour": "blue"},
    "a person with red hair": {"hair_colour": "red"},
    "a person with gray hair": {"hair_colour": "gray"},
    "a bald person": {"hair_style": "bald"},
    "a person with curly hair": {"hair_style": "curly"},
    "a person with long hair": {"hair_style": "extraLong"},
    "a person with a mohawk": {"hair_style": "mohawk"},
    "a person with a beard": {"facial_hair": "beardMustache"},
    "a person with a mustache": {"facial_hair": "walrus"},
    "a person in a green shirt": {"clothes_colour": "green"},
    "a person on a pink background": {"background": "pink"},
}
"""Texts, and the attribute that drawing them changes."""
FIXED = {"hair_style": "shortCombover", "hair_colour": "brown", "facial_hair": "none"}
"""What the personas of the second table share, so that hair colours and mouths can be seen."""
MAIN = ("eyes", "mouth", "hair_style", "hair_colour", "facial_hair")
"""The attributes that edits are shown with."""


@dataclass(frozen=True)
class CheckConfig:
    """What to check."""

    clip: Path = CLIP_FOLDER
    """A folder written by ``train_clip``."""
    work: Path = WORK
    """Folder with the rendered sets."""
    count: int = 1000
    """Held-out pictures of each set to look at."""
    people: int = 24
    """Personas that are redrawn for every edit of the second table."""


def encode_images(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Images [N, 3, H, W] in [-1, 1] to unit vectors [N, D]; other sizes than 128 are resampled; differentiable."""
    if images.shape[-1] != 128:
        images = F.interpolate(images, (128, 128), mode="bicubic", align_corners=False, antialias=True)
    # Not get_image_features: it feeds a convolutional tower's pooled [N, C, 1, 1] to a linear layer.
    pooled = model.vision_model(pixel_values=images).pooler_output.flatten(1)
    return F.normalize(model.visual_projection(pooled), dim=-1)


def encode_texts(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    """Texts to unit vectors [N, D]."""
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    found = model.get_text_features(**tokens)
    return F.normalize(found if isinstance(found, torch.Tensor) else found.pooler_output, dim=-1)


def zero_shot(
    model: Any, tokenizer: Any, name: str, vectors: torch.Tensor, labels: torch.Tensor
) -> tuple[float, torch.Tensor]:
    """Share of image `vectors` [N, D] nearest to the prompt of their label (-100: left out), and the guesses [N]."""
    guess = (vectors @ encode_texts(model, tokenizer, plain_prompts(name)).T).argmax(1)
    shown = labels >= 0
    return (guess == labels)[shown].float().mean().item(), guess


def _vectors(model: Any, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([encode_images(model, images[start : start + 200]) for start in range(0, len(images), 200)])


@torch.inference_mode()
def table(model: Any, tokenizer: Any, *, work: Path = WORK, count: int = 1000) -> dict[str, dict[str, float]]:
    """Accuracy by attribute (and ``style``) on held-out pictures: clean 128, enlarged 64, and distorted."""
    personas, others = load_set("personas", work=work), load_set("styles", work=work)
    sets = ((len(personas.images), HELD_OUT), (len(others.images), HELD_OUT_STYLES))
    count = min(count, *(total - training_share(total, held_out) for total, held_out in sets))
    pictures = np.asarray(personas.images[-count:])
    labels = {name: value[-count:] for name, value in seen_labels(personas.labels).items()}
    strange, styles = np.asarray(others.images[-count:]), torch.from_numpy(others.labels["style"][-count:]) + 1
    rng = torch.Generator().manual_seed(7)
    views = {
        "128": (to_tensor(pictures), to_tensor(strange)),
        "64": (to_tensor(half_size(pictures)), to_tensor(half_size(strange))),
        "distorted": (augment(to_tensor(pictures), rng), augment(to_tensor(strange), rng)),
    }
    result: dict[str, dict[str, float]] = {}
    for view, (first, second) in views.items():
        vectors = _vectors(model, first)
        scores = {name: zero_shot(model, tokenizer, name, vectors, labels[name])[0] for name in ATTRIBUTES}
        both = torch.cat([vectors[: count // len(STYLE_NAMES)], _vectors(model, second)])
        known = torch.cat([torch.zeros(count // len(STYLE_NAMES), dtype=torch.long), styles])
        scores["style"] = zero_shot(model, tokenizer, "style", both, known)[0]
        result[view] = scores
    return result


@torch.inference_mode()
def directions(model: Any, tokenizer: Any, *, count: int = 24) -> dict[str, tuple[float, str, float]]:
    """For every edit: cosine of its image and text directions, and the best other text with its cosine.

    Image directions run from personas with another value of the attribute to the same with this one, averaged over
    `count` personas; text directions from "a person" to the text, averaged over CLIP's prompt templates.
    """
    base = sample_labels(count, seed=99)
    texts = torch.stack([_templated(model, tokenizer, text) for text in ("a person", *EDITS)])
    meant = F.normalize(texts[1:] - texts[0], dim=-1)
    result = {}
    for row, (text, change) in enumerate(EDITS.items()):
        ((name, key),) = change.items()
        value, values = ATTRIBUTES[name].index(key), len(ATTRIBUTES[name].values)
        start = base | {n: np.full(count, ATTRIBUTES[n].index(k)) for n, k in FIXED.items()}
        start[name] = (value + 1 + base[name] % (values - 1)) % values  # anything but the new value
        before, after = (_redrawn(model, labels) for labels in (start, start | {name: np.full(count, value)}))
        found = (meant @ F.normalize((after - before).mean(0), dim=0)).tolist()
        other = max((cosine, number) for number, cosine in enumerate(found) if number != row)
        result[text] = (found[row], list(EDITS)[other[1]], other[0])
    return result


@torch.inference_mode()
def synonyms(model: Any, tokenizer: Any, *, work: Path = WORK, count: int = 1000) -> dict[str, float | None]:
    """For sentences with words that no caption holds: area under the ROC curve, None if a word is unknown.

    The share of pairs of held-out pictures, one that the sentence is true of and one that it is not, in which the true one is
    nearer to the sentence; 0.5 is chance.
    """
    personas = load_set("personas", work=work)
    count = min(count, len(personas.images) - training_share(len(personas.images)))
    vectors = _vectors(model, to_tensor(np.asarray(personas.images[-count:])))
    labels = {name: value[-count:] for name, value in seen_labels(personas.labels).items()}
    result: dict[str, float | None] = {}
    for text, (name, keys) in UNHEARD.items():
        if tokenizer.unk_token_id in tokenizer(text)["input_ids"]:
            result[text] = None
            continue
        known, attribute = labels[name], ATTRIBUTES[name]
        true = torch.isin(known, torch.tensor([attribute.index(key) for key in keys]))
        near = vectors @ _templated(model, tokenizer, text)
        inside, outside = near[true], near[(known >= 0) & ~true]
        result[text] = (inside[:, None] > outside[None]).float().mean().item()
    return result


def _templated(model: Any, tokenizer: Any, text: str) -> torch.Tensor:
    filled = [template.format(text) for template in IMAGENET_TEMPLATES]
    return F.normalize(encode_texts(model, tokenizer, filled).mean(0), dim=0)


def _redrawn(model: Any, labels: dict[str, np.ndarray]) -> torch.Tensor:
    rows = [dict(zip(labels, map(int, values), strict=True)) for values in zip(*labels.values(), strict=True)]
    return _vectors(model, to_tensor(half_size(np.stack([draw_persona(row) for row in rows]))))


def load_clip(folder: Path = CLIP_FOLDER) -> tuple[Any, Any]:
    """The small CLIP (evaluation mode, float32) and its tokenizer from `folder`."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(folder).float().eval()
    return model, AutoTokenizer.from_pretrained(folder)


def show(result: dict[str, dict[str, float]]) -> str:
    """The accuracy table as Markdown, in percent."""
    lines = ["| attribute | " + " | ".join(result) + " |", "|---|" + "---|" * len(result)]
    for name in next(iter(result.values())):
        star = " *" if name in MAIN else ""
        lines.append(f"| {name}{star} | " + " | ".join(f"{100 * part[name]:.1f}" for part in result.values()) + " |")
    return "\n".join(lines)


def check(config: CheckConfig) -> None:
    """Print both tables."""
    model, tokenizer = load_clip(config.clip)
    print(show(table(model, tokenizer, work=config.work, count=config.count)), end="\n\n")
    print("| edit | cosine of image and text direction | nearest other text | its cosine |\n|---|---|---|---|")
    for text, (own, other, value) in directions(model, tokenizer, count=config.people).items():
        print(f"| {text} | {own:.2f} | {other} | {value:.2f} |")
    areas = synonyms(model, tokenizer, work=config.work, count=config.count)
    heard = [area for area in areas.values() if area is not None]
    mean = sum(heard) / max(1, len(heard))
    print(f"\n{len(heard)} of {len(areas)} sentences with unheard words are known, mean area {mean:.3f}:")
    for text, area in sorted(areas.items(), key=lambda pair: pair[1] if pair[1] is not None else 2):
        print(f"  {'unknown' if area is None else f'{area:.3f}'}  {text}")


if __name__ == "__main__":
    import tyro

    check(tyro.cli(CheckConfig))
