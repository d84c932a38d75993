"""Train a second image tower for the small CLIP, one that small changes of pixels cannot fool.

A generator trained against the first tower learns a texture that pleases it and that nobody sees (adversarial
examples are easier to reach than robots). This tower learns to give a picture under attack the vector that the first
tower gives the clean picture, as FARE does (Schlarmann et al. 2024, "Robust CLIP"), so text tower and embedding space
stay what they are. Attack and training share their gradients ("free" adversarial training, Shafahi et al. 2019).

``python -m recipes.avatars.train_robust`` resumes from ``.work/robust_state.pt`` after a kill.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from recipes.avatars import captions as words
from recipes.avatars.augment import augment
from recipes.avatars.check_clip import CLIP_FOLDER, encode_images, encode_texts
from recipes.avatars.render import HELD_OUT_STYLES, WORK, half_size, load_set, training_share
from recipes.avatars.train_clip import export
from recipes.avatars.train_features import to_tensor
from stylograph.files import replacing


@dataclass(frozen=True)
class RobustConfig:
    """The robust tower's training."""

    work: Path = WORK
    """Folder with the rendered sets; holds the training state."""
    teacher: Path = CLIP_FOLDER
    """The CLIP whose embedding space it takes over, and whose image tower it starts from."""
    out: Path = CLIP_FOLDER.parent / "clip-robust"
    """Folder that receives model, tokenizer and preprocessor."""
    steps: int = 3000
    """Steps of the optimiser."""
    batch: int = 48
    """Pictures per step: half personas, half other styles."""
    replays: int = 4
    """Steps on the same pictures, each under a stronger attack."""
    radius: float = 16.0
    """Euclidean norm of the attack on a 64x64 picture in [-1, 1]; 16 is 18 of 255 levels per number on average."""
    warm: float = 0.5
    """Share of the steps over which the radius grows to its full size."""
    lr: float = 1e-3
    """Peak learning rate of AdamW (cosine)."""
    classes: float = 0.3
    """Weight of naming the style among the sentences of all styles."""
    check: int = 120
    """Held-out pictures that are attacked at every saved state."""
    save_seconds: float = 120.0
    """Time between two saved states."""
    seed: int = 5
    """Seed of batches, distortions and first attacks."""


def enlarge(images: torch.Tensor) -> torch.Tensor:
    """[N, 3, 64, 64] -> [N, 3, 128, 128], as `Clip` feeds the pictures of a 64-pixel generator."""
    return F.interpolate(images, scale_factor=2, mode="nearest").contiguous(memory_format=torch.channels_last)


def vectors(model: Any, images: torch.Tensor) -> torch.Tensor:
    """Unit vectors of [N, 3, 64, 64] pictures."""
    return encode_images(model, enlarge(images))


def norms(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]


