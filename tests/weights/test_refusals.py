import gzip
import io
import json
import struct
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from stylograph.errors import LatentsError, WeightsError
from stylograph.files import load_tensors, save_tensors
from stylograph.types import Latents
from stylograph.weights import read
from weights.conftest import GOLDEN


def of(make):
    stream = io.BytesIO()
    make(stream)
    return stream.getvalue()


def zipped(*names):
    def make(stream):
        with zipfile.ZipFile(stream, "w") as archive:
            for name in names:
                archive.writestr(name, b"\x80\x02}.")

    return of(make)


def tarred(stream):
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pkl"))


def tensors(*names, **top):
    return of(lambda stream: torch.save({**{name: torch.zeros(2) for name in names}, **top}, stream))


TF = b"\x80\x03cdnnlib.tflib.network\nNetwork\nq\x00)\x81q\x01}q\x02b."
BRACES = struct.pack("<Q", 50_000) + b'{"a":{"dtype":"F32"'
CASES = {
    "empty": (b"", "an empty file", "download it again"),
    "web page": (b"\n<!DOCTYPE html><html><title>Google Drive - Quota exceeded</title>", "a web page", "browser"),
    "web page with byte order mark": (b"\xef\xbb\xbf<html>", "a web page", "browser"),
    "json": (b'{"message": "Not Found", "status": 404}', "Not Found", "error message"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "Git LFS pointer", "git lfs pull"),
    "gzip": (gzip.compress(b"x" * 100), "a gzip archive", "unpack"),
    "tar": (of(tarred), "a tar archive", "unpack"),
    "rar": (b"Rar!\x1a\x07\x00" + bytes(50), "a rar archive", "unpack"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(50), "a 7z archive", "unpack"),
    "zip": (zipped("readme.txt"), "a zip archive", "unpack"),
    "torchscript": (zipped("m/data.pkl", "m/constants.pkl", "m/code/x.py"), "TorchScript", "made from"),
    "cut zip": (zipped("a/data.pkl")[:60], "cut-off PyTorch file", "download it again"),
    "npz": (of(lambda s: np.savez(s, w=np.zeros(3))), "npz", "not weights"),
    "npy": (of(lambda s: np.save(s, np.zeros(3))), "a numpy array", "not weights"),
    "png": (of(lambda s: Image.new("RGB", (4, 4)).save(s, "png")), "a PNG image", "generator"),
    "jpeg": (of(lambda s: Image.new("RGB", (4, 4)).save(s, "jpeg")), "a JPEG image", "generator"),
    "onnx": (b"\x08\x07\x12\x07pytorch\x1a\x052.0.0" + bytes(range(200)), "an ONNX model", "exported"),
    "tf index": (bytes(range(100)) + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", "a TensorFlow checkpoint", "convert"),
    "tf text": (b'model_checkpoint_path: "model"', "a TensorFlow checkpoint", "convert"),
    "tf pickle": (TF, "a TensorFlow StyleGAN pickle", "convert"),
    "keras": (b"\x89HDF\r\n\x1a\n" + bytes(50), "an HDF5 file", "convert"),
    "text": ("just a note, ünicode".encode(), "a text file", "pass the checkpoint"),
    "zeros": (bytes(1000), "a file of zeros", "download it again"),
    "noise": (bytes(range(7, 250)), "a file of unknown kind", "pass a generator"),
    "cut safetensors": (BRACES, "the beginning of a safetensors file", "download it again"),
    "bad safetensors": (struct.pack("<Q", 12) + b'{"a":nonsens', "damaged checkpoint", "again"),
    "stylegan3 state dict": (tensors("synthesis.input.freqs", "mapping.w_avg"), "a StyleGAN3", "StyleGAN2"),
    "stylegan1": (tensors("generator.progression.0.conv.weight"), "a StyleGAN1", "StyleGAN2"),
    "mapper": (
        tensors(state_dict={"mapper.course_mapping.1.weight": torch.zeros(2)}),
        "a StyleCLIP mapper",
        "trained on",
    ),
    "arcface": (tensors("body.0.res_layer.1.weight", "output_layer.3.weight"), "a face encoder", "generator"),
    "discriminator": (tensors("final_linear.0.weight", "convs.0.0.weight"), "a discriminator", "g_ema"),
    "clip": (tensors("visual.conv1.weight", "positional_embedding"), "a CLIP model", "clip"),
    "other model": (tensors("layer1.0.weight"), "layer1.0.weight", "generator"),
    "latent code": (
        of(lambda s: torch.save(torch.zeros(1, 512), s)),
        r"a single tensor of shape \[1, 512\]",
        "not weights",
    ),
    "whole module": (of(lambda s: torch.save(torch.nn.Linear(2, 2), s)), "whole Python objects", "state_dict"),
    "pickled list": (b"\x80\x04].", "a pickle without a generator", "generator"),
}


@pytest.mark.parametrize("name", CASES)
def test_says_what_it_is_and_what_to_do(tmp_path, name):
    content, what, todo = CASES[name]
    path = tmp_path / "generator.pt"  # the name never matters
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=what) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: got ")
    assert "expected a StyleGAN2 checkpoint (rosinality .pt, NVIDIA .pkl or stylograph .safetensors)" in message
    assert todo in message.partition("expected")[2]
    assert "\n" not in message


