"""CLIP: images and sentences as unit vectors of one space."""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from stylograph.assets import ASSETS
from stylograph.errors import PromptError, PromptWarning, StylographError, WeightsError, one_of
from stylograph.images import RESAMPLERS, resize
from stylograph.losses import direction, unit_mean
from stylograph.templates import IMAGENET_TEMPLATES
from stylograph.weights.tensors import hash_tensors

NORMALIZATIONS = ("model", "none")
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
DEFAULT_SIZE = 224
SHIPPED = {"avatars": ASSETS / "avatars" / "clip", "avatars-robust": ASSETS / "avatars" / "clip-robust"}
"""Models that come with the package."""


@dataclass(frozen=True)
class Tower:
    """One dual encoder with what it expects of its input."""

    name: str
    model: Any
    """A transformers model with `get_image_features` and `get_text_features`."""
    tokenizer: Any
    size: int
    """Side of the input image."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Clip:
    """One CLIP-like model, or several as an ensemble.

    An ensemble's embedding is the concatenation of √weight times each member's unit vector: a unit vector again, and
    the product of two of them is the weighted mean of the members' cosines. So nothing else has to know how many
    models there are.
    """

    def __init__(
        self,
        towers: Sequence[Tower],
        *,
        weights: Sequence[float] | None = None,
        resample: str = "box",
        normalization: str = "model",
    ) -> None:
        if resample not in RESAMPLERS:
            raise StylographError(one_of(resample, RESAMPLERS, "resample"))
        if normalization not in NORMALIZATIONS:
            raise StylographError(one_of(normalization, NORMALIZATIONS, "normalization"))
        given = [1.0] * len(towers) if weights is None else [float(w) for w in weights]
        if len(given) != len(towers) or not towers or min(given) <= 0:
            raise StylographError(f"got weights {given} for {len(towers)} models; expected one positive weight each")
        self.towers = tuple(towers)
        self.weights = tuple(w / sum(given) for w in given)
        self.resample = resample
        self.normalization = normalization
        self._embedded: dict[tuple[str, tuple[str, ...]], Tensor] = {}
        """Sentences met so far: with templates each costs 79 passes of the text model."""

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | Sequence[str | Path],
        *,
        weights: Sequence[float] | None = None,
        resample: str = "box",
        normalization: str = "model",
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        offline: bool = False,
    ) -> Clip:
        """Loads one or several models through `transformers`.

        source: "avatars", "avatars-robust", a hub id such as "openai/clip-vit-base-patch32", a local folder, or a list of these.
        weights: share of each model of a list; equal by default.
        resample: "box" (exact area average) or "bicubic" (antialiased; what CLIP itself was trained with).
        normalization: "model" subtracts the model's pixel mean and divides by its deviation; "none" feeds [-1, 1] as
            it is, which is what StyleCLIP's optimisation and mapper code does (for comparison with its results).
        Raises `WeightsError` when a model cannot be found or read.
        """
        sources = [source] if isinstance(source, (str, Path)) else list(source)
        towers = [load_tower(s, device=device, dtype=dtype, offline=offline) for s in sources]
        return cls(towers, weights=weights, resample=resample, normalization=normalization)

    @property
    def name(self) -> str:
        return "+".join(tower.name for tower in self.towers)

    @cached_property
    def digest(self) -> str:
        """sha256 over the weights of all models and everything else that changes an embedding."""
        setting = [self.weights, self.resample, self.normalization, [(t.size, t.mean, t.std) for t in self.towers]]
        state = hashlib.sha256(json.dumps(setting).encode())
        for tower in self.towers:
            state.update(json.dumps(tower.tokenizer.get_vocab(), sort_keys=True).encode())
            hash_tensors(state, tower.model.state_dict())
        return state.hexdigest()

    @property
    def device(self) -> torch.device:
        return next(self.towers[0].model.parameters()).device

    def embed_images(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1], any size -> unit vectors [N, D] in float32; differentiable."""
        parts = []
        for tower, weight in zip(self.towers, self.weights, strict=True):
            features = _image_features(tower.model, self._pixels(tower, images))
            parts.append(F.normalize(features.float(), dim=-1) * math.sqrt(weight))
        return torch.cat(parts, dim=-1)

    def feature_maps(self, images: Tensor) -> list[Tensor]:
        """Images [N, 3, H, W] in [-1, 1] -> what every layer of every model's image tower sees in them, each [N, C, places]
        in float32; differentiable. Raises `StylographError` for a model that does not show its layers."""
        maps: list[Tensor] = []
        for tower in self.towers:
            vision = getattr(tower.model, "vision_model", None)
            if vision is None:
                raise StylographError(
                    f"got {tower.name}, a {type(tower.model).__name__} without a vision_model; expected a CLIP or SigLIP"
                )
            states = vision(pixel_values=self._pixels(tower, images), output_hidden_states=True).hidden_states
            # A transformer's [N, places, C], or a convolutional tower's [N, C, h, w].
            maps += [(s.flatten(2) if s.ndim == 4 else s.transpose(1, 2)).float() for s in states]
        return maps

    def _pixels(self, tower: Tower, images: Tensor) -> Tensor:
        """Images as a tower wants them."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise StylographError(f"got images of shape {list(images.shape)}; expected [N, 3, H, W] in [-1, 1]")
        pixels = resize(images.to(self.device).float(), tower.size, method=self.resample)
        if self.normalization == "model":
            mean, std = (pixels.new_tensor(v)[:, None, None] for v in (tower.mean, tower.std))
            pixels = ((pixels + 1) / 2 - mean) / std
        return pixels.to(tower.model.dtype)

    @torch.no_grad()
    def embed_text(self, prompts: str | Sequence[str], *, templates: bool | Sequence[str] = True) -> Tensor:
        """Sentences -> unit vectors [N, D].

        templates: True averages each sentence over CLIP's ImageNet templates as StyleCLIP does (79 of the 80; each
            embedding normalised, then averaged, then normalised); False takes the sentence as it is; or your own
            list of templates with one "{}" each.
        Raises `PromptError` for an empty sentence; warns (`PromptWarning`) of words the model does not know.
        """
        sentences = [prompts] if isinstance(prompts, str) else list(prompts)
        if not sentences or any(not s.strip() for s in sentences):
            raise PromptError("got an empty sentence; describe the picture you want, e.g. 'a person with blond hair'")
        chosen = ("{}",) if templates is False else IMAGENET_TEMPLATES if templates is True else tuple(templates)
        for sentence in dict.fromkeys(sentences):
            if (sentence, chosen) not in self._embedded:
                self._embedded[sentence, chosen] = self._embed_sentence(sentence, chosen)
        return torch.stack([self._embedded[sentence, chosen] for sentence in sentences])

    def _embed_sentence(self, sentence: str, templates: tuple[str, ...]) -> Tensor:
        parts = self.split(self.embed_templates(sentence, templates))
        return torch.cat(
            [F.normalize(part.mean(0), dim=-1) * math.sqrt(w) for part, w in zip(parts, self.weights, strict=True)]
        )

    @torch.no_grad()
    def embed_templates(self, sentence: str, templates: Sequence[str] = IMAGENET_TEMPLATES) -> Tensor:
        """A sentence in each of T templates -> T unit vectors [T, D]; warns of words the model does not know."""
        filled = [template.format(sentence.strip()) for template in templates]
        parts = []
        for tower, weight in zip(self.towers, self.weights, strict=True):
            _warn_of_unknown_words(tower, sentence)
            parts.append(F.normalize(_encode(tower, filled), dim=-1) * math.sqrt(weight))
        return torch.cat(parts, dim=-1)

    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """Vectors [..., D] -> the part of each model, [..., D of that model]; a part's length is √weight."""
        return vectors.split(self._widths, dim=-1)

    @cached_property
    def _widths(self) -> list[int]:
        return [_encode(tower, ["a"]).shape[-1] for tower in self.towers]

    def text_direction(
        self, target: str, neutral: str | Sequence[str], *, templates: bool | Sequence[str] = True
    ) -> Tensor:
        """Δt = normalise(E(target) - E(neutral)), [D] (StyleCLIP, section 6.1).

        neutral: one sentence, or several: then the mean of their embeddings, normalised.
        Raises `PromptError` if the difference vanishes.
        """
        neutrals = [neutral] if isinstance(neutral, str) else list(neutral)
        if target.strip().lower() in (n.strip().lower() for n in neutrals):
            raise PromptError(
                f"got the same sentence twice ({target!r}); the target has to differ from the neutral text"
            )
        _check_some_difference_is_known(self.towers, target, neutrals)
        new, old = self.embed_text(target, templates=templates)[0], self.embed_text(neutrals, templates=templates)
        old = unit_mean(old)
        if float((new - old).norm()) < 1e-3:
            raise PromptError(
                f"{self.name} sees no difference between {target!r} and {neutral!r}; use words it knows, or say more"
            )
        return direction(new, old)


