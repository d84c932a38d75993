"""Latent optimization (StyleCLIP, section 4): gradient descent on the latent code of each image.

minimise  D_CLIP(G(w), text) + λ_L2·‖w - w_s‖² + λ_ID·(1 - ⟨R(G(w)), R(G(w_s))⟩)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from stylograph.edit.base import Recogniser, Shift
from stylograph.edit.config import OptimizeConfig
from stylograph.edit.table import movable
from stylograph.embed import Clip
from stylograph.errors import EditError, LatentsError, StylographError, one_of
from stylograph.generator import Generator
from stylograph.types import Latents, OnStep, Step

SPACES = ("w+", "s")
REDUCTIONS = ("sum", "mean")


def optimize(
    generator: Generator,
    clip: Clip,
    latents: Latents,
    target: str,
    *,
    neutral: str | Sequence[str] | None = None,
    start: Latents | None = None,
    identity: Recogniser | None = None,
    config: OptimizeConfig | None = None,
    on_step: OnStep | None = None,
) -> Shift:
    """Optimises each image's code towards a sentence; the result is an `Edit` for these images, row by row.

    target: what the pictures should show. Without `neutral` the CLIP term is the paper's, 1 - cos(E(image), E(text)).
    neutral: the same sentence without the change: only what separates the two counts, 1 - (E(image) - E(original))·Δt.
    start: where to begin, codes of the same images; distance and identity are still those from `latents`. In S only
        channels in which the two differ are moved.
    identity: network of the λ_ID term; without one the term is left out.
    The step with the smallest loss is kept, for each image by itself. Nothing is random: the same call gives the same
    result. To draw a picture from text alone, start from `generator.mean()` with l2=0.
    Raises `LatentsError` for codes that do not fit, `EditError` if the loss is NaN from the start.
    """
    settings = config or OptimizeConfig()
    _validate(settings, generator)
    source = _codes(generator, latents, settings.space)
    begin = source if start is None else _codes(generator, start, settings.space)
    if len(begin) != len(source):
        raise LatentsError(f"got {len(begin)} codes to start from for {len(source)} images; expected one each")
    wanted = clip.embed_text(target, templates=False)[0] if neutral is None else clip.text_direction(target, neutral)
    parts, losses, gains, taken = [], [], [], 0
    for first in range(0, len(source), settings.batch):
        here = slice(first, first + settings.batch)
        problem = _Problem(generator, clip, source[here], wanted, neutral is not None, identity, settings)
        base = first // settings.batch * settings.steps
        total = math.ceil(len(source) / settings.batch) * settings.steps
        codes, loss, steps = problem.solve(None if start is None else begin[here], on_step, base, total)
        parts.append(generator.styles(codes).tensor - generator.styles(problem.source).tensor)
        losses.append(loss)
        gains.append(problem.first_loss - loss)
        taken = max(taken, steps)
    return Shift(
        delta=torch.cat(parts).cpu(),
        layers=generator.layer_widths,
        generator_digest=generator.digest,
        provenance={
            "method": f"latent optimization in {settings.space.upper()}",
            "target": target,
            "neutral": neutral if neutral is None or isinstance(neutral, str) else list(neutral),
            "started": "at the images" if start is None else "at given codes",
            "clip": clip.name,
            "identity": getattr(identity, "name", None),
            "settings": asdict(settings),
            "steps": taken,
            "loss": float(torch.cat(losses).mean()),
            "fall": float(torch.cat(gains).mean()),
        },
        generator=generator,
    )


def learning_rate(t: float, *, lr: float = 0.1, rampup: float = 0.05, rampdown: float = 0.25) -> float:
    """StyleCLIP's schedule at t = step/steps in [0, 1]: a linear rise, then level, then half a cosine down to 0."""
    fall = min(1.0, (1.0 - t) / rampdown)
    return lr * (0.5 - 0.5 * math.cos(math.pi * fall)) * min(1.0, t / rampup)


@dataclass(frozen=True, eq=False)
class Descent:
    """Where a descent led; rows are images [N]."""

    kept: Tensor
    """[N, ...], of each image the variables with its smallest loss."""
    loss: Tensor
    """That loss."""
    first: Tensor
    """The loss at the start."""
    steps: int


@torch.enable_grad()
def descend(
    start: Tensor,
    loss: Callable[[Tensor], Tensor],
    *,
    steps: int,
    lr: float,
    patience: int,
    lost: StylographError,
    fixed: Tensor | None = None,
    beside: Sequence[Tensor] = (),
    penalty: Callable[[], Tensor] | None = None,
    settle: Callable[[], None] | None = None,
    on_step: OnStep | None = None,
    told: Step,
) -> Descent:
    """Adam on a variable per image, [N, ...], that do not influence one another; the best of each is kept.

    loss: variables -> loss of every image [N]. patience: see `flat`. lost: what is raised if it is NaN at the start.
    fixed: bool like `start`, entries that stay.
    told: what progress is called and where it begins; `on_step` gets it with the steps done and the mean of the best losses.
    beside: further tensors to optimise, with `penalty` as a loss of their own and `settle` called after every step.
    """
    variables = start.clone().requires_grad_()
    free = [variables, *beside]
    # foreach=False: the plain update is elementwise, so an image's path does not depend on its neighbours.
    optimizer = torch.optim.Adam(free, lr=lr, foreach=False)
    best = torch.full((len(variables),), math.inf, device=variables.device)
    kept, history, first, step = variables.detach().clone(), [], best, 0
    for step in range(steps + 1):
        losses = loss(variables)
        found = losses.detach()
        if step == 0:
            first = found
            if not bool(torch.isfinite(found).all()):
                raise lost
        better = found < best  # False for NaN
        best = torch.where(better, found, best)
        kept[better] = variables.detach()[better]
        history.append(best)
        if on_step:
            on_step(replace(told, done=told.done + step, values={"loss": float(best.mean())}))
        if step == steps or not bool(torch.isfinite(found).any()) or flat(history, patience):
            break
        total = losses.sum() if penalty is None else losses.sum() + penalty()
        for tensor, gradient in zip(free, torch.autograd.grad(total, free, allow_unused=True), strict=True):
            tensor.grad = None if gradient is None else torch.nan_to_num(gradient, 0.0, 0.0, 0.0)
        if fixed is not None and variables.grad is not None:
            variables.grad.masked_fill_(fixed, 0.0)
        # The reference's first step has rate 0; here t runs over the open interval.
        optimizer.param_groups[0]["lr"] = learning_rate((step + 1) / (steps + 1), lr=lr)
        optimizer.step()
        if settle:
            settle()
    return Descent(kept, best, first, step)


