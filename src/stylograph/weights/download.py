"""From a name, path, URL or hub id to a verified local file."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from urllib.parse import unquote, urlsplit

from stylograph.errors import DownloadError, WeightsError, one_of
from stylograph.weights.registry import KINDS, KnownModel, names_of, plan, shipped

OnBytes = Callable[[int, "int | None"], None]
CHECKPOINTS = (".safetensors", ".pkl", ".pt", ".pth")
ENDINGS = (*CHECKPOINTS, ".onnx")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(:[^:]+)?")


def locate(
    source: str | Path, *, kind: str = "generator", offline: bool = False, on_step: OnBytes | None = None
) -> Path:
    """The local file of a generator, or of a model of another kind, downloaded once if need be.

    source: a name of `REGISTRY`, a path, an http(s) URL, or a hub id "owner/repo" or "owner/repo:file". A name wins
        over a file of that name; write "./name" for the file.
    kind: what is looked for, of `KINDS`; names of other kinds are refused. What is in a file, its reader finds out.
    offline: use only what is here; also set by STYLOGRAPH_OFFLINE=1 or HF_HUB_OFFLINE=1.
    on_step: called with (bytes done, bytes in total or None) while downloading from a URL.
    Raises `WeightsError` for an unknown source, `DownloadError` if it cannot be fetched or is not what it should be.
    """
    text = os.fspath(source)
    offline = offline or is_offline()
    model = plan(text)
    if model is not None and model.kind != kind:
        raise WeightsError(
            f"got {text!r}, {KINDS[model.kind][0]}; expected {KINDS[kind][0]} ({', '.join(names_of(kind))}, or a file); pass "
            f"{text!r} to {KINDS[model.kind][1]} instead"
        )
    if model is not None:
        return _known(model, offline, on_step)
    path = Path(text).expanduser()
    if path.exists():
        return path
    if text.lower().startswith(("http://", "https://")):
        return _from_url(text, offline=offline, on_step=on_step)
    if isinstance(source, str) and _HUB_ID.fullmatch(text) and not text.lower().split(":")[0].endswith(ENDINGS):
        return _from_hub(text, offline)
    if text.lower().endswith(ENDINGS) or "/" in text or os.sep in text:
        raise WeightsError(f"got {text!r}, where no file is; expected an existing checkpoint; check the spelling")
    raise WeightsError(
        one_of(text, names_of(kind), "model") + '; or pass a path, an http(s) URL or a hub id ("owner/repo:file")'
    )


def is_offline() -> bool:
    """Whether the environment forbids downloads."""
    values = (os.environ.get(name, "") for name in ("STYLOGRAPH_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.strip().lower() in ("1", "true", "yes", "on") for value in values)


def cache_folder() -> Path:
    """Where downloads are kept: STYLOGRAPH_CACHE, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("STYLOGRAPH_CACHE") or platformdirs.user_cache_dir("stylograph"))


def cached_path(url: str) -> Path:
    """Where the file behind a URL is, or would be, kept."""
    name = re.sub(r"[^\w.-]", "_", unquote(urlsplit(url).path).rsplit("/", 1)[-1]).lstrip(".")[-80:] or "file"
    return cache_folder() / f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{name}"


def _known(model: KnownModel, offline: bool, on_step: OnBytes | None) -> Path:
    if model.url is not None:
        return _from_url(model.url, offline=offline, on_step=on_step, size=model.size, sha256=model.sha256)
    if model.hub is not None:
        from stylograph.weights.fetch import verify

        path = _from_hub(model.hub, offline)
        verify(path, size=model.size, sha256=model.sha256)
        return path
    path = shipped(model.name)
    if not path.is_file():
        raise WeightsError(f"got no file {path.name} for {model.name!r} in this installation; reinstall stylograph")
    return path


def _from_url(
    url: str,
    *,
    offline: bool,
    on_step: OnBytes | None,
    size: int | None = None,
    sha256: str | None = None,
) -> Path:
    target = cached_path(url)
    if target.is_file():  # it only got its name after all checks
        return target
    if offline:
        raise DownloadError(
            f"got {url}, which is not on this machine, while downloads are switched off; expected it at {target}; "
            "fetch it elsewhere and put it there, or allow downloads"
        )
    from stylograph.weights.fetch import fetch

    fetch(url, target, size=size, sha256=sha256, on_step=on_step)
    return target


def _from_hub(hub_id: str, offline: bool) -> Path:
    import huggingface_hub
    from huggingface_hub.utils import HfHubHTTPError, LocalEntryNotFoundError

    repo, _, file = hub_id.partition(":")
    try:
        if not file:
            if offline:
                folder = Path(huggingface_hub.snapshot_download(repo, local_files_only=True))
                names: Iterable[str] = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
            else:
                names = huggingface_hub.list_repo_files(repo)
            file = _only_checkpoint(repo, names)
        return Path(huggingface_hub.hf_hub_download(repo, file, local_files_only=offline))
    except LocalEntryNotFoundError as error:
        todo = "allow downloads, or fetch it elsewhere and pass the file" if offline else "check the connection"
        raise DownloadError(
            f"got hub id {hub_id!r}, which is not on this machine and cannot be fetched; {todo}"
        ) from error
    except (HfHubHTTPError, ValueError) as error:
        first = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise DownloadError(
            f"got hub id {hub_id!r}; expected an existing public repository and file ({first}); check the spelling, or pass "
            "a path, a URL or a name listed by `stylograph models`"
        ) from error
    except OSError as error:
        raise DownloadError(
            f"got hub id {hub_id!r}, which cannot be fetched ({error}); check connection and free space"
        ) from error


def _only_checkpoint(repo: str, names: Iterable[str]) -> str:
    found = sorted(name for name in names if name.lower().endswith(CHECKPOINTS))
    if "generator.safetensors" in found:
        return "generator.safetensors"
    if len(found) != 1:
        listed = ", ".join(f"{repo}:{name}" for name in found[:8])
        raise DownloadError(
            f"got hub repository {repo!r} with {len(found)} checkpoint files; expected one; "
            + (f"say which: {listed}" if found else "pass another repository")
        )
    return found[0]
