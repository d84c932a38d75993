"""The other half: a generator is moved to a domain by a sentence. Did it arrive, and is it still varied?

Judged by the domain judge, which is part of no loss, against features of real drawings of the domain
(`recipes.avatars.reference`).
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from stylograph import __version__
from stylograph.assets import ASSETS
from stylograph.benchmark.methods import Tools, render
from stylograph.benchmark.plugs import PLUG, digest_of, load_plug, source_of
from stylograph.benchmark.rows import MEASURE, Folder, digest
from stylograph.domains import DomainJudge, diversity, kid, residue
from stylograph.errors import StylographError, WeightsError, one_of
from stylograph.files import load_tensors
from stylograph.nada.config import AdaptConfig
from stylograph.weights.tensors import hash_tensors

if TYPE_CHECKING:
    from stylograph.generator import Generator

SHIPPED = ASSETS / "avatars" / "reference.safetensors"
SAMPLES, FIRST_SEED = 400, 500
"""Pictures every child draws, and the seed of the first: no training used these."""
SUBSET = 200
"""Pictures of each side in a subset of KID."""
SHOWN = 8
SOURCE = "personas"
"""The domain the generator comes from."""


@dataclass(frozen=True)
class Domain:
    """A sentence, and the style whose real drawings it is compared with."""

    sentence: str
    style: str
    """Key of the domain judge's name for it."""
    tuned: bool = False
    """Whether settings of `adapt` were chosen on it."""


DOMAINS: dict[str, Domain] = {
    "robot": Domain("a robot", "bottts", tuned=True),
    "line drawing": Domain("a black and white line drawing", "notionists", tuned=True),
    "doodle": Domain("a doodle", "croodles"),
    "potted plant": Domain("a potted plant", "sprouts", tuned=True),
}

AdaptFunction = Callable[[str, "Generator", Any], "Generator"]
"""A method for domains: target sentence, generator, CLIP -> another generator; the given one stays as it is."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """A way to adapt, as the benchmark sees it."""

    name: str
    settings: Any = field(repr=False)
    run: Callable[[str, Generator, Any, Tools, Path], Generator] = field(repr=False)
    control: bool = False


def _preset(name: str, config: AdaptConfig) -> Adapter:
    def run(sentence: str, generator: Generator, clip: Any, tools: Tools, path: Path) -> Generator:
        from stylograph.nada.adapt import adapt

        with tools.spending(path):
            return adapt(generator, clip, sentence, source="a person", config=config, path=path, on_step=tools.on_step)

    return Adapter(name, asdict(config), run)


BUILT_IN: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        Adapter("parent", "as it is", lambda sentence, generator, clip, tools, path: generator, control=True),
        _preset("adapt", AdaptConfig()),
        _preset("adapt-shape", AdaptConfig(preset="shape")),
    )
}
"""adapt is `stylograph adapt` with nothing set; adapt-shape has the preset for another kind of thing."""


def as_adapter(given: str | AdaptFunction) -> Adapter:
    """A name from `BUILT_IN`, "module:function", or a function itself. Raises `StylographError`."""
    if isinstance(given, str):
        if given in BUILT_IN:
            return BUILT_IN[given]
        if PLUG.fullmatch(given) is None:
            raise StylographError(f"{one_of(given, BUILT_IN, 'adapter')}, or module:function")
        function, settings = load_plug(given)
        name = given.rsplit("/", 1)[-1]
    else:
        function, settings = given, source_of(given)
        name = getattr(given, "__name__", type(given).__name__)
    if not callable(function):
        raise StylographError(
            f"got {given!r}, a {type(function).__name__}; expected a function (sentence, generator, clip)"
        )
    return Adapter(name, settings, lambda sentence, generator, clip, tools, path: function(sentence, generator, clip))


def as_domain(given: str | Domain) -> Domain:
    """A name from `DOMAINS`, or a domain itself. Raises `StylographError`."""
    if isinstance(given, Domain):
        return given
    if given not in DOMAINS:
        raise StylographError(one_of(given, DOMAINS, "domain"))
    return DOMAINS[given]


@dataclass(frozen=True, eq=False)
class Reference:
    """Features of real drawings, by domain."""

    features: Mapping[str, Tensor]
    """Name of the domain -> [M, D]."""
    digest: str

    @classmethod
    def load(cls, judge: DomainJudge, path: str | Path = SHIPPED) -> Reference:
        """What `recipes.avatars.reference` wrote with this judge. Raises `WeightsError` for another judge's, or another file."""
        tensors, record = load_tensors(Path(path), "reference")
        if record.get("judge") != digest_of(judge):
            raise WeightsError(
                f"{path}: got features by domain judge {str(record.get('judge'))[:12]}; expected {digest_of(judge)[:12]}: write "
                "it again with python -m recipes.avatars.reference"
            )
        features = {name: tensor.float() for name, tensor in tensors.items()}
        if any(t.ndim != 2 or not bool(t.isfinite().all()) for t in features.values()):
            raise WeightsError(f"{path}: got features that are not [N, D] and finite; write it again")
        return cls(features, hash_tensors(hashlib.sha256(), tensors))


