"""Train the small CLIP of the avatars: a ResNet and a tiny BERT, on renders with composed captions.

``python -m recipes.avatars.train_clip`` trains, resumes from ``.work/clip_state.pt`` after a kill, and writes a
``from_pretrained`` folder.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from recipes.avatars import captions as words
from recipes.avatars.attributes import ATTRIBUTES
from recipes.avatars.augment import augment
from recipes.avatars.check_clip import CLIP_FOLDER, encode_images, encode_texts, zero_shot
from recipes.avatars.clip_losses import direction_loss, matching_loss, mean_move
from recipes.avatars.render import HELD_OUT_STYLES, WORK, half_size, load_set, training_share
from recipes.avatars.train_features import attribute_loss, seen_labels, to_tensor
from stylograph.files import replacing

_CLASS_SHARES = {
    "hair_style": 2.0, "eyes": 2.0, "mouth": 2.0, "facial_hair": 2.5, "hair_colour": 1.5, "nose": 1.0, "clothes": 1.0,
    "skin": 1.0, "clothes_colour": 1.0, "background": 1.0, "style": 2.0,
}  # fmt: skip
_GROUPED = ("hair_style", "eyes", "mouth", "facial_hair")


@dataclass(frozen=True)
class ClipConfig:
    """The small CLIP and its training."""

    work: Path = WORK
    """Folder with the rendered sets; holds the training state."""
    out: Path = CLIP_FOLDER
    """Folder that receives the model, tokenizer and preprocessor."""
    steps: int = 1500
    """Training steps; may be changed when resuming, the learning rate follows."""
    personas: int = 96
    """Personas per step."""
    others: int = 32
    """Pictures of other styles per step."""
    lr: float = 2.5e-3
    """Peak learning rate of AdamW (cosine)."""
    text_lr: float = 3e-3
    """Peak learning rate of the text tower."""
    auxiliary: float = 0.15
    """Weight of the attribute heads on image features (dropped on export)."""
    attacked: int = 16
    """Pictures per step that get an adversarial step, once a quarter of the training is done."""
    attack: float = 0.04
    """Largest adversarial step, in units of [-1, 1]."""
    save_seconds: float = 180.0
    """Time between two saved states."""
    seed: int = 0
    """Seed of weights, batches, captions and distortions."""


@dataclass(frozen=True)
class ClipShape:
    """Sizes of the two towers."""

    widths: tuple[int, ...] = (32, 64, 128, 256)
    """Channels of the ResNet at 32, 16, 8 and 4 pixels."""
    depths: tuple[int, ...] = (2, 2, 2, 2)
    """Residual blocks at each of them."""
    text_width: int = 128
    """Width of the text tower."""
    text_layers: int = 2
    """Layers of the text tower."""
    projection: int = 128
    """Dimensions of the common space."""


def build_tokenizer() -> Any:
    """The word-level tokenizer over the vocabulary of the captions: lower case, punctuation ignored."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    table = {word: number for number, word in enumerate([*special, *words.vocabulary()])}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex("[^a-z0-9 ]"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        bos_token="[CLS]", eos_token="[SEP]", model_max_length=64, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def build_model(vocabulary: int, shape: ClipShape = ClipShape()) -> Any:
    """An untrained `VisionTextDualEncoderModel` for 128x128 pictures and `vocabulary` tokens."""
    from transformers import BertConfig, ResNetConfig, VisionTextDualEncoderConfig, VisionTextDualEncoderModel

    vision = ResNetConfig(
        embedding_size=shape.widths[0], hidden_sizes=list(shape.widths), depths=list(shape.depths), layer_type="basic",
        image_size=128, hidden_size=shape.widths[-1],
    )  # fmt: skip
    text = BertConfig(
        vocab_size=vocabulary, hidden_size=shape.text_width, num_hidden_layers=shape.text_layers,
        num_attention_heads=4, intermediate_size=2 * shape.text_width, max_position_embeddings=64,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, type_vocab_size=1, pad_token_id=0,
        initializer_range=0.09,  # with the usual 0.02 all sentences start alike, and stay so for hundreds of steps
    )  # fmt: skip
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=shape.projection)
    config.logit_scale_init_value = 3.2
    model = VisionTextDualEncoderModel(config)
    with torch.no_grad():  # words matter more than places, from the first step on
        model.text_model.embeddings.position_embeddings.weight.mul_(0.3)
        model.text_model.embeddings.token_type_embeddings.weight.mul_(0.3)
    return model


