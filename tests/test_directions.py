"""Global directions: both ways to the relevance, selection, and edits as files."""

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY
from test_embed import save_tiny_clip

from stylograph import Clip, DirectionConfig, Edit, Generator, Latents, find_direction, load_edit
from stylograph.edit.directions import agreement, boundary, choose_beta, relevance, relevance_table, similarity_slope
from stylograph.errors import EditError, PromptError, StylographError, WeightsError
from stylograph.losses import unit_mean

pytestmark = pytest.mark.filterwarnings("ignore::stylograph.errors.PromptWarning")
TARGET, NEUTRAL = "a person wearing a hat", "a person"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Clip.from_pretrained(save_tiny_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def edit(tiny, clip):
    return find_direction(tiny, clip, TARGET, neutral=NEUTRAL, config=DirectionConfig(images=8, count=12))


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
    def test_table_equals_rendering_every_channel_from_scratch(self, tiny, clip):
        config = DirectionConfig(method="finite", images=3, batch=2, max_resolution=16)
        table = relevance_table(tiny, clip, config=config)
        statistics = tiny.style_statistics()
        s = tiny.styles(tiny.sample(3, seed=0)).tensor
        for layer in tiny.layers:
            channel = layer.s_slice.start + 1
            if layer.to_rgb or layer.resolution > 16:
                assert not table[layer.s_slice].any()
                continue
            sides = []
            for sign in (-1, 1):
                moved = s.clone()
                moved[:, channel] = statistics.mean[channel] + sign * 5 * statistics.std[channel]
                sides.append(clip.embed_images(tiny.render(Latents("s", moved)).clamp(-1, 1)))
            want = unit_mean(sides[1] - sides[0])
            assert float((table[channel] - want).abs().max()) < 1e-3, layer.name

    def test_slope_is_the_derivative_of_the_similarity(self, tiny, clip):
        wanted = clip.text_direction(TARGET, NEUTRAL)
        codes = tiny.styles(tiny.sample(2, seed=0)).tensor
        slope = similarity_slope(tiny, clip, wanted, codes)
        move = torch.randn(codes.shape, generator=torch.Generator().manual_seed(0))
        sides = [clip.embed_images(tiny.render(Latents("s", codes + h * move))) @ wanted for h in (-1e-2, 1e-2)]
        assert torch.allclose((sides[1] - sides[0]) / 2e-2, (slope * move).sum(1), rtol=0.02, atol=1e-3)

    def test_steps_follow_the_slope_where_they_are(self, tiny, clip):
        wanted, std = clip.text_direction(TARGET, NEUTRAL), tiny.style_statistics().std
        codes = tiny.styles(tiny.sample(3, seed=0)).tensor
        path = torch.zeros(tiny.s_dim)
        for _ in range(2):
            slope = similarity_slope(tiny, clip, wanted, codes + path * std).mean(0) * std
            for layer in tiny.layers:
                if layer.to_rgb:
                    slope[layer.s_slice] = 0
            path = path + slope / slope.norm()
        found = relevance(tiny, clip, wanted, config=DirectionConfig(images=3, batch=2, steps=2))
        assert float((found - path / path.abs().max()).abs().max()) < 1e-3

    @pytest.mark.parametrize("method", ["gradient", "finite"])
    def test_repeatable_and_leaves_the_generator_alone(self, tiny, clip, method):
        config = DirectionConfig(method=method, images=2, count=5, max_resolution=8)
        before = Generator.from_checkpoint(tiny.checkpoint()).digest
        steps = []
        first, second = (
            find_direction(tiny, clip, TARGET, neutral=NEUTRAL, config=config, on_step=steps.append) for _ in range(2)
        )
        assert torch.equal(first.delta, second.delta)
        assert Generator.from_checkpoint(tiny.checkpoint()).digest == before
        assert steps[-1].done == steps[-1].total

    def test_torgb_and_high_layers_are_left_alone(self, tiny, clip):
        edit = find_direction(
            tiny, clip, TARGET, neutral=NEUTRAL, config=DirectionConfig(images=2, count=30, max_resolution=16)
        )
        for layer in tiny.layers:
            if layer.to_rgb or layer.resolution > 16:
                assert not edit.delta[layer.s_slice].any()

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
        config = DirectionConfig(images=4)
        found = relevance(tiny, clip, wanted, config=config)
        beta = 0.3
        edit = find_direction(tiny, clip, TARGET, neutral=NEUTRAL, config=config, beta=beta)
        std = tiny.style_statistics().std
        kept = edit.delta != 0
        assert torch.equal(kept, (found.abs() >= beta) & (std > 0))
        assert float((edit.delta / std)[kept].abs().max()) == pytest.approx(1)

    def test_nothing_passes(self, tiny, clip):
        with pytest.raises(PromptError, match="lower beta"):
            find_direction(tiny, clip, TARGET, neutral=NEUTRAL, config=DirectionConfig(images=2), beta=1.001)

    def test_automatic_threshold_keeps_more_than_twenty(self):
        found = torch.linspace(0, 0.4, 400)
        finite = DirectionConfig(method="finite")
        assert choose_beta(found, finite) == pytest.approx(0.29)
        assert int((found >= choose_beta(found / 4, finite) * 4).sum()) >= 20
        assert choose_beta(torch.zeros(5), finite) > 0
        assert int((found >= choose_beta(found, DirectionConfig())).sum()) == 60

    @pytest.mark.parametrize(
        "wrong", [{"beta": 0.1, "count": 3}, {"beta": 0.0}, {"beta": -1.0}, {"count": 0}, {"method": "magic"}]
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
        bad = Edit(torch.full_like(edit.delta, float("nan")), edit.layers, edit.generator_digest)
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
