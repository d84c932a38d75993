import pytest

from nada.kit import SOURCE, WANTED, grown
from stylograph import Clip
from stylograph.nada.target import aim


@pytest.fixture(scope="module")
def both(folders):
    return Clip.from_pretrained(folders, weights=[3, 1])


@pytest.fixture(scope="module")
def target(tiny, clip):
    return aim(tiny, clip, WANTED, SOURCE)


@pytest.fixture(scope="module")
def child(tiny):
    return grown(tiny, 1)
