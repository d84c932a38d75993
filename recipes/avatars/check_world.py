"""Does the package work with these models? Loads every one as a user would, by its plain name, and edits a picture.

``python -m recipes.avatars.check_world`` looks at the shipped models. Those of another folder are looked at through a
copy of the package that has them for its own, so that every default path and digest is the one a release would have.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class WorldConfig:
    """What to look at."""

    assets: Path | None = None
    """Folder with the models; that of the package when left out."""
    out: Path = Path("check.png")
    """The edited picture: originals above, edits below."""


def package() -> Path:
    """Where stylograph is; it is not imported for that."""
    spec = find_spec("stylograph")
    if spec is None or spec.origin is None:
        raise SystemExit("got no package stylograph; run this from the root of the repository, with it installed")
    return Path(spec.origin).parent


def staged(assets: Path, folder: Path) -> Path:
    """Copies the package to `folder` without its models, and gives it those in `assets`; returns what goes on sys.path."""
    source = package()

    def left_out(place: str, names: list[str]) -> set[str]:
        return {n for n in names if n == "__pycache__" or (n == "avatars" and Path(place) == source / "assets")}

    shutil.copytree(source, folder / "stylograph", ignore=left_out)
    (folder / "stylograph" / "assets" / "avatars").symlink_to(assets.resolve(), target_is_directory=True)
    return folder


def look(out: Path) -> None:
    """Loads all models of the package that is imported, and edits. Raises whatever does not work."""
    import torch
    from PIL import Image

    from recipes.avatars.manifest import FOLDER, MODELS, manifest
    from stylograph import Clip, Encoder, Generator, Identity, find_direction
    from stylograph.align.avatars import AvatarAligner
    from stylograph.cli import main
    from stylograph.domains import DomainJudge
    from stylograph.edit.universal import SHIPPED, UniversalMap
    from stylograph.metrics import Judge
    from stylograph.render import to_uint8

    missing = [name for name in MODELS if not (FOLDER / name).exists()]
    if missing:
        raise SystemExit(f"{FOLDER} lacks {', '.join(missing)}; run: python -m recipes.avatars.everything")
    if json.loads((FOLDER / "MANIFEST.json").read_text()) != manifest():
        raise SystemExit(f"{FOLDER}/MANIFEST.json is not that of the files; run: python -m recipes.avatars.manifest")
    generator, clip = Generator.from_pretrained("avatars"), Clip.from_pretrained("avatars")
    edit = find_direction(generator, clip, "a person wearing sunglasses", neutral="a person")
    with torch.no_grad():
        latents = generator.sample(2, seed=1)
        images = generator.render(latents).clamp(-1, 1)
        sentence = clip.embed_text("a person wearing sunglasses")
        said = {
            "generator": f"{generator.resolution} px, digest {generator.digest[:12]}",
            "clip": f"cosines {[round(x, 2) for x in (clip.embed_images(images) @ sentence.T).flatten().tolist()]}",
            "robust": Clip.from_pretrained("avatars-robust").embed_images(images).shape[1],
            "universal map": list(UniversalMap.load(SHIPPED, generator, clip).matrix.shape),
            "judge": Judge.from_pretrained("avatars").names(images)[0],
            "identity": round(float(Identity.from_pretrained("avatars").similarity(images[:1], images[1:])), 3),
            "domains": list(DomainJudge.from_pretrained("avatars").probabilities(images).shape),
            "inverter": list(Encoder.from_pretrained("avatars").latents(images, generator).tensor.shape),
            "locator": len(AvatarAligner.from_pretrained().find(Image.fromarray(to_uint8(images)[0].numpy()))),
        }
        moved = float((generator.render(edit(latents)).clamp(-1, 1) - images).abs().mean())
    for name, fact in said.items():
        print(f"{name}: {fact}", flush=True)
    if not moved > 0:
        raise SystemExit("got an edit that changes nothing; expected other pictures at strength 1")
    print(f"an edit at strength 1 changes numbers by {moved:.3f} on average", flush=True)
    main(["edit", "a person wearing sunglasses", "--seed", "1", "2", "-o", str(out)])
    with Image.open(out) as picture:
        expected = 2 * generator.resolution
        if min(picture.size) < expected:
            raise SystemExit(f"{out}: got a picture of {picture.size}; expected two rows of {expected // 2} pixels")
    print(f"all models work; look at {out}", flush=True)


def check(config: WorldConfig) -> None:
    """Look at the models of a folder."""
    if config.assets is None or config.assets.resolve() == (package() / "assets" / "avatars").resolve():
        look(config.out)
        return
    if "stylograph" in sys.modules:
        raise SystemExit("stylograph is imported already, with its own models; run this as a command")
    with tempfile.TemporaryDirectory() as folder:
        sys.path.insert(0, str(staged(config.assets, Path(folder))))
        look(config.out)


if __name__ == "__main__":
    import tyro

    check(tyro.cli(WorldConfig))
