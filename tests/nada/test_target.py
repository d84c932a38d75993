"""Losses against recorded numbers, and where an adaptation goes."""

import pytest
import torch
import torch.nn.functional as F

from nada.kit import SOURCE, WANTED, pictures
from stylograph import Clip
from stylograph.errors import AdaptError, PromptError
from stylograph.losses import NO_MOVE, directional_loss, mean_direction
from stylograph.nada.target import FIRST_SOURCE_SEED, SOURCE_IMAGES, Target, aim


class TestRecordedNumbers:
    @pytest.fixture
    def recorded(self, golden):
        return golden("nada_losses.npz")

    def test_text_direction(self, recorded):
        got = mean_direction(recorded["text_target"], recorded["text_source"])
        assert float((got - recorded["text_direction"][0]).abs().max()) < 1e-6

    def test_directional_loss_and_its_gradient(self, recorded):
        new = recorded["image_target"].requires_grad_()
        old = F.normalize(recorded["image_source"], dim=-1)
        loss = directional_loss(F.normalize(new, dim=-1), old, recorded["text_direction"][0]).mean()
        (slope,) = torch.autograd.grad(loss, new)
        assert loss.item() == pytest.approx(recorded["directional_cosine"].item(), abs=1e-6)
        assert float((slope - recorded["directional_cosine_grad_image_target"]).abs().max()) < 1e-6

    def test_global_loss_and_its_gradient(self, recorded, clip):
        point = F.normalize(recorded["global_prompt_text"], dim=-1)
        target = Target(clip, point, point, torch.ones(1), 1.0, {})
        new = recorded["image_target"].requires_grad_()
        loss = target.distance(F.normalize(new, dim=-1)).mean()
        (slope,) = torch.autograd.grad(loss, new)
        assert loss.item() == pytest.approx(recorded["global_loss"].item(), abs=1e-6)
        assert float((slope - recorded["global_loss_grad_image_target"]).abs().max()) < 1e-6

    def test_direction_to_pictures_and_its_loss(self, recorded):
        wanted = mean_direction(recorded["style_image_features"], recorded["image_source"])
        assert float((wanted - recorded["image_guided_direction"][0]).abs().max()) < 1e-6
        new, old = (F.normalize(recorded[f"image_{name}"], dim=-1) for name in ("target", "source"))
        loss = directional_loss(new, old, wanted).mean()
        assert loss.item() == pytest.approx(recorded["directional_cosine_image_guided"].item(), abs=1e-6)


class TestDirectionalLoss:
    def rows(self, n=5, d=7):
        rng = torch.Generator().manual_seed(0)
        new, old = (F.normalize(torch.randn(n, d, generator=rng), dim=-1) for _ in range(2))
        return new, old, F.normalize(torch.randn(d, generator=rng), dim=0)

    def test_is_one_minus_the_cosine_however_long_the_move(self):
        new, old, wanted = self.rows()
        want = 1 - F.cosine_similarity(new - old, wanted[None])
        for length in (1.0, 0.01, 30.0):
            got = directional_loss(old + length * (new - old), old, wanted)
            assert float((got - want).abs().max()) < 2e-5
        assert directional_loss(old + 0.1 * wanted, old, wanted).tolist() == pytest.approx([0.0] * 5, abs=1e-5)
        assert directional_loss(old - 0.1 * wanted, old, wanted).tolist() == pytest.approx([2.0] * 5, abs=1e-5)

    def test_rows_that_have_not_moved_are_pulled_along_the_wanted_direction(self):
        new, old, wanted = self.rows()
        new[1], new[3] = old[1], old[3] + 0.5 * NO_MOVE * wanted
        new.requires_grad_()
        loss = directional_loss(new, old, wanted)
        (slope,) = torch.autograd.grad(loss.sum(), new)
        assert bool(slope.isfinite().all())
        for row in (1, 3):
            assert loss[row].item() == pytest.approx(1, abs=NO_MOVE)
            assert torch.equal(slope[row], -wanted)
        assert float((slope[0] + wanted).abs().max()) > 0.01

    def test_gradient(self):
        new, old, wanted = (t.double() for t in self.rows())
        assert torch.autograd.gradcheck(lambda x: directional_loss(x, old, wanted), (new.requires_grad_(),))


