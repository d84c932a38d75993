"""What `stylograph bench` asks for. No heavy imports: the command line builds its options from this."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class BenchJob:
    """Which methods, sentences and pictures. What is finished in the output folder is not done again."""

    methods: tuple[str, ...] = ("universal", "gradient", "direction", "optimize", "mapper")
    """Ways to edit: these, "paper" (latent optimization as published, slow), or functions of your own:
    my_module:my_function, my_file.py:my_function."""
    strengths: tuple[str, ...] = ("fixed", "auto")
    """fixed: each edit's own, the same for all pictures. auto: looked for, picture by picture."""
    seeds: int = 64
    """Pictures per sentence."""
    quick: bool = False
    """A first impression: four sentences, eight pictures, the default method, no domains."""
    tasks: str | None = None
    """Sentences of your own: module:name of a list of `stylograph.benchmark.tasks.Task`."""
    neutral: str = "a person"
    """The sentence without the change."""
    domains: tuple[str, ...] = ("robot", "line drawing", "doodle", "potted plant")
    """Target domains to adapt the generator to (a minute or more each), or none."""
    adapters: tuple[str, ...] = ("adapt",)
    """Ways to adapt: "adapt" (the default settings), or functions of your own: my_module:my_function."""
    reference: str | None = None
    """Features of real drawings of the domains: a file like that of recipes.avatars.reference; by default the shipped one."""
    generator: str = "avatars"
    """Generator: a name from `stylograph models`, a file, a URL or a hub id."""
    clip: str | None = None
    """CLIP model that guides the edits: a hub id, a folder, or my_module:my_function that returns one; by default as for edits."""
    judge: str | None = None
    """Judge of another world: a file like that of recipes.avatars.train_judge, or my_module:my_function that returns one."""
    identity: str | None = None
    """Recogniser that guards and measures identity: "avatars" (the default there), "arcface" or such a file, or "none"."""
    truncation: float = 0.7
    """Truncation psi of the pictures."""
    device: str = "auto"
    """cpu, cuda, mps, or auto."""
    offline: bool = False
    """Never use the network."""
