"""Write MANIFEST.json of the shipped models: size, digest, licence and origin of every file.

``python -m recipes.avatars.manifest`` after an export. A test compares the manifest with the files.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from stylograph.assets import ASSETS

FOLDER = ASSETS / "avatars"
LICENCE = "CC BY 4.0 (weights by the stylograph authors; learnt from drawings of the authors named in ATTRIBUTION.md)"
MODELS = {
    "generator.safetensors": (
        "StyleGAN2 generator of avatars",
        "python -m recipes.avatars.render; python -m recipes.avatars.train_generator; "
        "python -m recipes.avatars.export_generator",
    ),
    "clip/": (
        "small dual encoder for avatars, loaded by transformers",
        "python -m recipes.avatars.render; python -m recipes.avatars.train_clip; python -m recipes.avatars.widen_words",
    ),
    "clip-robust/": (
        "the same dual encoder with an image tower that adversarial changes hardly move; guides domain adaptation",
        "python -m recipes.avatars.train_robust",
    ),
    "universal.safetensors": (
        "universal text map of this generator and CLIP",
        "python -m recipes.avatars.fit_universal",
    ),
    "judge.safetensors": (
        "attribute classifier of avatars, used to score edits only",
        "python -m recipes.avatars.render --what personas; python -m recipes.avatars.train_judge",
    ),
    "identity.safetensors": (
        "identity embedding of avatars",
        "python -m recipes.avatars.render --what personas; python -m recipes.avatars.train_identity",
    ),
    "inverter.safetensors": (
        "encoder of avatars into W+ of this generator, in the manner of e4e",
        "python -m recipes.avatars.render; python -m recipes.avatars.train_inverter",
    ),
    "locator.safetensors": (
        "where in a picture avatars are, how large and how turned",
        "python -m recipes.avatars.render; python -m recipes.avatars.train_locator",
    ),
    "domains.safetensors": (
        "classifier of drawing styles with features for distances, used to score domain adaptation only",
        "python -m recipes.avatars.render; python -m recipes.avatars.train_domains",
    ),
    "reference.safetensors": (
        "features of real drawings of the benchmark's domains, by the domain judge",
        "python -m recipes.avatars.render; python -m recipes.avatars.reference",
    ),
}


@dataclass(frozen=True)
class ManifestConfig:
    """Of what to write a manifest."""

    folder: Path = FOLDER
    """Folder with the models; receives ``MANIFEST.json``."""


def manifest(folder: Path = FOLDER) -> dict[str, object]:
    """The manifest as it should be for the files that are in `folder`."""
    models = {}
    for name, (what, recipe) in MODELS.items():
        place = folder / name
        files = [place] if place.is_file() else sorted(p for p in place.rglob("*") if p.is_file())
        models[name.rstrip("/")] = {
            "what": what,
            "licence": LICENCE,
            "recipe": recipe,
            "files": {
                str(p.relative_to(folder)): {
                    "bytes": p.stat().st_size,
                    "sha256": hashlib.sha256(p.read_bytes()).hexdigest(),
                }
                for p in files
            },
        }
    return {"models": models}


if __name__ == "__main__":
    import tyro

    place = tyro.cli(ManifestConfig).folder / "MANIFEST.json"
    place.write_text(json.dumps(manifest(place.parent), indent=2) + "\n")
    print(f"wrote {place}")
