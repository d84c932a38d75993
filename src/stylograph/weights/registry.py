"""Public models known by name. Nothing here is downloaded, or even looked up, before someone asks for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KINDS: Mapping[str, tuple[str, str]] = {
    "generator": ("a generator", "--model (Generator.from_pretrained)"),
    "encoder": ("a face encoder", "--invert.encoder (Encoder.from_pretrained)"),
    "recogniser": ("a face recogniser", "--identity (Identity.from_pretrained)"),
    "detector": ("a face detector", "FaceAligner.from_pretrained (--align faces uses it by itself)"),
}
"""Kind of a model -> what to call it, and what takes it."""


@dataclass(frozen=True)
class KnownModel:
    """One model of the registry."""

    name: str
    summary: str
    resolution: int
    """Side of the pictures a generator draws, or of those another kind of model works on."""
    licence: str
    """What was stated next to the file; to be shown before a download."""
    origin: str
    """Who made it."""
    url: str | None = None
    hub: str | None = None
    """"owner/repo:file" on the Hugging Face hub."""
    size: int | None = None
    """Bytes, if known."""
    sha256: str | None = None
    """Digest, if known; the file is then checked against it."""
    verified: str = "seen"
    """"seen": the address stands in public documentation. "recalled": from memory, may be wrong. "shipped": part of
    this package. None of the public files was downloaded by stylograph's authors."""
    kind: str = "generator"
    """One of `KINDS`."""


_NVIDIA = "NVIDIA Source Code License: non-commercial use only"
_UNSTATED = "not stated next to the file; trained by NVIDIA, whose own files are for non-commercial use only"
_ADA = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained"
_NGC = "https://api.ngc.nvidia.com/v2/models/nvidia/research/stylegan2/versions/1/files"
_ROSINALITY = "aaronb/StyleGAN2"


def _ngc(name: str, summary: str, resolution: int, file: str) -> KnownModel:
    url = f"{_NGC}/stylegan2-{file}-{resolution}x{resolution}.pkl"
    return KnownModel(name, summary, resolution, _NVIDIA, "NVIDIA, StyleGAN2", url=url)


def _ada(name: str, summary: str, resolution: int, file: str) -> KnownModel:
    return KnownModel(name, summary, resolution, _NVIDIA, "NVIDIA, StyleGAN2-ADA", url=f"{_ADA}/{file}.pkl")


def _hub(name: str, summary: str, resolution: int, file: str) -> KnownModel:
    origin = "NVIDIA, StyleGAN2 config-f, converted to the rosinality layout"
    return KnownModel(name, summary, resolution, _UNSTATED, origin, hub=f"{_ROSINALITY}:stylegan2-{file}-config-f.pt")


_MODELS = [
    KnownModel(
        "avatars",
        "drawn heads, no real people; part of this package",
        64,
        "CC BY 4.0 (avatar style 'personas' by Draftbit)",
        "stylograph, recipes/avatars",
        verified="shipped",
    ),
    _ngc("ffhq-256", "faces", 256, "ffhq"),
    _ngc("ffhq-512", "faces", 512, "ffhq"),
    _ngc("ffhq-1024", "faces", 1024, "ffhq"),
    _ada("ffhq-1024-ada", "faces, trained with adaptive augmentation", 1024, "ffhq"),
    KnownModel(
        "ffhq-1024-rosinality",
        "faces, the file StyleCLIP and StyleGAN-NADA use",
        1024,
        "stated as 'other'; trained by NVIDIA, whose own files are for non-commercial use only",
        "NVIDIA, StyleGAN2 config-f, converted to the rosinality layout",
        hub="wmpscc/StyleGene:stylegan2-ffhq-config-f.pt",
        size=132_729_083,
        sha256="d0d7c5e71531c816b8cf01037393ee4fb65ed09dcb6434cc0197771e3051199b",
        verified="recalled",
    ),
    _ada("afhq-cat", "cat faces", 512, "afhqcat"),
    _ada("afhq-dog", "dog faces", 512, "afhqdog"),
    _ada("afhq-wild", "faces of wild animals", 512, "afhqwild"),
    _ngc("afhq-v2", "cats, dogs and wild animals", 512, "afhqv2"),
    _ada("metfaces", "faces in paintings and sculptures", 1024, "metfaces"),
    _hub("lsun-car", "cars; pictures use the middle 384 rows", 512, "car"),
    _hub("lsun-church", "church buildings", 256, "church"),
    _hub("lsun-horse", "horses", 256, "horse"),
    _hub("lsun-cat", "whole cats", 256, "cat"),
    KnownModel(
        "e4e-ffhq",
        "faces to codes of the 1024x1024 faces generator that StyleCLIP uses",
        256,
        "not stated for the weights; trained on NVIDIA's FFHQ pictures (CC BY-NC-SA 4.0)",
        "Tov et al. 2021, encoder4editing",
        hub="wmpscc/StyleGene:e4e_ffhq_encode.pt",
        size=1_201_649_680,
        sha256="2ace1d9a8c05c10a399bcd500b8dda118f759ff1aac89dbdab7435f2136a0999",
        verified="recalled",
        kind="encoder",
    ),
    KnownModel(
        "arcface",
        "who is in the picture: ArcFace IR-SE50, of aligned faces",
        256,
        "not stated next to the file; training data for non-commercial use only, as far as we know",
        "TreB1eN, InsightFace_Pytorch",
        hub="lithiumice/ArcFace_PyTorch:InsightFace_Pytorch+model_ir_se50.pth",
        size=175_367_323,
        sha256="a035c768259b98ab1ce0e646312f48b9e1e218197a0f80ac6765e88f8b6ddf28",
        kind="recogniser",
    ),
    KnownModel(
        "yunet",
        "where faces are, and their eyes, noses and corners of the mouth",
        640,
        "MIT",
        "Wu et al. 2023, YuNet, in the OpenCV Zoo",
        hub="opencv/face_detection_yunet:face_detection_yunet_2023mar.onnx",
        verified="recalled",
        kind="detector",
    ),
]

REGISTRY: Mapping[str, KnownModel] = {model.name: model for model in _MODELS}


def plan(source: str | Path) -> KnownModel | None:
    """The registry's entry for a source, so that its licence can be shown first; None for paths, URLs and hub ids."""
    return REGISTRY.get(os.fspath(source))


def names_of(kind: str) -> list[str]:
    """The names that stand for a model of a kind; "avatars" does for all kinds but a detector, which nobody needs there."""
    return [m.name for m in REGISTRY.values() if m.kind == kind or (m.verified == "shipped" and kind != "detector")]


def shipped(name: str) -> Path:
    """Where a generator that is part of this package lies."""
    return Path(__file__).parents[1] / "assets" / name / "generator.safetensors"
