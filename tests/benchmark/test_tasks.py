"""The sentences: known to the judge, and in words the shipped CLIP knows."""

import warnings

from stylograph import Clip
from stylograph.benchmark.tasks import GROUPS, HELD_OUT, NEUTRAL, QUICK, TASKS, TUNED, TWO
from stylograph.errors import PromptWarning
from stylograph.metrics import Judge


def test_the_judge_knows_what_is_wanted():
    judge = Judge.from_pretrained()
    for task in TASKS:
        for attribute, values in task.wants.items():
            assert values
            assert [judge.value(attribute, value) for value in values]
        assert set(task.exempt) <= set(judge.attributes) - set(task.wants)


def test_the_clip_knows_the_words():
    clip = Clip.from_pretrained("avatars")
    with warnings.catch_warnings():
        warnings.simplefilter("error", PromptWarning)
        for task in TASKS:
            assert float(clip.text_direction(task.sentence, NEUTRAL, templates=False).norm()) > 0.99


def test_groups():
    assert [len(group) for group in (TUNED, HELD_OUT, TWO)] == [15, 8, 4]
    assert len({task.sentence for task in TASKS}) == len(TASKS) == 27
    assert {task.group for task in TASKS} == set(GROUPS)
    assert set(map(id, QUICK)) <= set(map(id, TASKS))
    assert all(len(task.wants) == 2 for task in TWO)
