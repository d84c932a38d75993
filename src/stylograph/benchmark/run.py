"""Runs the benchmark: every method, strength and sentence once, whatever happens to the others."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stylograph import __version__
from stylograph.benchmark.config import BenchJob
from stylograph.benchmark.domains import AdaptFunction, Domain, DomainRun
from stylograph.benchmark.methods import (
    BUILT_IN,
    CONTROLS,
    Case,
    Function,
    Method,
    Tools,
    as_method,
    drawn,
    map_path,
    needs_map,
    render,
)
from stylograph.benchmark.models import Models, load_models
from stylograph.benchmark.plugs import digest_of, load_plug
from stylograph.benchmark.rows import MEASURE, Bench, Folder, digest, line_of, made, outcomes
from stylograph.benchmark.tasks import FIRST_SEED, QUICK, TASKS, Task
from stylograph.errors import StylographError, WeightsError
from stylograph.jobs import AdaptJob
from stylograph.types import OnStep, Step
from stylograph.world import World

if TYPE_CHECKING:
    from stylograph.embed import Clip
    from stylograph.generator import Generator

QUICK_METHODS, QUICK_SEEDS = ("direction",), 8
MOST_SEEDS = 2000
STRENGTHS = ("fixed", "auto")
DEFAULTS = BenchJob()


def bench(
    out: str | Path = "bench",
    *,
    methods: Sequence[str | Function] = DEFAULTS.methods,
    strengths: Sequence[str] = DEFAULTS.strengths,
    tasks: Sequence[Task] | str | None = None,
    seeds: int | Sequence[int] = DEFAULTS.seeds,
    quick: bool = False,
    generator: Generator | str = DEFAULTS.generator,
    clip: Clip | str | Callable[[], Any] | None = None,
    judge: Any = None,
    identity: Any = None,
    domains: Sequence[str | Domain] = (),
    adapters: Sequence[str | AdaptFunction] = DEFAULTS.adapters,
    reference: str | Path | None = None,
    neutral: str = DEFAULTS.neutral,
    truncation: float = DEFAULTS.truncation,
    device: str = DEFAULTS.device,
    offline: bool = False,
    on_step: OnStep | None = None,
    on_row: Callable[[dict[str, Any], str], None] | None = None,
) -> Bench:
    """How often a sentence did what it said and nothing else; writes `bench.json`, `report.md` and `report.html`.

    out: folder. Every finished row is kept there at once; the same call again goes on, and folders of several machines
        can be copied together. A row is bound to all that determines it: other settings, models or a changed source
        file of a function make a new one.
    quick: four sentences, eight pictures, the default method, where nothing else was asked for, and no domains.
    methods: names (`stylograph.benchmark.methods.BUILT_IN`), functions `Case -> pictures or Latents`, or "module:function".
    strengths: of the package's methods: "fixed", "auto". Functions have none.
    tasks: sentences and what the judge has to see; the 27 of `stylograph.benchmark.tasks` when left out.
    seeds: so many from 200 up, or which.
    clip: what `Clip.from_pretrained` takes, a `Clip` or an object like it, "module:function" or a function that returns one.
    judge: `Judge` or an object like it (`attributes`, `hidden`, `probabilities`), a file, or "module:function".
    identity: name as in `EditJob`, a recogniser, or "none".
    domains: names (`stylograph.benchmark.domains.DOMAINS`) or `Domain`s the generator is adapted to; none when left out.
    adapters: ways to adapt: names, functions (sentence, generator, clip) -> generator, or "module:function".
    reference: file with features of real drawings of these domains; the shipped one when left out.
    on_row: called with every new row, and a line about it.
    A method that fails (an exception, a wrong shape, NaN) costs its row: it is in the report, and tried again next time.
    Raises `StylographError` for settings that make no sense.
    """
    folder = Folder(Path(out))
    models = load_models(generator, clip, judge, identity, device, offline, on_step)
    wanted = () if quick else domains
    started = _Run(
        folder,
        methods=[as_method(m) for m in (QUICK_METHODS if quick and methods == DEFAULTS.methods else methods)],
        strengths=tuple(strengths),
        tasks=QUICK if quick and tasks is None else _tasks(tasks),
        seeds=_seeds(QUICK_SEEDS if quick and seeds == DEFAULTS.seeds else seeds),
        models=models,
        domains=_domains(folder, models, wanted, adapters, reference, truncation, clip, offline, on_step),
        neutral=neutral,
        truncation=truncation,
        on_step=on_step,
        on_row=on_row,
    )
    from stylograph.benchmark.report import write

    try:
        started.edits()
        started.adapted()
    finally:
        found = started.found()
        if found.rows or found.domains:
            write(found)
    return found


def _tasks(given: Sequence[Task] | str | None) -> tuple[Task, ...]:
    tasks = TASKS if given is None else load_plug(given)[0] if isinstance(given, str) else given
    found = tuple(tasks) if isinstance(tasks, (list, tuple)) else ()
    if not found or not all(isinstance(task, Task) and task.wants for task in found):
        raise StylographError(
            "got no sentences; expected a list of stylograph.benchmark.tasks.Task, each with what it wants"
        )
    if len({task.sentence for task in found}) < len(found):
        raise StylographError("got the same sentence twice; expected every task once")
    return found


def _seeds(given: int | Sequence[int]) -> tuple[int, ...]:
    seeds = tuple(range(FIRST_SEED, FIRST_SEED + given)) if isinstance(given, int) else tuple(given)
    if not 2 <= len(seeds) <= MOST_SEEDS or len(set(seeds)) < len(seeds):
        raise StylographError(f"got {len(seeds)} seeds; expected 2 to {MOST_SEEDS}, each once")
    return seeds


def _domains(
    folder: Folder,
    models: Models,
    domains: Sequence[str | Domain],
    adapters: Sequence[str | AdaptFunction],
    reference: str | Path | None,
    truncation: float,
    clip: Any,
    offline: bool,
    on_step: OnStep | None,
) -> DomainRun | None:
    """The other half, if it is asked for or the folder knows something about it."""
    kept = any((folder.path / "domains").glob("*.json"))
    if not domains and (not kept or (models.generator.root != "avatars" and reference is None)):
        return None
    world = World(AdaptJob(model=models.name, offline=offline), on_step)
    world.generator = models.generator
    try:
        return DomainRun(
            folder,
            models.generator,
            models.clip if clip is not None else world.clip,
            domains=domains,
            adapters=adapters,
            reference=reference,
            truncation=truncation,
            tools=Tools(folder.work, on_step),
            made=made,
        )
    except WeightsError:
        if domains:
            raise
        return None


class _Run:
    """One run: what all rows share, and the loop over them."""

    def __init__(
        self,
        folder: Folder,
        *,
        methods: list[Method],
        strengths: tuple[str, ...],
        tasks: tuple[Task, ...],
        seeds: tuple[int, ...],
        models: Models,
        domains: DomainRun | None,
        neutral: str,
        truncation: float,
        on_step: OnStep | None,
        on_row: Callable[[dict[str, Any], str], None] | None,
    ) -> None:
        self.folder, self.models, self.neutral, self.seeds = folder, models, neutral, seeds
        self.on_step, self.on_row, self.domains = on_step, on_row, domains
        self.methods = [*(BUILT_IN[name] for name in CONTROLS if name not in {m.name for m in methods}), *methods]
        names = [method.name for method in self.methods]
        if len(set(names)) < len(names):
            raise StylographError(f"got methods {', '.join(names)}; expected every name once")
        for strength in strengths:
            if strength not in STRENGTHS:
                raise StylographError(f"got strength {strength!r}; expected {' or '.join(STRENGTHS)}")
        self.plan = [(m, s, t) for m in self.methods for s in m.strengths if s in (*strengths, "own") for t in tasks]
        self.remarks = [
            f"{m.name} has no {' or '.join(strengths)} strength: left out"
            for m in methods
            if not set(m.strengths) & {*strengths, "own"}
        ]
        folder.prepare()
        generator = models.generator
        self.latents = generator.sample(len(seeds), seed=seeds, truncation=truncation)
        self.before = render(generator, self.latents)
        self.told = models.judge.probabilities(self.before)
        for task in tasks:  # a task the judge does not know is told before the work
            outcomes(models.judge, task, self.told, self.told)
        self.people = None if models.identity is None else _embedded(models.identity, self.before)
        shared = {
            "measure": MEASURE,
            "generator": generator.digest,
            "judge": digest_of(models.judge),
            "identity": None if models.identity is None else digest_of(models.identity),
            "seeds": list(seeds),
            "truncation": truncation,
            "neutral": neutral,
        }
        self.world = digest(shared)
        self.clip = {"name": str(getattr(models.clip, "name", "own")), "digest": digest_of(models.clip)}
        if folder.read("worlds", self.world) is None:
            accuracy = getattr(models.judge, "accuracy", {})
            about = {"name": models.name, "resolution": generator.resolution, "accuracy": accuracy}
            folder.keep("worlds", self.world, {"key": self.world, **shared, **about}, self.before)

    # ---------------------------------------------------------------- edits

    def edits(self) -> None:
        """Makes every row that is missing."""
        todo = [(key, *what) for what in self.plan if not self._done(key := self._key(*what))]
        methods = {id(method): method for _, method, _, _ in todo}
        if todo and needs_map(list(methods.values())):
            self._fit_map()
        done, taken = len(self.plan) - len(todo), []
        for i, (key, method, strength, task) in enumerate(todo):
            began = time.perf_counter()
            row = self._row(key, method, strength, task)
            taken += [] if method.control else [time.perf_counter() - began]
            left = sum(taken) / max(1, len(taken)) * sum(not m.control for _, m, *_ in todo[i + 1 :])
            if self.on_step:
                self.on_step(Step("sentences", done + i + 1, len(self.plan)))
            if self.on_row:
                self.on_row(
                    row,
                    f"{line_of(row)}  ({done + i + 1} of {len(self.plan)}{f', about {_span(left)} left' if taken else ''})",
                )

    def _key(self, method: Method, strength: str, task: Task) -> str:
        bound = {"world": self.world, "clip": self.clip["digest"], "task": task.record(), "strength": strength}
        bound |= {"method": method.name, "settings": method.settings, "version": __version__}
        return digest(bound)

    def _done(self, key: str) -> bool:
        row = self.folder.read("rows", key)
        return row is not None and "error" not in row

    def _fit_map(self) -> None:
        """What every sentence uses is learnt before the clock of the first one starts."""
        from stylograph.edit.universal import universal_map

        models = self.models
        universal_map(
            models.generator,
            models.clip,
            path=map_path(models.generator, models.clip, self.folder.work),
            on_step=self.on_step,
        )

    def _row(self, key: str, method: Method, strength: str, task: Task) -> dict[str, Any]:
        models = self.models
        case = Case(
            task.sentence,
            self.neutral,
            self.before.to(models.generator.device, copy=True),
            self.latents.with_tensor(self.latents.tensor.clone()),
            models.generator,
            models.clip,
            self.seeds,
            models.identity,
        )
        row: dict[str, Any] = {
            "key": key,
            "world": self.world,
            "method": method.name,
            "strength": strength,
            "control": method.control,
            "says": method.says,
            "clip": self.clip,
            "settings": method.settings,
            "task": task.record(),
            "made": made(),
        }
        tools, after = Tools(self.folder.work, self.on_step), None
        with _quiet():
            try:
                if not method.control:
                    models.clip.embed_text([task.sentence, self.neutral])  # is remembered; every method needs it
                start = time.perf_counter()
                after = drawn(method.run(case, strength, tools), case)
                row["seconds"] = round(time.perf_counter() - start + tools.earlier, 3)
                row["pictures"] = self._pictures(task, after)
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        intact = torch.allclose(render(models.generator, self.latents[:2]), self.before[:2], atol=1e-3)
        if not intact:
            row["error"] = "StylographError: it changed the generator it was given; work on a copy"
            row.pop("pictures", None)
        self.folder.keep("rows", key, row, after if "error" not in row else None)
        if not intact:
            raise StylographError(
                f"got a changed generator after {method.name}: it draws other pictures than before, so no further row would mean "
                "anything; let it work on a copy (copy.deepcopy(case.generator)). What was finished before is kept"
            )
        return row

    def _pictures(self, task: Task, after: Tensor) -> list[dict[str, Any]]:
        told = self.models.judge.probabilities(after)
        pictures = outcomes(self.models.judge, task, self.told, told)
        drift = (after - self.before).square().flatten(1).mean(1).sqrt() / 2
        same = None
        if self.people is not None:
            same = (_embedded(self.models.identity, after) * self.people).sum(1)
        for i, picture in enumerate(pictures):
            picture["seed"] = self.seeds[i]
            picture["drift"] = round(float(drift[i]), 4)
            picture["identity"] = None if same is None else round(float(same[i]), 4)
        return pictures

    # ---------------------------------------------------------------- domains, and the end

    def adapted(self) -> None:
        """Adapts the generator to every domain that is missing."""
        if self.domains is None:
            return
        total = len(self.domains.plan)
        missing = self.domains.missing()
        for i, (key, adapter, domain) in enumerate(missing):
            with _quiet():
                row = self.domains.row(key, adapter, domain)
            if self.on_step:
                self.on_step(Step("domains", total - len(missing) + i + 1, total))
            if self.on_row:
                self.on_row(row, f"{line_of(row)}  ({total - len(missing) + i + 1} of {total} domain rows)")

    def found(self) -> Bench:
        """All that the folder holds about this world, of every method, strength and sentence one row."""
        everything = self.folder.all()
        mine = [row for row in everything if row.get("world") == self.world]
        planned = {self._key(*what) for what in self.plan}
        newest = {_name(row): row for row in mine} | {_name(row): row for row in mine if row["key"] in planned}
        remarks = list(self.remarks)
        if others := len(everything) - len(mine):
            remarks.append(
                f"{others} rows in {self.folder.path} are about other pictures or by another judge: left out"
            )
        if older := len(mine) - len(newest):
            remarks.append(f"{older} rows in {self.folder.path} are of methods that have changed since: left out")
        asked = planned | ({key for key, _, _ in self.domains.plan} if self.domains else set())
        domains = self.domains.rows() if self.domains else []
        return Bench(self.folder, self.world, list(newest.values()), domains, remarks, frozenset(asked))


def _name(row: dict[str, Any]) -> tuple[str, ...]:
    return row["method"], row["strength"], row["clip"]["digest"], row["task"]["sentence"]


@torch.no_grad()
def _embedded(identity: Any, images: Tensor) -> Tensor:
    return torch.cat([identity.embed(part).cpu() for part in images.split(64)])


@contextmanager
def _quiet() -> Iterator[None]:
    """No warnings, and random numbers that do not depend on what ran before; the caller's are not touched."""
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        torch.manual_seed(0)
        warnings.simplefilter("ignore")
        yield


def _span(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 100
        else f"{seconds / 60:.0f} min"
        if seconds < 6000
        else f"{seconds / 3600:.1f} h"
    )