def load_tower(
    source: str | Path, *, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32, offline: bool = False
) -> Tower:
    """One dual encoder from a shipped name, a local folder or a hub id, frozen. Raises `WeightsError`."""
    from pickle import UnpicklingError

    from huggingface_hub.utils import HfHubHTTPError
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer
    from transformers.image_processing_base import ImageProcessingMixin
    from transformers.utils import logging

    place = str(SHIPPED.get(str(source), source))
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()  # for loading; downloads have their own
    try:
        model = AutoModel.from_pretrained(place, local_files_only=offline).to(device, dtype)
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=offline)
        try:
            preprocessing = ImageProcessingMixin.get_image_processor_dict(place, local_files_only=offline)[0]
        except OSError:
            preprocessing = {}
    except (
        OSError,
        ValueError,
        KeyError,
        ImportError,
        RuntimeError,
        HfHubHTTPError,
        SafetensorError,
        UnpicklingError,
    ) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise WeightsError(
            f"{source}: got no CLIP model ({first}); expected 'avatars', a folder written by save_pretrained, or a hub "
            "id such as openai/clip-vit-base-patch32 that is reachable or already in the cache"
        ) from None
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise WeightsError(f"{source}: got a {type(model).__name__}; expected a dual encoder such as CLIP or SigLIP")
    vision = getattr(model.config, "vision_config", None)
    return Tower(
        name=str(source) if str(source) in SHIPPED else Path(place).name if Path(place).is_dir() else place,
        model=model.eval().requires_grad_(False),
        tokenizer=tokenizer,
        size=_input_size(preprocessing, vision),
        mean=tuple(preprocessing.get("image_mean") or CLIP_MEAN),
        std=tuple(preprocessing.get("image_std") or CLIP_STD),
    )


