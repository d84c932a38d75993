"""Objects and tensors out of the three containers PyTorch checkpoints come in, without running anything in them.

    container        written by                         pickle            tensor data
    zip              torch.save since 1.6               data.pkl          one entry per storage, data/<key>
    legacy stream    torch.save before 1.6              four + one        behind the pickles
    plain pickle     pickle.dump of modules (NVIDIA)    the whole file    a legacy stream inside a bytes object each

Tensors stay where they are until `TensorRef.load`, so a generator is read out of a training checkpoint many times its
size without reading the rest.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stylograph.errors import WeightsError
from stylograph.weights.checkpoint import damaged, refusal
from stylograph.weights.machine import Budget, Constructor, Global, Inert, Machine, Source, scalar_key

if TYPE_CHECKING:
    from torch import Tensor

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

# name of the storage class -> little-endian numpy type ("bf" has none)
STORAGES = {
    "FloatStorage": "<f4", "DoubleStorage": "<f8", "HalfStorage": "<f2", "BFloat16Storage": "bf",
    "LongStorage": "<i8", "IntStorage": "<i4", "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1",
    "BoolStorage": "?",
}  # fmt: skip


@dataclass(eq=False)
class Storage:
    """A run of numbers in the file."""

    dtype: str
    numel: int
    read: Callable[[], bytes]

    @property
    def itemsize(self) -> int:
        return 2 if self.dtype == "bf" else np.dtype(self.dtype).itemsize


@dataclass(eq=False)
class TensorRef:
    """A tensor not read yet: a strided window into a storage, checked to lie inside it."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    budget: Budget

    def __post_init__(self) -> None:
        numbers = (self.offset, *self.shape, *self.strides)
        if any(type(n) is not int or n < 0 for n in numbers) or len(self.shape) != len(self.strides):
            raise damaged("a tensor with impossible sizes")
        count, last = 1, self.offset
        for size, stride in zip(self.shape, self.strides):
            count *= size
            last += (size - 1) * stride
        if len(self.shape) > 8 or count > self.storage.numel or (count and last >= self.storage.numel):
            raise damaged(
                f"a tensor of shape {str(list(self.shape))[:60]} reaches outside its {self.storage.numel} numbers"
            )

    def load(self) -> Tensor:
        """The tensor as float32, contiguous, on the CPU."""
        import torch

        storage = self.storage
        if storage.dtype == "bf":
            kind = np.dtype("<u2")
        elif storage.dtype in ("<f2", "<f4", "<f8"):
            kind = np.dtype(storage.dtype)
        else:
            raise damaged(f"a weight stored as {storage.dtype}, not as floating point numbers")
        self.budget.spend(bytes=4 * math.prod(self.shape))
        flat = np.frombuffer(self._bytes(), dtype=kind, count=storage.numel)
        strides = tuple(stride * kind.itemsize for stride in self.strides)
        window = np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides, writeable=False)
        if storage.dtype == "bf":
            return torch.from_numpy((window.astype("<u4", order="C") << 16).view("<f4"))
        with np.errstate(over="ignore"):  # a double beyond float32 becomes inf, which is refused later
            return torch.from_numpy(np.array(window, dtype=np.float32, order="C"))

    def _bytes(self) -> bytes:
        """The storage's content; the last one is kept, for files whose tensors all lie in one storage."""
        kept = self.budget.kept
        if kept is None or kept[0] is not self.storage:
            self.budget.spend(bytes=self.storage.numel * self.storage.itemsize)
            kept = self.budget.kept = (self.storage, self.storage.read())
        return kept[1]


# ---------------------------------------------------------------- constructors that stand for pickled globals


