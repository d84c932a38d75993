"""Our own generator files (see `stylograph.files`), and the way out of whatever goes wrong in a foreign one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from stylograph.errors import WeightsError
from stylograph.files import read_tensors, save_tensors
from stylograph.weights.checkpoint import Checkpoint, damaged, finish, number, refusal

if TYPE_CHECKING:
    from torch import Tensor


MAPPER = "mapper."
"""Prefix of a latent mapper's tensors."""


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Checkpoint | None]:
    """The tensors, and the checkpoint if they are a generator of ours; other kinds of ours are refused."""
    try:
        tensors, meta = read_tensors(path)
    except ValueError as error:
        raise damaged(str(error)) from error
    if meta is None:
        return tensors, None
    if meta["format"] != "generator":
        raise refusal(
            f"a stylograph file of kind {str(meta['format'])[:40]!r}",
            "pass the generator; this file goes where its kind is asked for",
        )
    config, provenance = meta.get("config"), meta.get("provenance", {})
    if meta.get("arch") != "stylegan2":
        raise refusal(f"a stylograph file of architecture {str(meta.get('arch'))[:40]!r}", "update stylograph")
    if not isinstance(config, dict) or not isinstance(provenance, dict):
        raise damaged("its metadata lacks the config")
    clamp = config.get("conv_clamp")
    mapper = meta.get("mapper")
    mined = {name: tensors.pop(name) for name in list(tensors) if name.startswith(MAPPER)}
    if bool(mined) != isinstance(mapper, dict) or not all(bool(t.isfinite().all()) for t in mined.values()):
        raise damaged("its latent mapper is incomplete")
    checkpoint = finish(
        tensors,
        format="stylograph",
        conv_clamp=None if clamp is None else number(clamp, "conv_clamp"),
        lr_multiplier=number(config.get("lr_multiplier"), "lr_multiplier"),
        provenance=provenance,
    )
    if config != checkpoint.config:
        wrong = sorted(k for k in config.keys() | checkpoint.config.keys() if config.get(k) != checkpoint.config.get(k))
        raise damaged(f"its metadata and its tensors disagree about {', '.join(wrong)[:100]}")
    if mapper is not None:
        checkpoint = replace(checkpoint, mapper=(mapper, {k.removeprefix(MAPPER): t for k, t in mined.items()}))
    return tensors, checkpoint


def write_generator(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a generator with everything a `Checkpoint` knows except its notes."""
    config = {key: list(value) if isinstance(value, tuple) else value for key, value in checkpoint.config.items()}
    meta = {"arch": checkpoint.arch, "config": config, "provenance": checkpoint.provenance}
    tensors = dict(checkpoint.tensors)
    if checkpoint.mapper is not None:
        meta["mapper"] = dict(checkpoint.mapper[0])
        tensors |= {f"{MAPPER}{name}": tensor for name, tensor in checkpoint.mapper[1].items()}
    save_tensors(path, tensors, "generator", meta)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong while reading a foreign file into one `WeightsError` that starts with its name."""
    try:
        yield
    except WeightsError as error:
        # Names out of a hostile file must not reach the terminal as control characters.
        message = "".join(c if c.isprintable() else "?" for c in str(error))
        raise WeightsError(f"{path}: {message}") from error.__cause__
    except PermissionError as error:
        raise WeightsError(
            f"{path}: got no permission to read it; expected a readable file; check its rights"
        ) from error
    except Exception as error:  # a hostile or damaged file can make any of the parsers below trip
        raise WeightsError(f"{path}: {damaged(type(error).__name__)}") from error
