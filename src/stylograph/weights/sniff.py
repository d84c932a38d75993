"""What a file is, by its content; never by its name."""

from __future__ import annotations

import codecs
import re
import zipfile
from collections.abc import Collection, Iterable
from itertools import islice
from pathlib import Path

from stylograph.errors import WeightsError
from stylograph.weights.checkpoint import refusal

READABLE = ("safetensors", "zip", "legacy", "pickle")
AGAIN = "download it again"
MAX_HEADER = 100_000_000
LEGACY_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."

_MAGIC = [
    (b"\x1f\x8b", "a gzip archive", "unpack it first and pass the file inside"),
    (b"\xfd7zXZ\x00", "an xz archive", "unpack it first and pass the file inside"),
    (b"BZh", "a bzip2 archive", "unpack it first and pass the file inside"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive", "unpack it first and pass the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first and pass the file inside"),
    (b"Rar!\x1a\x07", "a rar archive", "unpack it first and pass the file inside"),
    (b"\x89PNG", "a PNG image", "to edit a picture pass it as the image and a generator as the model"),
    (b"\xff\xd8\xff", "a JPEG image", "to edit a picture pass it as the image and a generator as the model"),
    (b"GIF8", "a GIF image", "pass a generator instead"),
    (b"RIFF", "a WebP, WAV or AVI file", "pass a generator instead"),
    (b"%PDF", "a PDF document", "pass a generator instead"),
    (b"\x89HDF", "an HDF5 file (Keras weights?)", "convert it to one of these first"),
    (b"GGUF", "a GGUF language model", "pass a generator instead"),
    (b"\x93NUMPY", "a numpy array", "latent codes are not weights; pass a generator"),
]
TENSORFLOW = (
    "convert it first, e.g. with the official stylegan3 repository's legacy.py or rosinality's convert_weight.py"
)
# A name among the tensors -> what such a file is; first match wins.
_NAMES = [
    (r"synthesis\.b\d+\.skip\.weight", "a StyleGAN2 of the resnet architecture", "only the skip architecture is supported"),
    (r"mapping\.embed_proj\.", "a StyleGAN-XL", "StyleGAN-XL is not supported"),
    (r"synthesis\.input\.(freqs|phases|transform)", "a StyleGAN3", "StyleGAN3 is not supported; take a StyleGAN2"),
    (r"\.iwt\.|\.dwt\.", "a SWAGAN (wavelet) generator", "train or take arch=stylegan2"),
    (r"progression\.\d+\.", "a StyleGAN1", "take a StyleGAN2"),
    (r"g_mapping\.|g_synthesis\.|synthesis\.blocks\.", "a StyleGAN1", "take a StyleGAN2"),
    (r"(^|\.)mapper\.|course_mapping\.", "a StyleCLIP mapper without its generator", "pass the generator it was trained on"),
    (r"model\.diffusion_model\.|down_blocks\.\d+\.|lora_unet_", "a diffusion model (Stable Diffusion)", "take a StyleGAN2"),
    (r"text_model\.encoder\.|vision_model\.|visual\.transformer\.|visual\.conv1\.", "a CLIP model", "pass it as clip instead"),
    (r"output_layer\.\d+\.|body\.\d+\.res_layer\.", "a face encoder (ArcFace IR-SE50, e4e or pSp) without generator", "pass the generator itself"),
    (r"final_conv\.|final_linear\.", "a discriminator", "pass the file that holds the generator (g_ema)"),
]  # fmt: skip


def recognise(path: Path) -> str:
    """The container of a checkpoint file: one of `READABLE`. Raises `WeightsError` saying what else it is."""
    size = path.stat().st_size
    if size == 0:
        raise refusal("an empty file", AGAIN)
    with open(path, "rb") as stream:
        head = stream.read(4096)
        stream.seek(-min(size, 8), 2)
        tail = stream.read()
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and 2 <= header <= MAX_HEADER:
        if header > size - 8:
            raise refusal("the beginning of a safetensors file", AGAIN)
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return _zip_kind(path)
    if head.startswith(LEGACY_START):
        return "legacy"
    if head[0] == 0x80 and len(head) > 1 and 2 <= head[1] <= 5:
        return "pickle"
    page = web_answer(head)
    if page is not None:
        raise page
    for magic, what, todo in _MAGIC:
        if head.startswith(magic):
            raise refusal(what, todo)
    if head[257:262] == b"ustar":
        raise refusal("a tar archive", "unpack it first and pass the file inside")
    if tail == b"\x57\xfb\x80\x8b\x24\x75\x47\xdb" or head.startswith(b"model_checkpoint_path:"):
        raise refusal("a TensorFlow checkpoint", TENSORFLOW)
    if head[:1] == b"\x08" and re.search(rb"onnx|pytorch|tf2onnx|skl2onnx", head[:200]):
        raise refusal("an ONNX model", "pass the PyTorch checkpoint it was exported from")
    if not head.strip(b"\x00"):
        raise refusal("a file of zeros (an interrupted download)", AGAIN)
    if _is_text(head):
        raise refusal("a text file", "pass the checkpoint itself")
    raise refusal("a file of unknown kind", "pass a generator's checkpoint")


def web_answer(head: bytes) -> WeightsError | None:
    """The error about what servers send instead of a file: a web page, a JSON message, a Git LFS pointer."""
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:512].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<?xml", b"<head", b"<script")):
        return refusal(
            "a web page saved in place of the file",
            "open the link in a browser and save the file itself (Google Drive and Dropbox links lead to a page; "
            "on the Hugging Face hub or GitHub use the link with /resolve/ or /raw/ instead of /blob/)",
        )
    if start.startswith(b"version https://git-lfs"):
        return refusal("a Git LFS pointer instead of the file", "run `git lfs pull`, or download the file itself")
    if start.startswith((b"{", b"[")) and _is_text(head):
        message = head.decode("utf-8", "replace").strip()[:200]
        return refusal(f"a JSON text ({message!r})", "if it came from a server, that is its error message")
    return None


