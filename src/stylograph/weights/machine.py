"""A pickle interpreter that can only build data.

Python's own unpickler calls whatever a file names, and even with a restricted class lookup a hostile file can make it
reserve gigabytes (memo index 2³²) or overflow the C stack (hash of a deeply nested tuple). This one knows the opcodes
checkpoints are made of, calls nothing but the constructors it was given, and counts what it does.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from stylograph.errors import WeightsError
from stylograph.weights.checkpoint import damaged, refusal

MAX_OPCODES = 3_000_000  # a training checkpoint with optimizers has some 100 000
MAX_BLOAT = 4  # fp16 read as float32 doubles; more than this times the file's size is a bomb
MAX_LINE = 1000
SLACK = 1 << 20

Constructor = Callable[..., Any]

_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NEW = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": set}
_VALUES = frozenset([
    "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
])  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUTS = frozenset(["BINPUT", "LONG_BINPUT", "MEMOIZE"])
_GETS = frozenset(["BINGET", "LONG_BINGET"])
_IGNORED = frozenset(["PROTO", "FRAME"])
_KEYS = (str, int, float, bool, bytes, type(None))


class Source:
    """A seekable byte stream that never hands out, or reserves, more than it has."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        here = stream.tell()
        self.size = stream.seek(0, io.SEEK_END)
        stream.seek(here)

    def tell(self) -> int:
        return self._stream.tell()

    def seek(self, position: int) -> None:
        self._stream.seek(position)

    @property
    def left(self) -> int:
        return self.size - self.tell()

    def read(self, n: int) -> bytes:
        if not 0 <= n <= self.left:
            raise damaged(f"it promises {n} bytes where {self.left} are left")
        return self._stream.read(n)

    def readline(self) -> bytes:
        return self._stream.readline(MAX_LINE)


class Budget:
    """What reading one file may cost, so that a small or tangled file cannot fill the memory or take for ever."""

    def __init__(self, file_size: int) -> None:
        self.bytes = MAX_BLOAT * file_size + SLACK
        self.opcodes = MAX_OPCODES
        self.kept: tuple[object, bytes] | None = None
        """The storage read last, see `TensorRef`."""

    def spend(self, *, bytes: int = 0, opcodes: int = 0) -> None:
        self.bytes -= bytes
        self.opcodes -= opcodes
        if self.bytes < 0:
            raise refusal("a file that unfolds to many times its size", "do not trust this file")
        if self.opcodes < 0:
            raise refusal("a pickle of absurd complexity", "do not trust this file")


@dataclass(frozen=True)
class Global:
    """A name a pickle may refer to, and the harmless constructor that stands for it."""

    name: str
    build: Constructor


@dataclass(eq=False)
class Inert:
    """Stands for an object whose content does not matter: it takes any arguments, items and state, and keeps none."""

    kind: str


class Machine:
    """Interprets pickles with the given constructors only.

    allowed: "module name" -> constructor, called with the pickled arguments by REDUCE and NEWOBJ.
    refuse: makes the error for any other name.
    storage: what to do with a persistent id; without it a persistent id is an error.
    """

    def __init__(
        self,
        allowed: Mapping[str, Constructor],
        refuse: Callable[[str], WeightsError],
        budget: Budget,
        storage: Callable[[Any], Any] | None = None,
    ) -> None:
        self.allowed = allowed
        self.refuse = refuse
        self.budget = budget
        self.storage = storage

    def load(self, source: Source) -> Any:
        """The value of the pickle that starts at the source's position; leaves the source right behind it."""
        run = _Run(self)
        try:
            for opcode, argument, _ in pickletools.genops(source):  # type: ignore[arg-type]
                self.budget.spend(opcodes=1)
                if opcode.name == "STOP":
                    return run.pop()
                run.step(opcode.name, argument)
        except (ValueError, TypeError, IndexError, KeyError, OverflowError, struct.error) as error:
            raise damaged(f"its pickle breaks off or makes no sense near byte {source.tell()}") from error
        raise damaged("its pickle has no end")


class _Run:
    """The stack and memo of one pickle."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _NEW:
            self.stack.append(_NEW[name]())
        elif name in _PUTS:
            self.memo[len(self.memo) if name == "MEMOIZE" else argument] = self.stack[-1]
        elif name in _GETS:
            self.stack.append(self.memo[argument])
        elif name in _TUPLES:
            count = _TUPLES[name]
            if len(self.stack) < count:
                raise IndexError(name)
            self.stack[-count:] = [tuple(self.stack[-count:])]
        elif name not in _IGNORED:
            action = getattr(self, f"op_{name.lower()}", None)
            if action is None:
                raise damaged(f"its pickle uses {name}, which no checkpoint needs")
            action(argument)

    def op_mark(self, _: None) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def op_tuple(self, _: None) -> None:
        items = tuple(self.pop_mark())
        self.stack.append(items)

    def op_append(self, _: None) -> None:
        self._extend([self.pop()])

    def op_appends(self, _: None) -> None:
        self._extend(self.pop_mark())

    def op_setitem(self, _: None) -> None:
        value, key = self.pop(), self.pop()
        self._update([key, value])

    def op_setitems(self, _: None) -> None:
        self._update(self.pop_mark())

    def op_additems(self, _: None) -> None:
        items = self.pop_mark()
        self._target(set).update(map(scalar_key, items))

    def op_global(self, argument: str) -> None:
        self.stack.append(self._find(argument))

    def op_stack_global(self, _: None) -> None:
        name, module = self.pop(), self.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError("STACK_GLOBAL")
        self.stack.append(self._find(f"{module} {name}"))

    def op_reduce(self, _: None) -> None:
        arguments, function = self.pop(), self.pop()
        self.stack.append(self._call(function, arguments))

    op_newobj = op_reduce

    def op_build(self, _: None) -> None:
        state = self.pop()
        target = self.stack[-1]
        if hasattr(target, "set_state"):
            target.set_state(state)
        elif not isinstance(target, (dict, Inert)):  # attributes of an OrderedDict or a Namespace are of no use
            raise TypeError("BUILD")

    def op_binpersid(self, _: None) -> None:
        if self.machine.storage is None:
            raise refusal("a pickle with outside references", "do not trust this file")
        self.stack.append(self.machine.storage(self.pop()))

    def _target(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise TypeError(f"expected {kind.__name__}")
        return self.stack[-1]

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], Inert):
            self._target(list).extend(items)

    def _update(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise ValueError("SETITEMS")
        if not isinstance(self.stack[-1], Inert):
            self._target(dict).update((scalar_key(k), v) for k, v in zip(items[::2], items[1::2]))

    def _find(self, name: str) -> Global:
        if name not in self.machine.allowed:
            raise self.machine.refuse(name)
        return Global(name, self.machine.allowed[name])

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise TypeError("REDUCE")
        return function.build(*arguments)


def scalar_key(value: Any) -> Any:
    """Only scalars may be hashed: hashing a deeply nested tuple would overflow the C stack."""
    if not isinstance(value, _KEYS):
        raise TypeError("dictionary key")
    return value
