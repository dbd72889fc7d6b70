"""Downloads from a server of our own that errs as servers do."""

from __future__ import annotations

import errno
import hashlib
import http.client
import http.server
import io
import json
import re
import shutil
import ssl
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from emotion_tfdata.dataset import atomic_file
from preprocess import download
from preprocess.corpora.checksums import OfficialFile
from preprocess.corpora.fetch import Fetcher, FetchError, Patience, Wanted

QUICK = Patience(attempts=4, first_wait_s=0.001, longest_wait_s=0.01)
CONTENT = bytes(range(256)) * 4000


class Server(http.server.ThreadingHTTPServer):
    """Serves `files` by path; `trouble` lists what goes wrong with the next requests of a path."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.trouble: dict[str, list[str]] = {}
        self.seen: list[tuple[str, str | None]] = []
        self.batches: list[int] = []
        self.ranges = True
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):  # that is a client that hung up
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Accept"] == "application/vnd.git-lfs+json"
        assert body["operation"] == "download"
        self.server.batches.append(len(body["objects"]))
        objects = []
        for each in body["objects"]:
            path = f"/store/{each['oid']}"
            answer = {"oid": each["oid"], "size": each["size"]}
            if path in self.server.files:
                href = f"{self.server.url}{path}?secret=1"
                answer["actions"] = {"download": {"href": href, "header": {"X-Pass": "yes"}}}
            else:
                answer["error"] = {"code": 404, "message": "Object does not exist"}
            objects.append(answer)
        self._send(200, json.dumps({"objects": objects}).encode())

    def do_GET(self):
        path = self.path.split("?")[0]
        begin = re.match(r"bytes=(\d+)-", self.headers.get("Range", ""))
        self.server.seen.append((path, begin[1] if begin else None))
        if path.startswith("/store/"):
            assert self.headers["X-Pass"] == "yes"
        trouble = self.server.trouble.get(path, [])
        what = trouble.pop(0) if trouble else ""
        content = self.server.files.get(path)
        if content is None:
            return self._send(404, b"")
        if what.isdigit():
            return self._send(int(what), b"", {"Retry-After": "0"})
        if what == "other bytes":
            content = bytes(len(content))
        start = int(begin[1]) if begin and self.server.ranges else 0
        if start >= len(content):
            return self._send(416, b"")
        headers = {"Content-Length": str(len(content) - start)}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        content = content[start:]
        if what == "break":
            content = content[: len(content) // 2]
        return self._send(206 if start else 200, content, headers)

    def _send(self, status, content, headers=None):
        self.send_response(status)
        for name, value in (headers or {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def wanted(server, tmp_path):
    server.files["/a"] = CONTENT
    digest = hashlib.sha256(CONTENT).hexdigest()
    return Wanted(f"{server.url}/a", tmp_path / "in" / "a", len(CONTENT), "sha256", digest)


def fetch(wanted, patience=QUICK):
    Fetcher(patience).fetch(wanted)
    assert wanted.path.read_bytes() == CONTENT
    assert [path.name for path in wanted.path.parent.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "trouble",
    [[], ["break"] * 6, ["429", "503"], ["429", "break", "503", "500", "break"], ["other bytes"]],
)
def test_a_file_arrives_whole_whatever_the_server_does(server, wanted, trouble):
    server.trouble["/a"] = list(trouble)
    fetch(wanted)
    assert not server.trouble["/a"]


def test_a_broken_connection_is_resumed_by_range(server, wanted):
    server.trouble["/a"] = ["break", "break"]
    fetch(wanted)
    half, quarter = len(CONTENT) // 2, len(CONTENT) * 3 // 4
    assert server.seen == [("/a", None), ("/a", str(half)), ("/a", str(quarter))]


def test_a_part_of_an_earlier_process_is_resumed(server, wanted):
    wanted.path.parent.mkdir()
    wanted.path.with_name("a.part").write_bytes(CONTENT[:1000])
    fetch(wanted)
    assert server.seen == [("/a", "1000")]


def test_a_server_without_ranges_is_read_from_the_start(server, wanted):
    server.ranges = False
    server.trouble["/a"] = ["break"]
    fetch(wanted)


def test_a_damaged_part_is_fetched_again(server, wanted):
    wanted.path.parent.mkdir()
    wanted.path.with_name("a.part").write_bytes(b"wrong" + CONTENT[5:2000])
    fetch(wanted)
    assert server.seen == [("/a", "2000"), ("/a", None)]


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (["other bytes"] * 2, r"a: http.*/a sent other bytes than published \(sha256 differs\)"),
        (["403"], "a: HTTP status 403 from"),
        (["503"] * 4, r"a: HTTP status 503, 4 times one after the other\. The same command"),
    ],
)
def test_a_server_that_keeps_failing_is_given_up(server, wanted, trouble, message):
    server.trouble["/a"] = list(trouble)
    with pytest.raises(FetchError, match=message):
        fetch(wanted)
    assert not wanted.path.exists()


@pytest.fixture(params=["begin", "read"])
def break_network(request, monkeypatch):
    """Makes some of the calls that await an answer, or read it, fail; returns them all."""

    def install(error, fails):
        works = getattr(http.client.HTTPResponse, request.param)
        calls = []

        def call(response, *arguments):
            calls.append(arguments)
            if fails(len(calls)):
                raise error
            return works(response, *arguments)

        monkeypatch.setattr(http.client.HTTPResponse, request.param, call)
        return calls

    return install


NETWORK_ERRORS = [OSError(errno.EHOSTUNREACH, "No route to host"), ssl.SSLError(1, "bad record")]


@pytest.mark.parametrize("error", NETWORK_ERRORS, ids=["unreachable", "tls"])
def test_a_network_that_fails_is_asked_again(server, wanted, break_network, error):
    server.trouble["/a"] = ["", "break"]
    calls = break_network(error, lambda call: call in (1, 3))
    fetch(wanted)
    assert len(calls) >= 4


@pytest.mark.parametrize("error", NETWORK_ERRORS, ids=["unreachable", "tls"])
def test_a_network_that_keeps_failing_is_given_up(wanted, break_network, error):
    calls = break_network(error, lambda call: True)
    with pytest.raises(FetchError, match=f"a: .*{error.args[1]}.*, 4 times one after the other"):
        fetch(wanted)
    assert len(calls) == 4


def test_a_full_disk_is_no_fault_of_the_server(server, wanted):
    wanted.path.parent.mkdir()
    wanted.path.with_name("a.part").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device"):
        fetch(wanted)
    assert server.seen == [("/a", None)]


def test_only_http_is_fetched(wanted, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    with pytest.raises(FetchError, match="neither http nor https"):
        Fetcher(QUICK).fetch(Wanted(secret.as_uri(), tmp_path / "b", 1, "md5", "0"))


def test_waits_double_and_heed_the_server():
    patience = Patience()
    assert [patience.wait_s(n, None) for n in (1, 2, 3, 20)] == [1, 2, 4, 300]
    assert patience.wait_s(1, 17.0) == 17
    assert patience.wait_s(1, 4000.0) == 300


@pytest.fixture
def crema_d(server, monkeypatch):
    """250 small files, and one of another part, in place of CREMA-D's."""
    files = {}
    for index in range(250):
        content = f"clip {index}".encode() * (index + 1)
        oid = hashlib.sha256(content).hexdigest()
        server.files[f"/store/{oid}"] = content
        name = f"{1001 + index}_DFA_ANG_XX.flv"
        files[name] = OfficialFile(f"VideoFlash/{name}", oid, len(content))
    files["w.wav"] = OfficialFile("AudioWAV/w.wav", "0", 5)
    monkeypatch.setattr(download, "official_files", lambda corpus: files)
    return files