class DomainRun:
    """All that the domain rows share, and the loop over them."""

    def __init__(
        self,
        folder: Folder,
        generator: Generator,
        clip: Any,
        *,
        domains: Sequence[str | Domain] = (),
        adapters: Sequence[str | AdaptFunction] = (),
        judge: DomainJudge | None = None,
        reference: str | Path | None = None,
        truncation: float = 0.7,
        samples: int = SAMPLES,
        tools: Tools,
        made: Callable[[], dict[str, Any]],
    ) -> None:
        self.folder, self.generator, self.clip, self.tools, self.made = folder, generator, clip, tools, made
        self.domains = [as_domain(given) for given in domains]
        chosen = [as_adapter(given) for given in adapters]
        self.adapters = [BUILT_IN["parent"], *(adapter for adapter in chosen if not adapter.control)]
        self.judge = judge or DomainJudge.from_pretrained("avatars", device=generator.device)
        self.reference = Reference.load(self.judge, SHIPPED if reference is None else reference)
        for domain in self.domains:
            if domain.style not in self.reference.features or domain.style not in self.judge.names:
                raise StylographError(one_of(domain.style, self.reference.features, "style"))
        self.truncation, self.seeds = truncation, tuple(range(FIRST_SEED, FIRST_SEED + samples))
        shared = [MEASURE, generator.digest, digest_of(self.judge), self.reference.digest, self.seeds, truncation]
        self.world = digest(shared)

    @property
    def plan(self) -> list[tuple[str, Adapter, Domain]]:
        """Key, adapter and domain of every row asked for."""
        return [(self._key(adapter, domain), adapter, domain) for domain in self.domains for adapter in self.adapters]

    def _key(self, adapter: Adapter, domain: Domain) -> str:
        clip = None if adapter.control else digest_of(self.clip)
        return digest([self.world, clip, adapter.name, adapter.settings, asdict(domain), __version__])

    def missing(self) -> list[tuple[str, Adapter, Domain]]:
        """What is still to do."""
        rows = {key: self.folder.read("domains", key) for key, _, _ in self.plan}
        return [what for what in self.plan if (row := rows[what[0]]) is None or "error" in row]

    def row(self, key: str, adapter: Adapter, domain: Domain) -> dict[str, Any]:
        """Adapts, judges and keeps one row. Raises `StylographError` if the parent was changed."""
        row: dict[str, Any] = {
            "key": key,
            "world": self.world,
            "adapter": adapter.name,
            "control": adapter.control,
            "domain": asdict(domain),
            "clip": {"name": str(getattr(self.clip, "name", "own")), "digest": digest_of(self.clip)},
            "settings": adapter.settings,
            "made": self.made(),
        }
        before, images = self._drawn(self.generator, 2), None
        path = self.folder.work / f"adapt-{key[:24]}.safetensors"
        self.tools.earlier = 0.0
        try:
            start = time.perf_counter()
            child = adapter.run(domain.sentence, self.generator, self.clip, self.tools, path)
            row["seconds"] = round(time.perf_counter() - start + self.tools.earlier, 3)
            if not all(hasattr(child, part) for part in ("sample", "render", "resolution")):
                raise StylographError(f"got a {type(child).__name__} from {adapter.name}; expected a Generator")
            if child is self.generator and not adapter.control:
                raise StylographError(f"got the same generator back from {adapter.name}; expected another one")
            images = self._drawn(child, len(self.seeds))
            row |= self._judged(images, domain)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        intact = torch.allclose(self._drawn(self.generator, 2), before, atol=1e-3)
        if not intact:
            row["error"] = "StylographError: it changed the generator it was given; work on a copy"
            row.pop("figures", None)
        self.folder.keep("domains", key, row, images[:SHOWN] if images is not None and "error" not in row else None)
        if not intact:
            raise StylographError(
                f"got a changed generator after {adapter.name}; let it work on a copy (copy.deepcopy)"
            )
        return row

    def _drawn(self, generator: Generator, count: int) -> Tensor:
        return render(generator, generator.sample(count, seed=self.seeds[:count], truncation=self.truncation))

    def _judged(self, images: Tensor, domain: Domain) -> dict[str, Any]:
        """Distance to real drawings, arrival, what is left of the source, variety; see docs/benchmark.md."""
        real = self.reference.features[domain.style]
        features, told = self.judge.features(images), self.judge.probabilities(images)
        size = min(SUBSET, len(features), len(real))
        distance = kid(features, real, size=size)
        target = self.judge.names.index(domain.style)
        count = min(len(features), len(real))
        clusters = min(10, count - 1)
        figures = {
            "kid": distance.mean,
            "kid_std": distance.std,
            "target": float((told.argmax(1) == target).float().mean()),
            "source": residue(told, SOURCE, names=self.judge.names),
            "diversity": diversity(features[:count], clusters=clusters) / diversity(real[:count], clusters=clusters),
        }
        named = Counter(self.judge.names[i] for i in told.argmax(1).tolist())
        return {
            "figures": {name: round(value, 4) for name, value in figures.items()},
            "told": dict(named.most_common()),
            "samples": len(images),
            "real": len(real),
        }

    def rows(self) -> list[dict[str, Any]]:
        """All rows of this world, of every adapter and domain the newest; those asked for win."""
        mine = [row for row in self.folder.all("domains") if row.get("world") == self.world]
        planned = {key for key, _, _ in self.plan}
        newest = {_name(row): row for row in mine} | {_name(row): row for row in mine if row["key"] in planned}
        return list(newest.values())


def _name(row: dict[str, Any]) -> tuple[str, ...]:
    return row["domain"]["sentence"], row["adapter"], "" if row["control"] else row["clip"]["digest"]
