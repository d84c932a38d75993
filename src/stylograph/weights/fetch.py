"""One file over http(s): resumes what was cut off, and only lets a complete, checked file appear under its name.

While it grows, the file is `<name>.part`; beside it `<name>.part.json` remembers which version of the file on the
server the part belongs to, so that two versions are never glued together.
"""

from __future__ import annotations

import contextlib
import errno
import http.client
import json
import os
import re
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from stylograph.errors import DownloadError
from stylograph.files import file_digest
from stylograph.weights.sniff import web_answer

BLOCK = 1 << 18
TRIES = 5  # in a row without a single new byte
MAX_TRIES = 100
TIMEOUT = 30.0
PAUSE = 0.5  # seconds before the second try; doubles

_CUT = (http.client.HTTPException, urllib.error.URLError, ConnectionError, TimeoutError)


class _Cut(Exception):
    """The connection ended before the file did."""


def fetch(
    url: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    on_step: Callable[[int, int | None], None] | None = None,
) -> None:
    """Downloads `url` to `target`; does nothing if another process finished it meanwhile. Raises `DownloadError`."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _lock(target):
            if target.is_file():
                return
            part = target.with_name(target.name + ".part")
            _fill(url, part, size, on_step)
            try:
                verify(part, size=size, sha256=sha256)
            except DownloadError:
                _discard(part)
                raise
            os.replace(part, target)
            _discard(part)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                f"{url}: the disk that holds {target.parent} is full; make room and run again"
            ) from error
        raise DownloadError(f"{url}: could not be stored in {target.parent} ({error}); check its rights") from error


def verify(path: Path, *, size: int | None, sha256: str | None) -> None:
    """Raises `DownloadError` unless the file has this size and digest (None: not known, not checked)."""
    have = path.stat().st_size
    if size is not None and have != size:
        raise DownloadError(
            f"{path.name}: got {have} bytes; expected {size}; the file on the server has changed or is damaged"
        )
    if sha256 is None:
        return
    if (found := file_digest(path)) != sha256:
        raise DownloadError(
            f"{path.name}: got sha256 {found}; expected {sha256}; the file on the server has changed or is damaged"
        )


@contextlib.contextmanager
def _lock(target: Path) -> Iterator[None]:
    """One process downloads, the others wait for it; the lock dies with its process."""
    from filelock import FileLock  # comes with huggingface_hub

    lock = FileLock(str(target) + ".lock")
    with lock:
        yield


def _fill(url: str, part: Path, size: int | None, on_step: Callable[[int, int | None], None] | None) -> None:
    """Makes `part` complete, over as many connections as it takes."""
    idle = 0
    for _ in range(MAX_TRIES):
        before = _length(part)
        try:
            _one_connection(url, part, size, on_step)
            return
        except urllib.error.HTTPError as error:
            if error.code == 416:  # nothing behind the bytes that are here
                if error.headers.get("Content-Range", "") == f"bytes */{before}" and before:
                    return
                _discard(part)
            elif error.code < 500 and error.code not in (408, 429):
                raise DownloadError(f"{url}: {_explain_status(error)}") from error
            reason: object = f"{error.code} {error.reason}"
        except (*_CUT, _Cut) as error:
            reason = getattr(error, "reason", None) or error or type(error).__name__
            if isinstance(reason, OSError) and reason.errno in (errno.ENOSPC, errno.EDQUOT):
                raise reason from error
        idle = 0 if _length(part) > before else idle + 1
        if idle >= TRIES:
            break
        time.sleep(PAUSE * 2**idle if idle else 0)
    raise DownloadError(
        f"{url}: could not be fetched ({reason}), {_length(part)} bytes are here; check the connection and run again, "
        "it goes on where it stopped"
    )


def _one_connection(url: str, part: Path, size: int | None, on_step: Callable[[int, int | None], None] | None) -> None:
    have, known = _length(part), _memory(part, url)
    if have and not known:
        have = 0  # no way to tell whether the server still has the same file
    headers = {"User-Agent": "stylograph", "Accept-Encoding": "identity"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": known}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
        version = _version(answer.headers)
        start, total = 0, _integer(answer.headers.get("Content-Length"))
        if answer.status == 206:
            span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", "").strip())
            start = int(span.group(1)) if span else -1
            if start != have or version not in (known, ""):
                _discard(part)
                raise _Cut("the file on the server has changed")
            total = _integer(span.group(2)) if span else None
        if size is not None and total is not None and total != size:
            raise DownloadError(
                f"{url}: the server has {total} bytes; expected {size}; the file there is another one now"
            )
        if total is not None and shutil.disk_usage(part.parent).free < total - start:
            raise OSError(errno.ENOSPC, "not enough room")
        _receive(url, answer, part, start, total, size, on_step, version)


def _receive(
    url: str,
    answer: Any,
    part: Path,
    start: int,
    total: int | None,
    size: int | None,
    on_step: Callable[[int, int | None], None] | None,
    version: str,
) -> None:
    block = answer.read(BLOCK)
    wrong = web_answer(block[:4096]) if start == 0 else None
    if wrong is not None:
        raise DownloadError(f"{url}: {wrong}")
    if start == 0:
        _discard(part)
        _remember(part, url, version)
    done = start
    with open(part, "ab") as stream:
        while block:
            stream.write(block)
            done += len(block)
            if done > (size if size is not None else done):
                raise DownloadError(f"{url}: the server sends more than the expected {size} bytes")
            if on_step is not None:
                on_step(done, total)
            block = answer.read(BLOCK)
    if total is not None and done != total:  # http.client reports a cut connection as a normal end
        raise _Cut(f"cut off after {done} of {total} bytes")
    if done == 0:
        raise _Cut("an empty answer")


def _version(headers: Any) -> str:
    """What If-Range may carry: a strong ETag, else the date; "" if the server tells neither."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _remember(part: Path, url: str, version: str) -> None:
    _note(part).write_text(json.dumps({"url": url, "version": version}), encoding="utf-8")


def _memory(part: Path, url: str) -> str:
    try:
        found = json.loads(_note(part).read_text(encoding="utf-8"))
        return str(found["version"]) if found["url"] == url else ""
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _discard(part: Path) -> None:
    for path in (part, _note(part)):
        path.unlink(missing_ok=True)


def _length(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.strip().isdecimal() else None


def _explain_status(error: urllib.error.HTTPError) -> str:
    meaning = {
        401: "the server wants a login; download it in a browser and pass the file",
        403: "the server refuses; the link may have expired or want a login; download it in a browser and pass the file",
        404: "there is no such file; check the address",
        410: "the file is gone; look for another source",
    }
    return f"got status {error.code} {error.reason}; " + meaning.get(
        error.code, "download it in a browser and pass the file"
    )
