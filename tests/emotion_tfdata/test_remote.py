"""Data sets behind a URL: a real HTTP server on this machine, which drops connections as told."""

from __future__ import annotations

import contextlib
import errno
import functools
import http.server
import os
import re
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fsspec", reason="needs the extra [remote]")
pytest.importorskip("aiohttp", reason="needs the extra [remote]")

from emotion_tfdata import Records
from emotion_tfdata.dataset import remote, storage
from emotion_tfdata.dataset.manifest import Manifest, ManifestError
from emotion_tfdata.dataset.remote import StorageError


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves ranges, unless told not to, and drops the connection after so many bytes."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_GET(self):
        faults, path = self.server.faults, Path(self.translate_path(self.path))
        self.server.asked.append((path.name, self.headers.get("Range")))
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and faults.get("ranges", True):
            start = int(wanted[1])
            end = min(int(wanted[2] or len(content)) + 1, len(content))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
            content = content[start:end]
        else:
            self.send_response(200)
        if faults.get("ranges", True):
            self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if path.suffix != ".json" and faults.get("breaks", 0) > 0:
            faults["breaks"] -= 1
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            self.connection.shutdown(2)
            return
        with contextlib.suppress(OSError):
            self.wfile.write(content)


@pytest.fixture
def server(fake_data_dir, tmp_path, monkeypatch):
    """A server of a copy of the made-up data set, its faults, and a cache folder of its own."""
    shutil.copytree(fake_data_dir, tmp_path / "www" / "data")
    monkeypatch.setenv(remote.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "_FIRST_PAUSE_S", 0.001)
    handler = functools.partial(Handler, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.faults, server.asked = {}, []
        server.url = f"http://127.0.0.1:{server.server_address[1]}/data"
        server.folder = tmp_path / "www" / "data"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def shards_asked(server):
    return {name for name, _ in server.asked if ".tfrecord" in name}


def same(one, other):
    assert one.example_ids == other.example_ids
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a["audio"], b["audio"])
        np.testing.assert_array_equal(a["landmarks"], b["landmarks"])


@pytest.mark.parametrize("ranges", [True, False])
def test_what_is_wanted_is_fetched_once(server, fake_data_dir, ranges):
    server.faults["ranges"] = ranges
    same(Records(server.url, "test", fold=3), Records(fake_data_dir, "test", fold=3))
    assert shards_asked(server) == {"fold-3-of-5.tfrecord-00000-of-00001"}
    server.asked.clear()
    same(Records(server.url, "test", fold=3), Records(fake_data_dir, "test", fold=3))
    assert {name for name, _ in server.asked} == {"manifest.json"}


def test_make_dataset_serves_the_same_bits(server, fake_data_dir):
    from emotion_tfdata import Augment, make_dataset
    from emotion_tfdata.testing import assert_same_stream

    options = {"fold": 1, "augment": Augment(), "batch_size": 8}
    assert_same_stream(
        make_dataset(server.url, "train", **options),
        make_dataset(fake_data_dir, "train", **options),
    )


@pytest.mark.parametrize("ranges", [True, False])
def test_connections_that_break_off_are_resumed(server, fake_data_dir, ranges, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 4096)
    server.faults.update(breaks=4, ranges=ranges)
    same(Records(server.url, "all"), Records(fake_data_dir, "all"))
    assert server.faults["breaks"] == 0


def test_an_interrupted_fetch_resumes_where_it_stopped(server, fake_data_dir, monkeypatch):
    monkeypatch.setattr(remote, "_BLOCK_BYTES", 4096)
    data = storage.open_data_set(server.url)
    shard = data.manifest.shards[0]
    part = Path(data.folder, f"{shard.name}.part")
    part.write_bytes((server.folder / shard.name).read_bytes()[:8192])
    server.asked.clear()
    data.source.fetch([shard])
    starts = [int(asked[6:].split("-")[0]) for _, asked in server.asked if asked]
    assert min(starts) >= 8192
    assert Path(data.folder, shard.name).read_bytes() == (server.folder / shard.name).read_bytes()
    assert not part.exists()


def test_a_connection_that_always_breaks_off_is_named(server):
    server.faults.update(breaks=10**6)
    with pytest.raises(
        StorageError, match=r"\.npz: interrupted after 0 of \d+ bytes, 5 times \(Client"
    ):
        Records(server.url, "all")


def test_a_server_that_is_not_there_is_named(server):
    url = server.url.replace(str(server.server_address[1]), "1")
    with pytest.raises(StorageError, match=r":1/data/manifest\.json: cannot be read \(Client"):
        Records(url, "all")


def test_a_folder_without_a_data_set_is_named(server):
    with pytest.raises(ManifestError, match=r"/nothing holds no data set \(no manifest\.json\)"):
        Records(f"{server.url}/nothing", "all")


def test_other_bytes_behind_the_url_are_never_used(server):
    shard = sorted(server.folder.glob("fold-0*"))[0]
    content = bytearray(shard.read_bytes())
    content[1000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StorageError, match=f"{shard.name}: its SHA-256 is not the manifest's"):
        Records(server.url, "all")
    shard.write_bytes(content + b"more")
    with pytest.raises(StorageError, match=f"{shard.name} is larger than"):
        Records(server.url, "all")
    shard.unlink()
    with pytest.raises(StorageError, match=f"{shard.name} is missing"):
        Records(server.url, "all")


def test_other_bytes_in_the_cache_are_named_even_at_their_size(server):
    Records(server.url, "all")
    folder = Path(storage.open_data_set(server.url).folder)
    shard = sorted(folder.glob("fold-2*"))[0]
    content = bytearray(shard.read_bytes())
    os.utime(shard)
    assert len(Records(server.url, "all")) == 30  # hashed again, and whole
    content[1000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StorageError, match=f"{shard} holds other bytes .*; delete it, and it is"):
        Records(server.url, "all")


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(remote.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(StorageError, match=r"cache cannot be written \(Not a directory\).*=/path"):
        Records(server.url, "all")


@pytest.mark.parametrize("when", ["before", "while"])
def test_a_full_cache_is_named(server, monkeypatch, when):
    if when == "before":
        usage = type("Usage", (), {"free": 10})
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    else:
        monkeypatch.setattr(remote.Source, "_append", _full)
    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\)\. Make"):
        Records(server.url, "all")


def _full(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_read_only_cache_that_holds_everything_will_do(server, fake_data_dir, monkeypatch):
    Records(server.url, "all")
    for name in ("makedirs", "utime", "replace"):
        monkeypatch.setattr(os, name, _full)
    same(Records(server.url, "all"), Records(fake_data_dir, "all"))


def test_what_is_not_installed_is_named(monkeypatch):
    with pytest.raises(StorageError, match=r"nosuch://a/b: Protocol not known: nosuch"):
        storage.load_manifest("nosuch://a/b")
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(StorageError, match=r"read by fsspec: pip install .*\[remote\]"):
        storage.load_manifest("https://a/b")


def test_the_cache_is_below_the_user_s(monkeypatch):
    monkeypatch.delenv(remote.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert remote.cache_folder() == "/x/emotion_tfdata"


def test_the_manifest_s_sha256_names_the_folder(server, fake_data_dir):
    folder = storage.open_data_set(server.url).folder
    assert Manifest.load(fake_data_dir).sha256.startswith(Path(folder).name)