class Data:
    """Personas and other styles at 64 pixels."""

    def __init__(self, work: Path, *, check: int) -> None:
        people, strange = load_set("personas", work=work), load_set("styles", work=work)
        self.people = half_size(people.images[: min(12_000, training_share(len(people.images)))])
        strangers = training_share(len(strange.images), HELD_OUT_STYLES)
        self.strange = np.concatenate(
            [half_size(strange.images[s : min(s + 2000, strangers)]) for s in range(0, strangers, 2000)]
        )
        self.style = torch.from_numpy(strange.labels["style"][:strangers]) + 1
        held = slice(strangers, strangers + check)
        self.held = to_tensor(half_size(np.asarray(strange.images[held])))
        self.held_style = torch.from_numpy(strange.labels["style"][held]) + 1

    def draw(self, batch: int, rng: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """Pictures [batch, 3, 64, 64] and the number of their style [batch], 0 for personas."""
        a = torch.randint(len(self.people), (batch // 2,), generator=rng)
        b = torch.randint(len(self.strange), (batch - batch // 2,), generator=rng)
        images = np.concatenate([self.people[a.numpy()], self.strange[b.numpy()]])
        return to_tensor(images), torch.cat([torch.zeros(len(a), dtype=torch.long), self.style[b]])


@torch.no_grad()
def style_texts(model: Any, tokenizer: Any) -> torch.Tensor:
    """Unit vectors of the plainest sentence of every style."""
    from recipes.avatars.styles import PERSONA_STYLE, STYLES

    names = [PERSONA_STYLE[0], *(style.words[0] for style in STYLES.values())]
    assert len(names) == len(words.STYLE_NAMES)
    return F.normalize(encode_texts(model, tokenizer, [f"a {name}" for name in names]).float(), dim=-1)


def attack(model: Any, images: torch.Tensor, wanted: torch.Tensor, radius: float, steps: int = 10) -> torch.Tensor:
    """Pictures within `radius` whose vectors are as far from `wanted` as projected gradient descent gets them."""
    change = torch.zeros_like(images)
    for _ in range(steps):
        change.requires_grad_()
        away = (vectors(model, images + change) * wanted).sum()
        (slope,) = torch.autograd.grad(away, change)
        change = (change - 2.5 * radius / steps * slope / norms(slope)).detach()
        change = change * (radius / norms(change)).clamp(max=1)
    return images + change


def check(model: Any, teacher: Any, data: Data, texts: torch.Tensor, radius: float) -> str:
    """Style accuracy of held-out pictures and cosine to the clean teacher, without and under attack."""
    model.eval()
    said = []
    with torch.no_grad():
        wanted = vectors(teacher, data.held)
    for title, images in (("clean", data.held), ("attacked", attack(model, data.held, wanted, radius))):
        with torch.no_grad():
            found = vectors(model, images)
        right = ((found @ texts.T).argmax(1) == data.held_style).float().mean()
        said.append(f"{title} styles {100 * right:.0f} % cosine {(found * wanted).sum(1).mean():.3f}")
    model.train()
    return "; ".join(said)


def train(config: RobustConfig) -> None:
    """Train (or resume) and export."""
    from transformers import AutoModel, AutoTokenizer

    torch.manual_seed(config.seed)
    teacher = AutoModel.from_pretrained(config.teacher).float().eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(config.teacher)
    model = AutoModel.from_pretrained(config.teacher).float().requires_grad_(False)
    for network in (teacher, model):
        network.to(memory_format=torch.channels_last)
    trained = [*model.vision_model.parameters(), *model.visual_projection.parameters()]
    for parameter in trained:
        parameter.requires_grad_(True)
    optimiser = torch.optim.AdamW(trained, lr=config.lr, weight_decay=0.01, betas=(0.9, 0.98))
    data, texts = Data(config.work, check=config.check), style_texts(teacher, tokenizer)
    state, first = config.work / "robust_state.pt", 0
    if state.exists():
        stored = torch.load(state, weights_only=True)
        model.load_state_dict(stored["model"])
        optimiser.load_state_dict(stored["optimiser"])
        first = stored["step"]
    began = saved = time.monotonic()
    model.train()
    for step in range(first, config.steps):
        if step == first or step % config.replays == 0:
            rng = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            clean, style = data.draw(config.batch, rng)
            with torch.no_grad():
                wanted = vectors(teacher, clean)
            images = augment(clean, rng, strength=0.35) if step // config.replays % 2 else clean
            change = torch.randn(images.shape, generator=rng)
            radius = config.radius * min(1.0, (step + 1) / (config.warm * config.steps))
            change = change / norms(change) * radius * torch.rand((len(images), 1, 1, 1), generator=rng)
        moved = (images + change).requires_grad_()
        found = vectors(model, moved)
        away = 1 - (found * wanted).sum(1)
        naming = F.cross_entropy(20 * found @ texts.T, style)
        loss = away.mean() + config.classes * naming
        share = step / config.steps
        for group in optimiser.param_groups:
            group["lr"] = config.lr * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimiser.step()
        assert moved.grad is not None
        change = change + 0.6 * radius * moved.grad / norms(moved.grad)
        change = change * (radius / norms(change)).clamp(max=1)
        if step % 20 == 0:
            print(
                f"step {step} away {away.mean():.3f} naming {naming:.3f} radius {radius:.1f} "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
        if time.monotonic() - saved > config.save_seconds or step + 1 == config.steps:
            kept = {"model": model.state_dict(), "optimiser": optimiser.state_dict(), "step": step + 1}
            with replacing(state) as temporary:
                torch.save(kept, temporary)
            export(model, tokenizer, config.out)
            print(f"step {step} {check(model, teacher, data, texts, config.radius)}", flush=True)
            saved = time.monotonic()


if __name__ == "__main__":
    import tyro

    train(tyro.cli(RobustConfig))