class NumpyType:
    """Stands for `numpy.dtype`; only what numbers in a module's attributes need."""

    def __init__(self, code: str, *_: Any) -> None:
        if code not in ("f4", "f8", "i4", "i8", "b1"):
            raise TypeError("numpy type")
        self.code, self.order = code, "<"

    def set_state(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "<"
        self.order = ">" if order == ">" else "<"


def _numpy_scalar(kind: Any, raw: Any = b"") -> float | int | bool:
    if not isinstance(kind, NumpyType) or not isinstance(raw, bytes):
        raise TypeError("numpy scalar")
    return np.frombuffer(raw, dtype=kind.order + kind.code, count=1)[0].item()


def _bytes_from_text(text: str, encoding: str = "latin1") -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise TypeError("encode")
    return text.encode("latin-1")


def _new_dict(pairs: Any = ()) -> dict[Any, Any]:
    return {scalar_key(key): value for key, value in pairs}


def _new_set(items: Any = ()) -> set[Any]:
    return set(map(scalar_key, items))


def _parameter(tensor: Any, *_: Any) -> Any:
    if not isinstance(tensor, TensorRef):
        raise TypeError("parameter")
    return tensor


def _inert(name: str) -> Callable[..., Inert]:
    return lambda *_: Inert(name)


_NUMPY = ("numpy.core", "numpy._core")
# Values found beside the weights: options, devices, paths, arrays. Nothing in them is used.
_BESIDE = [
    "argparse Namespace", "pathlib PosixPath", "pathlib WindowsPath", "pathlib PurePosixPath", "torch device",
    "torch Size", "torch float16", "torch float32", "torch float64", "torch bfloat16", "torch int64", "numpy ndarray",
    *(f"{core}.multiarray _reconstruct" for core in _NUMPY), *(f"{core}.numeric _frombuffer" for core in _NUMPY),
]  # fmt: skip


def _constructors(
    budget: Budget, extra: dict[str, Constructor], refuse: Callable[[str], WeightsError]
) -> dict[str, Constructor]:
    def tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> TensorRef:
        if not isinstance(storage, Storage) or not isinstance(shape, tuple) or not isinstance(strides, tuple):
            raise TypeError("tensor")
        return TensorRef(storage, offset, shape, strides, budget)

    def embedded(raw: Any) -> Storage:
        if not isinstance(raw, bytes):
            raise TypeError("storage")
        root = _legacy_stream(Source(io.BytesIO(raw)), budget, _storage_classes(), refuse)
        if not isinstance(root, Storage):
            raise damaged("a storage that is none")
        return root

    return {
        "collections OrderedDict": _new_dict,
        "dnnlib.util EasyDict": _new_dict,
        "builtins set": _new_set,
        "__builtin__ set": _new_set,
        "torch._utils _rebuild_tensor": tensor,
        "torch._utils _rebuild_tensor_v2": tensor,
        "torch._utils _rebuild_parameter": _parameter,
        "torch.storage _load_from_bytes": embedded,
        "_codecs encode": _bytes_from_text,
        "numpy dtype": NumpyType,
        **{f"{core}.multiarray scalar": _numpy_scalar for core in _NUMPY},
        **{name: _inert(name) for name in _BESIDE},
        **_storage_classes(),
        **extra,
    }


def _storage_classes() -> dict[str, Constructor]:
    return {f"torch {name}": _inert(name) for name in STORAGES}


def _storage_type(reference: Any) -> tuple[str, str, int]:
    """(dtype, key, numel) of a persistent id ("storage", class, key, location, numel, ...)."""
    if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
        raise damaged("a reference that is not a storage")
    _, kind, key, _, numel, *view = reference
    name = kind.name.removeprefix("torch ") if isinstance(kind, Global) else ""
    if name not in STORAGES or not isinstance(key, str) or type(numel) is not int or numel < 0 or any(view):
        raise damaged("a storage of unknown kind")
    return STORAGES[name], key, numel


# ---------------------------------------------------------------- containers


@contextmanager
def open_archive(
    path: Path, kind: str, extra: dict[str, Constructor], refuse: Callable[[str], WeightsError]
) -> Iterator[Any]:
    """The root object of a checkpoint, its tensors as `TensorRef`s that can be loaded while the context is open.

    kind: "zip", "legacy" or "pickle", see `sniff.recognise`.
    extra: constructors for globals beyond those of tensors and plain values.
    refuse: makes the error for a global that is not allowed.
    """
    with open(path, "rb") as stream:
        source = Source(stream)
        budget = Budget(source.size)
        constructors = _constructors(budget, extra, refuse)
        if kind == "zip":
            with zipfile.ZipFile(stream) as archive:
                yield _zip_root(archive, budget, constructors, refuse)
        elif kind == "legacy":
            yield _legacy_stream(source, budget, constructors, refuse)
        else:
            yield Machine(constructors, refuse, budget).load(source)


class _Storages:
    """The storages a pickle refers to; each reference to the same one has to agree."""

    def __init__(self, reader: Callable[[str], Callable[[], bytes]]) -> None:
        self.known: dict[str, Storage] = {}
        self._reader = reader

    def __call__(self, reference: Any) -> Storage:
        dtype, key, numel = _storage_type(reference)
        made = self.known.setdefault(key, Storage(dtype, numel, self._reader(key)))
        if (made.dtype, made.numel) != (dtype, numel):
            raise damaged(f"storage {key[:40]!r} is described in two ways")
        return made


def _zip_root(
    archive: zipfile.ZipFile,
    budget: Budget,
    constructors: dict[str, Constructor],
    refuse: Callable[[str], WeightsError],
) -> Any:
    entries = {info.filename: info for info in archive.infolist()}
    if sum(info.file_size for info in entries.values()) > budget.bytes:
        raise refusal("a zip that unfolds to many times its size", "do not trust this file")
    root = next(name for name in entries if name.endswith("/data.pkl") or name == "data.pkl")[: -len("data.pkl")]
    if f"{root}byteorder" in entries and archive.read(f"{root}byteorder") != b"little":
        raise refusal("a big-endian checkpoint", "save it again on a little-endian machine")
    storages = _Storages(lambda key: lambda: archive.read(f"{root}data/{key}"))
    machine = Machine(constructors, refuse, budget, storages)
    value = machine.load(Source(io.BytesIO(archive.read(f"{root}data.pkl"))))
    for key, made in storages.known.items():
        name = f"{root}data/{key}"
        if name not in entries or entries[name].file_size != made.numel * made.itemsize:
            raise damaged(f"storage {key[:40]!r} is missing or of the wrong length")
    return value


def _legacy_stream(
    source: Source,
    budget: Budget,
    constructors: dict[str, Constructor],
    refuse: Callable[[str], WeightsError],
) -> Any:
    """The root object of a pre-1.6 torch.save stream: four pickles, the list of storages, their contents."""
    places: dict[str, tuple[int, int]] = {}

    def read(key: str) -> bytes:
        start, length = places[key]
        source.seek(start)
        return source.read(length)

    storages = _Storages(lambda key: lambda: read(key))
    machine = Machine(constructors, refuse, budget, storages)
    if machine.load(source) != LEGACY_MAGIC or machine.load(source) != LEGACY_PROTOCOL:
        raise damaged("not the beginning of a PyTorch file")
    system = machine.load(source)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise refusal("a big-endian checkpoint", "save it again on a little-endian machine")
    root = machine.load(source)
    keys = machine.load(source)
    if (
        not isinstance(keys, list)
        or any(not isinstance(k, str) for k in keys)
        or sorted(keys) != sorted(storages.known)
    ):
        raise damaged("its list of storages does not fit its content")
    for key in keys:
        made = storages.known[key]
        (numel,) = struct.unpack("<q", source.read(8))
        length = numel * made.itemsize
        if numel != made.numel or length > source.left:
            raise damaged(f"storage {key[:40]!r} is missing or of the wrong length")
        places[key] = (source.tell(), length)
        source.seek(source.tell() + length)
    return root
