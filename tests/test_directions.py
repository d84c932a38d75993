"""Global directions: both ways to the relevance, selection, and edits as files."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, save_tiny_clip

from stylograph import Clip, Generator, Latents, find_direction, load_edit
from stylograph.edit.directions import DirectionConfig, agreement, boundary, choose_beta, cosines, relevance, slopes
from stylograph.edit.table import movable
from stylograph.errors import EditError, PromptError, StylographError, WeightsError
from stylograph.losses import unit_mean

pytestmark = pytest.mark.filterwarnings("ignore::stylograph.errors.PromptWarning")
TARGET, NEUTRAL = "a person wearing a hat", "a person"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Clip.from_pretrained(save_tiny_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def edit(tiny, clip):
    return find_direction(
        tiny, clip, TARGET, neutral=NEUTRAL, config=DirectionConfig(method="gradient", images=8, count=12)
    )


class TestReferenceNumbers:
    @pytest.fixture
    def expected(self, golden):
        return golden("stylespace_relevance.npz")

    def test_rows(self, expected):
        f = F.normalize(expected["all_f"], dim=-1)
        rows = unit_mean(f[:, :, 1] - f[:, :, 0])
        assert float((rows - expected["fs3"]).abs().max()) < 1e-6

    @pytest.mark.parametrize("i", range(3))
    def test_boundary(self, expected, i):
        beta = (0.05, 0.15, 0.3)[i]
        found = torch.zeros(int(sum(expected["layer_channels"])))
        measured, start = torch.zeros(len(found), dtype=torch.bool), 0
        rows = expected["relevance_fs3_dot_dt"].flatten()
        place = 0
        for index, width in enumerate(expected["layer_channels"].tolist()):
            if index in expected["indices_without_torgb"].tolist() and place < len(rows):
                found[start : start + width] = rows[place : place + width]
                measured[start : start + width] = True
                place += width
            start += width
        assert place == len(rows)
        got = boundary(found, expected["code_std"].flatten(), beta)
        want = expected[f"boundary_{i}"].flatten()
        assert float((got - want).abs().max()) < 1e-6
        assert int((got != 0).sum()) == int(expected[f"num_channels_{i}"])


class TestRelevance:
    def test_slopes_are_the_derivatives_of_the_embedding(self, tiny, clip):
        codes = tiny.styles(tiny.sample(2, seed=0)).tensor
        rng = torch.Generator().manual_seed(0)
        axes = F.normalize(torch.randn(2, 3, 16, generator=rng), dim=-1)
        found = slopes(tiny, clip, codes, axes)
        move = torch.randn(codes.shape, generator=rng)
        sides = [clip.embed_images(tiny.render(Latents("s", codes + h * move))) for h in (-2e-3, 2e-3)]
        want = torch.einsum("nd,nkd->nk", sides[1] - sides[0], axes) / 4e-3
        assert torch.allclose(want, torch.einsum("nks,ns->nk", found, move), rtol=0.02, atol=3e-3)

    def test_steps_follow_the_slope_where_they_are_and_pure_channels_count_more(self, tiny, clip):
        wanted, std = clip.text_direction(TARGET, NEUTRAL), tiny.style_statistics().std
        codes = tiny.styles(tiny.sample(3, seed=0)).tensor
        path = torch.zeros(tiny.s_dim)
        for _ in range(2):
            slope = slopes(tiny, clip, codes + path * std, wanted.expand(3, 1, -1)).mean((0, 1)) * std
            for layer in tiny.layers:
                if layer.to_rgb:
                    slope[layer.s_slice] = 0
            path = path + slope / slope.norm()
        config = DirectionConfig(method="gradient", images=3, batch=2, steps=2)
        there = 5 * path / path.norm() * std
        want = path * cosines(tiny, clip, wanted, shift=there, config=config).abs()
        found = relevance(tiny, clip, wanted, config=config)
        assert float((found - want / want.abs().max()).abs().max()) < 1e-3

    def test_cosines_with_all_axes_are_exact(self, tiny, clip):
        wanted = clip.text_direction(TARGET, NEUTRAL)
        codes = tiny.styles(tiny.sample(3, seed=0)).tensor
        shift = 0.3 * torch.randn(tiny.s_dim, generator=torch.Generator().manual_seed(0))
        jacobian = slopes(tiny, clip, codes + shift, torch.eye(16).expand(3, -1, -1))  # [N, D, sum of channels]
        want = F.cosine_similarity(jacobian, wanted[None, :, None], dim=1).mean(0)
        found = cosines(
            tiny, clip, wanted, shift=shift, config=DirectionConfig(method="gradient", images=3, batch=2, probes=99)
        )
        assert float((found - want).abs().max()) < 1e-3

    def test_few_axes_estimate_the_length_of_an_effect(self, tiny, clip):
        wanted = clip.text_direction(TARGET, NEUTRAL)
        exact, few = (
            cosines(tiny, clip, wanted, config=DirectionConfig(method="gradient", images=8, probes=k)) for k in (15, 4)
        )
        assert agreement(exact, few)["correlation"] > 0.95
        factor = float((few / exact)[movable(tiny)].median())
        assert factor == pytest.approx(
            2 * math.gamma(1.5) / math.sqrt(2), abs=0.08
        )  # √4·E[1/χ], four degrees of freedom

    def test_cosines_agree_with_finite_differences(self, tiny, clip):
        # Less than on a trained generator (0.9 and more): these pictures leave [-1, 1], and only the table clamps them.
        wanted = clip.text_direction(TARGET, NEUTRAL)
        finite = relevance(tiny, clip, wanted, config=DirectionConfig(method="finite", images=6))
        found = cosines(tiny, clip, wanted, config=DirectionConfig(method="gradient", images=6)) * movable(tiny)
        assert agreement(finite, found)["correlation"] > 0.65

    @pytest.mark.parametrize("method", ["gradient", "finite"])
    def test_repeatable_and_leaves_the_generator_alone(self, tiny, clip, method):
        config = DirectionConfig(method=method, images=2, count=5, max_resolution=8)
        before = Generator.from_checkpoint(tiny.checkpoint()).digest
        steps = []
        with torch.no_grad():
            first, second = (
                find_direction(tiny, clip, TARGET, neutral=NEUTRAL, config=config, on_step=steps.append)
                for _ in range(2)
            )
        assert torch.equal(first.delta, second.delta)
        assert Generator.from_checkpoint(tiny.checkpoint()).digest == before
        assert steps[-1].done == steps[-1].total

    def test_torgb_and_high_layers_are_left_alone(self, tiny, clip):
        edit = find_direction(
            tiny,
            clip,
            TARGET,
            neutral=NEUTRAL,
            config=DirectionConfig(method="gradient", images=2, count=30, max_resolution=16),
        )
        for layer in tiny.layers:
            if layer.to_rgb or layer.resolution > 16:
                assert not edit.delta[layer.s_slice].any()

    @pytest.mark.parametrize("method", ["gradient", "finite"])
    def test_locked_layers_are_left_alone(self, tiny, clip, method):
        lock = ("8", "b*.conv0")
        config = DirectionConfig(method=method, images=2, count=30, lock=lock)
        edit = find_direction(tiny, clip, TARGET, neutral=NEUTRAL, config=config)
        for layer in tiny.layers:
            kept = layer.to_rgb or layer.resolution == 8 or layer.name.endswith("conv0")
            assert bool(edit.delta[layer.s_slice].any()) is not kept, layer.name

    def test_a_wrong_lock_names_the_layers(self, tiny, clip):
        with pytest.raises(EditError, match=r"'b64'.*b32\.conv1"):
            find_direction(tiny, clip, TARGET, neutral=NEUTRAL, config=DirectionConfig(method="finite", lock=("b64",)))

    def test_a_table_is_measured_once_and_then_read(self, tiny, clip, tmp_path):
        config = DirectionConfig(method="finite", images=2, count=5, max_resolution=8, table=tmp_path / "t.safetensors")
        steps = []
        first = find_direction(tiny, clip, TARGET, neutral=NEUTRAL, config=config, on_step=steps.append)
        measured = len(steps)
        second = find_direction(tiny, clip, TARGET, neutral=NEUTRAL, config=config, on_step=steps.append)
        assert measured
        assert len(steps) == measured
        assert torch.equal(first.delta, second.delta)
        assert [p.name for p in tmp_path.iterdir()] == ["t.safetensors"]
        again = load_edit(second.save(tmp_path / "edit.safetensors"))
        assert again.provenance["settings"]["table"] == str(tmp_path / "t.safetensors")

    def test_agreement(self):
        a = torch.randn(200, generator=torch.Generator().manual_seed(0))
        assert agreement(a, 3 * a)["top_overlap"] == 1
        assert agreement(a, 3 * a)["correlation"] == pytest.approx(1)
        assert agreement(a, -a)["rank_correlation"] == pytest.approx(-1)


class TestSelection:
    def test_count(self, edit):
        assert len(edit.channels) == edit.provenance["channels"] == 12
        sizes = [abs(c.delta) for c in edit.channels]
        assert sizes == sorted(sizes, reverse=True)

    def test_beta(self, tiny, clip):
        wanted = clip.text_direction(TARGET, NEUTRAL)
        config = DirectionConfig(method="gradient", images=4)
        found = relevance(tiny, clip, wanted, config=config)
        beta = 0.3
        edit = find_direction(tiny, clip, TARGET, neutral=NEUTRAL, config=config, beta=beta)
        std = tiny.style_statistics().std
        kept = edit.delta != 0
        assert torch.equal(kept, (found.abs() >= beta) & (std > 0))
        assert float((edit.delta / std)[kept].abs().max()) == pytest.approx(1)

    def test_nothing_passes(self, tiny, clip):
        with pytest.raises(PromptError, match="lower beta"):
            find_direction(
                tiny, clip, TARGET, neutral=NEUTRAL, config=DirectionConfig(method="gradient", images=2), beta=1.001
            )

    def test_automatic_threshold_keeps_more_than_twenty(self):
        found = torch.linspace(0, 0.4, 400)
        finite = DirectionConfig(method="finite")
        assert choose_beta(found, finite) == pytest.approx(0.29)
        assert int((found >= choose_beta(found / 4, finite) * 4).sum()) >= 20
        assert choose_beta(torch.zeros(5), finite) > 0
        assert int((found >= choose_beta(found, DirectionConfig())).sum()) == 240
        assert int((found >= choose_beta(found, DirectionConfig(method="gradient"))).sum()) == 60

    @pytest.mark.parametrize(
        "wrong",
        [
            {"beta": 0.1, "count": 3},
            {"beta": 0.0},
            {"beta": -1.0},
            {"count": 0},
            {"method": "magic"},
            {"config": DirectionConfig(method="gradient", probes=0)},
        ],
    )
    def test_wrong_settings(self, tiny, clip, wrong):
        with pytest.raises(StylographError, match="got"):
            find_direction(tiny, clip, TARGET, neutral=NEUTRAL, **wrong)

    def test_same_texts(self, tiny, clip):
        with pytest.raises(PromptError, match="same sentence"):
            find_direction(tiny, clip, "a person", neutral="a person")


class TestEdit:
    def test_moves_only_its_channels_in_proportion(self, tiny, edit):
        w = tiny.sample(2, seed=4)
        s = tiny.styles(w).tensor
        assert torch.equal(edit(w, 0).tensor, s)
        assert torch.allclose(edit(w, 2.5).tensor - s, (2.5 * edit.delta).expand_as(s), atol=1e-6)
        assert torch.equal(edit(w, -1).tensor, edit(tiny.styles(w), -1).tensor)
        assert torch.equal(edit(w).tensor, edit(w, edit.strength).tensor)
        assert torch.equal(edit.with_strength(3)(w).tensor, edit(w, 3).tensor)

    def test_raises_the_similarity_it_was_made_for(self, tiny, clip, edit):
        w = tiny.sample(8, seed=50)
        wanted = clip.text_direction(TARGET, NEUTRAL)
        with torch.no_grad():
            gain = [float((clip.embed_images(tiny.render(edit(w, a))) @ wanted).mean()) for a in (-0.5, 0, 0.5)]
        assert gain[0] < gain[1] < gain[2]

    def test_round_trip(self, tiny, edit, tmp_path):
        edit.save(tmp_path / "hat.safetensors")
        w = tiny.sample(2)
        for again in (load_edit(tmp_path / "hat.safetensors"), load_edit(tmp_path / "hat.safetensors", tiny)):
            assert torch.equal(again(w, 2).tensor, edit(w, 2).tensor)
            assert again.strength == edit.strength
            assert again.provenance["target"] == TARGET
            assert again.channels == edit.channels
        assert [p.name for p in tmp_path.iterdir()] == ["hat.safetensors"]

    def test_refused_on_another_generator(self, edit, tmp_path):
        other = Generator.random(TINY, seed=77)
        path = edit.save(tmp_path / "hat.safetensors")
        with pytest.raises(EditError, match="made for"):
            load_edit(path, other)
        with pytest.raises(EditError, match="made for"):
            load_edit(path)(other.sample(1))
        with pytest.raises(EditError, match="made for"):
            edit(other.sample(1))

    def test_w_codes_without_a_generator(self, tiny, edit, tmp_path):
        alone = load_edit(edit.save(tmp_path / "hat.safetensors"))
        with pytest.raises(EditError, match="load_edit"):
            alone(Latents("w", tiny.sample(1).tensor))
        assert alone(Latents("s", tiny.styles(tiny.sample(1)).tensor)).space == "s"
        with pytest.raises(EditError, match="length"):
            alone(Latents("s", torch.zeros(1, 3)))

    def test_other_files(self, tiny, tmp_path):
        tiny.save(tmp_path / "g.safetensors")
        (tmp_path / "junk.safetensors").write_bytes(b"junk")
        for name in ("g.safetensors", "junk.safetensors", "missing.safetensors"):
            with pytest.raises((EditError, WeightsError)):
                load_edit(tmp_path / name)

    def test_a_poisoned_shift(self, tiny, edit, tmp_path):
        bad = replace(edit, delta=torch.full_like(edit.delta, float("nan")))
        with pytest.raises(EditError, match="NaN"):
            load_edit(bad.save(tmp_path / "bad.safetensors"))

    def test_gradient_flows_through(self, tiny, edit):
        w = tiny.sample(1).tensor.requires_grad_()
        tiny.render(edit(Latents("w", w, tiny), 1.0)).sum().backward()
        assert float(w.grad.abs().max()) > 0


def test_prefix_states_are_reusable(tiny):
    """One state continued under different later styles gives what a full run gives."""
    s = tiny.styles(tiny.sample(2)).tensor
    run = tiny.net.synthesis.run
    for stop in (1, 4, 7):
        state = run(s, stop=stop)
        later = s.clone()
        later[:, tiny.layers[stop].s_slice] += 1
        got = run(torch.cat([s, later]), start=state.repeat(2)).image
        want = torch.cat([run(s).image, run(later).image])
        assert torch.allclose(got, want, atol=1e-4)
        assert F.mse_loss(want[:2], want[2:]) > 0