def test_safetensors_of_other_models(tmp_path):
    save_file({"text_model.encoder.layers.0.mlp.fc1.weight": torch.zeros(2)}, tmp_path / "clip.safetensors")
    save_file({"model.diffusion_model.out.0.weight": torch.zeros(2)}, tmp_path / "sd.safetensors")
    with pytest.raises(WeightsError, match="got a CLIP model"):
        read(tmp_path / "clip.safetensors")
    with pytest.raises(WeightsError, match="Stable Diffusion"):
        read(tmp_path / "sd.safetensors")


def test_folder_and_missing_file(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"got a folder; .*model\.safetensors"):
        read(tmp_path)
    with pytest.raises(WeightsError, match="no file is"):
        read(tmp_path / "nowhere.pt")


def test_the_name_never_matters(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes((GOLDEN / "pair_nvidia.pkl").read_bytes())
    assert read(path).format == "nvidia"


# ---------------------------------------------------------------- our own files of other kinds


def test_tensors_with_metadata_come_back(tmp_path):
    path = save_tensors(tmp_path / "x.safetensors", {"a": torch.arange(3)}, "edit", {"prompt": "old"})
    found, meta = load_tensors(path, "edit")
    assert torch.equal(found["a"], torch.arange(3))
    assert meta == {"prompt": "old"}
    with pytest.raises(WeightsError, match="kind 'edit'; expected a stylograph latents file"):
        load_tensors(path, "latents")
    with pytest.raises(WeightsError, match="kind 'edit'"):
        read(path)


def test_foreign_files_where_ours_are_expected(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"junk")
    newer = json.dumps({"format": "edit", "version": 99})
    save_file({"a": torch.zeros(2)}, tmp_path / "c.safetensors", metadata={"stylograph": newer})
    for name, what in [
        ("a", "without stylograph's metadata"),
        ("b", "damaged"),
        ("c", "update"),
        ("none", "no file is"),
    ]:
        with pytest.raises(WeightsError, match=what):
            load_tensors(tmp_path / f"{name}.safetensors", "edit")


def test_latents_files(tmp_path):
    path = Latents("w", torch.randn(2, 4)).save(tmp_path / "l.safetensors")
    assert Latents.load(path).space == "w"
    save_tensors(tmp_path / "m.safetensors", {"x": torch.zeros(1)}, "latents", {})
    with pytest.raises(LatentsError, match="without latents"):
        Latents.load(tmp_path / "m.safetensors")
