"""NVIDIA's layout: pickled modules of stylegan2-ada-pytorch and of the stylegan3 repository's StyleGAN2 family.

The file carries the source code of its classes, which the official loader runs. Here it is dropped unread: modules
become `Node`s, and everything is taken from their stored attributes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from stylograph.weights.archive import TensorRef
from stylograph.weights.checkpoint import Checkpoint, check_fir, damaged, finish, number, refusal
from stylograph.weights.sniff import explain

VERSION = 6
MAX_DEPTH = 8
MAX_NODES = 5000
_ABSENT = object()


@dataclass(eq=False)
class Node:
    """A pickled module: its class name and attributes."""

    class_name: str
    state: dict[Any, Any]

    def table(self, name: str) -> dict[str, Any]:
        """One of `_parameters`, `_buffers`, `_modules`, without empty places."""
        found = self.state.get(name, {})
        if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
            raise damaged(f"{name} of a module is no table")
        return {key: value for key, value in found.items() if value is not None}


def rebuild(meta: Any) -> Node:
    """Stands for torch_utils.persistence._reconstruct_persistent_obj."""
    if not isinstance(meta, dict) or meta.get("type") != "class" or not isinstance(meta.get("state"), dict):
        raise damaged("a module without state")
    if meta.get("version") != VERSION:
        raise refusal("an NVIDIA pickle of another version", "stylograph reads version 6 (ADA and stylegan3)")
    name = meta.get("class_name")
    if not isinstance(name, str):
        raise damaged("a module without class name")
    return Node(name, meta["state"])


CONSTRUCTORS = {"torch_utils.persistence _reconstruct_persistent_obj": rebuild}


def from_node(root: Node) -> Checkpoint:
    """The generator in a tree of pickled modules."""
    nodes = dict(_walk(root))
    found: dict[str, TensorRef] = {}
    for prefix, node in nodes.items():
        hidden = node.state.get("_non_persistent_buffers_set")
        buffers = {k: v for k, v in node.table("_buffers").items() if not isinstance(hidden, set) or k not in hidden}
        for name, value in {**node.table("_parameters"), **buffers}.items():
            if not isinstance(value, TensorRef):
                raise damaged(f"{name[:40]} of a module is no tensor")
            found[f"{prefix}.{name}".removeprefix(".")] = value
    if "synthesis.b4.const" not in found:
        raise explain([f"class {root.class_name}", *found])
    options = _Options(root)
    _check_architecture(nodes, options)
    tensors = {}
    for name, value in found.items():
        if name.endswith("resample_filter"):
            check_fir(name, value.load(), 1.0)
        else:
            tensors[name] = value.load()
    result = finish(
        tensors, format="nvidia", conv_clamp=_conv_clamp(nodes, options), lr_multiplier=_lr_multiplier(nodes, options)
    )
    _cross_check(root, result.config)
    return result


def from_state_dict(tensors: dict[str, Any]) -> Checkpoint:
    """The generator whose state dict has NVIDIA's names; what a state dict does not hold is assumed and noted."""
    for name, kernel in tensors.items():
        if name.endswith("resample_filter"):
            check_fir(name, kernel, 1.0)
    note = "a bare state dict: assumed no activation clamp (conv_clamp) and the usual lr_multiplier 0.01"
    kept = {name: tensor for name, tensor in tensors.items() if not name.endswith("resample_filter")}
    return finish(kept, format="nvidia", notes=[note])


class _Options:
    """Constructor arguments of the generator, for files whose modules do not state a value themselves.

    ADA nests the synthesis arguments; the stylegan3 repository flattens them and has other defaults.
    """

    def __init__(self, root: Node) -> None:
        given = root.state.get("_init_kwargs")
        given = given if isinstance(given, dict) else {}
        mapping, nested = given.get("mapping_kwargs"), given.get("synthesis_kwargs")
        self.mapping: dict[str, Any] = mapping if isinstance(mapping, dict) else {}
        self.synthesis: dict[str, Any] = nested if isinstance(nested, dict) else given
        self.default_clamp = None if isinstance(nested, dict) or not given else 256


