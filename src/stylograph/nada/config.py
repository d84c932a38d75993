"""The settings of domain adaptation, without anything heavy behind them: command line and job files use them too."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

from tyro.conf import arg

from stylograph.edit.config import MapperTraining
from stylograph.errors import AdaptError, one_of

Preset = Literal["style", "shape", "subtle"]
Memory = Literal["normal", "small", "smallest"]


@dataclass(frozen=True)
class AdaptConfig:
    """How a generator is moved to another domain. What is None is filled in by the preset."""

    preset: Annotated[Preset, arg(prefix_name=False)] = "style"
    """"style": another drawing style or material. "shape": another kind of thing, robots for people. "subtle": a
    change within the domain. `stylograph adapt --dry-run` shows what a preset sets."""
    steps: Annotated[int | None, arg(prefix_name=False)] = None
    """At most so many steps; training stops earlier when it no longer pays (`patience`)."""
    lr: float | None = None
    """Learning rate of Adam for a convolution with 512 inputs, and for biases; another width has lr·√(512/width), so that a
    step changes what it computes about as much. The paper's is 0.002."""
    top_k: int | None = None
    """So many convolutions train, chosen adaptively: those whose latent codes move most towards the target (paper,
    section 4.2). 0 trains all."""
    lambda_global: float | None = None
    """Weight of the global CLIP loss, 1 - cos(E(child), E(target)). It says how far to go, which the direction leaves open."""
    lambda_direction: float = 1.0
    """Weight of the directional CLIP loss, 1 - cos(E(child) - E(parent), E(target) - E(source))."""
    lambda_identity: float = 0.0
    """Weight of 1 - cos of what the recogniser sees in child and parent. Another world has other faces, so 0 there; a change
    within the domain may keep them."""
    image_share: float = 0.5
    """With a sentence and target pictures: the share of the pictures in both losses."""
    batch: int = 4
    """Pictures per step."""
    layers: Annotated[tuple[str, ...], arg(prefix_name=False)] = ()
    """Only these layers may train: resolutions ("8", "16"), names or wildcards ("b32.conv1"). All when left out."""
    affine: bool = False
    """Also train the affine layers (w to styles) of the convolutions that train. Frozen in the paper, trained in its code."""
    torgb: bool = False
    """Also train the ToRGB layers. Frozen in the paper."""
    mapping: bool = False
    """Also train the mapping network. Frozen in the paper."""
    const: bool = False
    """Also train the constant input. Frozen in the paper."""
    select_every: int = 20
    """Steps between two adaptive choices of layers; the reference code chooses at every step."""
    select_batch: int = 8
    """Latents a choice is made with."""
    select_steps: int = 1
    """Steps of latent optimization behind a choice."""
    crops: float = 0.25
    """CLIP sees parent and child through the same random crop, whose side is at most this part smaller: what looks right
    through one window only (frames, halos) does not pay. 0 shows the whole picture, as in the paper."""
    pool: int = 256
    """Train on so many latents, whose parent pictures are embedded once."""
    mixing: float = 0.0
    """Probability of style mixing: two latents, from a random layer on the second."""
    noise: Literal["random", "const"] = "random"
    """Noise inputs while training: "random" as in the reference code, or "const"."""
    ema: float = 0.9
    """The child is a moving average of the trained weights with this decay per step."""
    check_every: int = 20
    """Steps between two looks at held-out latents, each a candidate for the result (and a checkpoint)."""
    held_out: int = 24
    """Latents for these looks; they are never trained on."""
    thrift: float = 0.2
    """What lost diversity costs: a candidate's score is its gain times diversity to this power, diversity being how much
    pictures differ in layout and colour, against the parent's. 0 ignores it."""
    patience: int = 3
    """Stop after so many looks without a better score."""
    memory: Annotated[Memory, arg(prefix_name=False)] = "normal"
    """"normal"; "small" computes the pictures of a batch one by one; "smallest" also computes activations twice
    instead of keeping them (gradient checkpointing)."""
    seed: int = 0
    """Seed of latents, batches and noise."""

    def filled(self, convolutions: int) -> AdaptConfig:
        """The settings with the preset's values where none was given, for a generator of so many convolutions.

        Raises `AdaptError` for settings that make no sense.
        """
        if self.preset not in PRESETS:
            raise AdaptError(one_of(str(self.preset), PRESETS, "preset"))
        values: dict[str, Any] = dict(PRESETS[self.preset])
        values["top_k"] = round(values.pop("share") * convolutions) % convolutions
        full = replace(self, **{key: value for key, value in values.items() if getattr(self, key) is None})
        full._validate(convolutions)
        return full

    def _validate(self, convolutions: int) -> None:
        for name, known in (("memory", get_args(Memory)), ("noise", ("random", "const"))):
            if getattr(self, name) not in known:
                raise AdaptError(one_of(str(getattr(self, name)), known, name))
        least = {"steps": 1, "batch": 1, "select_every": 1, "select_batch": 1, "select_steps": 1, "pool": 1}
        least |= {"check_every": 1, "held_out": 2, "patience": 1, "seed": 0, "top_k": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise AdaptError(f"got {name}={getattr(self, name)}; expected a whole number from {low} up")
        for name in ("lr", "lambda_global", "lambda_direction", "lambda_identity", "thrift"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise AdaptError(f"got {name}={getattr(self, name)}; expected a number from 0 up")
        for name in ("image_share", "mixing", "ema", "crops"):
            if not 0 <= getattr(self, name) <= 1:
                raise AdaptError(f"got {name}={getattr(self, name)}; expected a number from 0 to 1")
        if self.crops > 0.9:
            raise AdaptError(f"got crops={self.crops}; expected at most 0.9, so that something is left to see")
        if self.seed >= 2**31:
            raise AdaptError(f"got seed={self.seed}; expected less than 2^31")
        if not self.lr or (not self.lambda_global and not self.lambda_direction):
            raise AdaptError("got a learning rate or both CLIP losses of 0, so nothing could change; raise them")
        assert self.top_k is not None
        if self.top_k > convolutions:
            raise AdaptError(f"got top_k={self.top_k}; this generator has {convolutions} convolutions that may train")


PRESETS: dict[str, dict[str, float]] = {
    "style": {"steps": 300, "lr": 0.002, "lambda_global": 0.3, "share": 1.0},
    "shape": {"steps": 300, "lr": 0.002, "lambda_global": 1.0, "share": 1.0},
    "subtle": {"steps": 100, "lr": 0.001, "lambda_global": 0.0, "share": 0.5},
}
"""What a preset sets; "share" is the part of the convolutions that trains (`top_k`)."""

MINING = MapperTraining(clip_loss="similarity", steps=200, patience=3, lambda_l2=0.3, truncation=1.0)
"""Latent-mapper mining: a plain distance to the target, as everything else may change while the mapper stays small."""
