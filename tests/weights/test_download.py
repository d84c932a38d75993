import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stylograph import Generator
from stylograph.errors import DownloadError, WeightsError
from stylograph.weights import REGISTRY, download, fetch, locate, plan, read
from stylograph.weights.registry import KINDS, names_of, shipped
from weights.conftest import GOLDEN

CONTENT = os.urandom(700_001)


class Server:
    """A file on a local server that can be told to misbehave."""

    def __init__(self):
        self.content = CONTENT
        self.headers = {"ETag": '"v1"'}
        self.status = 200
        self.ranges = True
        self.if_range = True
        self.cuts = []  # the next answers end after so many bytes of body
        self.errors = []  # the next answers have these statuses
        self.log = []
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}/models/net.pkl"

    def answer(self, request):
        wanted = request.headers.get("Range")
        self.log.append(wanted)
        start, status = 0, self.errors.pop(0) if self.errors else self.status
        fresh = request.headers.get("If-Range") in (None, *self.headers.values())
        if status == 200 and wanted and self.ranges and (fresh or not self.if_range):
            start, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
        if status == 206 and start >= len(self.content):
            status = 416
        request.send_response(status)
        for name, value in self.headers.items():
            request.send_header(name, value)
        body = b"no" if status >= 400 else self.content[start:]
        if status == 206:
            request.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if status == 416:
            request.send_header("Content-Range", f"bytes */{len(self.content)}")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[: self.cuts.pop(0)] if self.cuts and status < 400 else body)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetch, "PAUSE", 0.001)
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def rubbish(target):
    return [p.name for p in target.parent.iterdir() if p.name != target.name and not p.name.endswith(".lock")]


def test_plain_download_happens_once(server):
    seen = []
    target = locate(server.url, on_step=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert target.name.endswith("-net.pkl")
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert rubbish(target) == []
    assert locate(server.url) == target
    assert len(server.log) == 1


def test_resumes_after_cut_connections(server):
    server.cuts = [300_000, 100_000]
    assert locate(server.url).read_bytes() == CONTENT
    assert server.log[0] is None
    assert [int(r[6:-1]) for r in server.log[1:]] == [300_000, 400_000]


def test_resumes_in_a_later_run(server, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_TRIES", 1)
    server.cuts = [250_000]
    with pytest.raises(DownloadError, match="250000 bytes are here"):
        locate(server.url)
    assert not download.cached_path(server.url).exists()
    assert locate(server.url).read_bytes() == CONTENT
    assert server.log == [None, "bytes=250000-"]


def test_server_without_ranges(server):
    server.ranges = False
    server.cuts = [300_000]
    assert locate(server.url).read_bytes() == CONTENT
    assert server.log == [None, "bytes=300000-"]


@pytest.mark.parametrize("honest", [True, False])
def test_a_file_that_changed_is_not_glued_together(server, monkeypatch, honest):
    monkeypatch.setattr(fetch, "MAX_TRIES", 1)
    server.cuts = [300_000]
    with pytest.raises(DownloadError):
        locate(server.url)
    monkeypatch.setattr(fetch, "MAX_TRIES", 5)
    server.content, server.headers = CONTENT[::-1], {"ETag": '"v2"'}
    server.if_range = honest  # some servers ignore If-Range and send the rest of the new file
    assert locate(server.url).read_bytes() == CONTENT[::-1]


def test_without_etag_it_starts_again(server):
    server.headers = {"ETag": 'W/"weak"'}
    server.cuts = [300_000]
    assert locate(server.url).read_bytes() == CONTENT
    assert server.log == [None, None]


def test_part_that_was_complete(server, monkeypatch):
    target = download.cached_path(server.url)
    target.parent.mkdir(parents=True)
    part = target.with_name(target.name + ".part")
    part.write_bytes(CONTENT)
    part.with_name(part.name + ".json").write_text(json.dumps({"url": server.url, "version": '"v1"'}))
    assert locate(server.url).read_bytes() == CONTENT
    assert len(server.log) == 1


def test_part_longer_than_the_file(server):
    target = download.cached_path(server.url)
    target.parent.mkdir(parents=True)
    part = target.with_name(target.name + ".part")
    part.write_bytes(CONTENT + b"more")
    part.with_name(part.name + ".json").write_text(json.dumps({"url": server.url, "version": '"v1"'}))
    assert locate(server.url).read_bytes() == CONTENT


def test_busy_server_is_asked_again(server):
    server.errors = [503, 429]
    assert locate(server.url).read_bytes() == CONTENT
    assert len(server.log) == 3


@pytest.mark.parametrize(("status", "hint"), [(404, "no such file"), (403, "login"), (401, "login")])
def test_refusals_are_not_repeated(server, status, hint):
    server.status = status
    with pytest.raises(DownloadError, match=hint):
        locate(server.url)
    assert len(server.log) == 1


def test_dead_server():
    with pytest.raises(DownloadError, match="check the connection"):
        fetch_fast("http://127.0.0.1:9/x.pkl")


def fetch_fast(url):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "PAUSE", 0.001)
        return locate(url)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"<!doctype html><title>Sign in</title>", "a web page"),
        (b'{"error": "quota exceeded"}', "quota exceeded"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_pages_in_place_of_the_file(server, body, what):
    server.content = body
    with pytest.raises(DownloadError, match=what):
        locate(server.url)
    target = download.cached_path(server.url)
    assert not target.exists()
    assert rubbish(target) == []


def test_a_web_page_does_not_destroy_what_is_there(server, monkeypatch):
    monkeypatch.setattr(fetch, "MAX_TRIES", 1)
    server.cuts = [300_000]
    with pytest.raises(DownloadError):
        locate(server.url)
    server.content, server.headers = b"<html>maintenance</html>", {}
    server.ranges = False
    with pytest.raises(DownloadError, match="a web page"):
        locate(server.url)
    server.content, server.headers, server.ranges = CONTENT, {"ETag": '"v1"'}, True
    assert locate(server.url).read_bytes() == CONTENT
    assert server.log[-1] == "bytes=300000-"


def test_digest_and_size_are_checked(server, tmp_path):
    digest = hashlib.sha256(CONTENT).hexdigest()
    fetch.fetch(server.url, tmp_path / "good", size=len(CONTENT), sha256=digest)
    for wrong in ({"sha256": "0" * 64}, {"size": 5}, {"size": len(CONTENT) + 1}):
        with pytest.raises(DownloadError, match=r"expected (0000|5|700002)"):
            fetch.fetch(server.url, tmp_path / "bad", **wrong)
        assert not (tmp_path / "bad").exists()
        assert not (tmp_path / "bad.part").exists()


def test_full_disk(server, monkeypatch):
    usage = type("usage", (), {"free": 1000})
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DownloadError, match="full; make room"):
        locate(server.url)