def explain(names: Iterable[object]) -> WeightsError:
    """The error about a collection of tensors that is no StyleGAN2."""
    known = [name for name in islice(names, 5000) if isinstance(name, str)]
    for pattern, what, todo in _NAMES:
        if any(re.search(pattern, name[:200]) for name in known):
            return refusal(what, todo)
    listed = ", ".join(name[:60] for name in known[:4]) + (", ..." if len(known) > 4 else "")
    return refusal(f"a file of another model (it holds {listed or 'nothing'})", "pass a generator's checkpoint")


def unknown_global(name: str) -> WeightsError:
    """The error about a pickle that wants something no checkpoint needs."""
    shown = name[:80].replace(" ", ".")
    if name.startswith("dnnlib.tflib"):
        return refusal("a TensorFlow StyleGAN pickle", TENSORFLOW)
    if name.startswith("__torch__"):
        return refusal("a TorchScript archive", "pass the checkpoint it was made from")
    if re.match(
        r"(torch\.nn|torch_utils|training|models?|networks|timm|torchvision|pytorch_lightning|omegaconf)\b", name
    ):
        return refusal(
            f"a pickle of whole Python objects ({shown})",
            "save the generator's state_dict() where it was made, and pass that",
        )
    return refusal(
        f"a pickle that asks for {shown}, which no StyleGAN2 checkpoint needs; nothing in it was run",
        "do not open this file with other tools unless you trust its author",
    )


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names: Collection[str] = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, NotImplementedError) as error:
        raise refusal("a damaged or cut-off PyTorch file (a zip without its end)", AGAIN) from error
    if any(name.endswith("constants.pkl") or "/code/" in name for name in names):
        raise refusal("a TorchScript archive", "pass the checkpoint it was made from")
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        return "zip"
    if names and all(name.endswith(".npy") for name in names):
        raise refusal("a numpy .npz archive", "latent codes are not weights; pass a generator")
    raise refusal("a zip archive", "unpack it first and pass the file inside")


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # a character cut off at the end is no error
    except UnicodeDecodeError:
        return False
    return all(c.isprintable() or c in "\r\n\t\f" for c in text)
