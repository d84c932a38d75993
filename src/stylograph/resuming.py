"""What trainings that can be interrupted share: batches that depend on the step alone, and the parts of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

SAVE_SECONDS = 60.0
"""How old a checkpoint gets before a new one is written between two looks."""


def batch_rows(pool: int, batch: int, *, seed: int, step: int) -> Tensor:
    """Rows of one step, [min(batch, pool)]: a function of seed and step alone, so that a resumed training sees the same.

    Every row comes once per epoch, but for what does not fill a batch.
    """
    epoch, place = divmod(step, max(1, pool // batch))
    order = torch.randperm(pool, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return order[place * batch : (place + 1) * batch]


def pack(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as the part `name` of a checkpoint."""
    return {f"{name}.{key}": tensor for key, tensor in tensors.items()}


def unpack(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The part `name` of a checkpoint, as it was given to `pack`."""
    start = f"{name}."
    return {key.removeprefix(start): tensor for key, tensor in tensors.items() if key.startswith(start)}


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimiser as the part "optimizer" of a checkpoint."""
    states = optimizer.state_dict()["state"].items()
    return pack("optimizer", {f"{i}.{name}": torch.as_tensor(v) for i, state in states for name, v in state.items()})


def optimizer_state(tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """Number of the parameter -> its state, from a checkpoint with the part of `pack_optimizer`."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in unpack(tensors, "optimizer").items():
        i, _, name = key.partition(".")
        state.setdefault(int(i), {})[name] = tensor
    return state
