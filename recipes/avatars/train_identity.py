"""Train the identity net: who is drawn, whatever the expression, eyewear, clothes and background.

A person is skin, hair style, hair colour and facial hair. The cosine of two pictures is taught to be the weighted share
of these that agree, so that an edit of one of them costs some identity and not all of it. A contrastive loss would only
say which picture is nearer, not by how much. ``python -m recipes.avatars.train_identity`` writes
``identity.safetensors`` and prints how the cosine falls when a person changes.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from recipes.avatars.attributes import ATTRIBUTES, HAIR_COLOUR, sample_labels, visible_mask
from recipes.avatars.recogniser_training import distort, fit, half_renders, look, save
from recipes.avatars.render import WORK, draw_persona, half_size, training_share
from recipes.avatars.train_features import to_tensor
from stylograph.assets import ASSETS
from stylograph.nets.recogniser import Recogniser, RecogniserConfig

PERSON = {"skin": 0.25, "hair_style": 0.3, "hair_colour": 0.25, "facial_hair": 0.2}
"""What makes a person, with the share of the cosine each attribute holds."""
FREE = ("eyes", "mouth", "clothes", "clothes_colour", "background", "nose")
"""What may change. The nose is of the person, but no network at 64 pixels can see which of the three it is."""
UNSEEN = len(HAIR_COLOUR.values)
"""Hair colour of a person who shows neither hair nor beard."""


@dataclass(frozen=True)
class IdentityConfig:
    """How the identity net is trained."""

    work: Path = WORK
    """Folder with the rendered sets."""
    out: Path = ASSETS / "avatars" / "identity.safetensors"
    """File to write."""
    steps: int = 700
    """Training steps."""
    groups: int = 16
    """Groups per step: a picture, another one of the same person, two of people who differ in one attribute."""
    lr: float = 4e-3
    """Peak learning rate of AdamW (one-cycle cosine)."""
    strength: float = 0.4
    """Strength of the distortions on half of every batch; the other half is only softened."""
    widths: tuple[int, ...] = (24, 48, 96)
    """Channels at 32, 16 and 8 pixels."""
    dimensions: int = 64
    """Length of the embedding."""
    seed: int = 29
    """Seed of weights, batches and distortions."""
    people: int = 120
    """People in the table at the end."""


def persons(labels: dict[str, np.ndarray]) -> np.ndarray:
    """Who is drawn: int64 [N, 4], columns as in `PERSON`."""
    bare = ~visible_mask(labels, "hair_colour") & (labels["facial_hair"] == 0)
    columns = {name: labels[name] for name in PERSON}
    columns["hair_colour"] = np.where(bare, UNSEEN, labels["hair_colour"])
    return np.stack(list(columns.values()), axis=1)


def agreement(who: torch.Tensor) -> torch.Tensor:
    """Weighted share of equal attributes, [N, N] in [0, 1], of people [N, 4]; a positive semidefinite kernel."""
    equal = who[:, None] == who[None]
    return (equal * torch.tensor(list(PERSON.values()))).sum(2)


def identity_loss(vectors: torch.Tensor, who: torch.Tensor) -> torch.Tensor:
    """Squared error of all cosines of unit vectors [N, D] against `agreement`, each number of differences alike."""
    error = (vectors @ vectors.T - agreement(who)).square()
    differences = (who[:, None] != who[None]).sum(2)
    differences.fill_diagonal_(-1)
    return torch.stack([error[differences == d].mean() for d in range(5) if (differences == d).any()]).sum()


class Groups:
    """Draws rows in groups of four: somebody, the same one again, and two who differ in one attribute."""

    def __init__(self, who: np.ndarray, rng: np.random.Generator) -> None:
        self.who = who
        self.rng = rng
        self.rows: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for row, person in enumerate(who.tolist()):
            self.rows[tuple(person)].append(row)

    def neighbour(self, person: list[int]) -> int:
        """A row of somebody who differs in one attribute; of anybody if there is no such picture."""
        for _ in range(10):
            other, column = list(person), self.rng.integers(len(PERSON))
            other[column] = self.who[self.rng.integers(len(self.who)), column]
            if other != person and tuple(other) in self.rows:
                return int(self.rng.choice(self.rows[tuple(other)]))
        return int(self.rng.integers(len(self.who)))

    def draw(self, groups: int) -> np.ndarray:
        """Rows [4·groups], ordered by role so that every half of a batch holds pairs."""
        table = []
        for first in self.rng.integers(len(self.who), size=groups).tolist():
            person = self.who[first].tolist()
            twin = int(self.rng.choice(self.rows[tuple(person)]))
            table.append((first, self.neighbour(person), twin, self.neighbour(person)))
        return np.array(table).T.reshape(-1)


def embed(network: Recogniser, images: np.ndarray) -> torch.Tensor:
    """Unit vectors [N, D] of uint8 pictures [N, H, W, 3]."""
    return F.normalize(look(network, images)["identity"], dim=1)


def nearest(vectors: torch.Tensor, who: np.ndarray) -> float:
    """Share of pictures whose nearest other picture shows the same person, among those where there is such a picture."""
    people = torch.from_numpy(who)
    same = (people[:, None] == people[None]).all(2).fill_diagonal_(False)
    best = (vectors @ vectors.T).fill_diagonal_(-2).argmax(1)
    return float(same[torch.arange(len(people)), best][same.any(1)].float().mean())


def changed(base: dict[str, int], names: tuple[str, ...], rng: np.random.Generator) -> dict[str, int]:
    """The persona `base` with other values of the attributes `names`."""
    new = dict(base)
    for name in names:
        new[name] = int((base[name] + rng.integers(1, len(ATTRIBUTES[name].values))) % len(ATTRIBUTES[name].values))
    return new


def fall(network: Recogniser, *, people: int, seed: int = 1234) -> dict[str, tuple[float, float]]:
    """Mean and deviation of the cosine when some of a person's attributes change, by what changes; freshly drawn."""
    rng = np.random.default_rng(seed)
    labels = sample_labels(4 * people, seed=seed)
    rows = np.nonzero(visible_mask(labels, "hair_colour"))[0][:people]
    bases = [{name: int(values[row]) for name, values in labels.items()} for row in rows]
    names = tuple(PERSON)
    cases: dict[str, Any] = {name: lambda n=name: (n,) for name in FREE}
    cases["all of these"] = lambda: FREE
    cases |= {name: lambda n=name: (n,) for name in PERSON}
    cases |= {
        f"{k} of the person": lambda k=k: tuple(names[i] for i in rng.choice(4, size=k, replace=False)) for k in (2, 3)
    }
    cases["all of the person"] = lambda: names
    cases["everything"] = lambda: (*names, *FREE)

    def vectors(personas: list[dict[str, int]]) -> torch.Tensor:
        return embed(network, half_size(np.stack([draw_persona(labels) for labels in personas])))

    start = vectors(bases)
    found = {}
    for title, pick in cases.items():
        cosine = (start * vectors([changed(base, pick(), rng) for base in bases])).sum(1)
        found[title] = (float(cosine.mean()), float(cosine.std()))
    return found


