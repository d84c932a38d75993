"""Train the avatars generator: StyleGAN2 on rendered personas, 64 px first, then grown to 128 px.

Latents and renders come in pairs (codes.py), so the generator first learns to draw what a latent means; then
discriminators make sharp what the pairs leave open: truncated, mixed and in-between latents.

    python -m recipes.avatars.train_generator --warm-start avatars64.safetensors --gan-weight 0 --pairs-at 32 \\
        --g-momentum 0.9 --g-lr 8e-3 --pixel-weight 0 --square-weight 10
    python -m recipes.avatars.train_generator --features .work/features.safetensors
    python -m recipes.avatars.train_generator --features .work/features.safetensors --resolution 128

Every command goes on with the state of the one before; the third one grows it. A run also goes on where it was
stopped (SIGTERM too), bit for bit on the same machine and number of threads. Personas are not symmetric, so
pictures are never flipped.
"""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recipes.avatars import sheet
from recipes.avatars.discriminator import Features
from recipes.avatars.gan import Renders, TrainConfig, Trainer
from recipes.avatars.render import WORK, half_size, load_set, training_share


def training_set(resolution: int, *, work: Path = WORK) -> Renders:
    """The rendered personas without the held-out ones, at `resolution`."""
    personas = load_set("personas", work=work)
    count = training_share(len(personas.images))
    labels = {name: torch.from_numpy(values[:count]) for name, values in personas.labels.items()}
    images = personas.images[:count]
    if images.shape[1] != resolution:
        images = np.concatenate([half_size(images[i : i + 1000]) for i in range(0, len(images), 1000)])
    return Renders(images, labels)


def measure(trainer: Trainer, features: Features | None) -> None:
    """Write a sheet of the averaged generator and append one row to the curve."""
    out, resolution = trainer.config.out, trainer.config.resolution
    grids = [sheet.grid(sheet.sample(trainer.ema, 64, psi=psi, seed=1), 8) for psi in (0.7, 1.0)]
    sheet.save_side_by_side(out / f"sheet_{trainer.images_seen:08d}.png", grids)
    spaces: dict[str, Callable[[Tensor], Tensor]] = {"kid_random": sheet.random_features()}
    if features is not None:
        spaces["kid_features"] = lambda x: torch.cat([one.mean((2, 3)) for one in features(x)], dim=1)
    real = sheet.held_out(resolution, work=trainer.config.work)
    fake = sheet.sample(trainer.ema, len(real), psi=1.0, seed=2)
    row: dict[str, float] = {
        "images": trainer.images_seen,
        "resolution": resolution,
        "minutes": round(trainer.minutes, 1),
    }
    for name, space in spaces.items():
        row[name] = round(sheet.kid(sheet.embed(real, space), sheet.embed(fake, space)), 5)
    print("curve", json.dumps(row), flush=True)
    if trainer.config.curve is not None:
        path = trainer.config.curve
        rows = json.loads(path.read_text()) if path.exists() else []
        path.write_text("[\n" + ",\n".join(json.dumps(one) for one in [*rows, row]) + "\n]\n")


def run(config: TrainConfig) -> None:
    """Train until the time is over or a signal asks to stop; the state is saved in both cases."""
    torch.set_num_threads(config.threads)
    features = None
    if config.features is not None:
        from recipes.avatars.train_features import load_features

        features = load_features(config.features)
    trainer = Trainer(config, training_set(config.resolution, work=config.work), features)
    stop: list[int] = []
    for one in (signal.SIGTERM, signal.SIGINT):
        signal.signal(one, lambda number, frame: stop.append(number))
    begin = last = saved = drawn = time.monotonic()
    sums: dict[str, list[float]] = {}
    count = 0
    end = math.inf if config.until is None else config.until
    while not stop and time.monotonic() - begin < config.minutes * 60 and trainer.images_seen < end:
        for name, value in trainer.train_step().items():
            sums.setdefault(name, []).append(value)
        count += config.batch
        now = time.monotonic()
        if now - last > 30:
            trainer.minutes += (now - last) / 60
            numbers = " ".join(f"{name} {np.mean(values):.2f}" for name, values in sums.items())
            print(f"{trainer.images_seen} images, {count / (now - last):.1f} img/s, {numbers}", flush=True)
            last, count, sums = now, 0, {}
        if now - saved > config.save_minutes * 60:
            trainer.save()
            saved = now
        if now - drawn > config.sheet_minutes * 60:
            measure(trainer, features)
            drawn = last = time.monotonic()
            count, sums = 0, {}
    trainer.save()
    if not stop:
        measure(trainer, features)


if __name__ == "__main__":
    import tyro

    run(tyro.cli(TrainConfig))
