"""The settings of inversion, without anything heavy behind them: command line and job files use them too."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import arg

Stage = Literal["encoder", "search", "tune"]
Align = Literal["auto", "avatars", "faces", "none"]


@dataclass(frozen=True)
class SearchConfig:
    """How a code is looked for by optimisation."""

    space: Literal["w", "w+"] = "w+"
    """What is optimised. W keeps edits intact but cannot draw every picture."""
    steps: int = 150
    """At most so many steps (PTI: 450 in W)."""
    lr: float = 0.05
    """Largest rate of Adam; it rises over the first 5 % of the steps and falls over the last 25 %."""
    starts: int = 3
    """Without an encoder: places to begin at, the best of which is gone on with."""
    pool: int = 64
    """Random codes those places are chosen from."""
    trial: int = 20
    """Steps from each of them before the best is chosen."""
    near: float = 0.05
    """Weight of the squared distance of the code from where it began, in units of the variance of W."""
    noise: float = 1e5
    """Weight of the noise regularisation of StyleGAN2 (appendix D). Noise maps are optimised with the code, so that it need
    not explain grain, and forgotten. 0 leaves them as they are; generators without noise have none."""
    up_to: int | None = None
    """Compare with the generator's image of this lower resolution: much faster for large generators."""
    batch: int = 8
    """Images optimised at once. Images do not influence one another."""
    patience: int = 30
    """Stop when no image's loss has fallen by 0.1 % within so many steps; 0 never stops early."""
    seed: int = 7
    """Seed of the pool."""


@dataclass(frozen=True)
class TuneConfig:
    """How the generator is tuned to one picture (pivotal tuning)."""

    steps: int = 150
    """At most so many steps (PTI: 350). Pictures unlike the generator's own gain from twice as many."""
    lr: float = 0.01
    """Rate of Adam for the two factors of every weight's change, in units of the weight's standard deviation; biases and
    other small tensors have a tenth of it. (PTI trains the weights themselves, with 0.0003.)"""
    budget: float = 0.05
    """Size of the change, as a share of the generator's parameters in float32. It sets the rank of the factors."""
    locality: float = 0.1
    """Weight of the locality regularisation (PTI, section 3.3): at other codes the generator is to draw what it drew
    before. More keeps edits more as they were, less comes closer to the picture. 0 leaves it out and saves a third of
    the time."""
    reach: float = 0.5
    """How far away from the code those other codes are, in standard deviations of a random code."""
    enough: float = 0.0005
    """Stop when the mean square error is below this (pixels in [-1, 1])."""
    patience: int = 30
    """Stop when the loss has fallen by less than 1 % within so many steps; 0 never stops early."""
    seed: int = 11
    """Seed of the factors and of the codes looked at."""


@dataclass(frozen=True)
class InvertConfig:
    """How a picture is turned into a code of the generator."""

    stages: tuple[Stage, ...] = ()
    """What to do, of: a look by the encoder, optimisation of the code (search), tuning of the generator for this one
    picture (tune, PTI); in this order. By default encoder and tune, and search in the place of an encoder that is not
    there."""
    enough: float = 0.85
    """Later stages are left out for a picture that is this close already; 1 does all of them. 1 is the same picture, 0 a
    stranger."""
    encoder: str | None = None
    """An e4e or pSp file or a name such as e4e-ffhq; by default the avatars' own for avatars, else none."""
    perceptual: Literal["clip", "lpips"] = "clip"
    """What tells whether pictures look alike: the layers of a CLIP, or LPIPS (extra `lpips`)."""
    lambda_perceptual: float = 0.4
    """Its weight; the mean square error has 1."""
    lambda_identity: float = 0.1
    """Weight of 1 - the cosine of the identity network, if there is one."""
    align: Annotated[Align, arg(prefix_name=False)] = "auto"
    """What finds the face: the avatars' own locator, YuNet for photographs (extra `align`), or nothing: the middle square
    is taken. auto: what suits the model."""
    landmarks: Annotated[str | None, arg(prefix_name=False)] = None
    """Landmarks by hand, "x,y x,y x,y x,y x,y" (eyes, nose, corners of the mouth, in pixels, left before right), or a JSON
    file with them for every picture's name."""
    face: Annotated[int | None, arg(prefix_name=False)] = None
    """Which face, 1 the largest, of a picture with several."""
    search: SearchConfig = field(default_factory=SearchConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