def _walk(root: Node) -> Iterator[tuple[str, Node]]:
    """(dotted prefix, node) for the whole tree; bounded, since a hostile tree may share or contain itself."""
    waiting = [("", root, 0)]
    count = 0
    while waiting:
        prefix, node, depth = waiting.pop()
        count += 1
        if count > MAX_NODES or depth > MAX_DEPTH:
            raise refusal("a pickle of absurd complexity", "do not trust this file")
        yield prefix, node
        for name, child in node.table("_modules").items():
            if not isinstance(child, Node):
                raise damaged(f"{name[:40]} is no module")
            waiting.append((f"{prefix}.{name}".removeprefix("."), child, depth + 1))


def _layers(nodes: dict[str, Node]) -> list[tuple[str, Node]]:
    """The convolutions and ToRGBs: every module of the synthesis network with an affine layer below it."""
    owners = [prefix.removesuffix(".affine") for prefix in nodes if prefix.endswith(".affine")]
    return [(prefix, nodes[prefix]) for prefix in owners if prefix in nodes]


def _blocks(nodes: dict[str, Node]) -> list[Node]:
    return [node for prefix, node in nodes.items() if prefix.startswith("synthesis.b") and prefix.count(".") == 1]


def _check_architecture(nodes: dict[str, Node], options: _Options) -> None:
    for block in _blocks(nodes):
        architecture = block.state.get("architecture", options.synthesis.get("architecture", "skip"))
        if architecture != "skip":
            shown = architecture if architecture in ("orig", "resnet") else "unknown"
            raise refusal(f"a StyleGAN2 of the {shown} architecture", "only the skip architecture is supported")
    for prefix, node in nodes.items():
        last = prefix.rpartition(".")[2]
        part = options.mapping if prefix.startswith("mapping.") else options.synthesis
        active = last.startswith("conv") or prefix.startswith("mapping.fc")
        if active and node.state.get("activation", part.get("activation", "lrelu")) != "lrelu":
            raise refusal("a StyleGAN2 with another activation than leaky ReLU", "only lrelu is supported")
        gain = node.state.get("act_gain", _ABSENT)
        if last.startswith("conv") and gain is not _ABSENT and not _close(number(gain, "act_gain"), math.sqrt(2)):
            raise refusal("a StyleGAN2 with an unusual activation gain", "only the usual gain, √2, is supported")
        if last in ("affine", "embed") and not _close(number(node.state.get("bias_gain", 1), "bias_gain"), 1.0):
            raise refusal(
                "a StyleGAN2 with an unusual learning-rate multiplier in its affine layers", "it is not supported"
            )


def _conv_clamp(nodes: dict[str, Node], options: _Options) -> float | None:
    default = options.synthesis.get("conv_clamp", options.default_clamp)
    found = set()
    for prefix, node in _layers(nodes):
        value = node.state.get("conv_clamp", default)
        found.add(None if value is None else number(value, f"conv_clamp of {prefix[:40]}"))
    if len(found) != 1:
        raise refusal("a StyleGAN2 whose layers clamp differently", "only one conv_clamp for all layers is supported")
    clamp = found.pop()
    if clamp is not None and clamp <= 0:
        raise damaged("its conv_clamp is not positive")
    return clamp


def _lr_multiplier(nodes: dict[str, Node], options: _Options) -> float:
    default = options.mapping.get("lr_multiplier", 0.01)
    found = set()
    for prefix, node in nodes.items():
        if not prefix.startswith("mapping.fc"):
            continue
        value = number(node.state.get("bias_gain", default), "lr_multiplier")
        weight = node.table("_parameters").get("weight")
        if "weight_gain" in node.state and isinstance(weight, TensorRef) and len(weight.shape) == 2:
            gain = number(node.state["weight_gain"], "weight_gain") * math.sqrt(weight.shape[1])
            if not _close(gain, value):
                raise damaged("weights and biases of its mapping network disagree about lr_multiplier")
        found.add(value)
    if len(found) != 1:
        raise damaged("the layers of its mapping network disagree about lr_multiplier")
    return found.pop()


def _cross_check(root: Node, config: dict[str, Any]) -> None:
    """What the generator says about itself has to be what its tensors say."""
    names = {
        "z_dim": "z_dim", "w_dim": "w_dim", "c_dim": "c_dim", "img_resolution": "resolution",
        "img_channels": "img_channels",
    }  # fmt: skip
    for attribute, key in names.items():
        stated = root.state.get(attribute, config[key])
        if number(stated, attribute) != config[key]:
            raise damaged(f"it says {attribute} is {number(stated, attribute):g}, its tensors say {config[key]}")


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=1e-5)
