"""Ways to edit: the package's, the controls, and anybody's function."""

from dataclasses import FrozenInstanceError

import pytest
import torch

from stylograph.benchmark.methods import BUILT_IN, CONTROLS, EXPLAINED, Case, Tools, as_method, drawn
from stylograph.benchmark.plugs import digest_of, load_plug
from stylograph.errors import StylographError
from stylograph.types import Latents

from .kit import brighten


@pytest.fixture
def case(tiny, clip):
    latents = tiny.sample(3, seed=5)
    return Case("a red person", "a person", tiny.render(latents).clamp(-1, 1), latents, tiny, clip, (5, 6, 7))


class TestDrawn:
    def test_pictures_and_codes(self, case, tiny):
        assert torch.equal(drawn(case.images, case), case.images)
        assert torch.allclose(drawn(case.latents, case), case.images, atol=1e-5)
        styles = tiny.styles(case.latents)
        assert torch.allclose(drawn(styles, case), case.images, atol=1e-5)

    def test_half_precision_and_beyond_white(self, case):
        found = drawn((3 * case.images).half().requires_grad_(), case)
        assert found.dtype == torch.float32
        assert not found.requires_grad
        assert float(found.abs().max()) == 1

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            (lambda c: None, "NoneType"),
            (lambda c: c.images.numpy(), "ndarray"),
            (lambda c: c.images[:1], r"\[1, 3, 32, 32\]"),
            (lambda c: c.images[..., :16], r"\[3, 3, 32, 16\]"),
            (lambda c: c.images * float("nan"), "NaN or infinite values in 3 of 3"),
            (lambda c: (c.images * 127 + 128).byte(), "uint8"),
            (lambda c: c.images * 127.0 + 128, "in \\[-1, 1\\]"),
            (lambda c: c.latents[:2], "2 codes for 3"),
            (lambda c: Latents("w", torch.zeros(3, 7)), "this generator takes"),
        ],
    )
    def test_mistakes(self, case, wrong, said):
        with pytest.raises(StylographError, match=said):
            drawn(wrong(case), case)


class TestPlugs:
    def test_a_case_is_frozen(self, case):
        with pytest.raises(FrozenInstanceError):
            case.sentence = "another"

    def test_a_function(self, case, tmp_path):
        method = as_method(brighten)
        assert method.name == "brighten"
        assert method.says == "Everything as bright as can be."
        assert float(method.run(case, "own", Tools(tmp_path)).min()) == 1

    def test_a_file_and_a_module(self, tmp_path, monkeypatch):
        (tmp_path / "my_way_of_editing.py").write_text("def edit(case):\n    return case.images\n")
        monkeypatch.chdir(tmp_path)
        by_file, by_module = as_method("my_way_of_editing.py:edit"), as_method("my_way_of_editing:edit")
        assert by_file.settings == by_module.settings
        assert by_module.name == "my_way_of_editing:edit"

    def test_another_source_is_another_method(self, tmp_path):
        file = tmp_path / "m.py"
        file.write_text("def edit(case):\n    return case.images\n")
        first = as_method(f"{file}:edit").settings
        file.write_text("def edit(case):\n    return -case.images\n")
        assert as_method(f"{file}:edit").settings != first

    def test_a_module_that_was_edited_meanwhile(self, tmp_path, monkeypatch, case):
        file = tmp_path / "my_edited_module.py"
        file.write_text("def edit(case):\n    return case.images\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr("sys.dont_write_bytecode", True)
        as_method("my_edited_module:edit")
        file.write_text("def edit(case):\n    return -case.images  # longer\n")
        method = as_method("my_edited_module:edit")
        assert torch.equal(method.run(case, "own", Tools(tmp_path)), -case.images)

    def test_it_may_import_what_lies_beside_it(self, tmp_path):
        (tmp_path / "my_helper_beside.py").write_text("SIGN = -1\n")
        (tmp_path / "m.py").write_text("def edit(case):\n    from my_helper_beside import SIGN\n    return SIGN\n")
        assert as_method(f"{tmp_path / 'm.py'}:edit").run(None, "own", None) == -1

    def test_typed_in_functions_are_told_apart(self):
        def typed(text):
            place = {}
            exec(compile(text, "<stdin>", "exec"), place)
            return as_method(place["edit"]).settings

        first = typed("def edit(case):\n    return case.images in {'a', 'b'}\n")
        assert first == typed("\n\ndef edit(case):\n    return case.images in {'a', 'b'}\n")
        assert first != typed("def edit(case):\n    return case.images in {'a', 'c'}\n")
        assert first != typed("def edit(case):\n    return case.latents in {'a', 'b'}\n")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("directions", "expected one of: direction"),
            ("no_such_module_anywhere:edit", "no module here"),
            ("gone.py:edit", "no file is"),
            ("math:cosine", "cos"),
            ("math:pi", "expected a function"),
            ("a b:c", "got method"),
        ],
    )
    def test_mistakes(self, text, said):
        with pytest.raises(StylographError, match=said):
            as_method(text)

    def test_a_module_that_does_not_import(self, tmp_path):
        (tmp_path / "broken.py").write_text("import nothing_of_the_kind\n")
        with pytest.raises(StylographError, match="ModuleNotFoundError"):
            load_plug(f"{tmp_path / 'broken.py'}:edit")

    def test_digests(self, tiny, clip):
        assert digest_of(tiny) == tiny.digest
        assert digest_of(torch.nn.Linear(2, 2)) != digest_of(torch.nn.Linear(2, 2))
        with pytest.raises(StylographError, match="without a digest"):
            digest_of(object())


