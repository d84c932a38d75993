"""Layer patterns."""

import pytest
import torch

from stylograph.edit.masks import layers_matching
from stylograph.errors import EditError

LAYERS = (("b4.conv1", 3), ("b4.torgb", 3), ("b8.conv0", 3), ("b8.conv1", 2), ("b8.torgb", 2), ("b64.conv1", 1))


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["b8.conv1"], {"b8.conv1"}),
        (["b8"], {"b8.conv0", "b8.conv1", "b8.torgb"}),
        (["8"], {"b8.conv0", "b8.conv1", "b8.torgb"}),
        (["4"], {"b4.conv1", "b4.torgb"}),  # and not 64
        (["torgb"], {"b4.torgb", "b8.torgb"}),
        (["conv0"], {"b8.conv0"}),
        (["b*.conv1"], {"b4.conv1", "b8.conv1", "b64.conv1"}),
        (["b8.*", "b64"], {"b8.conv0", "b8.conv1", "b8.torgb", "b64.conv1"}),
        ([], set()),
    ],
)
def test_patterns(patterns, names):
    got = layers_matching(LAYERS, patterns)
    assert got.dtype == torch.bool
    assert got.tolist() == [name in names for name, width in LAYERS for _ in range(width)]


@pytest.mark.parametrize("wrong", ["b16", "conv9", "", "b8.conv", "B8"])
def test_a_pattern_without_a_layer_names_the_layers(wrong):
    with pytest.raises(EditError, match=r"names no layer.*b8\.conv0"):
        layers_matching(LAYERS, ["b4", wrong])
