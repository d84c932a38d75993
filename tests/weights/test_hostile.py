"""Files made to hurt: whatever they try, the outcome is a `WeightsError` or a checked checkpoint."""

import importlib
import random
import struct
import sys
import time
import zipfile

import pytest
import torch

from stylograph.errors import WeightsError
from stylograph.weights import machine, read
from stylograph.weights.archive import Storage, TensorRef
from stylograph.weights.machine import Budget
from weights.conftest import GOLDEN, make_config

FILES = ["rosinality_tiny.pt", "pair_rosinality.pt", "pair_nvidia.pkl", "nvidia_fp16_tiny.pkl"]
PROTO = b"\x80\x04"


def text(value):
    return b"\x8c" + bytes([len(value)]) + value.encode()


def call(module, name, arguments=b")"):
    return text(module) + text(name) + b"\x93" + arguments + b"R"


@pytest.fixture(autouse=True)
def bounded_memory():
    """A bomb that goes off fails here instead of taking the machine down."""
    resource = None if sys.platform == "win32" else importlib.import_module("resource")
    if resource is None:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (32 << 30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def attempt(tmp_path, content):
    path = tmp_path / "hostile.bin"
    path.write_bytes(content)
    return read(path)


@pytest.mark.parametrize("name", ["os_system.pkl", "builtins_eval.pkl", "hidden_in_zip.pt", "module_src_exec.pkl"])
def test_recorded_attacks(name):
    with pytest.raises(WeightsError):
        read(GOLDEN / "malicious" / name)


def test_cut_and_corrupted_fixtures(tmp_path):
    for name in FILES:
        content = (GOLDEN / name).read_bytes()
        with pytest.raises(WeightsError, match="damaged"):
            attempt(tmp_path, content[: len(content) // 5])
    content = bytearray((GOLDEN / "rosinality_tiny.pt").read_bytes())
    content[5456:5504] = bytes(255 - b for b in content[5456:5504])  # inside data.pkl
    with pytest.raises(WeightsError, match="damaged"):
        attempt(tmp_path, content)
    content = bytearray((GOLDEN / "nvidia_fp16_tiny.pkl").read_bytes())
    content[100997:101003] = b"\xff" * 6  # at a reduce opcode
    with pytest.raises(WeightsError, match="damaged"):
        attempt(tmp_path, content)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("posix", "system"),
        ("builtins", "exec"),
        ("builtins", "getattr"),
        ("builtins", "__import__"),
        ("collections", "OrderedDict.fromkeys"),
        ("torch", "load"),
        ("torch.serialization", "load"),
        ("torch.storage", "_load_from_bytes.__globals__"),
        ("torch_utils.persistence", "import_hook"),
        ("copyreg", "_reconstructor"),
        ("numpy", "load"),
        ("stylograph.weights.machine", "Machine"),
    ],
)
def test_any_other_global_is_named_and_refused(tmp_path, module, name):
    for code in (PROTO + call(module, name) + b".", b"\x80\x02c" + f"{module}\n{name}\n".encode() + b")R."):
        with pytest.raises(WeightsError, match="pickle") as caught:
            attempt(tmp_path, code)
        assert f"{module}.{name}"[:60] in str(caught.value)


ORDERED = call("collections", "OrderedDict")
CODES = {
    "memo index of 2^32": b"\x80\x02}r\xff\xff\xff\xff.",
    "string of 8 EB": PROTO + b"\x8d" + struct.pack("<Q", 1 << 62) + b"x.",
    "bytes of 4 GB": PROTO + b"B\xff\xff\xff\xffx.",
    "frame of 8 EB": PROTO + b"\x95" + struct.pack("<Q", 1 << 62) + b"}.",
    "deeply nested key": PROTO + b"})" + b"\x85" * 500_000 + b"Ns.",
    "deeply nested value": PROTO + b"}" + text("g_ema") + b"]" * 300_000 + b"a" * 299_999 + b"s.",
    "self-containing dict": PROTO + b"}\x94" + text("g_ema") + b"h\x00s.",
    "set holding a list": PROTO + b"\x8f(]\x90.",
    "set built from tuples": PROTO + call("builtins", "set", b"])" + b"\x85" * 1000 + b"a\x85") + b".",
    "state for a list": PROTO + b"]}b.",
    "state for an OrderedDict": PROTO + ORDERED + b"}" + text("__class__") + text("x") + b"sb.",
    "OrderedDict of nonsense": PROTO + call("collections", "OrderedDict", b"K\x05\x85") + b".",
    "EasyDict with magic names": PROTO + call("dnnlib.util", "EasyDict") + b"}" + text("__setattr__") + b"Nsb.",
    "called value": PROTO + b"})R.",
    "called text": PROTO + text("os") + b")R.",
    "arguments no tuple": PROTO + text("collections") + text("OrderedDict") + b"\x93]R.",
    "class of a class": PROTO + text("collections") + text("OrderedDict") + b"\x93)\x81.",
    "global from numbers": PROTO + b"K\x01K\x02\x93.",
    "persistent id": PROTO + text("x") + b"Q.",
    "text opcodes": b"\x80\x02S'x'\n.",
    "instance opcode": b"\x80\x02(ios\nsystem\n.",
    "extension registry": b"\x80\x02\x82\x01.",
    "endless line": b"\x80\x02c" + b"a" * 100_000,
    "no end": PROTO + b"}}}}",
    "pop of nothing": PROTO + b"s.",
    "tuple of nothing": PROTO + b"\x87.",
    "odd items": PROTO + b"}(Nu.",
    "nothing at all": PROTO + b".",
    "fetch of nothing": PROTO + b"h\x07.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "numpy type of Python objects": PROTO + call("numpy", "dtype", text("O8") + b"\x85") + b".",
    "nested storages": PROTO + call("torch.storage", "_load_from_bytes", b"C\x04\x80\x04}.\x85") + b".",
    "module without meta": PROTO + call("torch_utils.persistence", "_reconstruct_persistent_obj", b"}\x85") + b".",
}


@pytest.mark.parametrize("name", CODES)
def test_crafted_pickles(tmp_path, name):
    start = time.monotonic()
    with pytest.raises(WeightsError):
        attempt(tmp_path, CODES[name])
    assert time.monotonic() - start < 60  # a hang, not a speed


def test_too_many_opcodes(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "MAX_OPCODES", 10_000)
    with pytest.raises(WeightsError, match="absurd complexity"):
        attempt(tmp_path, PROTO + b"]" + b"Na" * 10_000 + b".")


def test_modules_that_share_children_do_not_multiply(nvidia_file):
    """Thirty levels of two equal children each would be 2^30 modules."""

    def edit(prefix, attributes):
        if not prefix:
            child = attributes["_modules"]["mapping"]
            for _ in range(30):
                meta = {**child.meta, "state": {"_modules": {"a": child, "b": child}}}
                child = type(child)(meta)
            attributes["_modules"]["mapping"] = child

    with pytest.raises(WeightsError, match="absurd complexity"):
        read(nvidia_file(make_config(), edit=edit))


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(8, (1,), (1,)), (0, (9,), (1,)), (0, (2, 4), (5, 1)), (-1, (1,), (1,)), (0, (4,), (-1,)), (0, (1 << 40,), (0,)),
     (0, (1,) * 9, (1,) * 9), (0, (2,), (1, 1)), (0, (True,), (1,)), (0, (2.0,), (1,)), (1 << 70, (1,), (1,))],
)  # fmt: skip
def test_tensors_outside_their_storage(offset, shape, strides):
    with pytest.raises(WeightsError, match="tensor"):
        TensorRef(Storage("<f4", 8, lambda: bytes(32)), offset, shape, strides, Budget(1000))


