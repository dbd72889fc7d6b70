"""AWS on 127.0.0.1: moto behind a proxy that records, breaks and answers, over real HTTP."""

from __future__ import annotations

import base64
import dataclasses
import fnmatch
import hashlib
import http.client
import http.server
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.loaders
import pytest
from absl.testing import flagsaver
from moto.server import ThreadedMotoServer

from launch import ec2, s3
from launch import run as runs

REGION = "us-east-1"
ACCOUNT = "123456789012"
INSTANCE_KEY = "ASIAINSTANCE"


@dataclasses.dataclass(frozen=True)
class Request:
    """One request as it came in."""

    service: str
    action: str  # of the query APIs and of JSON ones; for S3 the method
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def is_from_instance(self) -> bool:
        return f"Credential={INSTANCE_KEY}/" in self.headers.get("Authorization", "")

    @property
    def form(self) -> dict[str, str]:
        return dict(urllib.parse.parse_qsl(self.body.decode()))


@dataclasses.dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    content_type: str = "text/xml"


DROP = "drop"  # the request never arrives
LOSE = "lose"  # it is carried out, the answer is lost
HALF = "half"  # the answer breaks off half way


class Proxy:
    """Between the clients and moto: keeps every request, and does what the test says to it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.requests: list[Request] = []
        # Asked in turn for each request; the first that is not None is done.
        self.rules: list[Callable[[Request], str | Answer | None]] = []
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Or the body, sent after the headers, waits 40 ms for their acknowledgement.
            disable_nagle_algorithm = True

            def log_message(self, *arguments: Any) -> None:
                pass

            def _serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = _request(self.command, self.path, dict(self.headers), body)
                proxy.requests.append(request)
                done = next((d for d in (rule(request) for rule in proxy.rules) if d), None)
                if done == DROP:
                    self._hang_up()
                    return
                if done is None and not _is_body_as_promised(request):
                    done = Answer(400, b"<Error><Code>BadDigest</Code></Error>")
                if isinstance(done, Answer):
                    self._answer(done.status, {"Content-Type": done.content_type}, done.body)
                    return
                status, headers, content = _forward(port, self.command, request)
                if status == 404 and request.is_from_instance:
                    # S3 does not tell who may not list the whole bucket what is missing.
                    self._answer(403, headers, b"<Error><Code>AccessDenied</Code></Error>")
                    return
                if done == LOSE:
                    self._hang_up()
                elif done == HALF and len(content) > 1:
                    self._answer(status, headers, content, len(content) // 2)
                    self._hang_up()
                else:
                    self._answer(status, headers, content)

            def _answer(
                self, status: int, headers: dict[str, str], body: bytes, only: int | None = None
            ) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", str(len(body)))
                self.send_header(
                    "Content-Length", length if self.command == "HEAD" else str(len(body))
                )
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body[:only])

            def _hang_up(self) -> None:
                self.close_connection = True
                self.wfile.flush()
                self.connection.close()

        for method in ("GET", "PUT", "POST", "HEAD", "DELETE"):
            setattr(Handler, f"do_{method}", Handler._serve)
        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def reset(self) -> None:
        self.requests.clear()
        self.rules.clear()

    def forward(self, request: Request) -> Answer:
        """What moto answers to a request of one of the query APIs."""
        return forward(request, self._port)

    def reopen_spot_requests(self) -> None:
        """Has moto's spot requests, active from the first, wait for room again."""

        def rule(request: Request) -> Answer | None:
            if request.action != "DescribeSpotInstanceRequests":
                return None
            answer = self.forward(request)
            state = re.sub(b"<state>active<", b"<state>open<", answer.body)
            return dataclasses.replace(answer, body=state)

        self.rules.append(rule)

    def of(self, service: str, action: str) -> list[Request]:
        return [r for r in self.requests if (r.service, r.action) == (service, action)]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclasses.dataclass
class Result:
    status: int
    out: str
    err: str


