"""A world in which everything is known: the judge looks at mean colours."""

import torch

from stylograph.benchmark.tasks import Task

BRIGHT = Task("a red person", {"tone": ("bright",)}, group="held out")
DARK = Task("a blue person", {"tone": ("dark",)}, group="tuned")
TASKS = [BRIGHT, DARK]


class ColourJudge:
    """tone: the mean of a picture is below or above the `middle`; tint: red or blue prevails. Never in doubt."""

    attributes = {"tone": ("dark", "bright"), "tint": ("red", "blue")}  # noqa: RUF012
    hidden = {}  # noqa: RUF012
    digest = "colours"

    def __init__(self, middle=0.0):
        self.middle = middle

    def probabilities(self, images):
        told = (images.mean((1, 2, 3)) > self.middle, images[:, 2].mean((1, 2)) > images[:, 0].mean((1, 2)))
        return {
            name: torch.stack([~answer, answer], 1).float() * 0.9 + 0.05
            for name, answer in zip(self.attributes, told, strict=True)
        }


def judge_of(generator, seeds):
    """One to whom about half of these people are bright."""
    images = generator.render(generator.sample(len(seeds), seed=seeds)).clamp(-1, 1)
    return ColourJudge(float(images.mean((1, 2, 3)).median()))


def brighten(case):
    """Everything as bright as can be."""
    return torch.ones_like(case.images)


def leave(case):
    return case.images


def halfway(case):
    return case.latents.blend(case.generator.mean(len(case.images)), 0.5)
