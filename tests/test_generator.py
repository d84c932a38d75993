"""The generator against numbers recorded from the reference implementations, and its own promises."""

import pytest
import torch
from conftest import GOLDEN, TINY

from stylograph import Generator, Latents
from stylograph.errors import LatentsError, StylographError, WeightsError
from stylograph.nets.modulation import fir_kernel, upsample_image
from stylograph.nets.stylegan2 import StyleGAN2Config


def close(got, expected, tolerance=5e-5):
    assert got.shape == expected.shape
    scale = max(1.0, float(expected.abs().max()) / 15)
    assert float((got - expected).abs().max()) <= tolerance * scale


class TestRosinality:
    @pytest.fixture
    def generator(self):
        return Generator.from_pretrained(GOLDEN / "rosinality_tiny.pt")

    @pytest.fixture
    def expected(self, golden):
        return golden("rosinality_tiny_expected.npz")

    def test_mapping_and_truncation(self, generator, expected):
        close(generator.map(expected["z"]).tensor, expected["w"])
        close(generator.map(expected["z"], truncation=0.7).tensor, expected["w_psi07"])
        close(generator.mean().tensor[0], expected["latent_avg"])

    def test_images(self, generator, expected):
        close(generator.render(generator.map(expected["z"])), expected["image_from_z"])
        close(generator.render(generator.map(expected["z"], truncation=0.7)), expected["image_from_z_psi07"])
        wplus = Latents("w+", expected["wplus"])
        close(generator.render(wplus), expected["image_from_wplus"])
        close(generator.render(wplus, noise="none"), expected["image_from_wplus_zero_noise"])

    def test_style_mixing(self, generator, expected):
        w = generator.map(expected["z"]).tensor
        mixed = torch.where(torch.arange(generator.num_ws)[:, None] < 3, w[:1, None], w[1:2, None])
        close(generator.render(Latents("w+", mixed)), expected["image_mix_z0_z1_inject3"])

    def test_given_noise(self, generator, expected):
        convs = [layer.name for layer in generator.layers if not layer.to_rgb]
        for i, name in enumerate(convs):
            conv = generator.net.synthesis.get_submodule(name)
            conv.noise_const.copy_(expected[f"noise_in_{i}"][0, 0])
        close(generator.render(Latents("w+", expected["wplus"])), expected["image_from_wplus_noise_in"])

    def test_stylespace(self, generator, expected):
        s = generator.styles(Latents("w+", expected["wplus"]))
        for i, layer in enumerate(generator.layers):
            close(s.tensor[:, layer.s_slice], expected[f"s_{i:02}"])
        for k in range(3):
            place, channel = int(expected["s_edit_layer"][k]), int(expected["s_edit_channel"][k])
            moved = s.tensor.clone()
            moved[:, generator.layers[place].s_slice.start + channel] += float(expected["s_edit_delta"][k])
            close(generator.render(s.with_tensor(moved)), expected[f"image_s_edit_{k}"])

    def test_gradient(self, generator, expected):
        wplus = expected["wplus"].clone().requires_grad_()
        (generator.render(Latents("w+", wplus)) * expected["grad_probe"]).mean().backward()
        assert torch.allclose(wplus.grad, expected["grad_wplus_of_mean_image_times_probe"], atol=1e-7, rtol=1e-4)


class TestNvidia:
    @pytest.mark.parametrize("name", ["nvidia_tiny", "nvidia_fp16_tiny"])
    def test_reference_numbers(self, name, golden):
        generator, expected = Generator.from_pretrained(GOLDEN / f"{name}.pkl"), golden(f"{name}_expected.npz")
        z = expected["z"]
        close(generator.map(z).tensor, expected["w"])
        close(generator.map(z, truncation=0.7).tensor, expected["ws_psi07"][:, 0])
        close(generator.map(z, truncation=0.5, truncation_cutoff=4).tensor, expected["ws_psi05_cutoff4"])
        ws = Latents("w+", expected["ws"])
        close(generator.render(ws), expected["image_const"])
        close(generator.render(ws, noise="none"), expected["image_none"])
        close(generator.render(Latents("w+", expected["wplus_mixed"])), expected["image_const_wplus_mixed"])

    def test_clamping_is_kept(self, golden):
        generator, expected = (
            Generator.from_pretrained(GOLDEN / "nvidia_fp16_tiny.pkl"),
            golden("nvidia_fp16_tiny_expected.npz"),
        )
        assert generator.config.conv_clamp == 256
        close(generator.render(Latents("w+", expected["ws_times_100"])), expected["image_const_ws_times_100"], 1e-4)

    def test_stylespace(self, golden):
        generator, expected = (
            Generator.from_pretrained(GOLDEN / "nvidia_tiny.pkl"),
            golden("nvidia_tiny_stylespace.npz"),
        )
        reference = golden("nvidia_tiny_expected.npz")
        s = generator.styles(Latents("w+", reference["ws"]))
        for i, layer in enumerate(generator.layers):
            close(s.tensor[:, layer.s_slice], expected[f"s_{i:02}"])
        for k, (place, channel, delta) in enumerate([(3, 5, 6.0), (10, 1, -4.0)]):
            moved = s.tensor[:2].clone()
            moved[:, generator.layers[place].s_slice.start + channel] += delta
            image = next(v for n, v in expected.items() if n.startswith("image") and n.endswith(f"_{k}"))
            close(generator.render(s.with_tensor(moved)), image)


