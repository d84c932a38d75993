"""What users name or hand over: functions by "module:name", and the digests that tell one version from another."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from stylograph.errors import StylographError, one_of
from stylograph.files import file_digest

PLUG = re.compile(r"(?P<module>[A-Za-z_][\w.]*|.+\.py):(?P<name>[A-Za-z_]\w*)")
"""How a function of a user's own is named."""


def load_plug(text: str) -> tuple[Any, dict[str, str]]:
    """What "module:name" or "file.py:name" names, and what it is bound to: the digest of the source file.

    Modules are looked for in the current folder, too. Raises `StylographError` that says what is missing.
    """
    found = PLUG.fullmatch(text)
    if found is None:
        raise StylographError(f"got {text!r}; expected module:function or file.py:function")
    place, name = found["module"], found["name"]
    try:
        module = _module_of(place)
    except StylographError:
        raise
    except Exception as error:
        raise StylographError(
            f"{text}: got {type(error).__name__} while importing it ({error}); mend it first"
        ) from error
    if not hasattr(module, name):
        names = [n for n in vars(module) if not n.startswith("_")] or ["nothing"]
        raise StylographError(f"{text}: {one_of(name, names, 'name')}")
    return getattr(module, name), {"plug": name, "source": _digest_of_source(module)}


_LOADED: dict[str, str] = {}
"""Digest of the source every named module was loaded from."""


def _digest_of_source(module: Any) -> str:
    source = getattr(module, "__file__", None)
    return file_digest(Path(source)) if source else ""


def _module_of(place: str) -> Any:
    path = Path(place)
    home = str(path.resolve().parent if place.endswith(".py") else Path.cwd())
    if home not in sys.path:
        sys.path.append(home)  # it may import what lies beside it
    if not place.endswith(".py"):
        try:
            module = importlib.import_module(place)
        except ModuleNotFoundError as error:
            if error.name is None or not (place == error.name or place.startswith(f"{error.name}.")):
                raise
            raise StylographError(
                f"got {place}, which is no module here; expected one that is installed or in this folder"
            ) from None
        known = _LOADED.setdefault(place, _digest_of_source(module))
        if known != _digest_of_source(module):  # it was edited since
            module = importlib.reload(module)
            _LOADED[place] = _digest_of_source(module)
        return module
    if not path.is_file():
        raise StylographError(f"{place}: got a path where no file is; expected file.py:function")
    spec = importlib.util.spec_from_file_location(f"stylograph_plug_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def source_of(function: Any) -> dict[str, str]:
    """What a function is bound to: its name and the digest of the file it is written in; of one that was typed in, its code's."""
    try:
        digest = file_digest(Path(inspect.getsourcefile(function) or ""))
    except (TypeError, OSError):
        code = getattr(function, "__code__", None) or getattr(vars(type(function)).get("__call__"), "__code__", None)
        digest = hashlib.sha256(_spelled(code).encode()).hexdigest()
    return {"plug": getattr(function, "__qualname__", type(function).__name__), "source": digest}


def _spelled(code: Any) -> str:
    """What compiled code says, without where it stands."""
    if not hasattr(code, "co_code"):
        return str(sorted(map(repr, code))) if isinstance(code, frozenset) else repr(code)
    return "\n".join((code.co_code.hex(), str(code.co_names), *map(_spelled, code.co_consts)))


def digest_of(model: Any) -> str:
    """sha256 of a model: its own `digest`, or of its network's weights. Raises `StylographError` if it has neither."""
    from stylograph.weights.tensors import hash_tensors

    digest = getattr(model, "digest", None)
    if isinstance(digest, str) and digest:
        return digest
    network = getattr(model, "network", model)
    if not hasattr(network, "state_dict"):
        raise StylographError(
            f"got a {type(model).__name__} without a digest; expected an attribute `digest`, a text that changes when the "
            "model does: finished rows are kept under it"
        )
    return hash_tensors(hashlib.sha256(), network.state_dict())
