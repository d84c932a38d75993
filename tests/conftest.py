from pathlib import Path

import numpy as np
import pytest
import torch

from stylograph import Clip
from stylograph.cli import main
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


WORDS = ["a", "an", "the", "person", "face", "robot", "wearing", "hat", "red", "blue", "photo", "of", "drawing"]


def save_tiny_clip(folder, *, seed=0, size=32, width=16):
    """A random CLIP with a word-level tokenizer, in the form `save_pretrained` leaves it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.normalizers import Lowercase
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    vocabulary = {w: i for i, w in enumerate(["<pad>", "<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = Lowercase()
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)])
    special = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)
    layer = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"vocab_size": len(vocabulary), "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(seed)
    CLIPModel(
        CLIPConfig(
            text_config={**layer, **ids, "max_position_embeddings": 24},
            vision_config={**layer, "image_size": size, "patch_size": 8},
            projection_dim=width,
        )
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("clips")
    return [save_tiny_clip(root / "one"), save_tiny_clip(root / "two", seed=1, size=40, width=12)]


@pytest.fixture(scope="module")
def clip(folders):
    return Clip.from_pretrained(folders[0])


@pytest.fixture
def say(capsys):
    """Runs the command; gives exit code, standard output and messages."""

    def run(*arguments):
        try:
            main([str(a) for a in arguments])
            code = 0
        except SystemExit as stop:
            code = stop.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
