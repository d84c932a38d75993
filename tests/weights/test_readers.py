import argparse
import json

import pytest
import torch
from safetensors.torch import save_file

from stylograph.errors import OutputError, WeightsError
from stylograph.nets.stylegan2 import StyleGAN2, StyleGAN2Config
from stylograph.weights import describe, read, write
from stylograph.weights.checkpoint import expected_shapes
from weights.conftest import GOLDEN, make_config, make_state


def same(a, b):
    assert a.config == b.config
    assert a.tensors.keys() == b.tensors.keys()
    for name, tensor in a.tensors.items():
        assert torch.equal(tensor, b.tensors[name]), name
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()


def canonical(state):
    return {name: tensor for name, tensor in state.items() if not name.endswith("resample_filter")}


def rosinality_dict(tmp_path):
    """The content of a rosinality file of a small generator, by the field's own loader."""
    write(read(GOLDEN / "pair_nvidia.pkl"), tmp_path / "source.pt")
    return torch.load(tmp_path / "source.pt", weights_only=True)


@pytest.mark.parametrize(
    "config",
    [make_config(), make_config(noise=False), make_config(c_dim=3, embed_features=5), make_config(img_channels=1)],
)
def test_expected_shapes_are_the_networks(config):
    shapes = {name: tuple(t.shape) for name, t in StyleGAN2(config).state_dict().items()}
    assert expected_shapes(config.to_dict()) == shapes


def test_full_size_parameter_count():
    channels = [512, 512, 512, 512, 512, 256, 128, 64, 32]
    config = StyleGAN2Config(1024, tuple(channels), 512, 512, (512,) * 8)
    shapes = expected_shapes(config.to_dict())
    count = sum(torch.Size(s).numel() for name, s in shapes.items() if not name.endswith(("w_avg", "noise_const")))
    assert count == 30_370_060


def test_both_layouts_of_one_generator_are_equal():
    a, b = read(GOLDEN / "pair_rosinality.pt"), read(GOLDEN / "pair_nvidia.pkl")
    same(a, b)
    assert (a.format, b.format) == ("rosinality", "nvidia")
    assert a.config["channels"] == [28, 28, 24, 12]
    assert a.config["mapping_features"] == [40, 40, 40]
    assert a.notes == b.notes == ()


def test_rosinality_zip_is_what_torch_reads():
    checkpoint = read(GOLDEN / "rosinality_tiny.pt")
    stored = torch.load(GOLDEN / "rosinality_tiny.pt", weights_only=True)
    assert torch.equal(checkpoint.tensors["mapping.w_avg"], stored["latent_avg"])
    assert torch.equal(checkpoint.tensors["synthesis.b16.conv0.weight"], stored["g_ema"]["convs.2.conv.weight"][0])
    assert torch.equal(checkpoint.tensors["synthesis.b32.conv1.noise_const"], stored["g_ema"]["noises.noise_6"][0, 0])
    assert torch.equal(checkpoint.tensors["synthesis.b8.torgb.bias"], stored["g_ema"]["to_rgbs.0.bias"].flatten())


def test_fp16_snapshot_keeps_its_clamp():
    checkpoint = read(GOLDEN / "nvidia_fp16_tiny.pkl")
    assert checkpoint.config["conv_clamp"] == 256
    assert checkpoint.tensors["synthesis.b32.conv0.bias"][3] == 250


def test_full_load_into_the_network():
    for name in ("rosinality_tiny.pt", "nvidia_tiny.pkl", "nvidia_fp16_tiny.pkl", "pair_rosinality.pt"):
        checkpoint = read(GOLDEN / name)
        StyleGAN2(StyleGAN2Config.from_dict(checkpoint.config)).load_state_dict(checkpoint.tensors)


# ---------------------------------------------------------------- rosinality variants


def variant(tmp_path, content):
    path = tmp_path / "variant.bin"
    torch.save(content, path)
    return read(path)


