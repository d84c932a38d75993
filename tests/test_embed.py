"""CLIP input, ensembles, prompts; recorded numbers of both reference preprocessings."""

import json

import pytest
import torch
import torch.nn.functional as F
from conftest import save_tiny_clip

from stylograph import Clip
from stylograph.embed import CLIP_MEAN, CLIP_STD
from stylograph.errors import PromptError, PromptWarning, StylographError, WeightsError
from stylograph.images import box_matrix, resize
from stylograph.losses import direction, unit_mean
from stylograph.templates import IMAGENET_TEMPLATES


class TestResampling:
    @pytest.mark.parametrize("size", [64, 256])
    def test_box_is_styleclips_enlarge_and_average(self, golden, size):
        expected = golden("clip_resample.npz")
        got = resize(expected[f"image_{size}"].float(), 224, method="box").flatten()
        index = expected[f"styleclip_{size}_probe_index"].long()
        assert float((got[index] - expected[f"styleclip_{size}_probe_value"]).abs().max()) < 1e-5

    def test_box_equals_the_enlarged_average_at_1024(self):
        image = torch.randn(1, 1, 1024, 1024, generator=torch.Generator().manual_seed(0))
        want = F.avg_pool2d(F.interpolate(image, scale_factor=7), 32)
        assert float((resize(image, 224) - want).abs().max()) < 1e-5

    def test_bicubic_is_antialiased_and_normalised_as_in_nada(self, golden):
        expected = golden("clip_resample.npz")
        mean, std = (torch.tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
        got = (((resize(expected["image_256"].float(), 224, method="bicubic") + 1) / 2 - mean) / std).flatten()
        index = expected["nada_256_antialias_true_probe_index"].long()
        assert float((got[index] - expected["nada_256_antialias_true_probe_value"]).abs().max()) < 1e-3

    @pytest.mark.parametrize(("size_in", "size_out"), [(1000, 224), (7, 5), (5, 7), (224, 224)])
    def test_rows_are_averages(self, size_in, size_out):
        matrix = box_matrix(size_in, size_out)
        assert torch.allclose(matrix.sum(1), torch.ones(size_out), atol=1e-5)
        assert torch.allclose(matrix.sum(0), torch.full((size_in,), size_out / size_in), atol=1e-5)

    def test_a_wide_picture_is_cropped_in_the_middle(self):
        image = torch.zeros(1, 3, 4, 8)
        image[..., 2:6] = 1
        assert bool((resize(image, 2) == 1).all())


class TestImages:
    @pytest.mark.parametrize("size", [16, 32, 50, 128])
    def test_unit_vectors_from_any_size(self, clip, size):
        e = clip.embed_images(torch.rand(2, 3, size, size) * 2 - 1)
        assert e.shape == (2, 16)
        assert torch.allclose(e.norm(dim=1), torch.ones(2), atol=1e-5)

    @pytest.mark.parametrize("method", ["box", "bicubic"])
    def test_differentiable(self, folders, method):
        clip = Clip.from_pretrained(folders[0], resample=method)
        image = torch.rand(1, 3, 64, 64).requires_grad_()
        clip.embed_images(image)[0, 0].backward()
        assert torch.isfinite(image.grad).all()
        assert float(image.grad.abs().max()) > 0
        assert not any(p.requires_grad for p in clip.towers[0].model.parameters())

    def test_normalisation_is_the_models(self, folders, tmp_path):
        image = torch.rand(1, 3, 32, 32) * 2 - 1
        clip = Clip.from_pretrained(folders[0])
        mean, std = (torch.tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
        raw = Clip.from_pretrained(folders[0], normalization="none")
        assert torch.allclose(clip.embed_images(image), raw.embed_images(((image + 1) / 2 - mean) / std), atol=1e-5)
        assert not torch.allclose(clip.embed_images(image), raw.embed_images(image), atol=1e-3)

    def test_a_preprocessors_own_constants_count(self, tmp_path):
        folder = save_tiny_clip(tmp_path / "clip")
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
        image = torch.rand(1, 3, 32, 32) * 2 - 1
        plain = Clip.from_pretrained(folder, normalization="none").embed_images(image)
        assert torch.allclose(Clip.from_pretrained(folder).embed_images(image), plain, atol=1e-5)

    def test_wrong_shape(self, clip):
        with pytest.raises(StylographError, match="expected"):
            clip.embed_images(torch.zeros(3, 8, 8))


class TestEnsemble:
    def test_products_are_weighted_means_of_cosines(self, folders):
        images = torch.rand(2, 3, 48, 48)
        both = Clip.from_pretrained(folders, weights=[3, 1])
        singles = [Clip.from_pretrained(f) for f in folders]
        want = sum(
            w * (c.embed_images(images) * c.embed_text(["a red hat", "a robot"])).sum(1)
            for w, c in zip((0.75, 0.25), singles)
        )
        got = (both.embed_images(images) * both.embed_text(["a red hat", "a robot"])).sum(1)
        assert torch.allclose(got, want, atol=1e-5)
        assert both.name == "one+two"

    @pytest.mark.parametrize("weights", [[1], [1, -1], [1, 0], []])
    def test_wrong_weights(self, folders, weights):
        with pytest.raises(StylographError, match="weight"):
            Clip.from_pretrained(folders, weights=weights)


@pytest.mark.filterwarnings("ignore::stylograph.errors.PromptWarning")
class TestText:
    def test_template_ensemble(self, clip):
        assert len(IMAGENET_TEMPLATES) == 79
        assert "a photo of many {}." not in IMAGENET_TEMPLATES
        each = torch.cat([clip.embed_text(t.format("robot"), templates=False) for t in IMAGENET_TEMPLATES])
        assert torch.allclose(clip.embed_text("robot")[0], F.normalize(each.mean(0), dim=0), atol=1e-5)

    def test_prompts_do_not_influence_one_another(self, clip):
        short, long = "a robot", "a photo of the face of a person wearing a red hat"
        together = clip.embed_text([short, long], templates=False)
        assert torch.allclose(together[0], clip.embed_text(short, templates=False)[0], atol=1e-5)

    def test_too_long_a_prompt_is_cut_not_crashed(self, clip):
        assert torch.isfinite(clip.embed_text("red " * 200, templates=False)).all()

    @pytest.mark.parametrize("prompt", ["", "  ", [], ["a robot", ""]])
    def test_empty(self, clip, prompt):
        with pytest.raises(PromptError, match="empty"):
            clip.embed_text(prompt)

    @pytest.mark.parametrize(("target", "neutral"), [("a robot", "a robot"), ("A robot ", "a robot")])
    def test_same_sentence_twice(self, clip, target, neutral):
        with pytest.raises(PromptError, match="same sentence"):
            clip.text_direction(target, neutral)

    def test_several_neutral_sentences(self, clip):
        neutral = ["a person", "a face", "a drawing of a person"]
        old = F.normalize(clip.embed_text(neutral).mean(0), dim=0)
        want = direction(clip.embed_text("a robot")[0], old)
        assert torch.allclose(clip.text_direction("a robot", neutral), want, atol=1e-6)
        assert torch.allclose(
            clip.text_direction("a robot", ["a person"]), clip.text_direction("a robot", "a person"), atol=1e-6
        )
        with pytest.raises(PromptError, match="same sentence"):
            clip.text_direction("a robot", ["a person", "A robot"])
        with pytest.raises(PromptError, match="empty"):
            clip.text_direction("a robot", [])

    def test_reference_direction(self, golden):
        expected = golden("stylespace_relevance.npz")
        got = direction(unit_mean(expected["text_target"]), unit_mean(expected["text_neutral"]))
        assert float((got - expected["dt"].flatten()).abs().max()) < 1e-6


def test_unknown_words_are_named_with_near_ones(clip):
    with pytest.warns(PromptWarning, match=r"'robots' \(near: robot\)"):
        clip.embed_text("a person wearing robots", templates=False)


def test_words_without_meaning_for_the_model_are_an_error(clip):
    with pytest.raises(PromptError, match="does not know 'zyx', which is all"):
        clip.text_direction("a zyx", "a person")
    with pytest.raises(PromptError, match="sees no difference"):
        clip.text_direction("a person", "a person.", templates=("a person",))


class TestLoading:
    def test_missing(self, tmp_path):
        with pytest.raises(WeightsError, match="expected 'avatars'"):
            Clip.from_pretrained(tmp_path / "nothing", offline=True)

    def test_a_hub_model_that_is_not_there_offline(self):
        with pytest.raises(WeightsError, match="no CLIP model"):
            Clip.from_pretrained("somebody/some-clip", offline=True)

    def test_not_a_dual_encoder(self, tmp_path):
        from transformers import BertConfig, BertModel

        small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        BertModel(BertConfig(vocab_size=9, **small)).save_pretrained(tmp_path)
        save_tiny_clip(tmp_path / "t")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (tmp_path / name).write_bytes((tmp_path / "t" / name).read_bytes())
        with pytest.raises(WeightsError, match="dual encoder"):
            Clip.from_pretrained(tmp_path)

    def test_a_damaged_weight_file(self, tmp_path):
        folder = save_tiny_clip(tmp_path / "clip")
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:1000])
        with pytest.raises(WeightsError, match="no CLIP model"):
            Clip.from_pretrained(folder)

    @pytest.mark.parametrize("option", [{"resample": "nearest"}, {"normalization": "imagenet"}])
    def test_unknown_options(self, folders, option):
        with pytest.raises(StylographError, match="expected one of"):
            Clip.from_pretrained(folders[0], **option)
