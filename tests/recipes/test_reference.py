"""Recipe of the features of real drawings."""

import pytest

pytest.importorskip("dicebear")
pytest.importorskip("resvg_py")

from recipes.avatars.reference import ReferenceConfig, drawings, write
from stylograph.benchmark.domains import Reference
from stylograph.domains import DomainJudge


def test_written_features_are_read(tmp_path):
    config = ReferenceConfig(out=tmp_path / "r.safetensors", count=3)
    write(config, ["personas", "bottts"])
    judge = DomainJudge.from_pretrained()
    found = Reference.load(judge, config.out)
    assert {name: len(table) for name, table in found.features.items()} == {"personas": 3, "bottts": 3}
    pixels = drawings("bottts", config)
    assert pixels.shape == (3, 128, 128, 3)
    assert len({picture.tobytes() for picture in pixels}) == 3
    assert (pixels == drawings("bottts", config)).all()