class TestBuiltIn:
    def test_all_are_explained(self):
        assert set(EXPLAINED) == set(BUILT_IN)
        assert set(CONTROLS) == {"shift", "stranger"}

    def test_controls(self, case, tmp_path):
        shifted = BUILT_IN["shift"].run(case, "own", Tools(tmp_path))
        assert torch.equal(shifted[..., 1:], case.images[..., :-1])
        other = BUILT_IN["stranger"].run(case, "own", Tools(tmp_path))
        assert torch.equal(other[1], case.images[0])

    @pytest.mark.parametrize("name", ["gradient", "optimize", "mapper"])
    def test_a_learnt_edit_is_learnt_once(self, case, tmp_path, name, monkeypatch):
        """Both strengths of optimize and mapper use one edit; each bears its seconds."""
        import stylograph.edit.mapper as mapper
        import stylograph.edit.optimize as optimize
        from stylograph.edit.config import MapperTraining, OptimizeConfig

        calls = []
        real = mapper.train_mapper, optimize.optimize

        def train(*args, **more):
            calls.append("mapper")
            small = MapperTraining(steps=1, images=10, held_out=2, batch=2)
            return real[0](*args, **{**more, "config": small})

        def search(*args, **more):
            calls.append("optimize")
            return real[1](*args, **{**more, "config": OptimizeConfig(space="s", steps=1)})

        monkeypatch.setattr(mapper, "train_mapper", train)
        monkeypatch.setattr(optimize, "optimize", search)
        monkeypatch.setattr("stylograph.edit.directions.find_directions", quick_directions)
        tools = [Tools(tmp_path), Tools(tmp_path)]
        fixed, auto = (BUILT_IN[name].run(case, s, t) for s, t in zip(("fixed", "auto"), tools))
        assert len(fixed) == len(auto) == 3
        assert bool(fixed.tensor.isfinite().all())
        if name != "gradient":
            assert tools[0].earlier == 0
            assert tools[1].earlier > 0
            assert calls.count("optimize") == (name == "optimize")

    def test_fixed_is_the_edits_own_strength(self, case, tmp_path):
        from stylograph import DirectionConfig, find_direction

        config = DirectionConfig(method="gradient")
        edit = find_direction(case.generator, case.clip, case.sentence, neutral=case.neutral, config=config)
        found = BUILT_IN["gradient"].run(case, "fixed", Tools(tmp_path))
        assert torch.allclose(found.tensor, edit(case.latents).tensor, atol=1e-5)
        assert not torch.allclose(found.tensor, edit.with_strength(0)(case.latents).tensor, atol=1e-2)


def quick_directions(generator, clip, target, *, neutral, config=None, counts=None, on_step=None):
    """One arbitrary shift."""
    from stylograph.edit.base import Shift
    from stylograph.edit.table import movable

    delta = generator.style_statistics().std.masked_fill(~movable(generator), 0.0)
    return [Shift(delta=delta, layers=generator.layer_widths, generator_digest=generator.digest, generator=generator)]