def test_places_a_rosinality_generator_can_sit(tmp_path):
    stored = rosinality_dict(tmp_path)
    state, average = stored["g_ema"], stored["latent_avg"]
    wrong = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    expected = read(GOLDEN / "pair_nvidia.pkl")
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    e4e = {f"decoder.{name}": tensor for name, tensor in state.items()} | {"encoder.body.0.weight": torch.zeros(3)}
    options = argparse.Namespace(size=32, arch="stylegan2", device=torch.device("cpu"))
    same(variant(tmp_path, {"g": wrong, "g_ema": state, "latent_avg": average, "args": options}), expected)
    same(variant(tmp_path, {"g": state, "latent_avg": average[None]}), expected)
    same(variant(tmp_path, {"g_ema": wrapped, "latent_avg": average}), expected)
    same(variant(tmp_path, {"state_dict": e4e, "latent_avg": average.repeat(8, 1), "opts": {"lr": 0.1}}), expected)
    nada = variant(tmp_path, {"g_ema": state, "g_optim": {"state": {0: {"step": 1}}, "param_groups": []}})
    assert "mapping.w_avg" not in nada.tensors
    assert "no average latent" in nada.notes[0]
    bare = variant(tmp_path, state)
    assert torch.equal(bare.tensors["synthesis.b4.const"], expected.tensors["synthesis.b4.const"])


def test_average_that_differs_by_layer_is_noted(tmp_path):
    stored = rosinality_dict(tmp_path)
    rows = stored["latent_avg"] + torch.arange(8.0)[:, None]
    checkpoint = variant(tmp_path, {"g_ema": stored["g_ema"], "latent_avg": rows})
    assert torch.allclose(checkpoint.tensors["mapping.w_avg"], stored["latent_avg"] + 3.5)
    assert "layer" in checkpoint.notes[0]


def test_missing_noise_maps_are_drawn_and_noted(tmp_path):
    stored = rosinality_dict(tmp_path)
    state = {k: v for k, v in stored["g_ema"].items() if not k.startswith("noises.")}
    checkpoint = variant(tmp_path, {"g_ema": state, "latent_avg": stored["latent_avg"]})
    assert checkpoint.config["noise"] is True
    assert "noise maps" in checkpoint.notes[0]
    same(checkpoint, variant(tmp_path, {"g_ema": state, "latent_avg": stored["latent_avg"]}))


def test_generator_without_noise(tmp_path):
    stored = rosinality_dict(tmp_path)
    state = {k: v for k, v in stored["g_ema"].items() if "noise" not in k}
    assert variant(tmp_path, {"g_ema": state}).config["noise"] is False


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s.pop("convs.2.conv.weight"), "synthesis.b16.conv0.weight"),
        (lambda s: s.update({"convs.2.conv.extra": torch.zeros(1)}), "convs.2.conv.extra"),
        (lambda s: s.update({"convs.2.conv.weight": torch.zeros(1, 2, 3, 3, 3)}), "synthesis.b16.conv0.weight"),
        (lambda s: s.update({"convs.2.conv.blur.kernel": torch.ones(4, 4)}), "convs.2.conv.blur.kernel"),
        (lambda s: s.update({"to_rgbs.2.iwt.ll": torch.ones(2, 2)}), "SWAGAN"),
        (lambda s: s["input.input"].fill_(float("nan")), "NaN"),
        (lambda s: s.update({"input.input": s["input.input"].long()}), "not as floating point"),
    ],
)
def test_rosinality_defects_are_named(tmp_path, change, named):
    stored = rosinality_dict(tmp_path)
    change(stored["g_ema"])
    with pytest.raises(WeightsError, match=named):
        variant(tmp_path, stored)


# ---------------------------------------------------------------- NVIDIA variants


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_protocols(nvidia_file, protocol):
    config = make_config(conv_clamp=64.0)
    checkpoint = read(nvidia_file(config, protocol=protocol))
    assert StyleGAN2Config.from_dict(checkpoint.config) == config
    for name, tensor in canonical(make_state(config)).items():
        assert torch.equal(checkpoint.tensors[name], tensor), name


@pytest.mark.parametrize(
    "config",
    [
        make_config(c_dim=3, embed_features=5),
        make_config(noise=False),
        make_config(img_channels=1),
        make_config(lr_multiplier=0.1),
    ],
)
def test_unusual_shapes(nvidia_file, config):
    assert StyleGAN2Config.from_dict(read(nvidia_file(config)).config) == config


