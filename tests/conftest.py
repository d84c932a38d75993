from pathlib import Path

import numpy as np
import pytest
import torch

from stylograph.generator import Generator
from stylograph.nets.stylegan2 import StyleGAN2Config

GOLDEN = Path(__file__).parent / "golden"
torch.set_num_threads(1)


@pytest.fixture
def golden():
    """Loads a recorded reference as torch tensors (strings stay numpy)."""

    def load(name):
        with np.load(GOLDEN / name) as file:
            return {k: torch.from_numpy(v) if v.dtype.kind in "fi" else v for k, v in file.items()}

    return load


TINY = StyleGAN2Config(32, (16, 16, 12, 8), z_dim=24, w_dim=20, mapping_features=(28, 20))


@pytest.fixture(scope="session")
def tiny():
    """A small untrained generator with noise, of a shape no public table has."""
    generator = Generator.random(TINY, seed=1)
    rng = torch.Generator().manual_seed(2)
    for name, parameter in generator.net.named_parameters():
        if name.endswith("noise_strength") or (name.endswith("bias") and "affine" not in name):
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=rng))
    generator.net.mapping.w_avg.copy_(generator.w_samples(512).mean(0))
    return generator