class TestTarget:
    def test_of_a_sentence(self, tiny, clip):
        found = aim(tiny, clip, WANTED, SOURCE)
        new, old = (F.normalize(clip.embed_templates(s), dim=-1) for s in (WANTED, SOURCE))
        move = (new - old).mean(0)
        assert float((found.directions[0] - move / move.norm()).abs().max()) < 1e-5
        point = F.normalize(new.mean(0), dim=0)
        assert float((found.points[0] - point).abs().max()) < 1e-5
        assert found.length == pytest.approx(move.norm().item(), rel=1e-4)
        assert found.record == {
            "target": WANTED,
            "source": SOURCE,
            "target_images": None,
            "shares": [1.0],
            "clip": clip.name,
        }
        middle = old.mean(0)
        ways = torch.stack([middle, middle + move, middle + 0.5 * move])
        assert found.gain(ways, middle.expand(3, -1)).tolist() == pytest.approx([0, 1, 0.5], abs=1e-4)

    def test_of_pictures(self, tiny, clip):
        there = pictures(3)
        found = aim(tiny, clip, None, None, target_images=there, source_images=pictures(4, seed=1))
        new, old = clip.embed_images(there), clip.embed_images(pictures(4, seed=1))
        assert float((found.directions[0] - F.normalize(new.mean(0) - old.mean(0), dim=0)).abs().max()) < 1e-5
        assert float((found.points[0] - F.normalize(new.mean(0), dim=0)).abs().max()) < 1e-6
        assert found.shares.tolist() == [1.0]
        assert found.record["target_images"] == 3
        assert found.record["target"] is None

    def test_the_generators_own_pictures_are_the_source_of_pictures(self, tiny, clip):
        codes = tiny.sample(SOURCE_IMAGES, seed=FIRST_SOURCE_SEED, truncation=1.0)
        own = aim(tiny, clip, None, None, target_images=pictures(2))
        given = aim(tiny, clip, None, None, target_images=pictures(2), source_images=tiny.render(codes).clamp(-1, 1))
        assert float((own.directions - given.directions).abs().max()) < 1e-5

    @pytest.mark.parametrize("weights", [[1, 1], [3, 1]])
    def test_an_ensemble_is_the_weighted_mean_of_its_models(self, tiny, folders, weights):
        together = Clip.from_pretrained(folders, weights=weights)
        images, before = pictures(3, seed=4), pictures(3, seed=5)
        want = {"directional": torch.zeros(3), "distance": torch.zeros(3)}
        for folder, weight in zip(folders, weights):
            single = Clip.from_pretrained(folder)
            new, old = single.embed_images(images), single.embed_images(before)
            texts = [F.normalize(single.embed_templates(s), dim=-1) for s in (WANTED, SOURCE)]
            share = weight / sum(weights)
            want["directional"] += share * (1 - F.cosine_similarity(new - old, (texts[0] - texts[1]).mean(0)[None]))
            want["distance"] += share * (1 - F.cosine_similarity(new, texts[0].mean(0)[None]))
        found = aim(tiny, together, WANTED, SOURCE)
        new, old = together.embed_images(images), together.embed_images(before)
        assert float((found.directional(new, old) - want["directional"]).abs().max()) < 1e-5
        assert float((found.distance(new) - want["distance"]).abs().max()) < 1e-5

    def test_an_ensemble_looks_at_pictures_in_the_same_way(self, tiny, folders, both):
        given, before = pictures(2), pictures(3, seed=1)
        images = pictures(3, seed=4)
        want = {"directional": torch.zeros(3), "distance": torch.zeros(3)}
        for folder, share in zip(folders, (0.75, 0.25)):
            single = Clip.from_pretrained(folder)
            there, source, new, old = map(single.embed_images, (given, before, images, before))
            want["directional"] += share * (1 - F.cosine_similarity(new - old, (there.mean(0) - source.mean(0))[None]))
            want["distance"] += share * (1 - F.cosine_similarity(new, there.mean(0)[None]))
        found = aim(tiny, both, None, None, target_images=given, source_images=before)
        new, old = both.embed_images(images), both.embed_images(before)
        assert float((found.directional(new, old) - want["directional"]).abs().max()) < 1e-5
        assert float((found.distance(new) - want["distance"]).abs().max()) < 1e-5

    @pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
    def test_sentence_and_pictures_share_both_losses(self, tiny, both, share):
        given = {"target_images": pictures(2), "source_images": pictures(3, seed=1)}
        text = aim(tiny, both, WANTED, SOURCE)
        image = aim(tiny, both, None, None, **given)
        mixed = aim(tiny, both, WANTED, SOURCE, **given, image_share=share)
        new, old = both.embed_images(pictures(4, seed=6)), both.embed_images(pictures(4, seed=7))
        for loss in (lambda t: t.directional(new, old), lambda t: t.distance(new)):
            want = (1 - share) * loss(text) + share * loss(image)
            assert float((loss(mixed) - want).abs().max()) < 1e-5
        assert mixed.shares.tolist() == pytest.approx([1 - share, share])

    def test_impossible_targets(self, tiny, clip):
        for sentence in (None, "", "  "):
            with pytest.raises(AdaptError, match="got no target; describe it"):
                aim(tiny, clip, sentence, SOURCE)
        for source in (None, " "):
            with pytest.raises(AdaptError, match="without a source"):
                aim(tiny, clip, WANTED, source)
        with pytest.raises(PromptError, match="twice"):
            aim(tiny, clip, "A person ", SOURCE)