def test_stride_zero_bomb(tmp_path):
    wide = torch.zeros(1).as_strided((1, 4096, 4096, 64), (0, 0, 0, 0))
    torch.save({"g_ema": {"input.input": wide, "style.1.weight": wide}}, tmp_path / "a.pt")
    with pytest.raises(WeightsError, match="reaches outside"):
        read(tmp_path / "a.pt")


def test_many_names_for_one_storage(tmp_path):
    block = torch.zeros(1 << 20)
    names = {f"noises.noise_{i}": block for i in range(50)}
    torch.save(
        {"g_ema": {"input.input": block, "style.1.weight": block, "to_rgbs.13.bias": block, **names}}, tmp_path / "a.pt"
    )
    with pytest.raises(WeightsError, match="many times its size"):
        read(tmp_path / "a.pt")


def test_names_cannot_steer_the_terminal(tmp_path):
    torch.save({"\x1b[2J\nall is well": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(WeightsError) as caught:
        read(tmp_path / "a.pt")
    assert "?[2J?all is well" in str(caught.value)


def rezip(tmp_path, change):
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(GOLDEN / "rosinality_tiny.pt") as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            change(new, name, old.read(name))
    return path


def test_zip_bomb(tmp_path):
    def change(new, name, content):
        if name.endswith("data/0"):
            content = bytes(64 << 20)
        new.writestr(name, content, compress_type=zipfile.ZIP_DEFLATED)

    with pytest.raises(WeightsError, match="unfolds to many times"):
        read(rezip(tmp_path, change))


def test_storages_of_the_wrong_length_or_order(tmp_path):
    short = rezip(tmp_path, lambda new, name, c: new.writestr(name, c[:-4] if name.endswith("data/3") else c))
    with pytest.raises(WeightsError, match="wrong length"):
        read(short)
    swapped = rezip(tmp_path, lambda new, name, c: new.writestr(name, b"big" if name.endswith("byteorder") else c))
    with pytest.raises(WeightsError, match="big-endian"):
        read(swapped)


def test_legacy_storage_that_promises_too_much(tmp_path):
    content = bytearray((GOLDEN / "pair_rosinality.pt").read_bytes())
    stored = torch.load(GOLDEN / "pair_rosinality.pt", weights_only=True)
    count = next(iter(stored["g_ema"].values())).numel()
    place = content.find(struct.pack("<q", count), len(content) // 20)
    content[place : place + 8] = struct.pack("<q", 1 << 60)
    with pytest.raises(WeightsError, match="damaged"):
        attempt(tmp_path, content)


def test_hostile_persistent_objects(nvidia_file):
    def odd(prefix, attributes):
        if prefix == "synthesis.b8.conv1":
            attributes["_modules"] = {
                "..": attributes["_modules"]["affine"],
                "__class__": attributes["_modules"]["affine"],
            }

    with pytest.raises(WeightsError):
        read(nvidia_file(make_config(), edit=odd))


@pytest.mark.parametrize("name", FILES)
def test_fuzz(tmp_path, name):
    """Cut, flipped, overwritten, repeated: only a `WeightsError` or a valid result may come out."""
    rng = random.Random(name)
    original = (GOLDEN / name).read_bytes()
    for round_ in range(40):
        content = bytearray(original)
        # half of the damage goes to the first bytes, where the structure is
        reach = len(content) if round_ % 2 else min(len(content), 6000)
        place = rng.randrange(reach)
        kind = rng.choice(["cut", "flip", "block", "repeat", "swap"])
        if kind == "cut":
            del content[place:]
        elif kind == "flip":
            for _ in range(rng.choice([1, 1, 8])):
                content[rng.randrange(reach)] ^= 1 << rng.randrange(8)
        elif kind == "block":
            content[place : place + 8] = rng.randbytes(8)
        elif kind == "repeat":
            content[place:place] = content[place : place + rng.randrange(1, 200)]
        else:
            other = rng.randrange(reach)
            content[place], content[other] = content[other], content[place]
        try:
            checkpoint = attempt(tmp_path, content)
        except WeightsError as error:
            assert str(error).startswith(str(tmp_path))  # noqa: PT017
        else:
            assert all(torch.isfinite(t).all() for t in checkpoint.tensors.values())
