import copy

import pytest

from stylograph.generator import Generator


@pytest.fixture(scope="session")
def mild(tiny):
    """The small generator with colours that can be shown: an untrained one's are far beyond black and white."""
    net = copy.deepcopy(tiny.net)
    for name, parameter in net.named_parameters():
        if ".torgb." in name and ".affine." not in name:
            parameter.mul_(0.1)
    return Generator(net)
