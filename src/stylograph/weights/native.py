"""Our own files: safetensors with one metadata entry, "stylograph", that says in JSON what the tensors are."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylograph.errors import WeightsError
from stylograph.weights.checkpoint import Checkpoint, damaged, finish, number, refusal

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
KEY = "stylograph"


def save_tensors(path: Path, tensors: dict[str, Tensor], kind: str, meta: dict[str, Any]) -> Path:
    """Writes tensors of a kind ("generator", "latents", "edit", ...) with JSON-ready metadata, atomically."""
    from safetensors.torch import save_file

    header = json.dumps({"format": kind, "version": VERSION, **meta}, sort_keys=True)
    content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_atomically(path, lambda temporary: save_file(content, temporary, metadata={KEY: header}))
    return path


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata of a file written by `save_tensors` with the same kind.

    Raises `WeightsError` if it is no such file, holds another kind, or was written by a newer stylograph.
    """
    with reading(path):
        if not path.is_file():
            raise WeightsError(f"got a path where no file is; expected a stylograph {kind} file (.safetensors)")
        tensors, meta = _open(path)
        if meta is None:
            raise WeightsError(
                f"got a safetensors file without stylograph's metadata; expected a stylograph {kind} file"
            )
        if meta["format"] != kind:
            raise WeightsError(f"got a stylograph file of kind {str(meta['format'])[:40]!r}; expected kind {kind!r}")
        return tensors, {key: value for key, value in meta.items() if key not in ("format", "version")}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], Checkpoint | None]:
    """The tensors, and the checkpoint if they are a generator of ours; other kinds of ours are refused."""
    tensors, meta = _open(path)
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
    return tensors, checkpoint


def write_generator(checkpoint: Checkpoint, path: Path) -> None:
    """Writes a generator with everything a `Checkpoint` knows except its notes."""
    config = {key: list(value) if isinstance(value, tuple) else value for key, value in checkpoint.config.items()}
    meta = {"arch": checkpoint.arch, "config": config, "provenance": checkpoint.provenance}
    save_tensors(path, checkpoint.tensors, "generator", meta)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Lets `write` fill a temporary file beside `path`, then puts it in place; a failure leaves no trace."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except WeightsError:
        raise
    except Exception as error:  # OSError, and what safetensors and torch make of it
        raise WeightsError(
            f"{path}: could not be written ({error}); check the folder, its rights and the free space"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def reading(path: Path) -> Any:
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


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = (file.metadata() or {}).get(KEY)
            # Copies: the file may be replaced while its tensors are in use.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise damaged("its safetensors header or length is wrong") from error
    if header is None:
        return tensors, None
    meta = json.loads(header)
    if not isinstance(meta, dict) or not isinstance(meta.get("format"), str):
        raise damaged("its stylograph metadata makes no sense")
    version = meta.get("version")
    if type(version) is not int or version > VERSION:
        raise refusal(
            f"a stylograph file of format version {str(version)[:20]}", f"update stylograph, this one reads {VERSION}"
        )
    return tensors, meta