def test_whole_module_saved_by_torch(nvidia_file):
    config = make_config(conv_clamp=256.0)
    checkpoint = read(nvidia_file(config, whole=True))
    assert checkpoint.config["conv_clamp"] == 256
    assert torch.equal(checkpoint.tensors["mapping.w_avg"], make_state(config)["mapping.w_avg"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_and_strides(nvidia_file, dtype):
    config = make_config()
    state = make_state(config)
    name = "synthesis.b8.conv0.weight"
    state[name] = state[name].to(dtype, memory_format=torch.channels_last)
    found = read(nvidia_file(config, state=state)).tensors[name]
    assert torch.equal(found, state[name].float())
    assert found.is_contiguous()


def test_clamp_comes_from_layers_then_options_then_defaults(nvidia_file):
    config = make_config()

    def edit(options):
        def change(prefix, attributes):
            attributes.pop("conv_clamp", None)
            if not prefix:
                attributes["_init_kwargs"] = options

        return change

    def clamp(options):
        return read(nvidia_file(config, edit=edit(options))).config["conv_clamp"]

    assert clamp({"synthesis_kwargs": {"conv_clamp": 128}}) == 128
    assert clamp({"synthesis_kwargs": {}}) is None  # ADA
    assert clamp({"channel_base": 32768}) == 256  # stylegan3 repository
    assert clamp({"channel_base": 32768, "conv_clamp": None}) is None
    stated = read(nvidia_file(make_config(conv_clamp=7.0)))
    assert stated.config["conv_clamp"] == 7


def attribute(where, name, value):
    def change(prefix, attributes):
        if prefix == where:
            attributes[name] = value

    return change


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (attribute("synthesis.b8", "architecture", "resnet"), "resnet architecture"),
        (attribute("synthesis.b8", "architecture", "orig"), "orig architecture"),
        (attribute("synthesis.b8.conv1", "activation", "relu"), "activation"),
        (attribute("mapping.fc0", "activation", "swish"), "activation"),
        (attribute("synthesis.b8.conv1", "conv_clamp", 1.0), "clamp differently"),
        (attribute("synthesis.b8.conv1", "act_gain", 1.0), "activation gain"),
        (attribute("mapping.fc1", "bias_gain", 1.0), "disagree about lr_multiplier"),
        (attribute("mapping.fc1", "weight_gain", 1.0), "disagree about lr_multiplier"),
        (attribute("", "z_dim", 99), "z_dim is 99"),
        (attribute("synthesis.b8.conv1", "_modules", {"affine": 3}), "no module"),
        (attribute("synthesis.b8.conv1", "_parameters", {"weight": "no"}), "no tensor"),
    ],
)
def test_nvidia_defects_are_named(nvidia_file, edit, named):
    with pytest.raises(WeightsError, match=named):
        read(nvidia_file(make_config(), edit=edit))


def test_other_filter_is_refused(nvidia_file):
    state = make_state(make_config())
    state["synthesis.b8.resample_filter"] = torch.ones(4, 4) / 16
    with pytest.raises(WeightsError, match="resampling filter"):
        read(nvidia_file(make_config(), state=state))


def test_only_g_ema_will_do(nvidia_file):
    path = nvidia_file(make_config(), change=lambda s: {"G": s["G_ema"], "D": None})
    with pytest.raises(WeightsError, match="without G_ema"):
        read(path)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("synthesis.input.freqs", "StyleGAN3"),
        ("mapping.embed_proj.weight", "StyleGAN-XL"),
        ("b16.fromrgb.weight", "another model"),
    ],
)
def test_other_networks_in_nvidias_container(nvidia_file, name, what):
    with pytest.raises(WeightsError, match=what):
        read(nvidia_file(make_config(), state={name: torch.zeros(4, 2), "mapping.w_avg": torch.zeros(4)}))


def test_state_dicts_in_nvidias_names(tmp_path):
    state = make_state(make_config())
    torch.save(state, tmp_path / "a.pt")
    save_file({f"G_ema.{k}": v for k, v in state.items()} | {"D.x": torch.zeros(2)}, tmp_path / "b.safetensors")
    a, b = read(tmp_path / "a.pt"), read(tmp_path / "b.safetensors")
    same(a, b)
    assert "assumed" in a.notes[0]


# ---------------------------------------------------------------- writing and describing


@pytest.mark.parametrize("name", ["nvidia_tiny.pkl", "rosinality_tiny.pt", "pair_nvidia.pkl"])
def test_round_trip_through_every_format(tmp_path, name):
    first = read(GOLDEN / name)
    remarks = write(first, tmp_path / "a.pt")
    assert any("channels" in remark for remark in remarks)
    second = read(tmp_path / "a.pt")
    assert write(second, tmp_path / "b.safetensors") == []
    third = read(tmp_path / "b.safetensors")
    assert (second.format, third.format) == ("rosinality", "stylograph")
    same(first, second)
    same(first, third)


def test_written_rosinality_has_the_references_keys(tmp_path):
    write(read(GOLDEN / "rosinality_tiny.pt"), tmp_path / "a.pt")
    ours, theirs = torch.load(tmp_path / "a.pt"), torch.load(GOLDEN / "rosinality_tiny.pt")
    assert ours["g_ema"].keys() == theirs["g_ema"].keys()
    for key, tensor in theirs["g_ema"].items():
        assert torch.equal(ours["g_ema"][key], tensor), key