class TestTwins:
    """One network in both layouts, and through every writer."""

    def test_both_layouts_render_the_same(self, golden):
        expected = golden("pair_expected.npz")
        for name, kind in (("pair_nvidia.pkl", "nvidia"), ("pair_rosinality.pt", "rosinality")):
            generator = Generator.from_pretrained(GOLDEN / name)
            close(generator.map(expected["z"]).tensor, expected["w"])
            close(generator.render(generator.map(expected["z"])), expected["image_z_nvidia"])
            close(generator.render(Latents("w+", expected["wplus"])), expected[f"image_wplus_{kind}"])
            close(
                generator.render(Latents("w+", expected["wplus"]), noise="none"),
                expected["image_wplus_no_noise_nvidia"],
            )

    def test_same_digest_from_either_file(self):
        digests = {Generator.from_pretrained(GOLDEN / n).digest for n in ("pair_nvidia.pkl", "pair_rosinality.pt")}
        assert len(digests) == 1

    @pytest.mark.parametrize("ending", [".pt", ".safetensors"])
    @pytest.mark.parametrize("name", ["pair_nvidia.pkl", "rosinality_tiny.pt"])
    def test_conversion_changes_nothing(self, name, ending, tmp_path):
        first = Generator.from_pretrained(GOLDEN / name)
        first.save(tmp_path / f"copy{ending}")
        second = Generator.from_pretrained(tmp_path / f"copy{ending}")
        latents = first.sample(2, seed=3)
        assert torch.equal(first.render(latents), second.render(latents))
        assert first.digest == second.digest

    def test_unusual_shapes_survive(self, tiny, tmp_path):
        tiny.save(tmp_path / "g.safetensors")
        again = Generator.from_pretrained(tmp_path / "g.safetensors")
        assert again.config == TINY
        assert torch.equal(again.render(tiny.sample(1)), tiny.render(tiny.sample(1)))


class TestConditional:
    @pytest.fixture
    def generator(self):
        return Generator.random(
            StyleGAN2Config(16, (8, 8, 8), z_dim=12, w_dim=10, mapping_features=(10, 10), c_dim=3, embed_features=10)
        )

    def test_label_matters_and_all_spellings_agree(self, generator, tmp_path):
        z = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
        by_index = generator.map(z, label=[1, 1]).tensor
        assert torch.equal(by_index, generator.map(z, label=1).tensor)
        assert torch.equal(by_index, generator.map(z, label=torch.tensor([[0, 1, 0], [0, 1, 0]])).tensor)
        assert not torch.allclose(by_index, generator.map(z, label=2).tensor)
        generator.save(tmp_path / "c.safetensors")
        assert torch.equal(by_index, Generator.from_pretrained(tmp_path / "c.safetensors").map(z, label=1).tensor)

    def test_mapping_follows_the_published_formula(self, generator):
        z = torch.randn(1, 12)
        m = generator.net.mapping

        def unit(v):
            return v * (v.square().mean(-1, keepdim=True) + 1e-8).rsqrt()

        x = torch.cat([unit(z), unit(m.embed.weight[:, 2] / 3**0.5 + m.embed.bias)[None]], 1)
        for fc in (m.fc0, m.fc1):
            x = x @ (fc.weight * (0.01 / fc.weight.shape[1] ** 0.5)).T + fc.bias * 0.01
            x = torch.where(x > 0, x, 0.2 * x) * 2**0.5
        close(generator.map(z, label=2).tensor, x, 1e-6)

    @pytest.mark.parametrize("label", [None, 3, -1, [0, 1, 2], 0.5])
    def test_wrong_labels_are_explained(self, generator, label):
        with pytest.raises(LatentsError, match=r"expected|pass label"):
            generator.map(torch.zeros(2, 12), label=label)

    def test_cannot_become_rosinality(self, generator, tmp_path):
        with pytest.raises(WeightsError):
            generator.save(tmp_path / "c.pt")
        assert not list(tmp_path.iterdir())