def run(corpus, server, out_dir, **options):
    lines: list[str] = []
    count = download.download(
        corpus, out_dir, base_url=server.url, patience=QUICK, tell=lines.append, **options
    )
    return count, lines


def test_crema_d_comes_from_its_git_lfs_store(server, crema_d, tmp_path):
    troubled = [f"/store/{file.sha256}" for file in crema_d.values()]
    server.trouble = {path: ["503", "break"] for path in troubled[5:20]}
    pointer = tmp_path / "VideoFlash" / "1003_DFA_ANG_XX.flv"
    pointer.parent.mkdir()
    pointer.write_text("version https://git-lfs.github.com/spec/v1\n")

    count, lines = run("crema_d", server, tmp_path)

    assert count == 250
    assert server.batches == [100, 100, 50]
    assert "Open Database License" in lines[0]
    for name, file in crema_d.items():
        if name != "w.wav":
            assert atomic_file.digest_of(tmp_path / file.path) == file.sha256
    assert {p.suffix for p in tmp_path.rglob("*") if p.is_file()} == {".flv"}

    requests = len(server.seen)
    count, lines = run("crema_d", server, tmp_path)
    assert (count, len(server.seen)) == (0, requests)
    assert lines[-1] == f"everything is in {tmp_path} already"


def test_an_interrupted_download_keeps_what_it_has(server, crema_d, tmp_path):
    path = f"/store/{crema_d['1150_DFA_ANG_XX.flv'].sha256}"
    server.trouble[path] = ["403"]
    with pytest.raises(FetchError, match=r"1150_DFA_ANG_XX.flv: HTTP status 403") as error:
        run("crema_d", server, tmp_path)
    assert "secret" not in str(error.value)
    run("crema_d", server, tmp_path)
    seen = Counter(name for name, _ in server.seen)
    assert seen.pop(path) == 2
    assert max(seen.values()) <= 2  # those under way when it stopped, at most
    assert sum(count == 2 for count in seen.values()) <= 4


def test_an_object_that_the_store_has_not_is_named(server, crema_d, tmp_path):
    del server.files[f"/store/{crema_d['1001_DFA_ANG_XX.flv'].sha256}"]
    with pytest.raises(FetchError, match=r"VideoFlash/1001_DFA_ANG_XX.flv.*Object does not exist"):
        run("crema_d", server, tmp_path)


