"""How well each way to channel relevance agrees with the paper's finite differences, and what it costs.

    python -m benchmarks.directions [--images 8] [--edits]

On the embedded avatars. Two tables are measured from different pictures: how well they agree with each other is what a
third, equally good measurement can be expected to reach. Every other way is compared with both, from pictures neither
has seen; "same pictures" uses those of the table, so that only the way itself differs. `--edits` has
the shipped judge, which no way sees, look at the edits they make, at equal lengths of the whole shift.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor

from benchmarks.measure import report
from stylograph import Clip, Generator, Latents
from stylograph.benchmark.rows import score
from stylograph.benchmark.tasks import TUNED
from stylograph.edit.config import DirectionConfig, DirectionMethod
from stylograph.edit.directions import agreement, choose_beta, cosines, follow, relevance
from stylograph.edit.table import DirectionTable, MeasureConfig, measure_table, movable
from stylograph.edit.universal import SHIPPED, UniversalMap
from stylograph.metrics import Judge

PROMPTS = (
    "a person wearing sunglasses",
    "a person wearing glasses",
    "a person with a beard",
    "a person with blond hair",
    "a person with blue hair",
    "a bald person",
    "a person with long hair",
    "a smiling person",
    "a person wearing a red shirt",
    "a person with dark skin",
)
NEUTRAL = "a person"
LENGTHS = (3.0, 5.0, 8.0, 15.0)
"""Lengths of the whole shift in standard deviations."""


ELSEWHERE = 1000
"""Seed of pictures that no table is measured on."""
Answer = Callable[[Tensor], Tensor]
"""Text direction -> relevance of every channel."""
FIGURES = ("correlation", "rank_correlation", "top_overlap")


@dataclass(frozen=True)
class Options:
    images: int = 3
    """Images of each of the two tables (the paper: 100)."""
    model: str = "avatars"
    clip: str = "avatars"
    edits: bool = False
    """Compare the edits as well (avatars only; some minutes more)."""


def main(options: Options) -> None:
    generator, clip = Generator.from_pretrained(options.model), Clip.from_pretrained(options.clip)
    channels = int(movable(generator).sum())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # words the small CLIP does not know
        texts = [clip.text_direction(prompt, NEUTRAL) for prompt in PROMPTS]
    start = time.perf_counter()
    seeds = (0, options.images)
    tables = [measure_table(generator, clip, config=MeasureConfig(images=options.images, seed=s)) for s in seeds]
    table_seconds = (time.perf_counter() - start) / 2

    def sketch(seed: int, images: int, probes: int) -> Answer:
        config = DirectionConfig(seed=seed, images=images, probes=probes)
        return lambda wanted: cosines(generator, clip, wanted, config=config) * movable(generator)

    def gradient(wanted: Tensor) -> Tensor:
        return relevance(generator, clip, wanted, config=DirectionConfig(method="gradient", seed=ELSEWHERE))

    def universal(wanted: Tensor) -> Tensor:
        return relevance(generator, clip, wanted, config=DirectionConfig(method="universal"))

    ways: list[tuple[str, list[Answer], int]] = [
        ("another table", [table.relevance for table in reversed(tables)], 2 * channels * options.images),
        ("cosines, same pictures", [sketch(s, options.images, 16) for s in seeds], options.images * (2 + 16)),
        ("cosines, 24 pictures", [sketch(ELSEWHERE, 24, 4)], 24 * (2 + 4)),
        ("cosines, 64 pictures", [sketch(ELSEWHERE, 64, 4)], 64 * (2 + 4)),
        ("gradient", [gradient], 24 * (2 + 4) + 24 * 2 * DirectionConfig().steps),
        ("universal", [universal], UniversalMap.load(SHIPPED).made["samples"]),
    ]
    rows: list[dict[str, Any]] = []
    for name, functions, passes in ways:
        start = time.perf_counter()
        answers = [[function(wanted) for wanted in texts] for function in functions]
        seconds = (time.perf_counter() - start) / len(functions) / len(texts)
        compared = [
            agreement(table.relevance(wanted), answers[i % len(answers)][k])
            for i, table in enumerate(tables)
            for k, wanted in enumerate(texts)
        ]
        means = {figure: sum(one[figure] for one in compared) / len(compared) for figure in FIGURES}
        cost = table_seconds if name == "another table" else seconds
        rows.append({"way": name, **means, "passes": passes, "seconds": cost})
    made = edits(generator, clip, tables[0]) if options.edits else []
    report("directions", rows, channels=channels, images=options.images, prompts=PROMPTS, edits=made)
    print(
        f"\n{channels} channels, tables of {options.images} images, means over {len(PROMPTS)} sentences and both tables.\n"
        "Passes: a render with its embedding is one, going back through both another one (weights are frozen). A table's\n"
        "passes and seconds are spent once for all sentences, and only run the layers after the moved one; those of the\n"
        "universal map are spent once as well (its seconds are a sentence's); the others' on every sentence."
    )
    for row in made:
        print("success / leak  " + "  ".join(f"{key}: {value}" for key, value in row.items()))


def edits(generator: Generator, clip: Clip, table: DirectionTable, *, seed: int = 9000) -> list[dict[str, Any]]:
    """Success and leak of the edits of every way, means over the sentences, 32 pictures each."""
    judge, std = Judge.from_pretrained(), generator.style_statistics().std
    codes = generator.styles(generator.sample(32, seed=seed)).tensor
    wide = DirectionConfig(images=64)
    slow = DirectionConfig(method="gradient")
    ways: dict[str, tuple[DirectionMethod, Answer]] = {
        "universal": ("universal", lambda wanted: relevance(generator, clip, wanted)),
        "path alone": ("gradient", lambda wanted: follow(generator, clip, wanted)),
        "gradient": ("gradient", lambda wanted: relevance(generator, clip, wanted, config=slow)),
        "finite": ("finite", table.relevance),
        "cosines": ("gradient", lambda wanted: cosines(generator, clip, wanted, config=wide) * movable(generator)),
    }

    def drawn(s: Tensor) -> Tensor:
        with torch.no_grad():
            return generator.render(Latents("s", s))

    before, rows = drawn(codes), []
    for name, (method, way) in ways.items():
        figures: dict[float, list[tuple[float, float]]] = {length: [] for length in LENGTHS}
        for task in TUNED:
            found = way(clip.text_direction(task.sentence, NEUTRAL))
            kept = found.where(found.abs() >= choose_beta(found, DirectionConfig(method=method)), 0.0)
            for length in LENGTHS:
                judged = score(judge, task, before, drawn(codes + length * F.normalize(kept, dim=0) * std))
                figures[length].append((judged["success"], judged["leak"]))
        means = {length: torch.tensor(pairs).mean(0).tolist() for length, pairs in figures.items()}
        rows.append({"way": name} | {f"{length:g} σ": f"{m[0]:.2f} / {m[1]:.3f}" for length, m in means.items()})
    return rows


if __name__ == "__main__":
    torch.manual_seed(0)
    main(tyro.cli(Options, description=__doc__))
