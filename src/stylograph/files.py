"""The one file format stylograph writes: safetensors with one metadata entry, "stylograph", that says in JSON what the
tensors are. Files appear whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylograph.errors import OutputError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

KEY = "stylograph"
VERSION = 1


def file_digest(path: Path) -> str:
    """sha256 of a file's content, read in blocks."""
    state = hashlib.sha256()
    with open(path, "rb") as stream:
        while block := stream.read(1 << 20):
            state.update(block)
    return state.hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not.

    Raises `OutputError` for whatever the file system objects to.
    """
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist; create it first")
    temporary = path.with_name(f".{secrets.token_hex(8)}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"{path}: could not be written ({reason}); nothing was changed") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], kind: str, record: Mapping[str, Any]) -> Path:
    """Writes tensors of a kind ("generator", "latents", "edit", ...) with a JSON-ready record, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    header = json.dumps({"format": kind, "version": VERSION, **record}, sort_keys=True)
    content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(content, temporary, metadata={KEY: header})
        except SafetensorError as error:  # how it reports a full disk
            raise OSError(str(error)) from error
        temporary.chmod(0o644)  # safetensors writes for the owner only
    return path


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and record of a file written by `save_tensors` with the same kind. Raises `WeightsError` otherwise."""
    wanted = f"expected a stylograph {kind} file (.safetensors)"
    if not path.is_file():
        raise WeightsError(f"{path}: got a path where no file is; {wanted}")
    try:
        tensors, record = read_tensors(path)
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: got a damaged file ({error}); {wanted}") from error
    if record is None:
        raise WeightsError(f"{path}: got a safetensors file without stylograph's metadata; {wanted}")
    if record["format"] != kind:
        raise WeightsError(f"{path}: got a stylograph file of kind {str(record['format'])[:40]!r}; {wanted}")
    return tensors, {key: value for key, value in record.items() if key not in ("format", "version")}


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors and record of a safetensors file; no record if it is not one of ours. Raises `ValueError` if damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = (file.metadata() or {}).get(KEY)
            # Copies: the file may be replaced while its tensors are in use.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except SafetensorError as error:
        raise ValueError("its safetensors header or length is wrong") from error
    if header is None:
        return tensors, None
    record = json.loads(header)
    if not isinstance(record, dict) or not isinstance(record.get("format"), str):
        raise ValueError("its stylograph metadata makes no sense")
    version = record.get("version")
    if type(version) is not int or version > VERSION:
        raise ValueError(
            f"its format version is {str(version)[:20]}, this stylograph reads {VERSION}; update stylograph"
        )
    return tensors, record
