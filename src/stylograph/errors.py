"""Every exception stylograph raises on purpose.

    StylographError            catch this one to catch them all
    ├── WeightsError           a checkpoint is missing, damaged, hostile or of another architecture
    │   └── DownloadError      a checkpoint could not be fetched
    ├── LatentsError           latent codes whose space, shape or values do not fit
    ├── ImageError             a picture that cannot be read, or pictures that do not go together
    │   └── AlignError         a picture without the face asked for, or landmarks no face has
    ├── OutputError            a file that cannot be written
    ├── PromptError            a sentence no edit can be made from
    ├── EditError              an edit file, or an edit used on a generator it was not made for
    ├── AdaptError             a generator that cannot be moved to another domain as asked
    └── InvertError            an inversion that cannot be made as asked, or of another generator

A message says what was got, what was expected and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class StylographError(Exception):
    """Base class of all errors a user of stylograph can cause or meet."""


class WeightsError(StylographError):
    """A checkpoint that cannot be used: missing, damaged, hostile, or not the network it should be."""


class DownloadError(WeightsError):
    """A checkpoint that could not be fetched, or not as the registry describes it."""


class LatentsError(StylographError):
    """Latent codes whose space, shape or values do not fit the generator."""


class ImageError(StylographError):
    """A picture that cannot be read, or pictures that do not go together."""


class AlignError(ImageError):
    """A picture in which the face asked for is not found, or landmarks that are not those of a face."""


class OutputError(StylographError):
    """A file that cannot be written: missing folder, no permission, full disk, unknown ending."""


class PromptError(StylographError):
    """A sentence (or a pair of sentences) no edit can be made from."""


class EditError(StylographError):
    """An edit that is damaged, or was made for another generator."""


class AdaptError(StylographError):
    """A domain adaptation with settings that make no sense, of another run, or that has gone astray."""


class InvertError(StylographError):
    """An inversion with settings that make no sense, or used with a generator it was not made with."""


class StylographWarning(UserWarning):
    """Base class of stylograph's warnings."""


class PromptWarning(StylographWarning):
    """The text model does not know some of the words it was given."""


def one_of(given: str, known: Iterable[str], what: str) -> str:
    """The end of an error message about a name that is not in a registry: closest names first."""
    names = list(known)
    close = difflib.get_close_matches(given, names, n=3, cutoff=0.5)
    ordered = close + [name for name in names if name not in close]
    return f"got {what} {given!r}; expected one of: {', '.join(ordered)}"
