"""The avatars GAN recipe: resuming, growing, and what the exported file holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recipes.avatars import codes, sheet
from recipes.avatars.attributes import sample_labels
from recipes.avatars.discriminator import Block, Discriminator, Heads, minibatch_std, shift
from recipes.avatars.export_generator import ExportConfig, export, generator_config, load_ema
from recipes.avatars.gan import Renders, TrainConfig, Trainer, balance_styles
from stylograph.nets.modulation import upsample_image
from stylograph.nets.stylegan2 import Mapping

TINY = TrainConfig(
    resolution=16,
    trunk=16,
    batch=4,
    channel_base=128,
    channel_max=16,
    latent=128,
    bf16=False,
    r1_every=2,
    head_shift=1,
)


def pictures(side: int) -> Renders:
    images = np.random.default_rng(0).integers(0, 256, (12, side, side, 3), dtype=np.uint8)
    return Renders(images, {name: torch.from_numpy(row) for name, row in sample_labels(12, seed=0).items()})


def features(x: Tensor) -> list[Tensor]:
    return [F.avg_pool2d(x, 2), F.avg_pool2d(x, 4)]


def test_kill_and_resume_gives_the_same_weights(tmp_path: Path) -> None:
    whole = Trainer(replace(TINY, out=tmp_path / "a"), pictures(16), features)
    for _ in range(4):
        whole.train_step()
    config = replace(TINY, out=tmp_path / "b")
    half = Trainer(config, pictures(16), features)
    for _ in range(2):
        half.train_step()
    half.save()
    resumed = Trainer(replace(config, seed=7), pictures(16), features)
    assert resumed.images_seen == 8
    for _ in range(2):
        resumed.train_step()
    for name in ("g", "ema", "d", "heads"):
        expected, found = getattr(whole, name).state_dict(), getattr(resumed, name).state_dict()
        assert all(torch.equal(expected[key], found[key]) for key in expected), name


def test_a_step_trains_every_part(tmp_path: Path) -> None:
    trainer = Trainer(replace(TINY, out=tmp_path), pictures(16), features)
    before = {
        f"{name}.{key}": value.clone()
        for name in ("g", "ema", "d", "heads")
        for key, value in getattr(trainer, name).named_parameters()
    }
    for _ in range(3):
        numbers = trainer.train_step()
    assert {"pixel", "feature", "g", "real", "fake", "head_real", "head_fake"} <= set(numbers)
    for name in ("g", "ema", "d", "heads"):
        for key, value in getattr(trainer, name).named_parameters():
            still = torch.equal(before[f"{name}.{key}"], value)
            assert still == key.startswith("mapping.") or value.numel() == 1, f"{name}.{key}"


def test_growing_keeps_the_picture_and_the_logits(tmp_path: Path) -> None:
    small = Trainer(replace(TINY, out=tmp_path), pictures(16), features)
    for _ in range(2):
        small.train_step()
    small.save()
    large = Trainer(replace(TINY, out=tmp_path, resolution=32), pictures(32), features)
    assert large.images_seen == 8
    with torch.no_grad():
        for before, after in ((small.g, large.g), (small.ema, large.ema)):
            w = before.mapping(torch.randn(4, 128))
            low = before(w[:, None].expand(-1, before.config.num_ws, -1))
            high = after(w[:, None].expand(-1, after.config.num_ws, -1))
            torch.testing.assert_close(high, upsample_image(low))
        real = torch.randn(4, 3, 32, 32)
        torch.testing.assert_close(large.d(real), small.d(F.avg_pool2d(real, 2)))
    for _ in range(2):
        large.train_step()
    assert float(large.d.detail.c2.w.detach().abs().max()) > 0


def test_blocks_above_the_pairs_add_nothing(tmp_path: Path) -> None:
    config = replace(TINY, out=tmp_path, gan_weight=0, pairs_at=8)
    trainer = Trainer(config, pictures(16), features)
    trainer.train_step()
    with torch.no_grad():
        styles = trainer.ema.synthesis.styles(trainer.ema.mapping(torch.randn(2, 128))[:, None].expand(-1, 6, -1))
        low = trainer.ema.synthesis.run(styles, stop=trainer.ema.stop_index(8)).image
        high = trainer.ema.synthesis.run(styles).image
    torch.testing.assert_close(high, upsample_image(low))


def test_growing_by_more_than_one_octave_is_refused(tmp_path: Path) -> None:
    Trainer(replace(TINY, out=tmp_path), pictures(16)).save()
    with pytest.raises(SystemExit, match="is at 16 px, asked for 64"):
        Trainer(replace(TINY, out=tmp_path, resolution=64, trunk=64), pictures(64))


def test_folded_gains_equal_the_plain_formula() -> None:
    torch.manual_seed(0)
    block = Block(6, 10)
    x = torch.randn(2, 6, 8, 8)

    def plain(layer: torch.nn.Module, value: Tensor, padding: int) -> Tensor:
        return F.conv2d(value, layer.w / layer.w[0].numel() ** 0.5, layer.b, padding=padding)

    y = F.leaky_relu(plain(block.c1, x, 1), 0.2) * 2**0.5
    y = F.leaky_relu(F.avg_pool2d(plain(block.c2, y, 1), 2), 0.2) * 2**0.5
    expected = (y + plain(block.sk, F.avg_pool2d(x, 2), 0)) / 2**0.5
    torch.testing.assert_close(block(x), expected)


def test_minibatch_std_groups_by_index_modulo() -> None:
    x = torch.zeros(8, 2, 4, 4)
    x[[1, 3, 5, 7]] = torch.randn(4, 2, 4, 4)  # with two groups, the odd samples are one group
    channel = minibatch_std(x)[:, 2, 0, 0]
    assert float(channel[::2].max()) < 1e-3 < float(channel[1::2].min())
    with pytest.raises(ValueError, match="multiple of 4"):
        minibatch_std(x[:6])


def test_shift_moves_by_at_most_the_given_pixels() -> None:
    x = torch.arange(64.0).reshape(1, 1, 8, 8).repeat(16, 1, 1, 1)
    moved = shift(x, most=2, rng=torch.Generator().manual_seed(0))
    middle = moved[:, 0, 4, 4] - x[:, 0, 4, 4]
    assert len(middle.unique()) > 3
    assert float(middle.abs().max()) <= 18


def test_export_reads_the_average_back(tmp_path: Path) -> None:
    trainer = Trainer(replace(TINY, out=tmp_path), pictures(16))
    trainer.train_step()
    trainer.save()
    net, provenance = load_ema(trainer.path)
    assert provenance["images_seen"] == 4
    assert not any("noise" in key or "filter" in key for key in net.state_dict())
    assert torch.equal(net.mapping.w_avg, trainer.g.mapping.w_avg)
    for key, value in trainer.ema.state_dict().items():
        assert torch.equal(net.state_dict()[key], value)


def test_export_is_a_package_file_with_the_same_pictures(tmp_path: Path) -> None:
    from stylograph import weights

    trainer = Trainer(replace(TINY, out=tmp_path), pictures(16))
    trainer.train_step()
    trainer.save()
    export(ExportConfig(state=trainer.path, out=tmp_path / "generator.safetensors"))
    found = weights.read(tmp_path / "generator.safetensors")
    assert found.config == trainer.g.config.to_dict()
    assert found.provenance["images_seen"] == 4
    assert all(torch.equal(found.tensors[key], value) for key, value in trainer.ema.state_dict().items())


def test_balancing_styles_keeps_the_pictures(tmp_path: Path) -> None:
    net = Trainer(replace(TINY, out=tmp_path), pictures(16)).g
    with torch.no_grad():
        affine = net.synthesis.get_submodule("b16.conv1.affine")
        affine.get_parameter("bias").fill_(12.0)
        ws = net.mapping(torch.randn(4, 128))[:, None].expand(-1, net.config.num_ws, -1)
        before = net(ws)
        balance_styles(net)
        torch.testing.assert_close(net(ws), before, rtol=1e-4, atol=1e-4)
        assert float(affine(net.mapping.w_avg).abs().mean()) < 1.01


def test_heads_are_not_fed_by_a_trained_network() -> None:
    heads = Heads(features, resolution=16)
    assert heads(torch.zeros(3, 3, 16, 16)).shape == (2, 3)
    assert all(key.startswith("heads.") for key in heads.state_dict())


def test_discriminator_refuses_other_sizes() -> None:
    with pytest.raises(ValueError, match="16 or 32, got 64"):
        Discriminator(64, trunk=16)


def test_kid_is_near_zero_for_the_same_distribution_only() -> None:
    rng = torch.Generator().manual_seed(0)
    a, b = torch.randn(400, 20, generator=rng), torch.randn(400, 20, generator=rng)
    assert abs(sheet.kid(a, b)) < 0.02
    assert sheet.kid(a, b + 1) > 0.5


def test_grid_places_pictures_row_by_row() -> None:
    cells = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert sheet.grid(cells, 2)[:, :, 0].tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2


def test_latents_mean_the_labels_and_are_normal() -> None:
    labels = {name: torch.from_numpy(row) for name, row in sample_labels(4000, seed=1).items()}
    z = codes.latents_of(labels, 128, rng=torch.Generator().manual_seed(0))
    found = codes.labels_of(z)
    assert all(torch.equal(found[name], labels[name]) for name in labels)
    assert float(z.mean(0).abs().max()) < 0.08
    assert float((z.std(0) - 1).abs().max()) < 0.08


def test_a_wired_mapping_tells_every_attribute_linearly() -> None:
    mapping = Mapping(generator_config(16)).requires_grad_(False)
    codes.wire(mapping)
    z = torch.randn(4000, 128, generator=torch.Generator().manual_seed(1))
    w, labels = mapping(z).double(), codes.labels_of(z)
    w = torch.cat([w - mapping.w_avg, torch.ones(len(w), 1)], dim=1)
    for name, found in labels.items():
        wanted = F.one_hot(found).double()
        readout = torch.linalg.lstsq(w[:3000], wanted[:3000], driver="gelsd").solution
        missed = (w[3000:] @ readout - wanted[3000:]).square().sum() / (wanted[3000:] - wanted.mean(0)).square().sum()
        assert missed < 0.03, name


def test_a_leaning_code_still_means_its_label() -> None:
    mapping = Mapping(generator_config(16)).requires_grad_(False)
    codes.wire(mapping)
    labels = {name: torch.from_numpy(row) for name, row in sample_labels(500, seed=2).items()}
    rng = torch.Generator().manual_seed(0)
    w = mapping(codes.latents_of(labels, 128, rng=rng))
    moved = w + codes.lean(mapping, labels, rng=rng)
    # w is linear in the switches: one row per value, read off the codes themselves.
    switches = torch.cat([F.one_hot(o.argsort()[labels[n]], len(o)).float() for n, o in codes.ORDERS.items()], 1)
    rows = torch.linalg.lstsq(switches, w, driver="gelsd").solution
    found = moved @ torch.linalg.pinv(rows)
    assert float((moved - w).norm(dim=1).min()) > 0
    for name, part in zip(codes.ORDERS, found.split([len(o) for o in codes.ORDERS.values()], 1), strict=True):
        own = codes.ORDERS[name].argsort()[labels[name]]
        assert float((part.argmax(1) == own).float().mean()) > 0.98, name


def test_styles_are_centred_at_the_mean(tmp_path: Path) -> None:
    net = Trainer(replace(TINY, out=tmp_path), pictures(16)).g
    styles = net.synthesis.styles(net.mapping.w_avg.expand(1, net.config.num_ws, -1))
    assert torch.allclose(styles, torch.ones_like(styles), atol=1e-4)


def test_pairs_alone_leave_the_discriminator_alone(tmp_path: Path) -> None:
    trainer = Trainer(replace(TINY, out=tmp_path, gan_weight=0), pictures(16), features)
    before = trainer.d.f1.w.detach().clone()
    assert set(trainer.train_step()) == {"pixel", "feature"}
    assert torch.equal(before, trainer.d.f1.w)
