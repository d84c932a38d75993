"""Encoders of faces: e4e against recorded numbers, files as their authors publish them, and files that are something else."""

import argparse
import dataclasses
import hashlib
import os
import tempfile
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from fill import filled, pictures

from stylograph.encoder import Encoder
from stylograph.errors import DownloadError, LatentsError, StylographError, WeightsError
from stylograph.generator import Generator
from stylograph.nets.e4e import EncoderConfig, FaceEncoder
from stylograph.nets.stylegan2 import StyleGAN2Config
from stylograph.weights import REGISTRY

GOLDEN = Path(__file__).parent / "golden"
TYPES = {"e4e": "Encoder4Editing", "psp": "GradualStyleEncoder", "w": "BackboneEncoderUsingLastLayerIntoW"}
SHAPE = {"num_ws": 8, "w_dim": 20, "widths": (16, 20, 24, 32)}
"""The codes of the generator `tiny`, from a backbone of the usual depth and few channels."""


def made(config):
    with torch.device("meta"):
        network = FaceEncoder(config)
    network.load_state_dict(filled(network.state_dict()), assign=True)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def networks():
    return {kind: made(EncoderConfig(kind, **SHAPE)) for kind in TYPES}


@pytest.fixture
def publish(networks, tmp_path):
    """Writes a checkpoint as pSp and e4e do: with the generator, which must not be read, and the options."""

    def write(kind="e4e", *, opts=(), change=lambda state: None, average=None, wrap=dict, legacy=False):
        state = {f"encoder.{name}": tensor for name, tensor in networks[kind].state_dict().items()}
        state["decoder.style.1.weight"] = torch.full((4, 4), float("nan"))
        change(state)
        options = {"encoder_type": TYPES[kind], "stylegan_size": 32, "device": torch.device("cpu"), "steps": [0, 1]}
        content = {"state_dict": state, "opts": wrap(**(options | dict(opts)))}
        if average is not None:
            content["latent_avg"] = average
        path = tmp_path / f"{kind}.pt"
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        return path

    return write


class TestNetwork:
    def test_gives_the_recorded_codes(self, golden):
        large = made(EncoderConfig("e4e", 18))
        assert sum(p.numel() for p in large.parameters()) == 267_136_704
        state = large.state_dict()
        assert len(state) == 621
        with torch.device("meta"):
            small = FaceEncoder(EncoderConfig("e4e", 14)).eval()
        # Weights depend on their names only: the smaller network has the first fourteen heads of the larger one.
        small.load_state_dict({name: state[name] for name in small.state_dict()}, assign=True)
        for network, name in ((large, "e4e_1024_expected.npz"), (small, "e4e_256_expected.npz")):
            recorded = golden(name)
            for i, key in enumerate(recorded["fill_check_keys"]):
                flat = network.state_dict()[str(key)].flatten()
                assert torch.allclose(flat[:8], recorded["fill_check_first8"][i], atol=1e-7)
                assert torch.allclose(flat[-8:], recorded["fill_check_last8"][i], atol=1e-7)
            with torch.no_grad():
                heads = network.heads(pictures(256))
            assert (heads[:1, :1] - recorded["latents_stage_w_only"]).abs().max() < 5e-6
            codes = torch.cat([heads[:, :1], heads[:, :1] + heads[:, 1:]], dim=1)
            assert (codes - recorded["latents"]).abs().max() < 5e-6

    def test_what_the_kinds_make_of_their_heads(self, networks):
        images = pictures(256)[:1]
        said = networks["e4e"].heads(images)
        assert said.shape == (1, 8, 20)
        assert torch.equal(networks["psp"](images), said)
        codes = networks["e4e"](images)
        assert torch.equal(codes[:, 0], said[:, 0])
        assert torch.allclose(codes[:, 1:], said[:, :1] + said[:, 1:], atol=1e-6)

    def test_a_code_for_all_layers_comes_from_the_average_of_the_last_map(self, networks):
        network, images = networks["w"], pictures(256)
        features = network.body(network.input_layer(images))
        assert features.shape == (2, 32, 16, 16)
        weight, bias = network.linear.weight, network.linear.bias
        expected = F.adaptive_avg_pool2d(features, 1)[:, :, 0, 0] @ weight.T / 32**0.5 + bias
        codes = network(images)
        assert codes.shape == (2, 8, 20)
        assert torch.allclose(codes, expected[:, None].expand(-1, 8, -1), atol=1e-5)

    @pytest.mark.parametrize(
        "change", [{"kind": "x"}, {"num_ws": 0}, {"num_ws": 33}, {"w_dim": 0}, {"widths": (16,) * 3}]
    )
    def test_impossible_shapes_are_refused(self, change):
        with pytest.raises(ValueError, match="an encoder"):
            EncoderConfig(**({"kind": "e4e"} | SHAPE | change))


