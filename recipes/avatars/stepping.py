"""Runs commands one after the other, each in a process of its own, and remembers which are finished."""

from __future__ import annotations

import fcntl
import hashlib
import json
import multiprocessing
import os
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import FrameType

from stylograph.files import replacing

ROOT = Path(__file__).resolve().parents[2]
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
"""What a step's environment has unless the caller's says otherwise: more threads make these networks slower."""


@dataclass(frozen=True)
class Step:
    """One command of a recipe."""

    name: str
    module: str
    """What ``python -m`` runs."""
    arguments: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    """Steps whose products it reads: when one of them was done again, so is this."""
    minutes: float = 0.0
    """About how long it takes."""
    state: Path | None = None
    """Where it keeps what it goes on from after a kill. Begun anew, it must not find one: an old one gets ``.old``."""
    start: Path | None = None
    """File to begin with, copied to `state` (a phase goes on with the state of the one before)."""

    @property
    def command(self) -> str:
        return shlex.join(["python", "-m", self.module, *self.arguments])


@dataclass(frozen=True)
class Stamp:
    """What is known of a step that was begun."""

    digest: str
    """Of its command and of the stamps of what it needs."""
    finished: str | None = None
    """When; None if it was interrupted."""
    seconds: float | None = None


class Ledger:
    """The stamps and logs of all steps, in ``stamps/`` and ``logs/`` of a folder."""

    def __init__(self, work: Path) -> None:
        self.stamps, self.logs = work / "stamps", work / "logs"

    def read(self, name: str) -> Stamp | None:
        path = self.stamps / f"{name}.json"
        return Stamp(**json.loads(path.read_text())) if path.exists() else None

    def write(self, name: str, stamp: Stamp) -> None:
        self.stamps.mkdir(parents=True, exist_ok=True)
        with replacing(self.stamps / f"{name}.json") as temporary:
            temporary.write_text(json.dumps(asdict(stamp)) + "\n")

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def digest(self, step: Step) -> str:
        """Changes with the command, and whenever something the step needs was made again."""
        needs = [stamp and stamp.finished for stamp in map(self.read, step.needs)]
        return hashlib.sha256(json.dumps([step.module, *step.arguments, needs]).encode()).hexdigest()

    def finished(self, step: Step) -> bool:
        stamp = self.read(step.name)
        return stamp is not None and stamp.finished is not None and stamp.digest == self.digest(step)

    def begin(self, step: Step) -> None:
        """Leaves the state of an interrupted run where it is; puts any other aside."""
        digest = self.digest(step)
        if self.read(step.name) != Stamp(digest):
            if step.state is not None:
                step.state.parent.mkdir(parents=True, exist_ok=True)
                if step.state.exists():
                    step.state.replace(step.state.with_name(step.state.name + ".old"))
                if step.start is not None:
                    if not step.start.exists():
                        raise SystemExit(
                            f"{step.name}: got no {step.start}, which it goes on with; run the step before it"
                        )
                    with replacing(step.state) as temporary:
                        shutil.copyfile(step.start, temporary)
            self.log(step.name).unlink(missing_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        self.write(step.name, Stamp(digest))

    def end(self, step: Step, seconds: float) -> None:
        stamp = self.read(step.name)
        assert stamp is not None
        now = datetime.now(timezone.utc).isoformat()
        self.write(step.name, Stamp(stamp.digest, now, round(seconds, 1)))


def run(steps: Sequence[Step], work: Path, *, again: bool = False, forked: Collection[str] = ()) -> None:
    """Runs what is not finished, in this order.

    work: folder for stamps and logs.
    again: also what is finished.
    forked: names of steps that run in a fork of this process instead of a new interpreter, so that whatever is imported
        here already need not be imported again.
    Raises `SystemExit` with one message when a step fails, or when another run is at work in this folder. An interrupt
    is passed on to the step.
    """
    ledger = Ledger(work)
    work.mkdir(parents=True, exist_ok=True)
    before = signal.signal(signal.SIGTERM, _interrupted)
    with open(work / "lock", "w") as lock:
        try:
            fcntl.flock(
                lock, fcntl.LOCK_EX | fcntl.LOCK_NB
            )  # held by the running step too, should this process be killed
        except OSError:
            raise SystemExit(
                f"{work}: another run, or a step it left behind, is at work here; wait or end it"
            ) from None
        try:
            for number, step in enumerate(steps, 1):
                title = f"[{number}/{len(steps)}] {step.name}"
                if ledger.finished(step) and not again:
                    print(f"{title}: finished before", flush=True)
                    continue
                ledger.begin(step)
                _run(step, title, ledger, lock.fileno(), fork=step.name in forked)
        finally:
            signal.signal(signal.SIGTERM, before)


def _run(step: Step, title: str, ledger: Ledger, lock: int, *, fork: bool) -> None:
    log, began = ledger.log(step.name), time.monotonic()
    show = _Progress(title, step)
    poll, stop = (_forked if fork else _spawned)(step, log, lock)
    pause = 0.02
    try:
        while (code := poll()) is None:
            time.sleep(pause)
            pause = min(0.2, 1.2 * pause)
            show(time.monotonic() - began, log)
    finally:
        stop()
    seconds = time.monotonic() - began
    if code:
        how = f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"
        lines = "".join(f"    {line}\n" for line in tail(log, 15))
        show.end(f"failed after {_clock(seconds)}")
        raise SystemExit(
            f"{step.name} {how}; the end of {log}:\n{lines}"
            f"The command was: {step.command}\n"
            "Mend what is wrong and run the same command again: what is finished is not repeated."
        )
    ledger.end(step, seconds)
    show.end(_clock(seconds))


Handle = tuple[Callable[[], "int | None"], Callable[[], None]]


def _spawned(step: Step, log: Path, lock: int) -> Handle:
    """A new interpreter; how to ask for its exit code, and how to end it if it still runs."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with open(log, "ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", step.module, *step.arguments],
            stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=ROOT, pass_fds=(lock,),
            env={**THREADS, **os.environ, "PYTHONPATH": path},
        )  # fmt: skip

    def stop() -> None:
        if process.poll() is None:
            process.terminate()
        process.wait()

    return process.poll, stop


def _forked(step: Step, log: Path, lock: int) -> Handle:
    """The same in a copy of this process, which inherits the lock."""
    sys.stdout.flush()
    process = multiprocessing.get_context("fork").Process(target=_as_main, args=(step, log))
    process.start()

    def stop() -> None:
        if process.is_alive():
            process.terminate()
        process.join()

    return lambda: process.exitcode, stop


def _as_main(step: Step, log: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    output = open(log, "a", buffering=1)  # noqa: SIM115 (until this process ends)
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    sys.stdout = sys.stderr = output
    os.chdir(ROOT)
    sys.argv = [step.module, *step.arguments]
    sys.modules.pop(step.module, None)
    runpy.run_module(step.module, run_name="__main__", alter_sys=True)


class _Progress:
    """One line that is written over on a terminal; elsewhere a line at the beginning and one at the end."""

    def __init__(self, title: str, step: Step) -> None:
        self.title, self.live, self.shown = title, sys.stdout.isatty(), 0.0
        if not self.live:
            print(f"{title}: {step.command}", flush=True)

    def __call__(self, seconds: float, log: Path) -> None:
        if self.live and seconds - self.shown > 0.5:
            self.shown = seconds
            said = " ".join(tail(log, 1))
            self._over(f"{self.title}  {_clock(seconds)}  {said}"[: shutil.get_terminal_size().columns - 1])

    def end(self, how: str) -> None:
        if self.live:
            self._over(f"{self.title}  {how}\n")
        else:
            print(f"{self.title}: {how}", flush=True)

    def _over(self, text: str) -> None:
        print(f"\r\x1b[K{text}", end="", flush=True)


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a text file that are not blank; none if there is no such file."""
    if not path.exists():
        return []
    with open(path, "rb") as stream:
        stream.seek(max(0, path.stat().st_size - 8000))
        text = stream.read().decode("utf-8", "replace")
    return [line.rstrip() for line in text.splitlines() if line.strip()][-lines:]


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{seconds:.1f} s" if seconds < 60 else f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"


def _interrupted(signal_number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + signal_number)
