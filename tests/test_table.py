"""The table of channel effects: its numbers, stopping and going on, and whose it is."""

import pytest
import torch
from conftest import TINY, save_tiny_clip

import stylograph.edit.table as module
from stylograph import Clip, Generator, Latents
from stylograph.edit.table import DirectionTable, MeasureConfig, measure_table, movable, table_path
from stylograph.errors import EditError, WeightsError
from stylograph.losses import unit_mean

CONFIG = MeasureConfig(images=3, batch=2, max_resolution=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def clip(folder):
    return Clip.from_pretrained(folder)


@pytest.fixture(scope="module")
def table(tiny, clip):
    return measure_table(tiny, clip, config=CONFIG)


def test_rows_equal_rendering_a_channel_from_scratch(tiny, clip, table):
    statistics = tiny.style_statistics()
    s = tiny.styles(tiny.sample(3, seed=0)).tensor
    for layer in tiny.layers:
        channel = layer.s_slice.start + 1
        if layer.to_rgb or layer.resolution > 16:
            assert not table.rows[layer.s_slice].any()
            continue
        sides = []
        for sign in (-1, 1):
            moved = s.clone()
            moved[:, channel] = statistics.mean[channel] + sign * 5 * statistics.std[channel]
            sides.append(clip.embed_images(tiny.render(Latents("s", moved)).clamp(-1, 1)))
        want = unit_mean(sides[1] - sides[0])
        assert float((table.rows[channel] - want).abs().max()) < 1e-3, layer.name
    wanted = torch.nn.functional.normalize(torch.arange(16.0), dim=0)
    assert torch.allclose(table.relevance(wanted), (table.rows * wanted).sum(1), atol=1e-6)


def test_memory_does_not_decide_the_numbers(tiny, clip, table, monkeypatch):
    monkeypatch.setattr(module, "PIXELS_PER_RUN", 1)
    assert torch.allclose(measure_table(tiny, clip, config=CONFIG).rows, table.rows, atol=1e-3)


class Stop:
    """Interrupts at the given event; counts events."""

    def __init__(self, at):
        self.at, self.events = at, []

    def __call__(self, step):
        self.events.append(step)
        if len(self.events) == self.at:
            raise KeyboardInterrupt


class TestResume:
    @pytest.fixture(autouse=True)
    def small_steps(self, monkeypatch):
        monkeypatch.setattr(module, "PIXELS_PER_RUN", 6 * 2 * 32**2)

    @pytest.mark.parametrize("every", [0.0, 1000.0])
    def test_interrupted_twice_equals_uninterrupted(self, tiny, clip, tmp_path, monkeypatch, every):
        whole = Stop(0)
        want = measure_table(tiny, clip, config=CONFIG, on_step=whole)
        monkeypatch.setattr(module, "SAVE_EVERY", every)
        path = tmp_path / "table.safetensors"
        parts = []
        for stop in (len(whole.events) * 3 // 4, 2, 0):  # the first within the second batch of images
            part = Stop(stop)
            parts.append(part)
            if not stop:
                got = measure_table(tiny, clip, config=CONFIG, path=path, on_step=part)
                break
            with pytest.raises(KeyboardInterrupt):
                measure_table(tiny, clip, config=CONFIG, path=path, on_step=part)
            assert not path.exists()
        assert torch.equal(got.rows, want.rows)
        assert parts[-1].events[-1] == whole.events[-1]
        assert parts[-1].events[0].done > 2 * 64  # what the first batch of two images did is not done again
        assert sum(len(p.events) for p in parts) < 1.6 * len(whole.events)
        assert [p.name for p in tmp_path.iterdir()] == ["table.safetensors"]
        assert torch.equal(DirectionTable.load(path, tiny, clip).rows, want.rows)

    def test_half_a_table_is_not_continued_with_other_settings(self, tiny, clip, folder, tmp_path, monkeypatch):
        monkeypatch.setattr(module, "SAVE_EVERY", 0.0)
        path = tmp_path / "table.safetensors"
        with pytest.raises(KeyboardInterrupt):
            measure_table(tiny, clip, config=CONFIG, path=path, on_step=Stop(3))
        for wrong in ({"images": 4}, {"batch": 1}, {"seed": 1}, {"shift": 4.0}):
            with pytest.raises(EditError, match=f"{next(iter(wrong))}: "):
                measure_table(tiny, clip, config=MeasureConfig(**{**vars(CONFIG), **wrong}), path=path)
        with pytest.raises(EditError, match="half a table"):
            measure_table(Generator.random(TINY, seed=9), clip, config=CONFIG, path=path)
        with pytest.raises(EditError, match="half a table"):
            measure_table(tiny, Clip.from_pretrained(folder, resample="bicubic"), config=CONFIG, path=path)


class TestFile:
    @pytest.fixture
    def path(self, table, tmp_path):
        return table.save(tmp_path / "table.safetensors")

    def test_round_trip(self, tiny, clip, table, path):
        again = DirectionTable.load(path, tiny, clip)
        assert torch.equal(again.rows, table.rows)
        assert (again.layers, again.made, again.clip) == (table.layers, table.made, table.clip)
        assert again.made["method"] == "finite"
        assert again.made["images"] == 3

    def test_read_instead_of_measured(self, tiny, clip, table, path):
        events = []
        again = measure_table(tiny, clip, config=CONFIG, path=path, on_step=events.append)
        assert torch.equal(again.rows, table.rows)
        assert not events

    def test_other_settings_do_not_overwrite(self, tiny, clip, path):
        before = path.read_bytes()
        with pytest.raises(EditError, match="images: 3 there, 2 asked for"):
            measure_table(tiny, clip, config=MeasureConfig(images=2, max_resolution=16), path=path)
        assert path.read_bytes() == before

    def test_refused_elsewhere(self, tiny, clip, folder, path, tmp_path):
        with pytest.raises(EditError, match="made for"):
            DirectionTable.load(path, Generator.random(TINY, seed=9), clip)
        with pytest.raises(EditError, match="made with"):
            DirectionTable.load(path, tiny, Clip.from_pretrained(folder, resample="bicubic"))
        tiny.save(tmp_path / "g.safetensors")
        with pytest.raises(WeightsError, match="table"):
            DirectionTable.load(tmp_path / "g.safetensors", tiny, clip)

    def test_a_text_of_another_model(self, table):
        with pytest.raises(EditError, match="text direction"):
            table.relevance(torch.ones(5))

    def test_a_poisoned_table(self, tiny, clip, table, tmp_path):
        bad = DirectionTable(table.rows * torch.nan, table.layers, table.generator_digest, table.clip, table.made)
        with pytest.raises(EditError, match="finite"):
            DirectionTable.load(bad.save(tmp_path / "bad.safetensors"), tiny, clip)


class TestPlace:
    def test_beside_a_file(self, clip, tmp_path):
        name = f"ffhq.{clip.name}.finite.safetensors"
        (tmp_path / "ffhq.pkl").touch()
        assert (
            table_path(tmp_path / "ffhq.pkl", clip) == table_path(str(tmp_path / "ffhq.pkl"), clip) == tmp_path / name
        )

    @pytest.mark.parametrize(
        "source", ["avatars", "ffhq-1024", "owner/repo:file.pkl", "https://example.org/a/ffhq.pkl"]
    )
    def test_in_the_cache(self, clip, source, tmp_path, monkeypatch):
        monkeypatch.setenv("STYLOGRAPH_CACHE", str(tmp_path))
        path = table_path(source, clip)
        assert path.parent == tmp_path
        assert path.name.endswith(f".{clip.name}.finite.safetensors")
        assert source.split("/")[-1].split(":")[-1].removesuffix(".pkl") in path.name


@pytest.mark.parametrize("wrong", [{"images": 0}, {"batch": 0}, {"shift": 0.0}])
def test_wrong_settings(tiny, clip, wrong):
    with pytest.raises(EditError, match="got images"):
        measure_table(tiny, clip, config=MeasureConfig(**wrong))


def test_movable(tiny):
    assert int(movable(tiny).sum()) == sum(layer.channels for layer in tiny.layers if not layer.to_rgb)
    assert int(movable(tiny, 4).sum()) == tiny.layers[0].channels