class TestFiles:
    @pytest.mark.parametrize("kind", TYPES)
    @pytest.mark.parametrize("legacy", [False, True])
    @pytest.mark.parametrize("wrap", [dict, argparse.Namespace])
    def test_published_files(self, publish, networks, kind, legacy, wrap):
        encoder = Encoder.from_pretrained(publish(kind, legacy=legacy, wrap=wrap))
        assert (encoder.name, encoder.size, encoder.num_ws, encoder.w_dim) == (kind, 256, 8, 20)
        assert encoder.digest_of_generator is None
        images = pictures(256)[:1]
        assert torch.equal(encoder.encode(images), networks[kind](images))

    def test_half_precision_files(self, publish, networks):
        def halve(state):
            state.update({name: t.half() for name, t in state.items() if t.is_floating_point()})

        found, exact = (
            Encoder.from_pretrained(publish(change=halve)).encode(pictures(256)),
            networks["e4e"](pictures(256)),
        )
        assert 0 < (found - exact).abs().max() < 0.02
        assert found.dtype == torch.float32

    @pytest.mark.parametrize("shape", [(20,), (1, 20), (8, 20)])
    @pytest.mark.parametrize("opts", [{}, {"start_from_latent_avg": True}])
    def test_the_average_latent_is_added(self, publish, networks, shape, opts):
        average = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
        codes = Encoder.from_pretrained(publish(average=average, opts=opts)).encode(pictures(256))
        assert torch.allclose(codes, networks["e4e"](pictures(256)) + average.float(), atol=1e-5)

    def test_the_average_latent_is_not_added_where_the_options_say_so(self, publish, networks):
        path = publish(average=torch.ones(20), opts={"start_from_latent_avg": False})
        assert torch.equal(Encoder.from_pretrained(path).encode(pictures(256)), networks["e4e"](pictures(256)))

    def test_a_single_head_takes_its_number_of_vectors_from_the_average(self, publish):
        path = publish("w", average=torch.zeros(5, 20), opts={"stylegan_size": "?"})
        assert Encoder.from_pretrained(path).encode(pictures(256)).shape == (2, 5, 20)
        path = publish("w", average=torch.zeros(1, 20), opts={"stylegan_size": 1024})
        assert Encoder.from_pretrained(path).num_ws == 18

    def test_the_options_decide_between_networks_with_the_same_names(self, publish):
        images = pictures(256)[:1]
        e4e, psp = (
            Encoder.from_pretrained(publish(opts={"encoder_type": TYPES[kind]})).encode(images)
            for kind in ("e4e", "psp")
        )
        assert torch.equal(e4e[:, 0], psp[:, 0])
        assert torch.allclose(e4e[:, 1:] - psp[:, 1:], psp[:, :1].expand(-1, 7, -1), atol=1e-5)


def widen(channels):
    return lambda state: state.update({"encoder.input_layer.0.weight": torch.zeros(16, channels, 3, 3)})


def drop(name):
    return lambda state: state.pop(f"encoder.{name}")


def put(name, tensor):
    return lambda state: state.update({f"encoder.{name}": tensor})