class Cloud:
    """What a test needs of AWS, and the command line under test."""

    def __init__(self, proxy: Proxy, capsys: pytest.CaptureFixture[str]) -> None:
        self.proxy = proxy
        self._capsys = capsys
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        if service not in self._clients:
            session = boto3.session.Session("AKIATEST", "of-the-test", region_name=REGION)
            self._clients[service] = session.client(service, config=s3.RETRIES)
        return self._clients[service]

    @property
    def root(self) -> s3.Folder:
        return s3.Folder(self.client("s3"), f"emotion-tfdata-{ACCOUNT}-{REGION}", "")

    def run(self, *arguments: object) -> Result:
        """Runs launch.ec2 in this process."""
        self._capsys.readouterr()
        before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
        with flagsaver.flagsaver():
            try:
                status = ec2.main(ec2._parse(["launch.ec2", *map(str, arguments)]))
            except SystemExit as end:
                print(end.code, file=sys.stderr)  # as the interpreter does
                status = end.code if isinstance(end.code, int) else 1
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)
        captured = self._capsys.readouterr()
        return Result(status, captured.out, captured.err)

    def load(self, name: str) -> runs.Run:
        """A run as it is stored."""
        run = runs.load(self.root, name)
        assert run is not None
        return run

    def make_spot_request(self, name: str) -> str:
        """What EC2 makes of RunInstances for spot and moto does not: the run's request, recorded.

        It has no instance.
        """
        ec2_client = self.client("ec2")
        tags = [{"Key": "emotion_tfdata:run", "Value": name}]
        (request,) = ec2_client.request_spot_instances(
            InstanceCount=1,
            LaunchSpecification={"ImageId": "ami-0000000000000886"},
            SpotPrice="1",
            TagSpecifications=[{"ResourceType": "spot-instances-request", "Tags": tags}],
        )["SpotInstanceRequests"]
        ec2_client.terminate_instances(InstanceIds=[request["InstanceId"]])
        folder = runs.folder(self.root, name)
        launched = runs.read_json(folder, runs.LAUNCH)
        launched["instances"][0]["spot_request_id"] = request["SpotInstanceRequestId"]
        folder.put(runs.LAUNCH, (json.dumps(launched, indent=1) + "\n").encode())
        return request["SpotInstanceRequestId"]

    def spot_requests(self) -> list[str]:
        """Those that are not cancelled."""
        found = self.client("ec2").describe_spot_instance_requests()["SpotInstanceRequests"]
        return [one["SpotInstanceRequestId"] for one in found]

    def instances(self) -> list[dict[str, Any]]:
        """All that are not terminated."""
        return [
            entry
            for r in self.client("ec2").describe_instances()["Reservations"]
            for entry in r["Instances"]
            if entry["State"]["Name"] != "terminated"
        ]

    def left_over(self) -> list[str]:
        """Names of everything in the account that was not there at first."""
        ec2_client, iam = self.client("ec2"), self.client("iam")
        found = [entry["InstanceId"] for entry in self.instances()]
        found += [
            group["GroupName"]
            for group in ec2_client.describe_security_groups()["SecurityGroups"]
            if group["GroupName"] != "default"
        ]
        found += [role["RoleName"] for role in iam.list_roles()["Roles"]]
        found += [
            p["InstanceProfileName"] for p in iam.list_instance_profiles()["InstanceProfiles"]
        ]
        found += [
            r["SpotInstanceRequestId"]
            for r in ec2_client.describe_spot_instance_requests()["SpotInstanceRequests"]
            if r["State"] in ("open", "active")
        ]
        return found + [bucket["Name"] for bucket in self.client("s3").list_buckets()["Buckets"]]


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass  # connections that a test broke


def _request(method: str, path: str, headers: dict[str, str], body: bytes) -> Request:
    scope = re.search(r"Credential=[^/]+/\d+/[^/]+/([^/]+)/", headers.get("Authorization", ""))
    service = scope.group(1) if scope else ""
    action = method
    if "X-Amz-Target" in headers:
        action = headers["X-Amz-Target"].rpartition(".")[2]
    elif service not in ("s3", ""):
        action = dict(urllib.parse.parse_qsl(body.decode())).get("Action", method)
    return Request(service, action, path, headers, body)


def _forward(port: int, method: str, request: Request) -> tuple[int, dict[str, str], bytes]:
    upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    upstream.request(method, request.path, request.body, request.headers)
    answer = upstream.getresponse()
    content = answer.read()
    upstream.close()
    return answer.status, dict(answer.getheaders()), content


def forward(request: Request, port: int) -> Answer:
    """What moto answers to a request of one of the query APIs."""
    status, _, content = _forward(port, "POST", request)
    return Answer(status, content)


def _is_body_as_promised(request: Request) -> bool:
    """What S3 does and moto does not: compare an upload with the checksum that came with it."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    promised = headers.get("x-amz-checksum-sha256")
    found = base64.b64encode(hashlib.sha256(request.body).digest()).decode()
    return request.service != "s3" or promised in (None, found)


def quota(vcpus: int) -> Callable[[Request], Answer | None]:
    """The account's quota, which moto does not know."""

    def rule(request: Request) -> Answer | None:
        if request.action != "GetServiceQuota":
            return None
        answer = {"Quota": {"QuotaCode": json.loads(request.body)["QuotaCode"], "Value": vcpus}}
        return Answer(200, json.dumps(answer).encode(), "application/x-amz-json-1.1")

    return rule


def images(request: Request) -> Answer | None:
    """The newest images: those of amis.json, the only ones that moto is given here."""
    if request.service != "ssm" or request.action != "GetParameter":
        return None
    name = json.loads(request.body)["Name"]
    image = "ami-0000000000000a64" if "arm64" in name else "ami-0000000000000886"
    answer = {"Parameter": {"Name": name, "Type": "String", "Value": image}}
    return Answer(200, json.dumps(answer).encode(), "application/x-amz-json-1.1")


