"""StyleGAN-NADA's claims in miniature: losses, adaptive layers and mining on the avatars, scored by networks no method sees.

    python -m recipes.avatars.render --what styles        # real pictures of the target styles, once
    python -m benchmarks.adaptation [--domains robot plant] [--ways default] [--pictures docs/images]

Every child draws 400 pictures (seeds no training used, truncation 0.7). *KID* to 500 real drawings of the target
style and *diversity* (mean feature distance within ten clusters) use the features of the domain judge
(`stylograph.domains`), which is part of no loss; KID is in that network's units (the parent's is the row to compare
with), diversity relative to that of the real drawings. *target* and *source* are the shares of pictures the judge takes for the target
style and still for the parent's. *similarity* is the mean cosine to the sentence by the CLIP in the loss, *other* by
the avatars' plain CLIP, which is not in the loss.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks.measure import report
from recipes.avatars.render import half_size, load_set
from recipes.avatars.styles import STYLES
from recipes.avatars.train_features import to_tensor
from stylograph import AdaptConfig, Clip, Generator, adapt
from stylograph.domains import DomainJudge, diversity, kid, residue
from stylograph.nada.mining import mine
from stylograph.nada.target import aim

SAMPLES, FIRST_SEED, REAL = 400, 500, 500


@dataclass(frozen=True)
class Domain:
    """A sentence, and the style whose real drawings it is compared with."""

    sentence: str
    style: str
    preset: str = "style"


DOMAINS = {
    "robot": Domain("a robot", "bottts", "shape"),
    "pixel art": Domain("pixel art", "pixel-art"),
    "line drawing": Domain("a black and white line drawing", "notionists"),
    "doodle": Domain("a doodle", "croodles"),
    "voxel person": Domain("a voxel person", "voxel-art"),
    "clay monster": Domain("a clay monster", "clay", "shape"),
    "potted plant": Domain("a potted plant", "sprouts", "shape"),
    "ink drawing": Domain("a black and white ink drawing", "lorelei"),
}
WAYS: dict[str, dict[str, Any]] = {
    "global": {"lambda_direction": 0.0, "lambda_global": 1.0, "top_k": 0},
    "directional": {"lambda_global": 0.0, "top_k": 0},
    "directional + adaptive": {"lambda_global": 0.0, "top_k": 6},
    "directional + adaptive + mining": {"lambda_global": 0.0, "top_k": 6},
    "default": {},
    "default + mining": {},
}
"""What each way sets; all else is the domain's preset."""


@dataclass(frozen=True)
class Options:
    domains: tuple[str, ...] = tuple(DOMAINS)
    ways: tuple[str, ...] = tuple(WAYS)
    name: str = "adaptation"
    """File in benchmarks/results."""
    pictures: Path | None = None
    """Folder for a sheet of every way and domain."""
    save: Path | None = None
    """Folder that receives the children; what is there already is not trained again."""


class Scores:
    """What is known of every domain, computed once."""

    def __init__(self) -> None:
        self.judge = DomainJudge.from_pretrained("avatars")
        self.clips = {"similarity": Clip.from_pretrained("avatars-robust"), "other": Clip.from_pretrained("avatars")}
        self.drawings = load_set("styles")
        self.real: dict[str, Tensor] = {}

    def features_of(self, style: str) -> Tensor:
        """Features of real drawings of a style."""
        if style not in self.real:
            rows = np.flatnonzero(self.drawings.labels["style"] == list(STYLES).index(style))[-REAL:]
            self.real[style] = self.judge.features(to_tensor(half_size(np.asarray(self.drawings.images[rows]))))
        return self.real[style]

    @torch.no_grad()
    def of(self, generator: Generator, domain: Domain) -> dict[str, float]:
        """All figures of one child."""
        parts = []
        for seed in range(FIRST_SEED, FIRST_SEED + SAMPLES, 50):
            parts.append(generator.render(generator.sample(50, seed=seed)).clamp(-1, 1))  # as a file would hold them
        images = torch.cat(parts)
        features, told = self.judge.features(images), self.judge.probabilities(images)
        real = self.features_of(domain.style)
        found = {}
        for name, clip in self.clips.items():
            wanted = clip.embed_text(domain.sentence)[0]
            found[name] = float(torch.cat([clip.embed_images(part) @ wanted for part in images.split(50)]).mean())
        return {
            **found,
            "kid": kid(features, real).mean,
            "target": float((told.argmax(1) == self.judge.names.index(domain.style)).float().mean()),
            "source": residue(told, 0),
            "diversity": diversity(features) / diversity(real[:SAMPLES]),
        }


def child(parent: Generator, clip: Clip, domain: Domain, way: str, folder: Path | None) -> tuple[Generator, float]:
    """The child, and the seconds its training took."""
    place = None if folder is None else folder / f"{domain.style} {way}.safetensors".replace(" ", "-")
    if place is not None and place.exists():
        return Generator.from_pretrained(place), float(place.with_suffix(".seconds").read_text())
    config = replace(AdaptConfig(preset=domain.preset), **WAYS[way])  # type: ignore[arg-type]
    start = time.perf_counter()
    plain = way.removesuffix(" + mining")
    if plain != way:
        made, seconds = child(parent, clip, domain, plain, folder)
        start -= seconds
        made = mine(made, aim(parent, clip, domain.sentence, "a person"))
    else:
        made = adapt(parent, clip, domain.sentence, source="a person", config=config)
    seconds = time.perf_counter() - start
    if place is not None:
        made.save(place)
        place.with_suffix(".seconds").write_text(f"{seconds:.1f}")
    return made, seconds


def main(options: Options) -> None:
    from stylograph.render import save_picture, sheet

    warnings.simplefilter("ignore")
    parent = Generator.from_pretrained("avatars")
    scores = Scores()
    rows: list[dict[str, Any]] = []
    for name in options.domains:
        domain = DOMAINS[name]
        rows.append({"domain": name, "way": "parent", **scores.of(parent, domain)})
        pictures, captions = [parent.render(parent.sample(8, seed=1))], ["parent"]
        for way in options.ways:
            made, seconds = child(parent, scores.clips["similarity"], domain, way, options.save)
            told = made.provenance["adaptation"]
            facts = {"steps": told["looks"][-1]["step"], "best": told["best"]["step"], "seconds": seconds}
            rows.append({"domain": name, "way": way, **scores.of(made, domain), **facts})
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()}, flush=True)
            with torch.no_grad():
                pictures.append(made.render(made.sample(8, seed=1)))
            captions.append(f"{domain.sentence}: {way}")
        if options.pictures is not None:
            save_picture(sheet(pictures, captions=captions), options.pictures / f"{domain.style}.png")
    for way in ("parent", *options.ways):
        mine_ = [row for row in rows if row["way"] == way]
        keys = [key for key, value in mine_[0].items() if isinstance(value, float)]
        rows.append(
            {"domain": f"mean of {len(mine_)}", "way": way} | {k: sum(r[k] for r in mine_) / len(mine_) for k in keys}
        )
    report(options.name, rows)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
