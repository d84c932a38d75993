"""Running steps: each once, again when what it depends on changed, on from where it was killed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from recipes.avatars.stepping import ROOT, Ledger, Step, run, tail

MODULE = """
import os, pathlib, sys, time
what, place = sys.argv[1], pathlib.Path(sys.argv[2])
with open(place, "a") as file:
    file.write(what + "\\n")
print("threads", os.environ["OMP_NUM_THREADS"])
print("did", what)
if what.startswith("fail"):
    sys.exit("this and that went wrong")
if what == "wait":
    time.sleep(60)
"""


@pytest.fixture
def step(tmp_path, monkeypatch):
    """Makes steps that write their first argument to a file; `step.done()` reads it."""
    (tmp_path / "stepped_thing.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.syspath_prepend(str(tmp_path))
    place = tmp_path / "done.txt"

    def make(name, what=None, **more):
        return Step(name, "stepped_thing", (what or name, str(place)), **more)

    make.done = lambda: place.read_text().split() if place.exists() else []
    return make


def test_finished_steps_are_not_run_again(step, tmp_path, capsys):
    steps = [step("a"), step("b"), step("c", needs=("a",))]
    run(steps, tmp_path / "work")
    assert step.done() == ["a", "b", "c"]
    ledger = Ledger(tmp_path / "work")
    assert all(map(ledger.finished, steps))
    assert tail(ledger.log("b"), 9) == ["threads 1", "did b"]
    run(steps, tmp_path / "work")
    assert step.done() == ["a", "b", "c"]
    assert "[3/3] c: finished before" in capsys.readouterr().out
    run(steps[1:2], tmp_path / "work", again=True)
    assert step.done() == ["a", "b", "c", "b"]


def test_what_reads_something_new_is_done_again(step, tmp_path):
    steps = [step("a"), step("b"), step("c", needs=("a",)), step("d", needs=("c",))]
    run(steps, tmp_path / "work")
    steps[0] = step("a", "other")
    run(steps, tmp_path / "work")
    assert step.done() == ["a", "b", "c", "d", "other", "c", "d"]


@pytest.mark.parametrize("forked", [(), ("bad",)])
def test_a_failure_stops_everything_with_one_message(step, tmp_path, forked):
    steps = [step("good"), step("bad", "fail"), step("never")]
    with pytest.raises(SystemExit) as caught:
        run(steps, tmp_path / "work", forked=forked)
    message = str(caught.value)
    assert "bad failed with exit code 1" in message
    assert "did fail\n    this and that went wrong\n" in message
    assert str(tmp_path / "work" / "logs" / "bad.log") in message
    assert "python -m stepped_thing fail" in message
    assert step.done() == ["good", "fail"]
    with pytest.raises(SystemExit):
        run(steps, tmp_path / "work")
    assert step.done() == ["good", "fail", "fail"]


def test_states_of_other_commands_are_put_aside(step, tmp_path):
    state, start = tmp_path / "work" / "own" / "state.pt", tmp_path / "before.pt"
    phase = step("phase", "fail", state=state, start=start)
    with pytest.raises(SystemExit, match="run the step before it"):
        run([phase], tmp_path / "work")
    start.write_text("the phase before")
    with pytest.raises(SystemExit, match="exit code"):
        run([phase], tmp_path / "work")
    assert state.read_text() == "the phase before"
    state.write_text("half done")
    with pytest.raises(SystemExit, match="exit code"):
        run([phase], tmp_path / "work")
    assert state.read_text() == "half done", "an interrupted step goes on"
    assert step.done() == ["fail", "fail"]
    run([replace(phase, arguments=("works", *phase.arguments[1:]))], tmp_path / "work")
    assert state.read_text() == "the phase before", "another command begins anew"
    assert state.with_name("state.pt.old").read_text() == "half done"


def test_one_run_at_a_time(step, tmp_path):
    (tmp_path / "work").mkdir()
    with open(tmp_path / "work" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match="another run"):
            run([step("a")], tmp_path / "work")
    assert step.done() == []
    run([step("a")], tmp_path / "work")
    assert step.done() == ["a"]


@pytest.mark.parametrize("fork", [False, True])
def test_a_step_ends_with_the_run_and_is_not_finished(step, tmp_path, fork):
    waiting = step("waiting", "wait")
    text = (
        "import sys; from pathlib import Path; from recipes.avatars.stepping import Step, run; "
        f"run([Step('waiting', 'stepped_thing', {waiting.arguments!r})], Path({str(tmp_path / 'work')!r}), "
        f"forked={['waiting'] if fork else []!r})"
    )
    whole = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, stdout=subprocess.DEVNULL)
    _until(lambda: step.done() == ["wait"])
    whole.send_signal(signal.SIGTERM)
    assert whole.wait(20) == 128 + signal.SIGTERM
    record = json.loads((tmp_path / "work" / "stamps" / "waiting.json").read_text())
    assert record["finished"] is None
    with open(tmp_path / "work" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody is left at work


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the step in /proc")
def test_a_step_left_behind_holds_the_lock(step, tmp_path):
    waiting = step("waiting", "wait")
    text = (
        "from pathlib import Path; from recipes.avatars.stepping import Step, run; "
        f"run([Step('waiting', 'stepped_thing', {waiting.arguments!r})], Path({str(tmp_path / 'work')!r}))"
    )
    whole = subprocess.Popen([sys.executable, "-c", text], cwd=ROOT, stdout=subprocess.DEVNULL)
    _until(lambda: step.done() == ["wait"])
    children = [int(pid) for pid in Path(f"/proc/{whole.pid}/task/{whole.pid}/children").read_text().split()]
    whole.kill()
    whole.wait()
    try:
        with pytest.raises(SystemExit, match="a step it left behind"):
            run([step("a")], tmp_path / "work")
    finally:
        for pid in children:
            os.kill(pid, signal.SIGTERM)


def test_tail_of_what_progress_bars_leave(tmp_path):
    assert tail(tmp_path / "none.log", 3) == []
    (tmp_path / "a.log").write_bytes(b"one\n\n  10%\r 100%\nlast \xff line\n")
    assert tail(tmp_path / "a.log", 2) == [" 100%", "last \ufffd line"]


def _until(true, seconds=20.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)
