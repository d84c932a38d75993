"""Which channels of StyleSpace a list of names means."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor

from stylograph.errors import EditError


def layers_matching(layers: Sequence[tuple[str, int]], patterns: Sequence[str]) -> Tensor:
    """The channels of all layers that any of the patterns names, bool [sum of channels].

    layers: name and number of channels of every layer, in StyleSpace order.
    patterns: "b64.conv1" or a wildcard such as "b*.conv1"; "b64" or "64" for a whole block, ToRGB included; "torgb",
        "conv0" or "conv1" for that layer of every block.
    Raises `EditError` for a pattern that names no layer.
    """
    chosen = names_matching([name for name, _ in layers], patterns)
    parts = [torch.full((width,), name in chosen) for name, width in layers]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.bool)


def names_matching(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """The layers that any of the patterns names; see `layers_matching`."""
    chosen: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if _names(str(pattern), name)}
        if not found:
            raise EditError(
                f"got layer pattern {str(pattern)!r}, which names no layer; expected a block such as 'b64' or '64', "
                f"'torgb', or a name or wildcard of: {', '.join(names)}"
            )
        chosen |= found
    return chosen


def _names(pattern: str, name: str) -> bool:
    block, _, part = name.partition(".")
    return fnmatchcase(name, pattern) or pattern in (block, block.removeprefix("b"), part)