def test_folder_that_cannot_be_written(server, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("STYLOGRAPH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DownloadError, match="could not be stored"):
        locate(server.url)


@pytest.mark.parametrize("name", [None, "STYLOGRAPH_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline(server, monkeypatch, name):
    if name:
        monkeypatch.setenv(name, "1")
    with pytest.raises(DownloadError, match="not on this machine") as caught:
        locate(server.url, offline=name is None)
    assert str(download.cached_path(server.url)) in str(caught.value)
    assert server.log == []


def test_offline_uses_what_is_there(server):
    target = locate(server.url)
    assert locate(server.url, offline=True) == target


def test_two_processes_at_once(server, tmp_path):
    code = "import sys; from stylograph.weights import locate; print(locate(sys.argv[1]))"
    source = str(Path(download.__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": source}
    running = [
        subprocess.Popen([sys.executable, "-c", code, server.url], env=environment, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    paths = {process.communicate(timeout=120)[0].decode().strip() for process in running}
    assert [process.returncode for process in running] == [0, 0]
    assert len(paths) == 1
    assert Path(paths.pop()).read_bytes() == CONTENT


def test_names_from_addresses_stay_in_the_folder(tmp_path):
    for url in (
        "http://x/..%2f..%2fetc%2fpasswd",
        "http://x/",
        "http://x/a/..",
        "http://x/a.pkl?b=/../c",
        "http://x/" + "é" * 500,
    ):
        path = download.cached_path(url)
        assert path.parent == tmp_path / "cache"
        assert len(os.fsencode(path.name)) < 255
    assert download.cached_path("http://x/a.pkl?v=1") != download.cached_path("http://x/a.pkl?v=2")


# ---------------------------------------------------------------- names


def test_registry_is_complete_and_honest():
    wanted = "avatars ffhq-256 ffhq-512 ffhq-1024 afhq-cat afhq-dog afhq-wild lsun-car lsun-church lsun-horse lsun-cat metfaces"
    assert set(wanted.split()) <= set(REGISTRY)
    for name, model in REGISTRY.items():
        assert model.name == name
        assert model.licence
        assert model.verified in ("seen", "recalled", "shipped")
        assert (model.url is None) + (model.hub is None) == (2 if name == "avatars" else 1)
        assert model.url is None or model.url.startswith("https://")
        assert model.kind in KINDS
        assert model.kind != "generator" or model.resolution & (model.resolution - 1) == 0
        assert model.sha256 is None or len(model.sha256) == 64


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_of_another_kind_says_where_it_goes(kind):
    for name, model in REGISTRY.items():
        if model.kind == kind:
            assert name in names_of(kind)
            continue
        with pytest.raises(WeightsError, match=f"got '{name}', a .*; expected a .*; pass '{name}' to ") as caught:
            locate(name, kind=kind)
        called, place = KINDS[model.kind]
        assert str(caught.value).startswith(f"got '{name}', {called}; expected {KINDS[kind][0]} (")
        assert f"to {place} instead" in str(caught.value)
    with pytest.raises(WeightsError) as caught:
        locate("avatar", kind=kind)
    assert ("avatars" in str(caught.value)) == (kind != "detector")


def test_a_generator_by_the_name_of_a_recogniser():
    with pytest.raises(WeightsError, match=r"'arcface', a face recogniser; expected a generator .* to --identity"):
        Generator.from_pretrained("arcface")


def test_plan_tells_the_licence_first():
    assert "non-commercial" in plan("ffhq-1024").licence
    assert plan(GOLDEN / "pair_nvidia.pkl") is None
    assert plan("https://example.org/x.pkl") is None


def test_paths(tmp_path, monkeypatch):
    assert locate(GOLDEN / "pair_nvidia.pkl") == GOLDEN / "pair_nvidia.pkl"
    assert locate(str(GOLDEN / "pair_nvidia.pkl")) == GOLDEN / "pair_nvidia.pkl"
    (tmp_path / "ffhq-256").write_bytes(b"mine")
    monkeypatch.chdir(tmp_path)
    assert locate("./ffhq-256").read_bytes() == b"mine"
    for missing in ("models/nowhere.pkl", Path("models/nowhere"), "nowhere.pt", "models/nowhere.onnx"):
        with pytest.raises(WeightsError, match="no file is"):
            locate(missing)


def test_unknown_names_show_the_closest_first():
    with pytest.raises(WeightsError, match=r"got model 'fhq-1024'; expected one of: ffhq-1024"):
        locate("fhq-1024")


def test_registry_downloads_by_url(server, monkeypatch):
    changed = dict(REGISTRY)
    changed["ffhq-256"] = type(REGISTRY["ffhq-256"])("ffhq-256", "", 256, "x", "x", url=server.url, size=5)
    monkeypatch.setattr("stylograph.weights.registry.REGISTRY", changed)
    with pytest.raises(DownloadError, match="expected 5"):
        locate("ffhq-256")


def test_avatars_are_found_without_network():
    if not shipped("avatars").is_file():
        with pytest.raises(WeightsError, match="reinstall"):
            locate("avatars", offline=True)
    else:
        assert read(locate("avatars", offline=True)).format == "stylograph"


# ---------------------------------------------------------------- hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A hub of one repository, in place of huggingface_hub's network functions."""
    import huggingface_hub
    from huggingface_hub.utils import LocalEntryNotFoundError

    files = {"a.pkl": b"aaa", "README.md": b""}

    def get(repo, file, *, local_files_only):
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        (tmp_path / file).write_bytes(files[file])
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", get)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda repo: list(files))
    return files


def test_hub_ids(hub):
    assert locate("owner/repo:a.pkl").read_bytes() == b"aaa"
    assert locate("owner/repo").name == "a.pkl"
    hub["b.pt"] = b""
    with pytest.raises(DownloadError, match=r"2 checkpoint files.*owner/repo:a\.pkl, owner/repo:b\.pt"):
        locate("owner/repo")
    hub["generator.safetensors"] = b""
    assert locate("owner/repo").name == "generator.safetensors"


def test_hub_offline(hub):
    with pytest.raises(DownloadError, match="not on this machine"):
        locate("owner/repo:a.pkl", offline=True)


def test_hub_files_are_verified(hub):
    hub["stylegan2-ffhq-config-f.pt"] = b"something else"
    with pytest.raises(DownloadError, match="expected 132729083"):
        locate("ffhq-1024-rosinality")


def test_a_detector_from_the_hub(hub):
    hub["face_detection_yunet_2023mar.onnx"] = b"onnx"
    assert locate("yunet", kind="detector").read_bytes() == b"onnx"
    assert locate("owner/repo", kind="recogniser").name == "a.pkl"


def test_nothing_heavy_is_imported():
    code = (
        "import sys, stylograph.weights as w; w.plan('avatars'); "
        "sys.exit(int(any(m in sys.modules for m in ('torch', 'numpy', 'urllib.request', 'huggingface_hub'))))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(download.__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