def put_zips(server, names):
    files = []
    for name in names:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"Actor_01/{name}.mp4", CONTENT)
        content = packed.getvalue()
        server.files[f"/records/1188976/files/{name}"] = content
        checksum = f"md5:{hashlib.md5(content).hexdigest()}"
        files.append({"key": name, "size": len(content), "checksum": checksum})
    files.append({"key": "Video_Song_Actor_01.zip", "size": 10, "checksum": "md5:0"})
    server.files["/api/records/1188976"] = json.dumps({"files": files}).encode()
    return [f"/records/1188976/files/{name}" for name in names]


def test_ravdess_s_zips_come_from_zenodo_and_are_unzipped(server, tmp_path):
    names = [f"Video_Speech_Actor_{actor:02d}.zip" for actor in range(1, 4)]
    paths = put_zips(server, names)
    server.trouble = {paths[0]: ["break", "429"], paths[1]: ["other bytes"]}
    server.trouble["/api/records/1188976"] = ["503"]
    (tmp_path / ".Video_Speech_Actor_01.part" / "half").mkdir(parents=True)

    count, lines = run("ravdess", server, tmp_path, parts=["video", "video"])

    assert count == 3
    assert "not for commercial use" in lines[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [name[:-4] for name in names]
    for name in names:
        assert (tmp_path / name[:-4] / "Actor_01" / f"{name}.mp4").read_bytes() == CONTENT
    requests = len(server.seen)
    assert run("ravdess", server, tmp_path)[0] == 0
    assert len(server.seen) == requests + 1  # the list alone


def test_pinned_checksums_count_more_than_the_server_s_word(server, tmp_path):
    put_zips(server, ["Audio_Speech_Actors_01-24.zip"])
    with pytest.raises(FetchError, match="md5 differs"):
        run("ravdess", server, tmp_path, parts=["audio"])


def test_a_disk_that_is_too_small_is_noticed_first(server, crema_d, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(FetchError, match=r"has 0\.0 GB free, 0\.0 GB are needed"):
        run("crema_d", server, tmp_path)
    assert not server.seen


def test_zips_need_room_for_what_they_unpack_to_and_for_those_fetched_at_once(
    server, tmp_path, monkeypatch
):
    names = [f"Video_Speech_Actor_{actor:02d}.zip" for actor in range(1, 5)]
    sizes = [len(server.files[path]) for path in put_zips(server, names)]
    # One is whole, but was not unpacked; of another there is a part.
    whole = server.files[f"/records/1188976/files/{names[0]}"]
    (tmp_path / names[0]).write_bytes(whole)
    (tmp_path / f"{names[1]}.part").write_bytes(
        server.files[f"/records/1188976/files/{names[1]}"][:1000]
    )
    needed = round(1.05 * sum(sizes)) + sum(sizes[2:])
    usage = shutil.disk_usage(tmp_path)
    for free, fits in ((needed - 5, False), (needed + 5, True)):
        now = usage._replace(free=free)
        monkeypatch.setattr(download.shutil, "disk_usage", lambda path, now=now: now)
        if fits:
            count, lines = run("ravdess", server, tmp_path, num_connections=2)
        else:
            with pytest.raises(FetchError, match="are needed"):
                run("ravdess", server, tmp_path, num_connections=2)
    assert count == 3
    lacking_mb = (sum(sizes[1:]) - 1000) / 1e6
    assert f"3 files to fetch, {lacking_mb:.1f} MB; 1 here to be unpacked" in lines
    assert sorted(path.name for path in tmp_path.iterdir()) == [name[:-4] for name in names]


def test_two_downloads_do_not_share_a_folder(server, crema_d, tmp_path):
    refusals = []

    def tell(line):
        if "files to fetch" in line:
            with pytest.raises(FetchError, match="another download is writing here") as error:
                run("crema_d", server, tmp_path)
            refusals.append(error)

    download.download("crema_d", tmp_path, base_url=server.url, patience=QUICK, tell=tell)
    assert len(refusals) == 1
    assert run("crema_d", server, tmp_path)[0] == 0


def test_no_part_and_an_unknown_one_are_refused(server, tmp_path):
    with pytest.raises(FetchError, match="crema_d has the parts video, audio, mp3, not ''"):
        run("crema_d", server, tmp_path, parts=[])
    with pytest.raises(FetchError, match="ravdess has the parts video, audio, tracking, not 'x'"):
        run("ravdess", server, tmp_path, parts=["x"])


def test_the_command_ends_with_a_line_and_a_status(server, project_dir, tmp_path):
    put_zips(server, ["Video_Speech_Actor_01.zip"])
    command = [sys.executable, "-m", "preprocess.download", f"--base_url={server.url}"]
    command += ["--corpus=ravdess", f"--out_dir={tmp_path}"]
    options = {"capture_output": True, "text": True, "check": False, "cwd": project_dir}
    done = subprocess.run(command, **options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"1 fetched and checked, in {tmp_path}"
    done = subprocess.run([*command, "--parts=tracking"], **options)
    assert done.returncode == 1
    assert done.stderr.startswith("error: http://127.0.0.1")
    assert Path(tmp_path / "Video_Speech_Actor_01").is_dir()