def export(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model (half precision), tokenizer and preprocessor to `folder`, readable by transformers 4 and 5."""
    folder.mkdir(parents=True, exist_ok=True)
    half = build_model(model.config.text_config.vocab_size, shape_of(model))
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # written for the owner only
    tokenizer.save_pretrained(folder)
    stored = folder / "tokenizer_config.json"
    settings = json.loads(stored.read_text())
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that both major versions know
    stored.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    size = {"height": 128, "width": 128}
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": size, "resample": 3,
        "do_center_crop": False, "crop_size": size, "do_rescale": True, "rescale_factor": 1 / 255,
        "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_convert_rgb": True,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=2) + "\n")


def shape_of(model: Any) -> ClipShape:
    """The sizes of a model made by `build_model`."""
    vision, text = model.config.vision_config, model.config.text_config
    return ClipShape(
        tuple(vision.hidden_sizes), tuple(vision.depths), text.hidden_size, text.num_hidden_layers,
        model.config.projection_dim,
    )  # fmt: skip


class Batches:
    """Draws training batches: pictures, labels (-100 unknown) and captions."""

    def __init__(self, config: ClipConfig) -> None:
        self.config = config
        self.people, self.strange = load_set("personas", work=config.work), load_set("styles", work=config.work)
        self.seen = words.seen_at(self.people.labels)
        self.labels = seen_labels(self.people.labels)
        self.known = training_share(len(self.people.images))
        self.bearded = np.flatnonzero(self.people.labels["facial_hair"][: self.known])

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, dict[str, torch.Tensor], list[words.Caption]]:
        """uint8 [B, 128, 128, 3], labels by attribute and ``style`` [B], one caption per picture."""
        people = rng.integers(self.known, size=self.config.personas)
        # Half of the people get facial hair: with three in ten, "clean shaven" is too good a guess.
        people[: self.config.personas // 3] = rng.choice(self.bearded, size=self.config.personas // 3)
        # The last thousand of the other styles are held out, as check_clip looks at them.
        strange = rng.integers(training_share(len(self.strange.images), HELD_OUT_STYLES), size=self.config.others)
        images = np.concatenate([self.people.images[np.sort(people)], self.strange.images[np.sort(strange)]])
        people, strange = np.sort(people), np.sort(strange)
        unknown = torch.full((len(strange),), -100)
        labels = {name: torch.cat([value[people], unknown]) for name, value in self.labels.items()}
        style = self.strange.labels["style"][strange]
        labels["style"] = torch.cat([torch.zeros(len(people), dtype=torch.long), torch.from_numpy(style) + 1])
        texts = [
            words.persona_caption(
                {name: int(value[row]) for name, value in self.people.labels.items()},
                {name: bool(value[row]) for name, value in self.seen.items()},
                rng,
            )
            for row in people
        ]
        texts += [words.style_caption(words.STYLE_NAMES[number + 1], rng) for number in style]
        return images, labels, texts


def _views(images: np.ndarray, rng: torch.Generator) -> torch.Tensor:
    """Distorted 128-pixel views; half of them at 64 pixels and enlarged, as pictures of small generators are.

    A third of the steps is distorted at full strength, the others lightly: eyes and mouths are a few pixels large.
    """
    strength = (1.0, 0.35, 0.35)[int(torch.randint(3, (1,), generator=rng).item())]
    choice = int(torch.randint(4, (1,), generator=rng).item())
    if choice < 2:
        return augment(to_tensor(images), rng, strength=strength)
    small = augment(to_tensor(half_size(images)), rng, strength=strength)
    mode = "bilinear" if choice == 2 else "bicubic"
    return F.interpolate(small, (128, 128), mode=mode, align_corners=False).clamp(-1, 1)


def _pooled(model: Any, images: torch.Tensor) -> torch.Tensor:
    return model.vision_model(pixel_values=images).pooler_output.flatten(1)


class Learner(nn.Module):
    """The model and its attribute heads."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        width = model.config.vision_config.hidden_size
        sizes = {name: len(attribute.values) for name, attribute in ATTRIBUTES.items()}
        sizes["style"] = len(words.STYLE_NAMES)
        self.heads = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})

    def attack(self, images: torch.Tensor, labels: dict[str, torch.Tensor], size: float, cells: int) -> torch.Tensor:
        """One signed gradient step against the heads, constant over squares of `cells` pixels."""
        self.eval()
        moved = images.clone().requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pooled = _pooled(self.model, moved)
            logits = {name: head(pooled) for name, head in self.heads.items()}
        # Attributes that nothing in this part of the batch shows have no loss.
        logits = {name: value for name, value in logits.items() if (labels[name] >= 0).any()}
        (slope,) = torch.autograd.grad(attribute_loss(logits, labels), moved)
        self.train()
        slope = F.interpolate(F.avg_pool2d(slope, cells), images.shape[-2:], mode="nearest")
        return (images + size * slope.sign()).clamp(-1, 1)

    def losses(
        self, images: torch.Tensor, labels: dict[str, torch.Tensor], texts: list[words.Caption],
        tokenizer: Any, rng: np.random.Generator,
    ) -> dict[str, torch.Tensor]:  # fmt: skip
        """Matching of pictures and captions both ways, choice among class prompts, and the heads."""
        shares = np.array(list(_CLASS_SHARES.values())) / sum(_CLASS_SHARES.values())
        groups = rng.choice(list(_CLASS_SHARES), size=4, replace=False, p=shares)
        prompts = [words.class_prompts(name, rng) for name in groups]
        every = [caption.text for caption in texts]
        every += [text for group, plain in prompts for text in (*group, plain)]
        wide = [(name, found) for name in _GROUPED if (found := words.group_prompt(name, rng)) is not None]
        every += [text for _, found in wide for text in found[:2]]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            pooled = _pooled(self.model, images)
            vectors = F.normalize(self.model.visual_projection(pooled).float(), dim=-1)
            meaning = encode_texts(self.model, tokenizer, every).float()
            heads = {name: head(pooled) for name, head in self.heads.items()}
        meaning = F.normalize(meaning, dim=-1)
        scale = self.model.logit_scale.clamp(max=math.log(60)).exp()
        pairs = scale * vectors @ meaning[: len(texts)].T
        truth = torch.from_numpy(words.truth(texts, {name: value.numpy() for name, value in labels.items()}))
        *parts, wider = meaning[len(texts) :].split([*(len(group) + 1 for group, _ in prompts), 2 * len(wide)])
        chosen = [
            F.cross_entropy(scale * vectors @ part[:-1].T, labels[name], ignore_index=-100)
            for name, part in zip(groups, parts, strict=True)
        ]
        known = [(name, part) for name, part in zip(groups, parts, strict=True) if name != "style"]
        drift = []
        for (name, found), said, plain in zip(wide, wider[::2], wider[1::2], strict=True):
            move = mean_move(vectors, torch.from_numpy(found[2]), labels[name])
            if move is not None:
                drift.append(1 - F.cosine_similarity(move, said - plain, dim=0, eps=1e-3))
        return {
            "text": matching_loss(pairs.T, truth),
            "image": matching_loss(pairs, truth.T),
            "classes": torch.stack(chosen).mean(),
            "directions": direction_loss(
                vectors, [labels[name] for name, _ in known], [p[:-1] for _, p in known], [p[-1] for _, p in known]
            )
            + (torch.stack(drift).mean() if drift else 0),
            "heads": attribute_loss(heads, labels),
        }


