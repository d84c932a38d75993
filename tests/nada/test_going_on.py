"""A training that was interrupted, and checkpoints that are not its own."""

from dataclasses import replace

import pytest
import torch

from nada.kit import QUICK, SOURCE, WANTED, pictures
from stylograph import Generator
from stylograph.errors import AdaptError, OutputError, WeightsError
from stylograph.files import load_tensors, save_tensors
from stylograph.nada import training
from stylograph.nada.adapt import adapt_to
from stylograph.nada.target import aim


class Stop(Exception):
    pass


def stopping(at):
    def on_step(step):
        if step.done == at:
            raise Stop

    return on_step


class TestGoingOn:
    @pytest.mark.parametrize(
        ("settings", "stop_at"), [({}, 4), *(({"top_k": 2, "select_every": 3}, at) for at in (1, 5, 8))], ids=str
    )
    def test_a_training_cut_off_ends_as_if_it_never_was(self, tiny, target, tmp_path, monkeypatch, settings, stop_at):
        # Looks are at 3, 6, 9 and choices before 1, 4, 7: each cut is between two looks or two choices.
        monkeypatch.setattr(training, "SAVE_SECONDS", -1.0)
        config = replace(QUICK, steps=9, check_every=3, mixing=0.5, **settings)
        whole = adapt_to(tiny, target, config=config)
        path, steps = tmp_path / "run.safetensors", []
        with pytest.raises(Stop):
            adapt_to(tiny, target, config=config, path=path, on_step=stopping(stop_at))
        again = adapt_to(tiny, target, config=config, path=path, on_step=steps.append)
        assert [step.done for step in steps] == list(range(stop_at + 1, 10))
        again.save(tmp_path / "a.safetensors")
        whole.save(tmp_path / "b.safetensors")
        assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()

    def test_between_two_looks_the_last_look_is_gone_back_to(self, tiny, target, tmp_path):
        config, path, steps = replace(QUICK, steps=6), tmp_path / "run.safetensors", []
        whole = adapt_to(tiny, target, config=config)
        with pytest.raises(Stop):
            adapt_to(tiny, target, config=config, path=path, on_step=stopping(5))
        again = adapt_to(tiny, target, config=config, path=path, on_step=steps.append)
        assert steps[0].done == 5  # the checkpoint is of step 4
        assert again.digest == whole.digest

    def test_a_finished_training_is_not_repeated(self, tiny, target, tmp_path):
        path, steps = tmp_path / "run.safetensors", []
        first = adapt_to(tiny, target, config=QUICK, path=path)
        again = adapt_to(tiny, target, config=QUICK, path=path, on_step=steps.append)
        assert not steps
        assert again.digest == first.digest
        assert again.provenance == first.provenance

    def test_refuses_the_checkpoint_of_another_training(self, tiny, clip, target, child, tmp_path):
        path = tmp_path / "run.safetensors"
        adapt_to(tiny, target, config=replace(QUICK, steps=1), path=path)
        kept = path.read_bytes()
        for names, arguments in {
            "lr, seed": {"config": replace(QUICK, steps=1, lr=0.1, seed=3)},
            "layers": {"config": replace(QUICK, steps=1, layers=("b8", "b16", "b32", "b4"))},
            "parent": {"generator": child},
            "target": {"target": aim(tiny, clip, "a red hat", SOURCE)},
            "source": {"target": aim(tiny, clip, WANTED, "a face")},
            "shares, target_images": {
                "target": aim(tiny, clip, WANTED, SOURCE, target_images=pictures(2), source_images=pictures(2))
            },
        }.items():
            call = {"generator": tiny, "target": target, "config": replace(QUICK, steps=1), "path": path, **arguments}
            with pytest.raises(AdaptError, match=f"another adaptation, which differs in {names};"):
                adapt_to(**call)
        assert path.read_bytes() == kept

    def test_refuses_one_with_other_source_pictures(self, tiny, clip, tmp_path):
        path, config = tmp_path / "run.safetensors", replace(QUICK, steps=1)
        one, two = (
            aim(tiny, clip, None, None, target_images=pictures(2), source_images=pictures(3, seed=seed))
            for seed in (1, 2)
        )
        adapt_to(tiny, one, config=config, path=path)
        with pytest.raises(AdaptError, match="another adaptation"):
            adapt_to(tiny, two, config=config, path=path)

    def test_refuses_one_of_another_precision(self, tiny, target, tmp_path):
        path, config = tmp_path / "run.safetensors", replace(QUICK, steps=1)
        adapt_to(tiny, target, config=config, path=path)
        half = Generator.from_checkpoint(tiny.checkpoint()).to(dtype=torch.bfloat16)
        with pytest.raises(AdaptError, match="another adaptation"):
            adapt_to(half, target, config=config, path=path)

    def test_damaged_or_foreign_checkpoints(self, tiny, target, tmp_path):
        path, config = tmp_path / "run.safetensors", replace(QUICK, steps=1)
        adapt_to(tiny, target, config=config, path=path)
        whole = path.read_bytes()
        tensors, record = load_tensors(path, "adaptation")
        for name in ("child.synthesis.b8.conv0.weight", "best.synthesis.b8.conv0.weight", "optimizer.0.exp_avg_sq"):
            save_tensors(path, {**tensors, name: tensors[name] * torch.nan}, "adaptation", record)
            with pytest.raises(AdaptError, match=r"damaged checkpoint .*NaN.*; delete it"):
                adapt_to(tiny, target, config=config, path=path)
        for broken in (
            {k: v for k, v in tensors.items() if k != "average.synthesis.b8.conv0.bias"},
            {**tensors, "child.synthesis.b8.conv0.bias": torch.zeros(3)},
            {**tensors, "child.more": torch.zeros(3)},
        ):
            save_tensors(path, broken, "adaptation", record)
            with pytest.raises(AdaptError, match="damaged checkpoint"):
                adapt_to(tiny, target, config=config, path=path)
        for wrong in ({"step": "x"}, {"looks": 3}, {"chosen": None}):
            save_tensors(path, tensors, "adaptation", {**record, **wrong})
            with pytest.raises(AdaptError, match="damaged checkpoint"):
                adapt_to(tiny, target, config=config, path=path)
        for cut in (10, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:cut])
            with pytest.raises(WeightsError, match="damaged file"):
                adapt_to(tiny, target, config=config, path=path)
        tiny.save(path)
        with pytest.raises(WeightsError, match="expected a stylograph adaptation file"):
            adapt_to(tiny, target, config=config, path=path)

    @pytest.mark.parametrize("damage", ["missing", "shape"])
    def test_an_optimiser_that_does_not_fit(self, tiny, target, tmp_path, damage):
        path, config = tmp_path / "run.safetensors", replace(QUICK, steps=2, check_every=1)
        with pytest.raises(Stop):
            adapt_to(tiny, target, config=config, path=path, on_step=stopping(1))
        tensors, record = load_tensors(path, "adaptation")
        gone = tensors.pop("optimizer.0.exp_avg_sq")
        if damage == "shape":
            tensors["optimizer.0.exp_avg_sq"] = gone.flatten()[:3]
        save_tensors(path, tensors, "adaptation", record)
        with pytest.raises(AdaptError, match="damaged checkpoint"):
            adapt_to(tiny, target, config=config, path=path)

    def test_a_path_that_cannot_be_written_is_found_out_at_once(self, tiny, target, tmp_path):
        steps = []
        with pytest.raises(OutputError, match="does not exist"):
            adapt_to(tiny, target, config=QUICK, path=tmp_path / "no" / "x.safetensors", on_step=steps.append)
        assert not steps
