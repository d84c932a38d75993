"""Tensors of a foreign checkpoint that is no generator: a mapper, an encoder, a face network. Never runs pickled code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylograph.errors import WeightsError
from stylograph.weights import sniff
from stylograph.weights.archive import TensorRef, open_archive
from stylograph.weights.checkpoint import EXPECTED, refusal
from stylograph.weights.native import reading

if TYPE_CHECKING:
    from torch import Tensor


def read_state_dict(
    path: str | Path, *, prefix: str = "", expected: str = "a PyTorch state dict (.pt)"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The floating point tensors of a .pt file whose names start with `prefix`, and the plain values of its `opts`.

    path: a state dict, or a dict that holds one under "state_dict"; other tensors in it are not even read.
    prefix: is taken off the names.
    expected: what error messages say a right file is.
    Raises `WeightsError` for anything else, and for NaN or infinite values.
    """
    path = Path(path)
    with reading(path):
        try:
            return _read(path, prefix)
        except WeightsError as error:
            raise WeightsError(str(error).replace(EXPECTED, expected)) from error.__cause__


def _read(path: Path, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    import torch

    if not path.is_file():
        raise refusal("a path where no file is", "check the spelling")
    kind = sniff.recognise(path)
    if kind == "safetensors":
        raise refusal("a safetensors file", "an edit of stylograph is opened with load_edit")
    with open_archive(path, kind, {}, sniff.unknown_global) as root:
        if not isinstance(root, Mapping):
            raise refusal("a pickle without a state dict", "pass the file as its authors published it")
        inner, opts = root.get("state_dict"), root.get("opts")
        table = inner if isinstance(inner, Mapping) else root
        names = [name for name in table if isinstance(name, str) and name.startswith(prefix)]
        found = {n.removeprefix(prefix): table[n].load() for n in names if _is_float(table[n])}
        plain = opts if isinstance(opts, Mapping) else {}
        known = {k: v for k, v in plain.items() if isinstance(k, str) and isinstance(v, (bool, int, float, str))}
    if not found:
        raise refusal(f"a file without tensors named {prefix}*", "pass the file as its authors published it")
    broken = next((name for name, tensor in found.items() if not bool(torch.isfinite(tensor).all())), None)
    if broken is not None:
        raise refusal(f"NaN or infinite values in {broken[:60]}", "download the file again")
    return found, known


def _is_float(value: Any) -> bool:
    """Whether a value is a tensor of weights; BatchNorm's step counters are whole numbers, and nobody needs them."""
    return isinstance(value, TensorRef) and value.storage.dtype in ("bf", "<f2", "<f4", "<f8")
