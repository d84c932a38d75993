"""The universal text map: the ridge regression it claims to be, resumable, and bound to its models."""

from dataclasses import replace

import pytest
import torch
from conftest import TINY, save_tiny_clip

from stylograph import Clip, Generator
from stylograph.edit.config import UniversalConfig
from stylograph.edit.universal import UniversalMap, fit_universal, universal_map
from stylograph.errors import EditError

CONFIG = UniversalConfig(samples=96, batch=16, ridge=0.2)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return Clip.from_pretrained(save_tiny_clip(tmp_path_factory.mktemp("clip")))


def test_is_the_ridge_regression_of_w_on_embeddings(tiny, clip):
    found = fit_universal(tiny, clip, config=CONFIG)
    latents = tiny.sample(96, seed=CONFIG.seed, truncation=1.0)
    with torch.no_grad():
        e = clip.embed_images(tiny.render(latents)).double()
    x, y = e - e.mean(0), latents.tensor.double() - latents.tensor.double().mean(0)
    weight = 0.2 * 96 * x.square().mean()
    augmented = (
        torch.cat([x, weight.sqrt() * torch.eye(x.shape[1])]),
        torch.cat([y, torch.zeros(x.shape[1], y.shape[1])]),
    )
    want = torch.linalg.lstsq(*augmented).solution.T
    assert torch.allclose(found.matrix.double(), want, rtol=1e-3, atol=1e-4)


def test_relevance_is_the_change_of_styles_in_their_deviations(tiny, clip):
    found = fit_universal(tiny, clip, config=CONFIG)
    wanted = torch.nn.functional.normalize(torch.arange(1.0, found.matrix.shape[1] + 1), dim=0)
    w = tiny.mean()
    moved = tiny.styles(w.with_tensor(w.tensor + (found.matrix @ wanted)[None])).tensor - tiny.styles(w).tensor
    std = tiny.style_statistics(truncation=1.0).std
    assert torch.allclose(found.relevance(tiny, wanted), (moved / std)[0], atol=1e-3)


def test_goes_on_where_it_was_stopped(tiny, clip, tmp_path, monkeypatch):
    monkeypatch.setattr("stylograph.edit.universal.SAVE_EVERY", 0.0)
    whole, path = fit_universal(tiny, clip, config=CONFIG), tmp_path / "map.safetensors"

    def stop(step):
        if step.done == 48:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_universal(tiny, clip, config=CONFIG, path=path, on_step=stop)
    assert [p.name for p in tmp_path.iterdir()] == ["map.partial.safetensors"]
    with pytest.raises(EditError, match="half-made"):
        fit_universal(tiny, clip, config=replace(CONFIG, samples=64), path=path)
    seen = []
    rest = fit_universal(tiny, clip, config=CONFIG, path=path, on_step=lambda step: seen.append(step.done))
    assert seen == [64, 80, 96]
    assert torch.equal(rest.matrix, whole.matrix)
    assert [p.name for p in tmp_path.iterdir()] == ["map.safetensors"]
    assert torch.equal(universal_map(tiny, clip, config=CONFIG, path=path).matrix, whole.matrix)
    with pytest.raises(EditError, match="of 96 pictures, expected at least 1500"):
        universal_map(tiny, clip, path=path)


def test_refused_with_other_models(tiny, clip, tmp_path):
    path = fit_universal(tiny, clip, config=CONFIG).save(tmp_path / "map.safetensors")
    assert UniversalMap.load(path, tiny, clip).made["samples"] == 96
    with pytest.raises(EditError, match="generator"):
        UniversalMap.load(path, Generator.random(TINY, seed=9), clip)
    with pytest.raises(EditError, match="CLIP"):
        UniversalMap.load(path, tiny, Clip(clip.towers, resample="bicubic"))


@pytest.mark.parametrize("wrong", [{"samples": 20}, {"batch": 0}, {"ridge": 0.0}])
def test_wrong_settings(tiny, clip, wrong):
    with pytest.raises(EditError, match="got samples"):
        fit_universal(tiny, clip, config=replace(CONFIG, **wrong))
