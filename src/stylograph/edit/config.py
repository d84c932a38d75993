"""Settings of every way to edit. No heavy imports: the command line builds its options from these."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

DirectionMethod = Literal["auto", "universal", "gradient", "finite"]


@dataclass(frozen=True)
class MeasureConfig:
    """What pictures a channel's effect is measured on, and how (gradient, finite)."""

    images: int | None = None
    """Images an effect is averaged over; 100 for a table, as in the paper."""
    shift: float = 5.0
    """Size of a finite difference in standard deviations of the channel."""
    max_resolution: int | None = None
    """Leave layers above this resolution alone (the paper measures up to 128)."""
    truncation: float = 0.7
    """Truncation of the images and of the statistics, as in the paper."""
    seed: int = 0
    """Seed of the first image."""
    batch: int = 8
    """Images rendered at once."""


@dataclass(frozen=True)
class DirectionConfig(MeasureConfig):
    """How a global direction is found and which channels it moves."""

    method: DirectionMethod = "auto"
    """universal: a regression over random pictures, once per generator. gradient: back-propagation, seconds for every
    sentence. finite: the paper's finite differences, minutes to days, once per generator. auto: universal; where the
    strength is automatic too, gradient is its rival (on a CPU for generators up to 128 pixels)."""
    images: int | None = None
    """Images looked at; default 1500 for universal, 24 for gradient, 100 for finite (as the paper)."""
    steps: int = 8
    """How often the slopes are taken anew, one standard deviation further along the direction (gradient)."""
    up_to: int = 256
    """Look at pictures of at most this resolution (universal, gradient)."""
    probes: int = 4
    """Random axes per image that tell how much a channel does at all (gradient)."""
    beta: Annotated[float | None, arg(prefix_name=False)] = None
    """Move only channels with |relevance| >= beta: a cosine for finite, else relative to the most relevant channel."""
    count: Annotated[int | None, arg(prefix_name=False)] = None
    """Move the so many most relevant channels instead of giving beta. By default automatic with an automatic strength,
    else 240 for universal and 60 for gradient, and for finite the rule of StyleCLIP's demo."""
    lock: Annotated[tuple[str, ...], arg(prefix_name=False)] = ()
    """Layers to leave alone: a block ("64"), a layer ("b32.conv1", "b*.conv0"), "torgb". Fine layers carry colours."""
    torgb: bool | None = None
    """Whether ToRGB layers, which set colours, may move. By default they may for universal, which moves w as a whole, and
    may not for the others (the paper's rule); an automatic strength tries universal both ways."""
    table: Path | None = None
    """File of what was learnt about the generator (universal, finite): used if it is there, else made, resumable, and
    stored there. The command line keeps it beside the generator's file, or in the cache."""


@dataclass(frozen=True)
class UniversalConfig:
    """How a universal text map is fitted."""

    samples: int = 1500
    """Random pictures looked at."""
    ridge: float = 0.1
    """λ, as a multiple of the mean variance of an embedding's entries."""
    seed: int = 100_000
    """Seed of the first picture."""
    batch: int = 16
    """Pictures rendered at once."""
    up_to: int = 256
    """Look at pictures of at most this resolution."""


@dataclass(frozen=True)
class OptimizeConfig:
    """Settings of latent optimization."""

    space: str = "s"
    """What is optimised: "w+" (the paper's choice), or "s" (all style vectors but ToRGB's, in units of their standard
    deviations)."""
    steps: int = 40
    """At most so many steps (the reference: 300 from its command line, 40 in its notebook)."""
    lr: float = 0.1
    """Largest rate of Adam; it rises over the first 5 % of the steps and falls over the last 25 %."""
    l2: float = 0.002
    """λ_L2, the weight of the squared distance from the original (the reference's, for W+: 0.008)."""
    l2_reduction: str = "sum"
    """"sum" over all numbers of a code, as StyleCLIP's optimization does, or "mean", as its mapper does."""
    identity: float = 0.1
    """λ_ID, used when an identity network is given (the reference's: 0.005 or 0)."""
    up_to: int | None = None
    """Judge the generator's image of this lower resolution: much faster for large generators."""
    patience: int = 20
    """Stop when no image's loss has fallen by 0.1 % within so many steps; 0 never stops early."""
    batch: int = 8
    """Images optimised at once. Images do not influence one another."""


THRIFT, THRIFT_OF_OWN = 0.3, 0.65


@dataclass(frozen=True)
class StrengthConfig:
    """How a strength is looked for."""

    steps: int = 12
    """Strengths tried, evenly spaced from 0 (not tried) to `largest`."""
    largest: float = 2.0
    """Largest strength tried, as a multiple of the edit's own."""
    thrift: float | None = None
    """What strength costs: going all the way up the ladder has to be worth this share of the best gain. 0 takes the
    best gain whatever it costs, 1 stops early. By default 0.3, and 0.65 for pictures of your own, where there is more to
    lose."""
    rival: float = 0.9
    """Of several edits, those with this share of the best one's gain compete for the smallest drift."""
    budget: float = 0.6
    """How far the similarity to the unedited person may fall, 0 to 1 (with an identity network)."""
    least: float = 0.05
    """A gain below this is no effect: the image is left as it is."""
    up_to: int = 256
    """Judge images of at most this resolution."""
    batch: int = 16
    """Images rendered at once."""


@dataclass(frozen=True)
class MapperTraining:
    """Shape of a mapper, its losses, and how it is trained."""

    space: str = "w+"
    """"w+", or "s": one small network for every style vector of StyleSpace but those of ToRGB."""
    levels: tuple[str, ...] | None = None
    """Which of "coarse", "medium" and "fine" may change; all the generator has when left out. The paper leaves out
    "fine" for changes of shape such as hair styles and expressions."""
    single: bool = False
    """One network for all W+ vectors instead of one per level."""
    clip_loss: str = "directional"
    """"directional": 1 - cos(E(edited) - E(image), E(target) - E(neutral)). "similarity", the paper's:
    1 - cos(E(edited), E(target))."""
    lambda_clip: float = 1.0
    """Weight of the CLIP term."""
    lambda_id: float = 0.1
    """Weight of 1 - cos of the two faces; only in force when an `identity` is given."""
    lambda_l2: float | None = None
    """Weight of the mean square of the change. By default 0.8, the paper's, and 0.02 for generators of at most 128 pixels:
    the avatars' hardly moves near its own codes, and so strong a pull never lets a mapper leave them. In S, as in the reference code, the means of the layers are summed, so
    that the same weight holds a mapper back more: lower it, or apply the edit at a strength above 1."""
    optimizer: str = "adamw"
    """"adamw" or "radam"."""
    lr: float = 0.5
    """Learning rate of a network 512 wide (the paper's value); one of another width has lr·√(512/width), so that a step
    changes its output about as much. Falls to zero along half a cosine. Weights are kept a hundred times larger than
    they act (`MapperConfig.lr_multiplier`), hence the size."""
    steps: int = 200
    """At most so many steps."""
    batch: int = 8
    """Images per step."""
    images: int = 256
    """Images to train on, when no latents are given. Their embeddings are computed once."""
    held_out: int = 32
    """Images the mapper never trains on, which decide what the best mapper is. Of given latents the last ones, at
    most one in five."""
    check_every: int = 25
    """Steps between two looks at the held-out images (and two checkpoints)."""
    patience: int = 4
    """Stop after so many looks without improvement."""
    truncation: float = 0.7
    """Truncation psi of the sampled images."""
    up_to: int = 256
    """Look at pictures of at most this resolution."""
    seed: int = 0
    """Seed of the images, the order they are shown in, and the first weights."""
