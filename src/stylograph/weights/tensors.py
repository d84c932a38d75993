"""Tensors of a foreign checkpoint that is no generator: a mapper, an encoder, a face network. Never runs pickled code."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylograph.errors import WeightsError
from stylograph.weights import sniff
from stylograph.weights.archive import TensorRef, open_archive
from stylograph.weights.checkpoint import EXPECTED, refusal
from stylograph.weights.native import reading

if TYPE_CHECKING:
    from torch import Tensor, nn

AGAIN = "pass the file as its authors published it"


def read_state_dict(
    path: str | Path,
    *,
    prefix: str = "",
    beside: Collection[str] = (),
    expected: str = "a PyTorch state dict (.pt)",
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The floating point tensors of a .pt file whose names start with `prefix`, and the plain values of its `opts`.

    path: a state dict, or a dict that holds one under "state_dict"; other tensors in it are not even read.
    prefix: is taken off the names.
    beside: names of tensors beside the state dict to read as well, where there are such.
    expected: what error messages say a right file is.
    Raises `WeightsError` for anything else, and for NaN or infinite values.
    """
    path = Path(path)
    with reading(path):
        try:
            return _read(path, prefix, beside)
        except WeightsError as error:
            raise WeightsError(str(error).replace(EXPECTED, expected)) from error.__cause__


def fill(network: nn.Module, found: Mapping[str, Tensor], *, path: str | Path, expected: str) -> None:
    """Puts the tensors of a file into a network made on the meta device; every one has to fit.

    path, expected: for the message. Step counters of BatchNorm, which `read_state_dict` leaves out, become zero.
    Raises `WeightsError` that names the first tensors that do not fit.
    """
    import torch

    wanted = network.state_dict()
    counters = {name: torch.zeros((), dtype=torch.long) for name in wanted if name.endswith("num_batches_tracked")}
    shapes = {name: list(tensor.shape) for name, tensor in found.items() if name not in counters}
    fitting = {name: list(tensor.shape) for name, tensor in wanted.items() if name not in counters}
    if shapes != fitting:
        wrong = sorted(n for n in shapes.keys() | fitting.keys() if shapes.get(n) != fitting.get(n))
        examples = "; ".join(
            f"{_shown(n)}: got {shapes.get(n, 'nothing')}, expected {fitting.get(n, 'nothing')}" for n in wrong[:3]
        )
        raise WeightsError(
            f"{path}: got {len(wrong)} tensors that do not fit ({examples}); expected {expected}; {AGAIN}"
        )
    network.load_state_dict({**found, **counters}, assign=True)


class _Options(dict[Any, Any]):
    """Stands for an `argparse.Namespace`: its attributes, as a dict."""

    def set_state(self, state: Any) -> None:
        if isinstance(state, dict):
            self.update(state)


def _read(path: Path, prefix: str, beside: Collection[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    import torch

    if not path.is_file():
        raise refusal("a path where no file is", "check the spelling")
    kind = sniff.recognise(path)
    if kind == "safetensors":
        raise refusal("a safetensors file", "an edit of stylograph is opened with load_edit")
    with open_archive(path, kind, {"argparse Namespace": lambda *_: _Options()}, sniff.unknown_global) as root:
        if not isinstance(root, Mapping):
            raise refusal("a pickle without a state dict", AGAIN)
        inner, opts = root.get("state_dict"), root.get("opts")
        table = inner if isinstance(inner, Mapping) else root
        names = [name for name in table if isinstance(name, str) and name.startswith(prefix)]
        found = {n.removeprefix(prefix): table[n].load() for n in names if _is_float(table[n])}
        if not found:
            raise refusal(f"a file without tensors named {prefix}*", AGAIN)
        found |= {name: root[name].load() for name in beside if _is_float(root.get(name))}
        plain = opts if isinstance(opts, Mapping) else {}
        known = {k: v for k, v in plain.items() if isinstance(k, str) and isinstance(v, (bool, int, float, str))}
    broken = next((name for name, tensor in found.items() if not bool(torch.isfinite(tensor).all())), None)
    if broken is not None:
        raise refusal(f"NaN or infinite values in {_shown(broken)}", "download the file again")
    return found, known


def hash_tensors(state: Any, tensors: Mapping[str, Tensor]) -> str:
    """Adds names and numbers of tensors to a hash (`hashlib`), as float32 and in the order of their names; its digest then."""
    for name, tensor in sorted(tensors.items()):
        state.update(name.encode())
        state.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return state.hexdigest()


def _is_float(value: Any) -> bool:
    """Whether a value is a tensor of weights; BatchNorm's step counters are whole numbers, and nobody needs them."""
    return isinstance(value, TensorRef) and value.storage.dtype in ("bf", "<f2", "<f4", "<f8")


def _shown(name: str) -> str:
    """A tensor's name out of a foreign file, fit for a terminal."""
    return "".join(c if c.isprintable() else "?" for c in name[:60])