def _input_size(preprocessing: dict[str, Any], vision: Any) -> int:
    """The model's own image size if it states one, else its preprocessor's crop or resize."""
    stated = getattr(vision, "image_size", None)
    for value in (stated, preprocessing.get("crop_size"), preprocessing.get("size")):
        if isinstance(value, dict):
            value = value.get("height") or value.get("shortest_edge")
        if isinstance(value, (list, tuple)):
            value = value[0]
        if value:
            return int(value)
    return DEFAULT_SIZE


def _image_features(model: Any, pixels: Tensor) -> Tensor:
    if model.config.model_type == "vision-text-dual-encoder":
        # Its get_image_features feeds a convolutional tower's pooled [N, C, 1, 1] to a linear layer as it is.
        return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output.flatten(1))
    return _features(model.get_image_features(pixel_values=pixels))


def _features(output: Any) -> Tensor:
    """The projected features: transformers 4 returns the tensor itself, 5 an object that holds it."""
    return output if isinstance(output, Tensor) else output.pooler_output


def _text_limit(tower: Tower) -> int:
    text = getattr(tower.model.config, "text_config", None)
    stated = getattr(text, "max_position_embeddings", None) or 77
    return min(int(stated), int(min(tower.tokenizer.model_max_length, 10**6)))


def _encode(tower: Tower, texts: list[str]) -> Tensor:
    # SigLIP was trained on texts padded to full length, and needs them so.
    padding = "max_length" if str(tower.model.config.model_type).startswith("siglip") else True
    inputs = tower.tokenizer(
        texts, padding=padding, truncation=True, max_length=_text_limit(tower), return_tensors="pt"
    ).to(next(tower.model.parameters()).device)
    inputs.pop("token_type_ids", None)
    return _features(tower.model.get_text_features(**inputs)).float()


def _words(sentence: str) -> set[str]:
    return {word.strip(".,;:!?\"'()").lower() for word in sentence.split()} - {""}


def _unknown(tower: Tower, words: set[str]) -> list[str]:
    """Words a closed-vocabulary tokenizer maps to its unknown token."""
    tokenizer = tower.tokenizer
    unknown_id = tokenizer.unk_token_id
    if unknown_id is None or unknown_id in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        return []  # CLIP's byte-pair vocabulary spells every word
    return sorted(w for w in words if unknown_id in tokenizer(w, add_special_tokens=False)["input_ids"])


def _near(tower: Tower, words: list[str]) -> str:
    """The words, each with the nearest ones the model knows."""
    known = [w for w in tower.tokenizer.get_vocab() if w.isalpha() and len(w) > 2]
    hints = {w: difflib.get_close_matches(w, known, n=3, cutoff=0.6) for w in words}
    return "; ".join(f"{w!r}" + (f" (near: {', '.join(near)})" if near else "") for w, near in hints.items())


def _warn_of_unknown_words(tower: Tower, sentence: str) -> None:
    if lost := _unknown(tower, _words(sentence)):
        said = _near(tower, lost)
        warnings.warn(f"{tower.name} does not know {said}; it reads the sentence without", PromptWarning, stacklevel=4)


def _check_some_difference_is_known(towers: Sequence[Tower], target: str, neutrals: Sequence[str]) -> None:
    """Raises `PromptError` when no model knows any of the words by which the target differs."""
    new = _words(target) - set().union(*map(_words, neutrals)) - LITTLE_WORDS
    if new and all(len(_unknown(tower, new)) == len(new) for tower in towers):
        raise PromptError(
            f"got {target!r}, and {towers[0].name} does not know {_near(towers[0], sorted(new))}, which is all that sets "
            f"it apart from {neutrals[0]!r}; use other words, or another --clip"
        )


LITTLE_WORDS = frozenset(
    [
        "a",
        "an",
        "and",
        "has",
        "have",
        "having",
        "in",
        "is",
        "of",
        "on",
        "the",
        "their",
        "to",
        "wearing",
        "wears",
        "with",
    ]
)
"""Words that make no difference by themselves."""