def role_policy(policy: dict[str, Any]) -> Callable[[Request], Answer | None]:
    """Holds the instance to its role, as AWS does and moto does not."""

    def rule(request: Request) -> Answer | None:
        if not request.is_from_instance:
            return None
        action, resource, context = _asked_for(request)
        for statement in policy["Statement"]:
            actions, resources = _list(statement["Action"]), _list(statement["Resource"])
            like = statement.get("Condition", {}).get("StringLike", {})
            if (
                action in actions
                and any(fnmatch.fnmatchcase(resource, pattern) for pattern in resources)
                and all(fnmatch.fnmatchcase(context.get(k, ""), v) for k, v in like.items())
            ):
                return None
        text = f"<Error><Code>AccessDenied</Code><Message>{action} {resource}</Message></Error>"
        return Answer(403, text.encode())

    return rule


def _asked_for(request: Request) -> tuple[str, str, dict[str, str]]:
    if request.action == "CancelSpotInstanceRequests":
        start = f"arn:aws:ec2:{REGION}:{ACCOUNT}:spot-instances-request"
        return f"ec2:{request.action}", f"{start}/{request.form['SpotInstanceRequestId.1']}", {}
    if request.service != "s3":
        return f"{request.service}:{request.action}", "*", {}
    path, _, query = request.path.partition("?")
    bucket, _, key = urllib.parse.unquote(path).lstrip("/").partition("/")
    if not key:
        prefix = dict(urllib.parse.parse_qsl(query)).get("prefix", "")
        return "s3:ListBucket", f"arn:aws:s3:::{bucket}", {"s3:prefix": prefix}
    action = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject"}.get(request.action, "?")
    return f"s3:{action}", f"arn:aws:s3:::{bucket}/{key}", {}


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


@pytest.fixture(scope="session")
def aws_proxy() -> Iterator[Proxy]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    proxy = Proxy(port)
    yield proxy
    proxy.close()
    server.stop()


@pytest.fixture
def cloud(
    aws_proxy: Proxy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Cloud:
    """An empty account with enough quota."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    settings = {
        "AWS_ENDPOINT_URL": aws_proxy.url,
        "AWS_ACCESS_KEY_ID": "AKIACALLER",
        "AWS_SECRET_ACCESS_KEY": "of-the-caller",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    aws_proxy.reset()
    connection = http.client.HTTPConnection(aws_proxy.url.removeprefix("http://"))
    connection.request("POST", "/moto-api/reset")
    assert connection.getresponse().status == 200
    # Reading EC2's interface description takes longer than any request here.
    monkeypatch.setattr("botocore.session.create_loader", _loader)
    # Waits between attempts are for real services.
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", _no_delay)
    cloud = Cloud(aws_proxy, capsys)
    aws_proxy.rules += [images, quota(256)]
    aws_proxy.requests.clear()
    return cloud


@pytest.fixture
def project(tmp_path: Path, project_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project under git that deploys: train.py and launch/ are the real ones."""
    path = tmp_path / "project"
    path.mkdir()
    shutil.copytree(project_dir / "launch", path / "launch", ignore=shutil.ignore_patterns("__py*"))
    shutil.copy(project_dir / "train.py", path)
    (path / "tcn.flags").write_text("--epochs=3\n")
    (path / "secret.env").write_text("PASSWORD=never-uploaded\n")
    git(path, "init", "--quiet")
    git(path, "add", "launch", "train.py", "tcn.flags")
    monkeypatch.setattr(ec2, "PROJECT_DIR", path)
    return path


@pytest.fixture
def deployed(cloud, project, data_dir):
    """Deploys with the given flags; returns the run's name."""

    def run(*arguments):
        result = cloud.run("deploy", f"--data_dir={data_dir}", "--yes", *arguments)
        assert result.status == 0, result.err
        return result.out.strip()

    return run


def git(path: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=path, check=True, capture_output=True)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data set as far as uploading goes: shards of random bytes and their manifest."""
    return write_data(tmp_path / "data", seed=0)


def write_data(path: Path, seed: int, *, shards: int = 3, size: int = 50_000) -> Path:
    path.mkdir()
    entries = []
    for number in range(shards):
        content = hashlib.shake_256(f"{seed} {number}".encode()).digest(size)
        name = f"fold-0-of-1.tfrecord-{number:05d}-of-{shards:05d}"
        (path / name).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        entries.append({"name": name, "bytes": size, "sha256": sha256, "records": 1})
    manifest = {"format": "emotion_tfdata", "version": 2, "provenance": "made up", "files": []}
    (path / "manifest.json").write_text(json.dumps({**manifest, "shards": entries}))
    return path


_create_loader = botocore.loaders.create_loader
_read_before: dict[Any, Any] = {}


def _loader(*arguments: Any) -> Any:
    loader = _create_loader(*arguments)
    loader._cache = _read_before
    return loader


def _no_delay(*arguments: Any) -> float:
    return 0.0
