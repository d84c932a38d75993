"""How well a generator was moved to another domain: did it arrive, how far is it from real pictures, has it collapsed?

The domain judge is a network that no method has seen: it was trained on drawings in known styles and is never part of a
loss. It knows the avatars' styles only. Its features feed `kid` and `diversity`, which take any features [N, D].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stylograph.assets import ASSETS
from stylograph.errors import StylographError, one_of
from stylograph.nets.recogniser import Recogniser, RecogniserConfig, load_recogniser, look_at

OUTPUT = "style"
"""Name of the recogniser's output that is the domain."""
STARTS = 5
"""Starts of the clustering in `diversity`; the tightest one counts."""


class DomainJudge:
    """Names the drawing style a picture shows.

    names: keys of the domains in the order of their indices; "personas" is what the avatar generator draws.
    words: the plainest words of each domain.
    accuracy: by kind of held-out picture ("clean", "blurred", "distorted"), share of right decisions about "personas"
        and "others" (the other styles), and more that its recipe tells.
    """

    def __init__(
        self,
        network: Recogniser,
        names: Sequence[str],
        words: Sequence[str],
        *,
        accuracy: Mapping[str, Mapping[str, float]],
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.names = tuple(names)
        self.words = tuple(words)
        self.accuracy = accuracy

    @classmethod
    def from_pretrained(cls, source: str | Path = "avatars", *, device: str | torch.device = "cpu") -> DomainJudge:
        """The domain judge of the avatars, or one from a file written by `recipes.avatars.train_domains`.

        Raises `WeightsError` for a file that holds none.
        """
        path = ASSETS / "avatars" / "domains.safetensors" if str(source) == "avatars" else Path(source)
        network, told = load_recogniser(path, "domains", recipe="recipes.avatars.train_domains", read=_read)
        return cls(network.to(device), told["names"], told["words"], accuracy=told["accuracy"])

    def probabilities(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1], any size -> probabilities [N, domains] on the CPU, rows sum to 1."""
        return torch.cat(look_at(self.network, images, lambda x: self.network(x)[OUTPUT].softmax(1))).cpu()

    def features(self, images: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1], any size -> features [N, D] in float32 on the CPU: the last shared layer."""
        return torch.cat(look_at(self.network, images, self.network.features)).cpu()


def _read(config: RecogniserConfig, record: dict[str, Any]) -> dict[str, Any]:
    names, words = (tuple(map(str, record[key])) for key in ("names", "words"))
    if not len(set(names)) == len(words) == config.outputs[OUTPUT]:
        raise ValueError("its names, words and outputs do not fit")
    return {"names": names, "words": words, "accuracy": record.get("accuracy", {})}


def residue(probabilities: Tensor, source: int | str, *, names: Sequence[str] = ()) -> float:
    """Share of pictures, in [0, 1], whose most probable domain is still the source's.

    probabilities: [N, domains] of adapted pictures, from `DomainJudge.probabilities`.
    source: the domain the generator came from: its index, or its name among `names` (`DomainJudge.names`).
    """
    if probabilities.ndim != 2 or not len(probabilities):
        raise StylographError(f"got probabilities of shape {list(probabilities.shape)}; expected [N, domains]")
    if isinstance(source, str):
        if source not in names:
            raise StylographError(one_of(source, names, "domain"))
        source = list(names).index(source)
    if not 0 <= source < probabilities.shape[1]:
        raise StylographError(f"got domain {source}; expected 0 to {probabilities.shape[1] - 1}, or a name")
    return float((probabilities.argmax(1) == source).float().mean())


@dataclass(frozen=True)
class Kid:
    """Kernel Inception Distance over random subsets; see `kid`."""

    mean: float
    """Estimate of the squared MMD; unbiased, so equal distributions give values around 0, also negative ones."""
    std: float
    """Deviation between subsets. Not an error of the mean: subsets overlap."""


def kid(a: Tensor, b: Tensor, *, subsets: int = 100, size: int = 200, seed: int = 0) -> Kid:
    """Distance between the distributions of two sets of pictures, from features [N, D] and [M, D].

    The unbiased estimate of the squared maximum mean discrepancy with the kernel k(x, y) = (x·y / D + 1)^3:

        1/(n(n-1)) Σ_{i≠j} k(a_i, a_j) + 1/(n(n-1)) Σ_{i≠j} k(b_i, b_j) - 2/n² Σ_{i,j} k(a_i, b_j)

    (Bińkowski et al., "Demystifying MMD GANs", 2018), averaged over random subsets.

    subsets: number of pairs of subsets. size: pictures n drawn without replacement from each set for a subset.
    Raises `StylographError` for fewer than `size` pictures.

    With the features of `DomainJudge` the number is not comparable with KIDs from Inception features in papers; compare
    it only with others from the same features.
    """
    a, b = _checked(a), _checked(b)
    if a.shape[1] != b.shape[1]:
        raise StylographError(f"got features of {a.shape[1]} and {b.shape[1]} numbers; expected those of one network")
    if subsets < 1 or size < 2:
        raise StylographError(f"got {subsets} subsets of {size}; expected at least one of at least two pictures")
    if min(len(a), len(b)) < size:
        raise StylographError(
            f"got features of {len(a)} and {len(b)} pictures; expected at least {size} of each; "
            "make more pictures, or pass a smaller size"
        )
    rng = torch.Generator().manual_seed(seed)
    found = torch.stack(
        [_mmd2(*(x[torch.randperm(len(x), generator=rng)[:size]] for x in (a, b))) for _ in range(subsets)]
    )
    return Kid(float(found.mean()), float(found.std(correction=0)))


def diversity(features: Tensor, *, clusters: int = 10, seed: int = 0) -> float:
    """How different pictures of one kind still are from each other: 0 if all are equal.

    The pictures, features [N, D], are grouped into clusters by k-medoids; the mean Euclidean distance between the
    pairs of a cluster is averaged over clusters with at least two members, each cluster alike. This follows
    StyleGAN-NADA (Gal et al., 2022) and Ojha et al. (2021), who measure LPIPS: distances *within* clusters, so that
    a generator that repeats a few pictures, however different, does not count as varied.

    seed: of the first medoids, drawn with probability by squared distance; of a few starts the tightest counts.
    Raises `StylographError` unless there are more pictures than clusters. The value has the unit of the features and
    depends on how many pictures share a cluster: compare sets of equal size, with features of the same network.
    """
    features = _checked(features)
    if not 1 <= clusters < len(features):
        raise StylographError(
            f"got {clusters} clusters for {len(features)} pictures; expected at least one and fewer than pictures"
        )
    # Not by matrix products: equal pictures must have a distance of exactly 0.
    distance = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")
    rng = torch.Generator().manual_seed(seed)
    medoids = min(
        (_k_medoids(distance, clusters, rng) for _ in range(STARTS)),
        key=lambda rows: float(distance[:, rows].amin(1).sum()),
    )
    home = distance[:, medoids].argmin(1)
    spreads = []
    for cluster in range(len(medoids)):
        members = (home == cluster).nonzero()[:, 0]
        if (n := len(members)) > 1:
            spreads.append(distance[members][:, members].sum() / (n * (n - 1)))
    return float(torch.stack(spreads).mean())


def _checked(features: Tensor) -> Tensor:
    if features.ndim != 2 or not features.isfinite().all():
        kind = "numbers that are not finite" if features.ndim == 2 else f"shape {list(features.shape)}"
        raise StylographError(f"got features with {kind}; expected [N, D], finite, as from DomainJudge.features")
    return features.detach().cpu().double()


def _mmd2(a: Tensor, b: Tensor) -> Tensor:
    n, d = a.shape
    aa, bb, ab = ((x @ y.T / d + 1) ** 3 for x, y in ((a, a), (b, b), (a, b)))
    within = (aa.sum() - aa.trace() + bb.sum() - bb.trace()) / (n * (n - 1))
    return within - 2 * ab.mean()


def _k_medoids(distance: Tensor, clusters: int, rng: torch.Generator) -> Tensor:
    """Rows of the medoids for distances [N, N]; fewer than `clusters` if there are fewer different pictures."""
    rows = [int(torch.randint(len(distance), (1,), generator=rng))]
    while len(rows) < clusters:
        weight = distance[:, rows].amin(1).square()
        if not weight.any():
            break
        rows.append(int(torch.multinomial(weight, 1, generator=rng)))
    medoids = torch.tensor(rows)
    for _ in range(100):
        home = distance[:, medoids].argmin(1)
        inside = home[:, None] == torch.arange(len(medoids))  # [N, clusters]
        cost = (distance @ inside.to(distance)).masked_fill(~inside, float("inf"))
        better = cost.argmin(0)
        if torch.equal(better, medoids):
            break
        medoids = better
    return medoids
