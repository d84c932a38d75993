"""StyleGAN-NADA (Gal et al., SIGGRAPH 2022): move a generator to another domain by CLIP alone.

A child is trained whose pictures differ from its parent's the way the target sentence differs from the source
sentence. Departures from the reference code: the twins share what is frozen, adaptive layers are chosen every few steps
and belong to the codes they are chosen by, the result is the best of several moving averages, judged on latents that
were never trained on, and training stops when that no longer improves.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from stylograph.edit.base import Recogniser
from stylograph.embed import Clip
from stylograph.errors import AdaptError
from stylograph.generator import Generator
from stylograph.nada.config import AdaptConfig
from stylograph.nada.target import Target, aim
from stylograph.nada.training import Run, task_of, train
from stylograph.nada.twins import Twins, convolutions
from stylograph.types import OnStep


def adapt(
    generator: Generator,
    clip: Clip,
    target: str | None = None,
    *,
    source: str | None = "a person",
    target_images: Tensor | None = None,
    source_images: Tensor | None = None,
    identity: Recogniser | None = None,
    config: AdaptConfig | None = None,
    path: str | Path | None = None,
    on_step: OnStep | None = None,
) -> Generator:
    """A child of `generator` that draws what `target` says; the parent stays as it is.

    target, source: what the child shall draw, and what the parent draws ("a robot", "a person").
    target_images: pictures of the target domain, [M, 3, H, W] in [-1, 1]; one to ten are enough. Instead of the sentence or
        together with it.
    source_images: pictures of the source domain; 64 of the generator's own when left out.
    identity: a recogniser, for the identity loss (`AdaptConfig.lambda_identity`) and to see how much of the parent's people
        is left.
    path: checkpoint. It is written on the way and, if it is already there, training goes on from it to the same result
        as if it had never stopped.
    on_step: `Step.values` has the losses and, at every look, "gain" (1: as far as the target sentence), "diversity"
        (1: the parent's), "score" and with a recogniser "identity" (mean cosine to the parent's people); then
        `Step.images` are eight of the child's pictures.
    Edits and latents of the parent work on the child. Raises `PromptError` for sentences no direction comes from,
    `AdaptError` for settings that make no sense, a checkpoint of another training, and when training goes astray.
    """
    aimed = aim(
        generator,
        clip,
        target,
        source,
        target_images=target_images,
        source_images=source_images,
        image_share=(config or AdaptConfig()).image_share,
    )
    return adapt_to(generator, aimed, identity=identity, config=config, path=path, on_step=on_step)


def adapt_to(
    generator: Generator,
    target: Target,
    *,
    identity: Recogniser | None = None,
    config: AdaptConfig | None = None,
    path: str | Path | None = None,
    on_step: OnStep | None = None,
) -> Generator:
    """`adapt` for a target that is made already."""
    if generator.mapper is not None:
        raise AdaptError("got a generator with a latent mapper; adapt the one it was made from, and mine the child")
    run = prepare(generator, target, config or AdaptConfig(), identity)
    task = task_of(run.twins, target)
    if path is not None and Path(path).exists():
        run.load(Path(path), task)
    train(run, on_step, (Path(path), task) if path is not None else None)
    return child_of(generator, run, task)


def prepare(generator: Generator, target: Target, config: AdaptConfig, identity: Recogniser | None = None) -> Run:
    """The training before its first step."""
    settings = config.filled(len(convolutions(generator, config.layers)))
    if settings.lambda_identity and identity is None:
        raise AdaptError(
            f"got lambda_identity={settings.lambda_identity} and no recogniser; expected one to see it with: give an "
            "identity (--identity avatars, arcface or a file), or leave the weight at 0"
        )
    return Run(Twins(generator, target, settings, identity), settings)


def child_of(parent: Generator, run: Run, task: dict[str, Any]) -> Generator:
    """The best child of a training as a generator of its own."""
    net = run.twins.release(run.best)
    method = {key: value for key, value in task.items() if key != "parent" and value is not None}
    looks = [rounded(look) for look in run.looks]
    provenance = {
        **{key: value for key, value in parent.provenance.items() if key not in OWN},
        "method": "StyleGAN-NADA",
        "adaptation": {**method, "ended": run.ended, "best": rounded(run.best_look), "looks": looks},
        "parent": {key: value for key, value in parent.provenance.items() if key in OWN} or None,
        "ancestors": list(parent.lineage),
    }
    return Generator(net, provenance=provenance).to(dtype=parent.dtype)


def rounded(look: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 4) for name, value in look.items()}


OWN = ("method", "adaptation", "parent")
"""What a provenance says of the last adaptation; the rest is passed on."""