class Drawing(torch.nn.Module):
    """W+ -> image in double precision, as a module, so that its parameters can be given from outside."""

    def __init__(self, net, noise):
        super().__init__()
        self.net, self.noise = net, noise

    def forward(self, ws):
        rng = torch.Generator().manual_seed(0)
        return self.net.run(self.net.styles(ws), noise=self.noise, rng=rng, dtype=torch.float64).image


class TestRendering:
    def test_layers_tell_the_layout(self, tiny):
        assert [la.name for la in tiny.layers[:5]] == ["b4.conv1", "b4.torgb", "b8.conv0", "b8.conv1", "b8.torgb"]
        assert [la.w_index for la in tiny.layers] == [0, 1, 1, 2, 3, 3, 4, 5, 5, 6, 7]
        assert tiny.layers[-1].s_slice.stop == tiny.s_dim == sum(la.channels for la in tiny.layers)
        config = StyleGAN2Config(1024, (512,) * 5 + (256, 128, 64, 32), 512, 512, (512,) * 8)
        assert sum(la.channels for la in config.layers) == 9088
        assert sum(la.channels for la in config.layers if la.to_rgb) == 3040

    def test_w_wplus_and_s_agree(self, tiny):
        w = tiny.sample(2, seed=5)
        wplus = Latents("w+", w.tensor[:, None].repeat(1, tiny.num_ws, 1))
        assert torch.equal(tiny.render(w), tiny.render(wplus))
        assert torch.equal(tiny.render(w), tiny.render(tiny.styles(w)))

    def test_up_to_is_the_generators_own_small_image(self, tiny):
        w = tiny.sample(2)
        small = tiny.render(w, up_to=8)
        assert small.shape == (2, 3, 8, 8)
        end = tiny.net.stop_index(8)
        state = tiny.net.synthesis.run(tiny.styles(w).tensor, stop=end)
        assert torch.equal(small, state.image)
        full = tiny.net.synthesis.run(tiny.styles(w).tensor, start=state).image
        assert torch.equal(full, tiny.render(w))
        assert torch.equal(tiny.render(w, up_to=32), tiny.render(w))

    def test_image_upsampling_is_zero_insertion_and_the_fir(self):
        image = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(0))
        spread = torch.zeros(2, 3, 10, 12)
        spread[..., ::2, ::2] = image
        padded = torch.nn.functional.pad(spread, (2, 1, 2, 1)).flatten(0, 1)[:, None]
        want = torch.nn.functional.conv2d(padded, fir_kernel(4.0)[None, None]).view(2, 3, 10, 12)
        close(upsample_image(image), want, 1e-6)

    def test_noise_modes(self, tiny):
        w = tiny.sample(1)
        first, second = (tiny.render(w, noise="random", seed=s) for s in (1, 2))
        assert not torch.equal(first, second)
        assert torch.equal(first, tiny.render(w, noise="random", seed=1))
        assert not torch.equal(tiny.render(w), tiny.render(w, noise="none"))

    def test_seeds_do_not_depend_on_the_batch(self, tiny):
        together = tiny.sample(3, seed=7).tensor
        assert torch.allclose(together[2:], tiny.sample(1, seed=9).tensor, atol=1e-5)
        assert torch.equal(together, tiny.sample(3, seed=[7, 8, 9]).tensor)

    def test_gradients_agree_with_finite_differences(self, tiny):
        """The in-place backward of frozen layers, in double precision, noise and clamp included."""
        config = StyleGAN2Config(8, (4, 3), 5, 5, (5,), conv_clamp=1.5)
        net = Generator.random(config).net.double()
        for name, parameter in net.named_parameters():
            if name.endswith(("noise_strength", "bias")) and "affine" not in name:
                parameter.fill_(0.3)
        s = torch.randn(2, net.config.layers[-1].s_slice.stop, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(lambda v: net.synthesis.run(v, dtype=torch.float64).image, s, atol=1e-4)

    @pytest.mark.parametrize("noise", ["const", "random"])
    def test_weight_gradients_agree_with_finite_differences(self, noise):
        """The in-place backward of layers that train: every parameter of the synthesis network."""
        config = StyleGAN2Config(8, (4, 3), 5, 5, (5,), conv_clamp=2.5)
        synthesis = Generator.random(config).net.double().synthesis
        for name, parameter in synthesis.named_parameters():
            if name.endswith(("noise_strength", "bias")) and "affine" not in name:
                parameter.data.fill_(0.3)
        drawing = Drawing(synthesis, noise)
        names, values = zip(
            *((n, p.detach().clone().requires_grad_()) for n, p in drawing.named_parameters() if "const" not in n)
        )
        ws = torch.randn(2, config.num_ws, config.w_dim, generator=torch.Generator().manual_seed(3)).double()

        def image(*values):
            return torch.func.functional_call(drawing, dict(zip(names, values)), (ws,))

        assert torch.autograd.gradcheck(image, values, atol=1e-4)

    def test_frozen_layers_pass_the_same_gradient_on(self, tiny):
        s = tiny.styles(tiny.sample(2)).tensor
        results = []
        for trainable in (False, True):
            tiny.net.requires_grad_(trainable)
            code = s.clone().requires_grad_()
            tiny.net.synthesis.run(code).image.square().sum().backward()
            results.append(code.grad)
        tiny.net.requires_grad_(False).zero_grad(set_to_none=True)  # the fixture is everybody's
        assert torch.allclose(*results, rtol=1e-5, atol=1e-5)

    def test_bfloat16_is_near(self, tiny):
        w = tiny.sample(2)
        exact = tiny.render(w)
        tiny.to(dtype=torch.bfloat16)
        rough = tiny.render(w)
        tiny.to(dtype=torch.float32)
        assert rough.dtype == torch.float32
        assert float((rough - exact).abs().mean() / exact.abs().mean()) < 0.03

    def test_statistics_match_sampled_styles(self, tiny):
        sampled = tiny.styles(tiny.map(torch.randn(4000, tiny.z_dim), truncation=0.7)).tensor
        statistics = tiny.style_statistics(truncation=0.7)
        assert torch.allclose(statistics.std, sampled.std(0), rtol=0.1, atol=1e-3)
        assert torch.allclose(statistics.mean, sampled.mean(0), atol=0.1 * float(sampled.std()))

    def test_missing_average_is_estimated(self, tiny):
        checkpoint = tiny.checkpoint()
        del checkpoint.tensors["mapping.w_avg"]
        again = Generator.from_checkpoint(checkpoint)
        assert torch.allclose(again.mean().tensor, tiny.w_samples().mean(0)[None])


class TestRefusals:
    @pytest.mark.parametrize(
        ("space", "shape"), [("w", (2, 21)), ("w+", (2, 7, 20)), ("s", (2, 10))], ids=["w", "w+", "s"]
    )
    def test_wrong_shapes(self, tiny, space, shape):
        with pytest.raises(LatentsError, match="this generator takes"):
            tiny.render(Latents(space, torch.zeros(shape)))

    @pytest.mark.parametrize(
        ("space", "tensor"),
        [
            ("x", torch.zeros(1, 4)),
            ("w", torch.zeros(4)),
            ("w+", torch.zeros(1, 4)),
            ("w", torch.zeros(0, 4)),
            ("w", torch.zeros(1, 4, dtype=torch.int64)),
            ("w", torch.full((1, 4), float("nan"))),
            ("w", [[0.0]]),
        ],
    )
    def test_bad_latents(self, space, tensor):
        with pytest.raises(LatentsError, match="got"):
            Latents(space, tensor)

    def test_bad_arguments(self, tiny):
        w = tiny.sample(1)
        for call in (
            lambda: tiny.render(w, up_to=64),
            lambda: tiny.render(w, noise="pink"),
            lambda: tiny.render(w.tensor),
            lambda: tiny.sample(0),
            lambda: tiny.sample(2, seed=[1]),
            lambda: tiny.sample(1, seed=-1),
            lambda: tiny.map(torch.zeros(1, 5)),
            lambda: tiny.map(torch.zeros(1, tiny.z_dim), label=0),
        ):
            with pytest.raises(StylographError, match="got"):
                call()

    def test_tensors_that_do_not_fit(self, tiny):
        checkpoint = tiny.checkpoint()
        checkpoint.tensors["synthesis.b8.conv0.weight"] = torch.zeros(3, 3)
        with pytest.raises(WeightsError, match=r"b8\.conv0\.weight"):
            Generator.from_checkpoint(checkpoint)


class TestLatents:
    def test_are_values(self, tiny):
        w = tiny.sample(3)
        assert len(w) == 3
        assert torch.equal(w[1].tensor, w.tensor[1:2])
        assert torch.equal(w[:2].tensor, w.tensor[:2])
        assert torch.allclose(w[0].blend(w[1], 0.25).tensor, 0.75 * w[0].tensor + 0.25 * w[1].tensor)
        with pytest.raises(IndexError):
            w[3]
        with pytest.raises(AttributeError):
            w.space = "s"

    def test_save_and_load(self, tiny, tmp_path):
        w = tiny.sample(2)
        w.save(tmp_path / "w.safetensors")
        again = Latents.load(tmp_path / "w.safetensors", tiny)
        assert again.space == "w"
        assert torch.equal(again.tensor, w.tensor)
        other = Generator.random(TINY, seed=9)
        with pytest.raises(LatentsError, match="load them with the generator"):
            Latents.load(tmp_path / "w.safetensors", other)
