"""The loop: every row once, whatever happens to the others."""

import json
import warnings

import pytest
import torch

import stylograph
from stylograph.benchmark.rows import Folder
from stylograph.benchmark.run import bench
from stylograph.benchmark.tasks import Task
from stylograph.errors import StylographError

from .kit import TASKS, brighten, halfway, judge_of, leave

SEEDS = tuple(range(40, 48))


@pytest.fixture
def run(tiny, clip, tmp_path):
    judge = judge_of(tiny, SEEDS)

    def start(*methods, **more):
        given = {"tasks": TASKS, "seeds": SEEDS, "judge": judge, "generator": tiny, "clip": clip, "identity": "none"}
        return bench(tmp_path / "out", methods=methods, **{**given, **more})

    return start


def row_of(found, method, sentence="a red person"):
    (row,) = [row for row in found.rows if row["method"] == method and row["task"]["sentence"] == sentence]
    return row


class Counting:
    """A method that knows how often it was asked."""

    __name__ = "counting"

    def __init__(self, fail_at=None, error=None):
        self.calls, self.fail_at, self.error = [], fail_at, error

    def __call__(self, case):
        self.calls.append(case.sentence)
        if len(self.calls) == self.fail_at:
            raise self.error
        return -case.images


class TestRows:
    def test_figures_of_a_method_that_always_succeeds(self, run):
        found = run(brighten, leave)
        bright, dark = row_of(found, "brighten"), row_of(found, "brighten", "a blue person")
        counted = [p for p in bright["pictures"] if p["counted"]]
        assert len(counted) == 4  # half are bright already
        assert all(p["reached"] for p in counted)
        assert not any(p["reached"] for p in dark["pictures"])
        assert [p["seed"] for p in bright["pictures"]] == list(SEEDS)
        still = row_of(found, "leave")["pictures"]
        assert not any(p["reached"] for p in still if p["counted"])
        assert all(p["drift"] == 0 and not p["leaked"] and p["identity"] is None for p in still)
        assert all(0 < p["drift"] <= 1 for p in bright["pictures"])

    def test_drift_is_root_mean_square_of_0_to_1(self, run, tiny):
        found = run(brighten)
        images = tiny.render(tiny.sample(len(SEEDS), seed=SEEDS)).clamp(-1, 1)
        want = ((1 - images) / 2).square().flatten(1).mean(1).sqrt()
        drift = torch.tensor([p["drift"] for p in row_of(found, "brighten")["pictures"]])
        assert torch.allclose(drift, want, atol=1e-4)

    def test_identity_is_the_recognisers_cosine(self, run):
        class Means:
            digest = "means"

            def embed(self, images):
                return torch.nn.functional.normalize(images.mean((2, 3)), dim=1)

        found = run(leave, brighten, identity=Means())
        assert all(p["identity"] == pytest.approx(1, abs=1e-3) for p in row_of(found, "leave")["pictures"])
        assert any(p["identity"] < 0.9 for p in row_of(found, "brighten")["pictures"])

    def test_controls_are_always_there(self, run):
        found = run(leave)
        assert {row["method"] for row in found.rows} == {"leave", "shift", "stranger"}
        assert all(row["control"] == (row["method"] != "leave") for row in found.rows)

    def test_codes_are_rendered(self, run, tiny):
        (picture, *_) = row_of(run(halfway), "halfway")["pictures"]
        assert picture["drift"] > 0

    def test_a_pipeline_method(self, run):
        found = run("gradient", strengths=("fixed",), tasks=TASKS[:1])
        assert "error" not in row_of(found, "gradient")
        assert row_of(found, "gradient")["strength"] == "fixed"


