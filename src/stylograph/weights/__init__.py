"""Checkpoints: a name, path, URL or hub id in; a checked `Checkpoint` out. Never runs pickled code.

locate(source) -> path    finds or downloads
read(path) -> Checkpoint  recognises the format by content
write(checkpoint, path)   safetensors, or the rosinality layout
describe(path) -> dict    what a file is
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stylograph.errors import WeightsError, one_of
from stylograph.files import file_digest, replacing
from stylograph.weights.checkpoint import Checkpoint, damaged, refusal
from stylograph.weights.download import locate
from stylograph.weights.registry import REGISTRY, KnownModel, plan

__all__ = ["REGISTRY", "Checkpoint", "KnownModel", "describe", "locate", "plan", "read", "write"]

FORMATS = {"safetensors": (".safetensors",), "rosinality": (".pt", ".pth")}


def read(path: Path) -> Checkpoint:
    """The generator in a file, whatever its layout.

    path: a rosinality .pt (also of StyleCLIP, NADA, e4e, pSp), an NVIDIA .pkl, a module saved by PTI, or a
        .safetensors file with our metadata or with the tensor names of one of these layouts.
    Raises `WeightsError` that says what the file is instead and what to do. No code in the file is ever executed.
    """
    from stylograph.weights.native import reading

    path = Path(path)
    with reading(path):
        return _read(path)


def write(checkpoint: Checkpoint, path: Path, *, format: str | None = None) -> list[str]:
    """Writes a generator atomically; returns remarks on what the format could not hold.

    format: "safetensors" or "rosinality"; by default what the file name's ending says (.safetensors, .pt, .pth).
    Raises `WeightsError` if the format cannot hold the network, `OutputError` if the file cannot be written.
    """
    from stylograph.weights import native, rosinality

    path = Path(path)
    if format is None:
        format = next((name for name, endings in FORMATS.items() if path.suffix.lower() in endings), None)
        if format is None:
            why = (
                "; .pkl is not written, its loader runs source text such a file has to carry"
                if path.suffix == ".pkl"
                else ""
            )
            raise WeightsError(
                f"got file name {path.name!r}; expected one ending in .safetensors or .pt, or a format{why}"
            )
    if format not in FORMATS:
        raise WeightsError(one_of(str(format), FORMATS, "checkpoint format"))
    if format == "safetensors":
        native.write_generator(checkpoint, path)
        return []
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        try:
            return rosinality.write(checkpoint, stream)
        except RuntimeError as error:  # torch hides what the file system said behind its own complaint
            raise OSError(str(error.__context__ or error)) from error


def describe(path: Path) -> dict[str, Any]:
    """What a checkpoint file is: format, architecture, config, number of parameters, sha256, size, provenance, notes."""
    checkpoint = read(path)
    buffers = ("mapping.w_avg", ".noise_const")
    return {
        "file": str(path),
        "format": checkpoint.format,
        "arch": checkpoint.arch,
        "config": checkpoint.config,
        "parameters": sum(t.numel() for name, t in checkpoint.tensors.items() if not name.endswith(buffers)),
        "size": Path(path).stat().st_size,
        "sha256": file_digest(path),
        "provenance": checkpoint.provenance,
        "notes": list(checkpoint.notes),
    }


def _read(path: Path) -> Checkpoint:
    from stylograph.weights import native, nvidia, sniff
    from stylograph.weights.archive import TensorRef, open_archive

    if path.is_dir():
        inside = sorted(p.name for p in path.iterdir() if p.suffix in (".safetensors", ".pkl", ".pt", ".pth"))
        todo = f"pass one of its files: {', '.join(inside[:5])}" if inside else "none of its files looks like one"
        raise refusal("a folder", todo)
    if not path.exists():
        raise WeightsError("got a path where no file is; expected an existing checkpoint; check the spelling")
    if not path.is_file():
        raise refusal("a device or pipe", "pass a regular file")
    kind = sniff.recognise(path)
    if kind == "safetensors":
        tensors, checkpoint = native.read_safetensors(path)
        return checkpoint or _from_tensors(tensors, {})
    with open_archive(path, kind, nvidia.CONSTRUCTORS, sniff.unknown_global) as root:
        if isinstance(root, dict) and isinstance(root.get("G_ema"), nvidia.Node):
            return nvidia.from_node(root["G_ema"])
        if isinstance(root, nvidia.Node):  # a module saved whole, as pivotal tuning (PTI) does
            return nvidia.from_node(root)
        if isinstance(root, TensorRef):
            raise refusal(
                f"a single tensor of shape {list(root.shape)}", "latent codes are not weights; pass a generator"
            )
        if not isinstance(root, dict):
            raise refusal("a pickle without a generator", "pass a generator's checkpoint")
        if any(isinstance(value, nvidia.Node) for value in root.values()):
            raise refusal("an NVIDIA pickle without G_ema", "pass a full training snapshot (network-snapshot-*.pkl)")
        return _from_tensors(root, root)


def _from_tensors(root: Mapping[Any, Any], beside: Mapping[Any, Any]) -> Checkpoint:
    """The generator in a state dict, or in a dict that holds one; reads no other tensors."""
    from stylograph.weights import nvidia, rosinality, sniff
    from stylograph.weights.archive import TensorRef

    def load(value: Any, name: str) -> Any:
        if value is None or hasattr(value, "is_floating_point"):
            return value
        if not isinstance(value, TensorRef):
            raise damaged(f"{name[:60]} is no tensor")
        return value.load()

    def stripped(table: Any, prefix: str) -> dict[str, Any]:
        if not isinstance(table, Mapping):
            return {}
        return {k.removeprefix(prefix): v for k, v in table.items() if isinstance(k, str) and k.startswith(prefix)}

    candidates = [(table, prefix) for key in ("g_ema", "g") for table in [root.get(key)] for prefix in ("", "module.")]
    candidates += [(root.get("state_dict"), prefix) for prefix in ("decoder.", "module.decoder.", "")]
    candidates += [(root, prefix) for prefix in ("", "module.", "g_ema.", "G_ema.", "decoder.")]
    for table, prefix in candidates:
        state = stripped(table, prefix)
        if rosinality.is_state_dict(state):
            average = load(beside.get("latent_avg"), "latent_avg")
            state.pop("latent_avg", None)
            return rosinality.from_state_dict({name: load(value, name) for name, value in state.items()}, average)
        if "synthesis.b4.const" in state:
            if any(".skip." in name for name in state):
                raise sniff.explain(state)
            return nvidia.from_state_dict({name: load(value, name) for name, value in state.items()})
    names = [name for table in root.values() if isinstance(table, Mapping) for name in table]
    raise sniff.explain([*names, *root])
