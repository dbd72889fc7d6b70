"""Files to and from S3: whole and verified, or not there at all."""

from __future__ import annotations

import os

import pytest
from fake_aws import DROP, HALF, LOSE, Answer

from launch import s3


@pytest.fixture
def folder(cloud):
    cloud.client("s3").create_bucket(Bucket="bucket")
    return s3.Folder(cloud.client("s3"), "bucket", "some/prefix")


class Fault:
    """Does something to the first requests of a method, then no more."""

    def __init__(self, method, outcome, times=1):
        self._method, self._outcome, self.left = method, outcome, times

    def __call__(self, request):
        if request.service != "s3" or request.action != self._method or not self.left:
            return None
        self.left -= 1
        return self._outcome


UNAVAILABLE = Answer(503, b"<Error><Code>SlowDown</Code></Error>")


@pytest.mark.parametrize("outcome", [UNAVAILABLE, DROP, LOSE], ids=["503", "drop", "lose"])
def test_uploads_are_tried_again(cloud, folder, outcome):
    fault = Fault("PUT", outcome, times=3)
    cloud.proxy.rules.append(fault)
    content = os.urandom(100_000)
    assert folder.put("file", content)
    assert fault.left == 0
    assert folder.read("file") == content


def test_uploads_that_never_succeed_leave_nothing(cloud, folder):
    cloud.proxy.rules.append(Fault("PUT", UNAVAILABLE, times=1000))
    with pytest.raises(Exception, match="SlowDown"):
        folder.put("file", b"content")
    assert folder.find("file") is None


def test_what_is_there_is_not_sent_again(cloud, folder, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"one")
    assert folder.put("file", path)
    assert not folder.put("file", path)
    assert len(cloud.proxy.of("s3", "PUT")) == 2, "the bucket's and the file's"
    path.write_bytes(b"two")  # the same size
    assert folder.put("file", path)
    assert folder.read("file") == b"two"


def test_a_file_that_changes_while_it_is_uploaded_is_refused(folder, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    honest = s3.sha256_of

    def changed_meanwhile(source):
        digest = honest(source)
        path.write_bytes(b"after!")
        return digest

    monkeypatch.setattr(s3, "sha256_of", changed_meanwhile)
    with pytest.raises(s3.S3Error, match="file: changed while it was uploaded"):
        folder.put("file", path)
    assert folder.find("file") is None


def test_only_new_does_not_replace(folder):
    assert folder.put("file", b"first", only_new=True)
    with pytest.raises(s3.ExistsError, match="some/prefix/file exists"):
        folder.put("file", b"second", only_new=True)
    assert folder.read("file") == b"first"


def test_a_broken_download_goes_on_where_it_broke(cloud, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(s3.time, "sleep", lambda s: None)
    content = os.urandom(3_000_000)
    folder.put("file", content)
    cloud.proxy.rules.append(Fault("GET", HALF, times=2))
    assert folder.download("file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content
    ranges = [r.headers["Range"] for r in cloud.proxy.of("s3", "GET")]
    starts = [int(text.removeprefix("bytes=").rstrip("-")) for text in ranges]
    assert starts[0] == 0
    assert 0 < starts[1] < starts[2], "never from the start again"
    assert os.listdir(tmp_path) == ["file"]


def test_a_small_object_is_read_whole_or_asked_for_again(cloud, folder, monkeypatch):
    monkeypatch.setattr(s3.time, "sleep", lambda s: None)
    folder.put("file", b"0123456789")
    fault = Fault("GET", HALF, times=3)
    cloud.proxy.rules.append(fault)
    assert folder.read("file") == b"0123456789"
    assert fault.left == 0


def test_a_download_is_gone_on_with_by_the_next_call(cloud, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(s3.time, "sleep", lambda s: None)
    content = os.urandom(2_000_000)
    folder.put("file", content)
    cloud.proxy.rules.append(Fault("GET", HALF, times=8))
    with pytest.raises(s3.S3Error, match="file: broke off 8 times"):
        folder.download("file", tmp_path / "file")
    assert not (tmp_path / "file").exists(), "half a file never has the whole one's name"
    before = len(cloud.proxy.of("s3", "GET"))
    folder.download("file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == content
    (last,) = cloud.proxy.of("s3", "GET")[before:]
    assert int(last.headers["Range"].removeprefix("bytes=").rstrip("-")) > 1_900_000


def test_what_is_here_is_not_fetched_again(cloud, folder, tmp_path):
    folder.put("file", b"content")
    assert folder.download("file", tmp_path / "file")
    assert not folder.download("file", tmp_path / "file")
    assert len(cloud.proxy.of("s3", "GET")) == 1


def test_content_that_is_not_what_was_promised_is_not_kept(folder, tmp_path):
    folder.put("file", b"content")
    with pytest.raises(s3.S3Error, match=r"some/prefix/file: SHA-256 is .*, expected 0000"):
        folder.download("file", tmp_path / "file", "0" * 64)
    assert os.listdir(tmp_path) == []


def test_two_versions_are_never_put_together(cloud, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(s3.time, "sleep", lambda s: None)
    old, new = os.urandom(2_000_000), os.urandom(2_000_000)
    folder.put("file", old)
    replaced: list[bool] = []

    def replace_after_half(request):
        if request.service == "s3" and request.action == "GET" and not replaced:
            replaced.append(True)
            return HALF
        if request.service == "s3" and request.action == "HEAD" and replaced == [True]:
            replaced.append(True)
            folder.client.put_object(
                Bucket="bucket", Key=folder.key("file"), Body=new, ChecksumAlgorithm="SHA256"
            )
        return None

    cloud.proxy.rules.append(replace_after_half)
    folder.download("file", tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == new
    assert os.listdir(tmp_path) == ["file"]


def test_a_copy_that_is_another_content_is_removed(folder):
    source = folder.folder("source")
    source.put("file", b"content")
    folder.copy(source, "file", "copy", s3.sha256_of(b"content"))
    assert folder.read("copy") == b"content"
    with pytest.raises(s3.S3Error, match=r"source/file: SHA-256 is .*, expected 1111"):
        folder.copy(source, "file", "other", "1" * 64)
    assert folder.find("other") is None


def test_names_and_folders(folder):
    for name in ("a/1", "a/2", "b/c/3", "4"):
        folder.put(name, b"x")
    assert [found.name for found in folder.objects()] == ["4", "a/1", "a/2", "b/c/3"]
    assert folder.folders() == ["a", "b"]
    folder.delete(["a/1", "not/there"])
    assert folder.read("a/1") is None
    assert folder.read_from("a/2", 0) == b"x"
    assert folder.read_from("a/2", 1) == b""
    assert folder.read_from("not/there", 0) == b""
