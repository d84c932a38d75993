"""The one file format stylograph writes: safetensors with a JSON record under the metadata key "stylograph"."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stylograph.errors import OutputError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

METADATA_KEY = "stylograph"
VERSION = 1


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and vanishes when it does not."""
    if not path.parent.is_dir():
        raise OutputError(f"{path}: the folder {path.parent} does not exist; create it first")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise OutputError(f"{path}: the folder cannot be written to ({error.strerror})") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise OutputError(f"{path}: could not be written ({error.strerror or error}); nothing was changed") from None
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Mapping[str, Tensor], kind: str, record: Mapping[str, Any]) -> Path:
    """Writes tensors and their record atomically; `kind` says what they are ("edit", "latents", ...)."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    metadata = {METADATA_KEY: json.dumps({"format": kind, "version": VERSION, **record}, ensure_ascii=False)}
    with replacing(path) as temporary:
        try:
            save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, metadata=metadata)
        except SafetensorError as error:
            raise OSError(str(error)) from None
    return path


def load_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Reads what `save_tensors` wrote with this `kind`. Raises `WeightsError` for anything else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(METADATA_KEY, "null"))
            _check_record(path, record, kind)
            return {name: file.get_tensor(name) for name in file.keys()}, record  # noqa: SIM118 (no dict)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file; expected a stylograph {kind} file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path}: got a file that cannot be read ({error}); expected a stylograph {kind} file") from None


def _check_record(path: Path, record: Any, kind: str) -> None:
    if not isinstance(record, dict) or record.get("format") != kind:
        what = f"a stylograph {record.get('format')} file" if isinstance(record, dict) else "a foreign safetensors file"
        raise WeightsError(f"{path}: got {what}; expected a stylograph {kind} file")
    version = record.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise WeightsError(f"{path}: got format version {version}; this stylograph reads up to {VERSION}, update it")
