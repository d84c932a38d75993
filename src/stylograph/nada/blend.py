"""Between two domains: generators of one family mix by their weights (StyleGAN-NADA, section 5.3; layer swapping)."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch

from stylograph.errors import AdaptError
from stylograph.generator import Generator


def blend(first: Generator, second: Generator, amount: float | Mapping[int, float]) -> Generator:
    """(1 - amount)·first + amount·second, weight by weight; the same latents show the same subject in all mixtures.

    amount: one number for all layers, 0 gives the first and 1 the second generator, beyond extrapolates; or one per
        resolution, e.g. {4: 0, 8: 0, 16: 1, 32: 1, 64: 1}: layer swapping, coarse shape of the first, texture of the second. A
        resolution left out keeps the first's layers.
    Latent mappers are left behind.
    Raises `AdaptError` for generators of two families, and for resolutions they do not have.
    """
    if first.config != second.config:
        raise AdaptError(
            f"got {first} and {second}; expected two generators of one shape, such as a parent and its child"
        )
    if not set(first.lineage) & set(second.lineage):
        raise AdaptError(
            f"got generators {first.digest[:12]} and {second.digest[:12]} without a common ancestor; expected a parent and "
            "what was adapted from it, or two children of one parent: others mix to noise"
        )
    amounts = dict(amount) if isinstance(amount, Mapping) else dict.fromkeys(first.resolutions, amount)
    unknown = sorted(set(amounts) - set(first.resolutions))
    if unknown:
        raise AdaptError(f"got resolutions {unknown}; this generator has {list(first.resolutions)}")
    if not all(abs(value) < float("inf") for value in amounts.values()):
        raise AdaptError(
            f"got amounts {amounts}; expected finite numbers, 0 for the first and 1 for the second generator"
        )
    mean = sum(amounts.values()) / len(first.resolutions)
    net = copy.deepcopy(first.net)
    theirs = second.net.state_dict()
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            block = name.split(".")[1].removeprefix("b") if name.startswith("synthesis.") else ""
            part = amounts.get(int(block), 0.0) if block else mean
            tensor.lerp_(theirs[name].to(tensor), part)
    return Generator(
        net,
        provenance={
            **{k: v for k, v in first.provenance.items() if k not in ("method", "adaptation", "parent", "mining")},
            "method": "blend",
            "blend": {
                "of": [first.digest, second.digest],
                "said": [generator.provenance.get("adaptation", {}).get("target") for generator in (first, second)],
                "amounts": {str(r): float(v) for r, v in amounts.items()},
            },
            "ancestors": list(dict.fromkeys([first.digest, second.digest, *first.ancestors, *second.ancestors])),
        },
    ).to(dtype=first.dtype)


def within(
    generator: Generator, amount: float, *, start: int | None = None, stop: int | None = None
) -> dict[int, float]:
    """Amounts for `blend` in the resolutions from `start` up to (not including) `stop`, and 0 in the others.

    Raises `AdaptError` for a resolution the generator does not have, or if nothing is left.
    """
    for side in (start, stop):
        if side is not None and side not in generator.resolutions:
            raise AdaptError(f"got resolution {side}; this generator has {list(generator.resolutions)}")
    chosen = [r for r in generator.resolutions if (start or 0) <= r < (stop or 2 * generator.resolution)]
    if not chosen:
        raise AdaptError(f"got resolutions from {start} to below {stop}, which are none; expected start below stop")
    return dict.fromkeys(chosen, amount)