def _optimiser(learner: Learner, config: ClipConfig) -> torch.optim.Optimizer:
    model = learner.model
    text = [*model.text_model.parameters(), *model.text_projection.parameters()]
    known = {id(value) for value in text} | {id(model.logit_scale)}
    image = [value for value in learner.parameters() if id(value) not in known]
    return torch.optim.AdamW(
        [
            {"params": image, "base": config.lr, "weight_decay": 0.02},
            {"params": text, "base": config.text_lr, "weight_decay": 0.01},
            {"params": [model.logit_scale], "base": config.text_lr, "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=(0.9, 0.98),
    )


def _rate(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / 100)
    return warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps))))


def _quick_check(learner: Learner, tokenizer: Any, batches: Batches) -> str:
    learner.eval()
    with torch.inference_mode():
        rows = slice(batches.known, batches.known + 300)
        images = to_tensor(half_size(np.asarray(batches.people.images[rows])))
        vectors = encode_images(learner.model, images)
        held = {name: value[rows] for name, value in batches.labels.items()}
        scores = {n: zero_shot(learner.model, tokenizer, n, vectors, held[n])[0] for n in ATTRIBUTES}
    learner.train()
    return " ".join(f"{name} {100 * value:.0f}" for name, value in scores.items())


def train(config: ClipConfig) -> None:
    """Train (or resume) and export."""
    torch.manual_seed(config.seed)
    tokenizer = build_tokenizer()
    learner = Learner(build_model(len(tokenizer))).to(memory_format=torch.channels_last)
    optimiser = _optimiser(learner, config)
    batches = Batches(config)
    state, first = config.work / "clip_state.pt", 0
    if state.exists():
        stored = torch.load(state, weights_only=True)
        learner.load_state_dict(stored["learner"])
        optimiser.load_state_dict(stored["optimiser"])
        first = stored["step"]
    print(f"{sum(v.numel() for v in learner.model.parameters()) / 1e6:.2f} M parameters, from step {first}", flush=True)
    began = saved = time.monotonic()
    learner.train()
    for step in range(first, config.steps):
        rng, torch_rng = np.random.default_rng([config.seed, step]), torch.Generator().manual_seed(config.seed + step)
        pictures, labels, texts = batches.draw(rng)
        images = _views(pictures, torch_rng)
        if config.attacked and step > config.steps // 4:
            rows = torch.randperm(len(images), generator=torch_rng)[: config.attacked]
            size, cells = config.attack * rng.random(), int(rng.choice((1, 2, 4, 8)))
            images[rows] = learner.attack(images[rows], {n: v[rows] for n, v in labels.items()}, size, cells)
        for group in optimiser.param_groups:
            group["lr"] = group["base"] * _rate(step, config.steps)
        losses = learner.losses(images.contiguous(memory_format=torch.channels_last), labels, texts, tokenizer, rng)
        loss = losses["text"] + 0.5 * losses["image"] + losses["classes"] + 0.5 * losses["directions"]
        loss = loss + config.auxiliary * losses["heads"]
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learner.parameters(), 5.0)
        optimiser.step()
        if step % 20 == 0:
            parts = " ".join(f"{name} {value.item():.3f}" for name, value in losses.items())
            scale = learner.model.logit_scale.exp().item()
            print(f"step {step} {parts} scale {scale:.1f} {time.monotonic() - began:.0f} s", flush=True)
        if time.monotonic() - saved > config.save_seconds or step + 1 == config.steps:
            saved = time.monotonic()
            kept = {"learner": learner.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            with replacing(state) as temporary:
                torch.save(kept, temporary)
            print(f"step {step} zero-shot: {_quick_check(learner, tokenizer, batches)}", flush=True)
    export(learner.model, tokenizer, config.out)


if __name__ == "__main__":
    import tyro

    train(tyro.cli(ClipConfig))