def train(config: IdentityConfig) -> dict[str, tuple[float, float]]:
    """Train, save and return the table of `fall`."""
    torch.manual_seed(config.seed)
    images, labels = half_renders("personas", config.work)
    who = persons(labels)
    count = training_share(len(images))
    groups = Groups(who[:count], np.random.default_rng(config.seed))
    shape = RecogniserConfig({"identity": config.dimensions}, images.shape[1], config.widths, depth=1, hidden=192)
    network = Recogniser(shape).to(memory_format=torch.channels_last)
    print(f"{sum(p.numel() for p in network.parameters())} parameters, {len(groups.rows)} people", flush=True)
    rng = torch.Generator().manual_seed(config.seed)

    def loss() -> torch.Tensor:
        rows = groups.draw(config.groups)
        batch = distort(to_tensor(images[rows]), rng, strength=config.strength)
        return identity_loss(F.normalize(network(batch)["identity"], dim=1), torch.from_numpy(who[rows]))

    fit(network, loss, steps=config.steps, lr=config.lr)
    rank = nearest(embed(network, images[count:]), who[count:])
    table = fall(network, people=config.people)
    for title, (mean, deviation) in table.items():
        print(f"{title:20s} {mean:6.3f} +- {deviation:.3f}", flush=True)
    print(f"nearest of {len(images) - count} held-out pictures is the same person: {100 * rank:.1f} %", flush=True)
    cosines = {title: round(mean, 3) for title, (mean, _) in table.items()}
    save(
        config.out,
        network,
        "identity",
        recipe="train_identity",
        pictures_seen=config.steps * config.groups * 4,
        record={"cosine_after_change_of": cosines, "nearest_is_same_person": round(rank, 4)},
    )
    return table


if __name__ == "__main__":
    import tyro

    train(tyro.cli(IdentityConfig))
