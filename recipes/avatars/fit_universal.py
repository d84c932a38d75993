"""Fit the universal text map of the shipped generator and CLIP: ``python -m recipes.avatars.fit_universal``, 3 minutes.

Run it again whenever one of the two is replaced: a map is bound to both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stylograph import Clip, Generator
from stylograph.assets import ASSETS
from stylograph.edit.config import UniversalConfig
from stylograph.edit.universal import SHIPPED, fit_universal


@dataclass(frozen=True)
class FitConfig:
    """What to fit, and where to put it."""

    assets: Path = ASSETS / "avatars"
    """Folder with the generator and the CLIP."""
    out: Path = SHIPPED
    """The file to write."""
    universal: UniversalConfig = field(default_factory=lambda: UniversalConfig(samples=20_000))


def fit(config: FitConfig) -> None:
    """Fit and write the map."""
    found = fit_universal(
        Generator.from_pretrained(config.assets / "generator.safetensors"),
        Clip.from_pretrained(config.assets / "clip"),
        config=config.universal,
        on_step=lambda step: step.done % 3200 == 0 and print(f"{step.stage}: {step.done} of {step.total}", flush=True),
    )
    found.save(config.out)


if __name__ == "__main__":
    import tyro

    fit(tyro.cli(FitConfig))
