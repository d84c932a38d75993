import pickle
import socket
import sys
import tempfile
import types
from pathlib import Path

import pytest
import torch

from stylograph.nets.modulation import fir_kernel
from stylograph.nets.stylegan2 import StyleGAN2, StyleGAN2Config

GOLDEN = Path(__file__).parents[1] / "golden"
PWNED = Path(tempfile.gettempdir()) / "stylograph_pwned"
BUFFERS = ("w_avg", "noise_const", "resample_filter")


@pytest.fixture(autouse=True)
def closed_world(monkeypatch, tmp_path):
    """No network but this machine, no cache but a temporary one, and no payload may have run."""
    connect = socket.socket.connect

    def only_here(self, address):
        if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1"):
            raise AssertionError(f"a test wanted to connect to {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    monkeypatch.setenv("STYLOGRAPH_CACHE", str(tmp_path / "cache"))
    for name in ("STYLOGRAPH_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    yield
    assert not PWNED.exists()


class Persistent:
    """Pickles the way NVIDIA's persistent classes do."""

    def __init__(self, meta):
        self.meta = meta

    def __reduce__(self):
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, (self.meta,)


def make_config(**changes):
    fields = {"resolution": 16, "channels": (8, 8, 6), "z_dim": 12, "w_dim": 10, "mapping_features": (14, 10)}
    return StyleGAN2Config(**{**fields, **changes})


def make_state(config, seed=0):
    """Random tensors of a generator, with the low-pass kernels NVIDIA files hold."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        state = {name: torch.randn(t.shape) for name, t in StyleGAN2(config).state_dict().items()}
    for side in config.resolutions:
        for part in ("", "conv0.", "conv1."):
            if not (side == 4 and part == "conv0."):
                state[f"synthesis.b{side}.{part}resample_filter"] = fir_kernel(1.0)
    return state


@pytest.fixture
def nvidia_file(monkeypatch, tmp_path):
    """Writes an NVIDIA file from scratch: state dict, then `edit(prefix, attributes)` on every module."""
    package, persistence = types.ModuleType("torch_utils"), types.ModuleType("torch_utils.persistence")

    def _reconstruct_persistent_obj(meta):
        raise AssertionError("this must never run")

    _reconstruct_persistent_obj.__module__ = persistence.__name__
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    persistence._reconstruct_persistent_obj = _reconstruct_persistent_obj
    monkeypatch.setitem(sys.modules, "torch_utils", package)
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", persistence)

    def module(prefix, state, config, edit):
        own = {k: v for k, v in state.items() if "." not in k}
        children = dict.fromkeys(k.split(".")[0] for k in state if "." in k)
        attributes = {
            "_parameters": {k: v for k, v in own.items() if k not in BUFFERS},
            "_buffers": {k: v for k, v in own.items() if k in BUFFERS},
            "_modules": {
                name: module(
                    f"{prefix}.{name}".lstrip("."),
                    {k[len(name) + 1 :]: v for k, v in state.items() if k.startswith(name + ".")},
                    config,
                    edit,
                )
                for name in children
            },
        }
        last = prefix.split(".")[-1]
        if last.startswith(("conv", "torgb")):
            attributes["conv_clamp"] = config.conv_clamp
        if last.startswith(("conv", "fc")):
            attributes["activation"] = "lrelu"
        if last.startswith("fc"):
            attributes["bias_gain"] = config.lr_multiplier
        if not prefix:
            attributes["_init_kwargs"] = {"mapping_kwargs": {}, "synthesis_kwargs": {}}
        edit(prefix, attributes)
        meta = {
            "type": "class",
            "version": 6,
            "module_src": "raise SystemExit",
            "class_name": "Generator",
            "state": attributes,
        }
        return Persistent(meta)

    def write(config, *, state=None, edit=lambda prefix, attributes: None, whole=False, protocol=4, change=lambda s: s):
        path = tmp_path / "made.file"
        root = module("", state if state is not None else make_state(config), config, edit)
        if whole:
            torch.save(root, path)
        else:
            path.write_bytes(pickle.dumps(change({"G": None, "D": None, "G_ema": root}), protocol=protocol))
        return path

    return write
