"""Means, intervals, and the pictures that stand for them."""

import math

import pytest
import torch

from stylograph.benchmark.rows import Bench, Folder
from stylograph.benchmark.summary import cases, first_counted, intervals, paired, summarise, wilson


def picture(reached, *, counted=True, leaked=(), compared=8, identity=0.9, drift=0.1, p=None, seed=0):
    leaks = {name: ["a", "b"] for name in leaked}
    told = [0.0, (0.9 if reached else 0.1) if p is None else p]
    row = {"counted": counted, "reached": bool(reached), "p": told, "leaked": leaks, "compared": compared}
    return {**row, "attributes": 8, "identity": identity, "drift": drift, "seed": seed}


def row(sentence, pictures, *, method="direction", strength="auto", group="held out", control=False, seconds=1.0):
    for i, p in enumerate(pictures):
        p["seed"] = i
    return {
        "key": f"{method}{strength}{sentence}",
        "method": method,
        "strength": strength,
        "control": control,
        "clip": {"name": "c", "digest": "d"},
        "task": {"sentence": sentence, "group": group, "wants": {}},
        "seconds": seconds,
        "pictures": pictures,
        "made": {"at": 0},
    }


class TestWilson:
    def test_known_values(self):
        found = wilson(5, 10)
        assert (found.low, found.high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
        assert wilson(10, 10).low == pytest.approx(0.7225, abs=1e-4)
        assert wilson(10, 10).high == 1

    def test_of_nothing(self):
        assert math.isnan(wilson(0, 0).mean)


class TestIntervals:
    def test_a_mean_over_sentences(self):
        rows = [row("a", [picture(1)] * 3 + [picture(0)]), row("b", [picture(0, counted=False)] * 3 + [picture(1)])]
        found = intervals(rows)
        assert found["success"].mean == pytest.approx((0.75 + 1) / 2)
        assert found["identity"].mean == pytest.approx(0.9)
        assert found["success"].low <= 0.75
        assert found["success"].high == 1

    def test_one_sentence_is_about_binomial(self):
        rows = [row("a", [picture(i % 2) for i in range(100)])]
        found = intervals(rows)["success"]
        assert found.high - found.low == pytest.approx(2 * 1.96 * 0.05, rel=0.12)

    def test_many_sentences_are_no_surer_than_their_people(self):
        """The same people miss in every sentence: more sentences do not help."""
        people = [i % 2 for i in range(40)]
        few = intervals([row("a", [picture(r) for r in people])])["success"]
        many = intervals([row(str(s), [picture(r) for r in people]) for s in range(20)])["success"]
        assert many.high - many.low == pytest.approx(few.high - few.low, rel=0.15)

    def test_no_spread_is_not_certainty(self):
        found = intervals([row("a", [picture(1)] * 4)])
        assert (found["success"].mean, found["success"].high) == (1, 1)
        assert found["success"].low == pytest.approx(wilson(4, 4).low)
        assert found["leak"].high == pytest.approx(wilson(0, 32).high)

    def test_nothing_counts(self):
        found = intervals([row("a", [picture(0, counted=False, identity=None)] * 3)])
        assert math.isnan(found["success"].mean)
        assert math.isnan(found["identity"].mean)

    def test_the_same_every_time(self):
        rows = [row("a", [picture(i % 3) for i in range(9)])]
        assert intervals(rows) == intervals(rows)


class TestPaired:
    def test_equal_columns_do_not_differ(self):
        rows = [row("a", [picture(i % 2) for i in range(10)])]
        found = paired(rows, rows)
        assert (found.mean, found.low, found.high) == (0, 0, 0)

    def test_narrower_than_both(self):
        base = [row("a", [picture(i % 2) for i in range(40)])]
        better = [row("a", [picture(i % 2 or i < 4) for i in range(40)])]
        difference, alone = paired(better, base), intervals(base)["success"]
        assert difference.mean == pytest.approx(2 / 40)
        assert difference.high - difference.low < 0.6 * (alone.high - alone.low)

    def test_only_common_sentences(self):
        assert paired([row("a", [picture(1)] * 2)], [row("b", [picture(1)] * 2)]) is None


def test_columns_and_groups():
    rows = [
        row("a", [picture(1)] * 2, method="shift", strength="own", control=True),
        row("a", [picture(1)] * 2, method="zebra", strength="own"),
        row("a", [picture(1)] * 2),
        row("a", [picture(1)] * 2, method="universal"),
        row("a", [picture(1)] * 2, method="universal", strength="fixed"),
        row("b", [picture(0)] * 2, group="tuned"),
    ]
    found = summarise(Bench(Folder("x"), "w", [*rows, {"error": "no"}], [], []))
    names = [column.name for column in found.columns]
    assert names == ["universal, fixed", "universal, auto", "direction, auto", "zebra", "shift"]
    assert found.groups == {"held out": ("a",), "tuned": ("b",), "all": ("a", "b")}
    assert found.reference is found.columns[2]
    assert found.count(found.columns[0], "all") == 1
    assert found.figures["direction, auto", "all"]["success"].mean == 0.5
    records = found.record()
    assert {(r["method"], r["group"]) for r in records} >= {("direction", "tuned"), ("zebra", "held out")}
    assert all(r["sentences"] <= r["of"] for r in records)


class TestCases:
    column = summarise(
        Bench(
            Folder("x"),
            "w",
            [
                row("a", [picture(1, p=0.9), picture(1, p=0.8), picture(0, p=0.1), picture(1, p=1.0, counted=False)]),
                row(
                    "b",
                    [picture(1, p=0.99, leaked=("x", "y")), picture(0, p=0.5), picture(0, p=0.0), picture(0, p=0.2)],
                ),
            ],
            [],
            [],
        )
    ).columns[0]

    def test_order(self):
        found = cases(self.column)
        assert [s.picture["p"][1] for s in found["best"]] == [0.9, 0.99]
        assert [s.picture["p"][1] for s in found["worst"]] == [0.0, 0.1]
        assert [s.picture["p"][1] for s in found["median"]] == [0.5, 0.8]
        for shown in found.values():
            assert len({s.row["task"]["sentence"] for s in shown}) == len(shown)

    def test_the_first_that_counts(self):
        assert first_counted([self.column], "a") == 0
        assert first_counted([self.column], "c") is None


def test_replicates_do_not_need_much_memory():
    rows = [row(str(s), [picture((s + i) % 2) for i in range(200)]) for s in range(27)]
    assert 0.4 < intervals(rows)["success"].mean < 0.6
    assert torch.get_default_dtype() == torch.float32