class TestGoingOn:
    def test_what_is_done_is_not_done_again(self, run):
        method = Counting()
        first = run(method)
        again = run(method)
        assert len(method.calls) == 2
        assert first.rows == again.rows
        assert len(again.rows) == 6

    def test_interrupted(self, run, tmp_path):
        method = Counting(fail_at=2, error=KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            run(method)
        assert json.loads((tmp_path / "out" / "bench.json").read_text())["rows"]
        found = run(method)
        assert method.calls == ["a red person", "a blue person", "a blue person"]
        assert len(found.rows) == 6

    def test_other_settings_are_other_rows(self, run):
        method = Counting()
        run(method)
        run(method, truncation=0.5)
        assert len(method.calls) == 4
        found = run(method, seeds=SEEDS[:4])
        assert len(method.calls) == 6
        assert any("other pictures" in remark for remark in found.remarks)
        assert {len(row["pictures"]) for row in found.rows} == {4}

    def test_a_changed_method_wins(self, run, tmp_path):
        file = tmp_path / "mine.py"
        file.write_text("def edit(case):\n    return case.images\n")
        run(f"{file}:edit")
        file.write_text("def edit(case):\n    return -case.images\n")
        found = run(f"{file}:edit")
        assert row_of(found, "mine.py:edit")["pictures"][0]["drift"] > 0
        assert any("changed since" in remark for remark in found.remarks)

    def test_folders_of_two_machines(self, run, tmp_path):
        import shutil

        run(brighten)
        (tmp_path / "out").rename(tmp_path / "other")
        run(leave)
        shutil.copytree(tmp_path / "other", tmp_path / "out", dirs_exist_ok=True)
        found = run(leave)
        assert {row["method"] for row in found.rows} == {"brighten", "leave", "shift", "stranger"}
        assert not found.failed

    def test_rows_of_two_clips_are_told_apart(self, run, folders):
        from stylograph import Clip
        from stylograph.benchmark.summary import summarise

        method = Counting()
        run(method)
        found = run(method, clip=Clip.from_pretrained(folders[1]))
        names = [column.name for column in summarise(found).columns]
        assert names == ["counting · one", "counting · two", "shift", "stranger"]


class TestFailures:
    @pytest.mark.parametrize("error", [ValueError("oh no"), StylographError("oh no"), RuntimeError("oh no")])
    def test_a_failed_row_costs_nothing_else(self, run, error):
        method = Counting(fail_at=1, error=error)
        found = run(method, brighten)
        assert [row["method"] for row in found.failed] == ["counting"]
        assert found.failed[0]["error"] == f"{type(error).__name__}: oh no"
        assert sum("pictures" in row for row in found.rows) == 7
        assert not run(method, brighten).failed  # tried again

    def test_wrong_pictures(self, run):
        def wrong(case):
            return case.images[:1]

        found = run(wrong, brighten)
        assert len(found.failed) == 2
        assert "expected [8, 3, 32, 32]" in found.failed[0]["error"]
        assert any("failed" in line for line in found.lines())

    def test_a_changed_generator_ends_it(self, run, tiny):
        def evil(case):
            case.generator.net.mapping.w_avg.add_(1)
            for name, parameter in case.generator.net.named_parameters():
                if name.endswith("bias"):
                    parameter.add_(1)
            return case.images

        kept = {name: tensor.clone() for name, tensor in tiny.net.state_dict().items()}
        try:
            with pytest.raises(StylographError, match="copy"):
                run(evil, brighten)
        finally:
            tiny.net.load_state_dict(kept)
        found = run(brighten)
        assert not [row for row in found.rows if row["method"] == "evil" and "pictures" in row]

    def test_a_method_cannot_spoil_the_pictures(self, run):
        def spoil(case):
            case.images.zero_()
            case.latents.tensor.zero_()
            return case.images

        found = run(spoil, leave)
        assert all(p["drift"] == 0 for p in row_of(found, "leave")["pictures"])

    @pytest.mark.parametrize(
        ("more", "said"),
        [
            ({"seeds": 1}, "expected 2 to"),
            ({"seeds": (1, 1)}, "each once"),
            ({"strengths": ("half",)}, "expected fixed or auto"),
            ({"tasks": []}, "no sentences"),
            ({"tasks": TASKS * 2}, "twice"),
            ({"tasks": [Task("x", {"nose": ("big",)})]}, "the judge knows"),
            ({"judge": None}, "--judge"),
            ({"judge": object}, "lacks probabilities"),
            ({"clip": object}, "lacks embed_images"),
            ({"domains": ("nowhere",)}, "expected one of: "),
        ],
    )
    def test_settings_that_make_no_sense(self, run, more, said):
        with pytest.raises(StylographError, match=said):
            run(leave, **more)

    def test_two_of_one_name(self, run):
        with pytest.raises(StylographError, match="every name once"):
            run(leave, leave)

    def test_a_strength_it_does_not_have(self, run):
        found = run("direction", strengths=("fixed",))
        assert any("left out" in remark for remark in found.remarks)


def test_randomness_belongs_to_the_row(run):
    drawn = []

    def dice(case):
        drawn.append(float(torch.rand(())))
        warnings.warn("nobody has to read this", stacklevel=1)
        return case.images

    torch.manual_seed(7)
    want = float(torch.rand(()))
    torch.manual_seed(7)
    run(dice)
    assert drawn[0] == drawn[1]
    assert float(torch.rand(())) == want


def test_a_clip_of_ones_own(run, clip, tmp_path):
    (tmp_path / "own.py").write_text(
        "class Own:\n    def __init__(self, inner): self.inner = inner\n"
        "    def __getattr__(self, name):\n"
        "        if name in ('digest', 'inner', 'name'): raise AttributeError(name)\n"
        "        return getattr(self.inner, name)\n"
        "CLIP = None\ndef make(): return Own(CLIP)\n"
    )
    with pytest.raises(StylographError, match="lacks"):
        run(leave, clip=f"{tmp_path / 'own.py'}:CLIP")
    found = run(leave, clip=lambda: clip)
    assert row_of(found, "leave")["clip"]["digest"] == clip.digest


def test_the_public_name(run, tmp_path):
    assert stylograph.bench is bench
    assert Folder(tmp_path).all() == []