NAN = torch.full((20,), float("nan"))
REFUSED = {
    "ReStyle": ({"change": widen(6)}, "an encoder of ReStyle.*pass an e4e file"),
    "labels": ({"change": widen(19)}, "pictures with 19 channels"),
    "cars": ({"opts": {"dataset_type": "cars_encode"}}, "an encoder of cars"),
    "nothing said": ({"opts": {"encoder_type": None}}, "opts do not say its encoder_type"),
    "other type": ({"opts": {"encoder_type": "Z\x1b[31m"}}, r"opts say encoder_type 'Z\\x1b\[31m'.*Encoder4Editing"),
    "missing": ({"change": drop("latlayer1.bias")}, r"1 tensors that do not fit \(latlayer1.bias: got nothing, expected"),
    "no first layer": ({"change": drop("input_layer.0.weight")}, r"input_layer.0.weight: got nothing"),
    "no backbone": ({"change": drop("body.6.res_layer.1.weight")}, "vectors and maps of .* channels"),
    "gap": ({"change": drop("styles.3.linear.weight")}, r"styles\.3\.linear\.weight: got nothing|styles\.7"),
    "unknown": ({"change": put("extra", torch.zeros(2))}, r"extra: got \[2\], expected nothing"),
    "wrong shape": ({"change": put("latlayer2.bias", torch.zeros(3))}, r"latlayer2.bias: got \[3\], expected \[32\]"),
    "scalar": ({"change": put("styles.0.linear.weight", torch.zeros(()))}, "vectors and maps of"),
    "NaN": ({"change": put("styles.0.linear.bias", NAN)}, "NaN or infinite values in styles.0.linear.bias"),
    "NaN average": ({"average": NAN}, "NaN or infinite values in latent_avg"),
    "average": ({"average": torch.zeros(7, 20)}, r"an average latent of shape \[7, 20\] beside codes \[8, 20\]"),
    "average of another width": ({"average": torch.zeros(21)}, r"an average latent of shape \[21\]"),
    "no average": ({"opts": {"start_from_latent_avg": True}}, "starts from an average latent the file lacks"),
    "no size": ({"kind": "w", "opts": {"stylegan_size": None}}, "does not say how large"),
    "odd size": ({"kind": "w", "opts": {"stylegan_size": 100}}, "does not say how large"),
}  # fmt: skip


class TestRefusals:
    @pytest.mark.parametrize("case", REFUSED)
    def test_a_file_that_is_not_quite_it(self, publish, case):
        arguments, message = REFUSED[case]
        path = publish(**arguments)
        with pytest.raises(WeightsError, match=message) as caught:
            Encoder.from_pretrained(path)
        assert str(caught.value).startswith(f"{path}: got ")
        assert "expected a face encoder of e4e or pSp (.pt)" in str(caught.value)
        assert str(caught.value).isprintable()

    def test_thousands_of_heads_are_not_built(self, publish):
        def many(state):
            state.update({f"encoder.styles.{j}.linear.weight": torch.zeros(20, 20) for j in range(2000)})

        with pytest.raises(WeightsError, match="2000 vectors"):
            Encoder.from_pretrained(publish(change=many))

    @pytest.mark.parametrize("name", ["rosinality_tiny.pt", "nvidia_tiny.pkl", "mapper_tiny.pt"])
    def test_another_network(self, name):
        with pytest.raises(WeightsError, match=f"{name}: got .*expected a face encoder of e4e or pSp"):
            Encoder.from_pretrained(GOLDEN / name)

    def test_a_recogniser_or_a_bare_encoder(self, networks, tmp_path):
        torch.save(networks["e4e"].state_dict(), tmp_path / "bare.pt")
        with pytest.raises(WeightsError, match=r"bare\.pt: got a file without tensors named encoder\.\*"):
            Encoder.from_pretrained(tmp_path / "bare.pt")

    def test_what_is_no_checkpoint(self, tmp_path, publish):
        (tmp_path / "text.pt").write_text("hello")
        with pytest.raises(WeightsError, match="a text file"):
            Encoder.from_pretrained(tmp_path / "text.pt")
        whole = publish().read_bytes()
        (tmp_path / "half.pt").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(WeightsError, match="damaged or cut-off"):
            Encoder.from_pretrained(tmp_path / "half.pt")
        with pytest.raises(WeightsError, match="where no file is"):
            Encoder.from_pretrained(tmp_path / "missing.pt")

    @pytest.mark.parametrize("name", ["os_system.pkl", "builtins_eval.pkl", "hidden_in_zip.pt", "module_src_exec.pkl"])
    def test_hostile_files(self, name):
        with pytest.raises(WeightsError):
            Encoder.from_pretrained(GOLDEN / "malicious" / name)
        assert not (Path(tempfile.gettempdir()) / "stylograph_pwned").exists()

    @pytest.mark.parametrize("place", ["state_dict", "opts", "Namespace", "latent_avg"])
    def test_code_in_a_file_is_not_run(self, tmp_path, place):
        class Payload:
            def __reduce__(self):
                return os.system, (f"touch {tmp_path}/ran",)

        content = {"state_dict": {"encoder.input_layer.0.weight": torch.zeros(16, 3, 3, 3)}, "opts": {}}
        if place == "latent_avg":
            content["latent_avg"] = Payload()
        elif place == "Namespace":
            content["opts"] = argparse.Namespace(encoder_type=Payload())
        else:
            content[place]["encoder.x"] = Payload()
        torch.save(content, tmp_path / "bad.pt")
        with pytest.raises(WeightsError, match="nothing in it was run"):
            Encoder.from_pretrained(tmp_path / "bad.pt")
        assert not (tmp_path / "ran").exists()