def flat(history: Sequence[Tensor], patience: int) -> bool:
    """Whether no image's best loss [N] has fallen by 0.1 % within the last so many steps; never with patience 0."""
    if not patience or len(history) <= patience:
        return False
    before, now = history[-1 - patience], history[-1]
    return bool(((before - now) < 1e-3 * before.abs()).all())


class _Problem:
    """The loss of one batch as a function of the offset from its source, and its descent."""

    def __init__(
        self,
        generator: Generator,
        clip: Clip,
        source: Latents,
        wanted: Tensor,
        directional: bool,
        identity: Recogniser | None,
        settings: OptimizeConfig,
    ) -> None:
        self.generator, self.clip, self.source, self.settings = generator, clip, source, settings
        self.wanted = wanted.to(generator.device)
        self.identity = identity if settings.identity else None
        self.unit = torch.ones(source.tensor.shape[1:], device=generator.device)
        if settings.space == "s":  # ToRGB columns have unit 0: they stay where they are
            self.unit = generator.style_statistics().std.masked_fill(~movable(generator), 0.0)
        with torch.no_grad():
            image = generator.render(source, up_to=settings.up_to)
            # 1 - cos(E, text), or 1 - (E - E_source)·Δt: both are linear in E, with another zero.
            self.zero = torch.zeros(len(source), device=generator.device)
            if directional:
                self.zero = clip.embed_images(image) @ self.wanted
            self.person = self.identity.embed(image) if self.identity else None
        self.first_loss = torch.zeros(0)

    def codes(self, offset: Tensor) -> Latents:
        return self.source.with_tensor(self.source.tensor + offset * self.unit)

    def loss(self, offset: Tensor) -> Tensor:
        """The loss of every image [N]."""
        settings = self.settings
        image = self.generator.render(self.codes(offset), up_to=settings.up_to)
        loss = 1 - (self.clip.embed_images(image) @ self.wanted - self.zero)
        if self.identity and self.person is not None:
            loss = loss + settings.identity * (1 - (self.identity.embed(image) * self.person).sum(-1))
        square = offset.flatten(1).square()
        return loss + settings.l2 * (square.sum(1) if settings.l2_reduction == "sum" else square.mean(1))

    def solve(
        self, begin: Latents | None, on_step: OnStep | None, base: int, total: int
    ) -> tuple[Latents, Tensor, int]:
        settings = self.settings
        offset = torch.zeros_like(self.source.tensor)
        fixed: Tensor | None = None
        if begin is not None:
            offset = (begin.tensor - self.source.tensor) / self.unit.clamp_min(1e-12) * (self.unit > 0)
            fixed = offset == 0 if settings.space == "s" else None
        found = descend(
            offset,
            self.loss,
            steps=settings.steps,
            lr=settings.lr,
            patience=settings.patience,
            fixed=fixed,
            lost=EditError("got a loss that is NaN at the start; check generator, CLIP and latents"),
            on_step=on_step,
            told=Step("optimizing", base, total),
        )
        self.first_loss = found.first
        return self.codes(found.kept), found.loss, found.steps


def _codes(generator: Generator, latents: Latents, space: str) -> Latents:
    """The codes as a plain tensor of the optimised space, without a graph."""
    if space == "w+" and latents.space == "s":
        raise LatentsError("got latents in 's' to optimise in W+; expected W or W+ codes, or config space='s'")
    codes = generator.styles(latents) if space == "s" else generator.w_plus(latents)
    return codes.with_tensor(codes.tensor.detach().clone().float())


def _validate(settings: OptimizeConfig, generator: Generator) -> None:
    if settings.space not in SPACES:
        raise StylographError(one_of(settings.space, SPACES, "space"))
    if settings.l2_reduction not in REDUCTIONS:
        raise StylographError(one_of(settings.l2_reduction, REDUCTIONS, "l2_reduction"))
    limits: dict[str, Any] = {"steps": 1, "batch": 1, "patience": 0, "l2": 0, "identity": 0}
    for name, least in limits.items():
        if not getattr(settings, name) >= least:
            raise EditError(f"got {name}={getattr(settings, name)}; expected at least {least}")
    if not settings.lr > 0:
        raise EditError(f"got lr={settings.lr}; expected a rate above 0")
    if settings.up_to is not None and settings.up_to not in generator.resolutions:
        raise StylographError(one_of(str(settings.up_to), map(str, generator.resolutions), "up_to"))