def test_official_tables_are_written_without_remarks(nvidia_file, tmp_path):
    config = make_config(channels=(512, 512), resolution=8, z_dim=10, mapping_features=(10,))
    assert write(read(nvidia_file(config)), tmp_path / "a.pt") == []


def test_noise_free_generator_survives_rosinality(nvidia_file, tmp_path):
    first = read(nvidia_file(make_config(noise=False)))
    assert any("no noise inputs" in remark for remark in write(first, tmp_path / "a.pt"))
    same(first, read(tmp_path / "a.pt"))


def test_lost_clamp_is_reported(tmp_path):
    remarks = write(read(GOLDEN / "nvidia_fp16_tiny.pkl"), tmp_path / "a.pt")
    assert any("conv_clamp 256" in remark for remark in remarks)
    assert read(tmp_path / "a.pt").config["conv_clamp"] is None


@pytest.mark.parametrize(
    "config", [make_config(c_dim=3, embed_features=5), make_config(img_channels=1), make_config(lr_multiplier=0.1)]
)
def test_what_rosinality_cannot_hold(nvidia_file, tmp_path, config):
    checkpoint = read(nvidia_file(config))
    with pytest.raises(WeightsError, match="rosinality format can only hold"):
        write(checkpoint, tmp_path / "a.pt")
    assert not list(tmp_path.glob("*a.pt*"))
    write(checkpoint, tmp_path / "a.safetensors")
    same(read(tmp_path / "a.safetensors"), checkpoint)


def test_same_checkpoint_same_bytes(tmp_path):
    checkpoint = read(GOLDEN / "pair_nvidia.pkl")
    for ending in ("safetensors", "pt"):
        write(checkpoint, tmp_path / f"a.{ending}")
        write(checkpoint, tmp_path / f"b.{ending}")
        assert (tmp_path / f"a.{ending}").read_bytes() == (tmp_path / f"b.{ending}").read_bytes()


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    checkpoint = read(GOLDEN / "pair_nvidia.pkl")
    path = tmp_path / "a.pt"
    path.write_bytes(b"old")

    def full(content, stream):
        stream.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        write(checkpoint, path)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]


def test_full_disk_behind_a_torch_error(tmp_path, monkeypatch):
    def full(content, stream):
        try:
            raise OSError(28, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 9984 vs 9878")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        write(read(GOLDEN / "pair_nvidia.pkl"), tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_bad_formats_to_write(tmp_path):
    checkpoint = read(GOLDEN / "pair_nvidia.pkl")
    with pytest.raises(WeightsError, match=r"ending in \.safetensors"):
        write(checkpoint, tmp_path / "a.bin")
    with pytest.raises(WeightsError, match="pkl is not written"):
        write(checkpoint, tmp_path / "a.pkl")
    with pytest.raises(WeightsError, match="expected one of: rosinality"):
        write(checkpoint, tmp_path / "a.bin", format="rosinalty")


def test_describe(tmp_path):
    facts = describe(GOLDEN / "nvidia_fp16_tiny.pkl")
    state = read(GOLDEN / "nvidia_fp16_tiny.pkl").tensors
    assert facts["parameters"] == sum(
        t.numel() for k, t in state.items() if "noise_const" not in k and "w_avg" not in k
    )
    assert facts["size"] == 485744
    assert len(facts["sha256"]) == 64
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"version": 2}, "update stylograph"),
        ({"version": "x"}, "update stylograph"),
        ({"arch": "stylegan9"}, "architecture 'stylegan9'"),
        ({"format": "latents"}, "kind 'latents'"),
        ({"config": {"conv_clamp": None, "lr_multiplier": 0.01, "resolution": 64}}, "disagree about"),
        ({"config": None}, "config"),
        ({"format": None}, "metadata makes no sense"),
    ],
)
def test_native_metadata_is_checked(tmp_path, change, named):
    checkpoint = read(GOLDEN / "pair_nvidia.pkl")
    meta = {"format": "generator", "version": 1, "arch": "stylegan2", "config": checkpoint.config, "provenance": {}}
    save_file(checkpoint.tensors, tmp_path / "a.safetensors", metadata={"stylograph": json.dumps({**meta, **change})})
    with pytest.raises(WeightsError, match=named):
        read(tmp_path / "a.safetensors")