class TestNames:
    def test_another_kind_of_model(self):
        with pytest.raises(
            WeightsError, match=r"'arcface', a face recogniser; expected a face encoder \(avatars, e4e-ffhq,"
        ):
            Encoder.from_pretrained("arcface")
        with pytest.raises(WeightsError, match="'ffhq-1024', a generator; expected a face encoder"):
            Encoder.from_pretrained("ffhq-1024")
        with pytest.raises(WeightsError, match="got model 'e4e'; expected one of: e4e-ffhq, avatars"):
            Encoder.from_pretrained("e4e")

    def test_a_known_name_is_downloaded_and_checked(self, publish, networks, monkeypatch):
        path = publish()
        asked = []

        def get(repo, file, *, local_files_only):
            asked.append((repo, file, local_files_only))
            return str(path)

        monkeypatch.setattr("huggingface_hub.hf_hub_download", get)
        with pytest.raises(DownloadError, match="expected 1201649680"):
            Encoder.from_pretrained("e4e-ffhq", offline=True)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        known = dataclasses.replace(REGISTRY["e4e-ffhq"], size=path.stat().st_size, sha256=digest)
        monkeypatch.setattr("stylograph.weights.registry.REGISTRY", {"e4e-ffhq": known})
        encoder = Encoder.from_pretrained("e4e-ffhq")
        assert encoder.name == "e4e-ffhq"
        assert torch.equal(encoder.encode(pictures(256)), networks["e4e"](pictures(256)))
        assert asked == [("wmpscc/StyleGene", "e4e_ffhq_encode.pt", offline) for offline in (True, False)]


@pytest.fixture(scope="module")
def encoder(networks):
    network = networks["e4e"]
    return Encoder(
        network, lambda images: network(F.adaptive_avg_pool2d(images, 256)), name="x", size=256, num_ws=8, w_dim=20
    )


class TestEncoding:
    def test_any_size(self, publish):
        encoder = Encoder.from_pretrained(publish())
        images = pictures(256)
        codes = encoder.encode(images)
        enlarged = images.repeat_interleave(3, -1).repeat_interleave(3, -2)
        assert torch.allclose(encoder.encode(enlarged), codes, atol=1e-4)
        wide = torch.cat([torch.ones(2, 3, 256, 40), images, torch.ones(2, 3, 256, 40)], dim=3)
        assert torch.equal(encoder.encode(wide), codes)
        assert torch.equal(encoder.encode(wide.mT), encoder.encode(images.mT))
        for shape in ((1, 3, 1, 1), (1, 3, 7, 300), (3, 3, 64, 64)):
            found = encoder.encode(torch.zeros(shape))
            assert found.shape == (shape[0], 8, 20)
            assert torch.allclose(found, encoder.encode(torch.zeros(1, 3, 256, 256)).expand_as(found), atol=1e-4)
        rounded = encoder.encode(images.half())
        assert rounded.dtype == torch.float32
        assert torch.equal(rounded, encoder.encode(images.half().float()))

    def test_pictures_do_not_influence_each_other(self, encoder):
        images = pictures(256)
        together = encoder.encode(torch.cat([images, images.flip(0)]))
        assert not torch.allclose(together[0], together[1], atol=1e-2)
        assert torch.allclose(together[:2], together[2:].flip(0), atol=1e-5)
        for i in range(2):
            assert torch.allclose(encoder.encode(images[i : i + 1]), together[i : i + 1], atol=1e-5)

    def test_the_gradient_is_that_of_the_codes(self, encoder):
        images = pictures(64)[:1].requires_grad_()
        rng = torch.Generator().manual_seed(0)
        probe = torch.randn(1, 8, 20, generator=rng)
        (encoder.encode(images) * probe).sum().backward()
        assert images.grad.isfinite().all()
        assert all(p.grad is None and not p.requires_grad for p in encoder.network.parameters())
        direction = images.grad / images.grad.norm()
        with torch.no_grad():
            ahead, behind = (float((encoder.encode(images + s * direction) * probe).sum()) for s in (0.01, -0.01))
        assert (ahead - behind) / 0.02 == pytest.approx(float(images.grad.norm()), rel=0.02)

    @pytest.mark.parametrize(
        "shape", [(3, 64, 64), (1, 1, 64, 64), (1, 6, 64, 64), (0, 3, 64, 64), (1, 3, 0, 64), (2, 8, 20)]
    )
    def test_shapes_are_checked(self, encoder, tiny, shape):
        for action in (encoder.encode, lambda images: encoder.latents(images, tiny)):
            with pytest.raises(StylographError, match=r"got images of shape .*; expected \[N, 3, H, W\]"):
                action(torch.zeros(shape))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_values_are_checked(self, encoder, value):
        images = pictures(64)
        images[1, 2, 3, 4] = value
        with pytest.raises(StylographError, match="got images with NaN or infinite values"):
            encoder.encode(images)


class TestLatents:
    def test_they_belong_to_the_generator(self, encoder, tiny):
        images = pictures(64).requires_grad_()
        latents = encoder.latents(images, tiny)
        assert (latents.space, latents.generator) == ("w+", tiny)
        assert torch.equal(latents.tensor, encoder.encode(images))
        tiny.render(latents).square().mean().backward()
        assert images.grad.abs().sum() > 0

    def test_a_generator_of_another_size_is_refused(self, networks):
        network = networks["psp"]
        large = Encoder(network, network, name="e4e-ffhq", size=256, num_ws=18, w_dim=512)
        small = Generator.random(StyleGAN2Config(256, (16,) * 7, z_dim=16, w_dim=512, mapping_features=(512,)))
        wanted = "got a generator of 14 vectors of 512 numbers; the encoder e4e-ffhq gives 18 of 512; pass an encoder"
        with pytest.raises(WeightsError, match=wanted):
            large.latents(pictures(64), small)
        other = Generator.random(StyleGAN2Config(32, (16,) * 4, z_dim=16, w_dim=24, mapping_features=(24,)))
        with pytest.raises(WeightsError, match="8 vectors of 24 numbers"):
            Encoder(network, network, name="x", size=256, num_ws=8, w_dim=20).latents(pictures(64), other)

    def test_only_its_own_generator_and_what_was_adapted_from_it(self, networks, tiny):
        network = networks["e4e"]

        def encoder(digest):
            return Encoder(network, network, name="x", size=256, num_ws=8, w_dim=20, digest_of_generator=digest)

        child = Generator(tiny.net, provenance={"ancestors": ["f" * 64]})
        images = pictures(256)[:1]
        assert encoder(tiny.digest).latents(images, tiny).generator is tiny
        assert encoder("f" * 64).latents(images, child).generator is child
        with pytest.raises(
            WeightsError, match=f"got generator {tiny.digest[:12]}; the encoder x was trained for ffffffffffff;"
        ):
            encoder("f" * 64).latents(images, tiny)

    def test_codes_that_explode_are_no_latents(self, tiny, networks):
        broken = Encoder(
            networks["e4e"], lambda x: x.new_full((1, 8, 20), float("inf")), name="x", size=256, num_ws=8, w_dim=20
        )
        with pytest.raises(LatentsError, match="NaN or infinite"):
            broken.latents(pictures(64)[:1], tiny)
