"""AWS on 127.0.0.1: moto behind a proxy that records, breaks and answers, over real HTTP."""

from __future__ import annotations

import ast
import dataclasses
import datetime
import fnmatch
import functools
import hashlib
import http.client
import http.server
import itertools
import json
import logging
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.auth
import botocore.awsrequest
import botocore.credentials
import botocore.loaders
import jmespath
import moto.backends
import pytest
from moto.server import ThreadedMotoServer
from moto.ssm.models import Parameter, ssm_backends

from launch import aws, deploy, ec2
from launch.files import RETRIES, Folder

REGION = "us-east-1"
ACCOUNT = "123456789012"
INSTANCE_KEY = "ASIAINSTANCE"


@dataclasses.dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
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
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


def error(status: int, code: str, message: str = "", service: str = "s3") -> Answer:
    """AWS's error, in the form that the service has for it."""
    if service == "pricing":
        return Answer(status, json.dumps({"__type": code, "message": message}).encode())
    body = f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
    if service == "ec2":
        body = f"<Response><Errors>{body}</Errors></Response>"
    elif service != "s3":
        body = f"<ErrorResponse>{body}</ErrorResponse>"
    return Answer(status, body.encode())


DROP = "drop"  # the request never arrives
LOSE = "lose"  # it is carried out, the answer is lost


class Proxy:
    """Between the clients and moto: keeps every request, and does what the test says to it."""

    def __init__(self, port: int) -> None:
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
                if isinstance(done, Answer):
                    self._answer(done.status, done.headers, done.body)
                    return
                status, headers, content = _forward(port, request)
                if status == 404 and request.is_from_instance:
                    # S3 does not tell who may not list the whole bucket what is missing.
                    self._answer(403, headers, b"<Error><Code>AccessDenied</Code></Error>")
                elif done == LOSE:
                    self._hang_up()
                else:
                    self._answer(status, headers, content)

            def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
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
                    self.wfile.write(body)

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

    def client(self, service: str) -> Any:
        return _client(self.proxy.url, service)

    @property
    def root(self) -> Folder:
        return Folder(self.client("s3"), f"emotion-tfdata-{ACCOUNT}-{REGION}", "")

    def run(self, *arguments: object) -> Result:
        """Runs launch.ec2 in this process."""
        self._capsys.readouterr()
        try:
            status = ec2.main([str(one) for one in arguments])
        except SystemExit as end:
            status = int(end.code or 0)
        captured = self._capsys.readouterr()
        return Result(status, captured.out, captured.err)

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
        found = [entry["InstanceId"] for entry in self.instances()]
        for service, operation, names in (
            ("ec2", "describe_security_groups", "SecurityGroups[?GroupName!='default'].GroupName"),
            ("ec2", "describe_launch_templates", "LaunchTemplates[].LaunchTemplateName"),
            ("iam", "list_roles", "Roles[].RoleName"),
            ("iam", "list_instance_profiles", "InstanceProfiles[].InstanceProfileName"),
            ("autoscaling", "describe_auto_scaling_groups", "*[].AutoScalingGroupName"),
            ("sns", "list_topics", "Topics[].TopicArn"),
            ("s3", "list_buckets", "Buckets[].Name"),
        ):
            found += jmespath.search(names, getattr(self.client(service), operation)())
        return found

    def group(self, name: str) -> dict[str, Any]:
        """The Auto Scaling group of a run; empty where there is none."""
        answer = self.client("autoscaling").describe_auto_scaling_groups(
            AutoScalingGroupNames=[f"emotion-tfdata-{name}"]
        )
        return next(iter(answer["AutoScalingGroups"]), {})

    def parameters(self, name: str) -> dict[str, str]:
        """What a run's stack was made with."""
        found = aws.find_stack(aws.connect(), name)
        assert found
        return found.parameters

    def status(self, name: str) -> dict[str, Any]:
        """What the machine said last."""
        return self.root.folder(f"runs/{name}").read_json("status.json")

    def say(self, name: str, **status: Any) -> None:
        """Puts a status up as the machine does."""
        content = {"updated_at": round(time.time()), "machine_s": 3600, **status}
        self.root.folder(f"runs/{name}").put("status.json", json.dumps(content).encode())


@functools.cache
def _client(url: str, service: str) -> Any:
    session = boto3.session.Session("AKIATEST", "of-the-test", region_name=REGION)
    return session.client(service, endpoint_url=url, config=RETRIES)


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
    return Request(method, service, action, path, headers, body)


def _forward(port: int, request: Request) -> tuple[int, dict[str, str], bytes]:
    upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    upstream.request(request.method, request.path, request.body, request.headers)
    answer = upstream.getresponse()
    content = answer.read()
    upstream.close()
    return answer.status, dict(answer.getheaders()), content


def policy_of(cloud: Cloud, name: str) -> Callable[[Request], Answer | None]:
    """Holds a run's machine to its role and to what it signs, as AWS does and moto does not."""
    iam = cloud.client("iam")
    (role,) = (r["RoleName"] for r in iam.list_roles()["Roles"] if name in r["RoleName"])
    policy = iam.get_role_policy(RoleName=role, PolicyName="this-run")["PolicyDocument"]
    # moto keeps Python's own text of it, with None for what the template leaves out.
    statements = [one for one in ast.literal_eval(policy)["Statement"] if one]

    def rule(request: Request) -> Answer | None:
        if not request.is_from_instance:
            return None
        if signature_by_botocore(request) not in request.headers["Authorization"]:
            return error(403, "SignatureDoesNotMatch", request.path)
        action, resource, context = _asked_for(request)
        for statement in statements:
            actions, resources = _list(statement["Action"]), _list(statement["Resource"])
            like = statement.get("Condition", {}).get("StringLike", {})
            if (
                action in actions
                and any(fnmatch.fnmatchcase(resource, pattern) for pattern in resources)
                and all(
                    any(fnmatch.fnmatchcase(context.get(key, ""), one) for one in patterns)
                    for key, patterns in like.items()
                )
            ):
                return None
        return error(403, "AccessDenied", f"{action} {resource}")

    return rule


def signature_by_botocore(request: Request) -> str:
    """What a request's signature must be, by the code of AWS's own library."""
    headers = {name.lower(): value for name, value in request.headers.items()}
    signed = re.findall("SignedHeaders=([^,]+)", headers["authorization"])[0].split(";")
    asked = botocore.awsrequest.AWSRequest(
        method=request.method,
        url=f"http://{headers['host']}{request.path}",
        headers={name: headers[name] for name in signed},
        data=request.body,
    )
    if "x-amz-content-sha256" in headers:
        asked.headers["X-Amz-Content-SHA256"] = headers["x-amz-content-sha256"]
    asked.context["timestamp"] = headers["x-amz-date"]
    of = botocore.auth.S3SigV4Auth if request.service == "s3" else botocore.auth.SigV4Auth
    keys = botocore.credentials.Credentials(INSTANCE_KEY, "of-the-instance", "session")
    auth = of(keys, request.service, REGION)
    auth.headers_to_sign = lambda _: _only(asked.headers, signed)
    return str(auth.signature(auth.string_to_sign(asked, auth.canonical_request(asked)), asked))


def _only(headers: Any, names: list[str]) -> Any:
    kept = http.client.HTTPMessage()
    for name in names:
        kept[name] = headers[name]
    return kept


def _asked_for(request: Request) -> tuple[str, str, dict[str, str]]:
    if request.service == "autoscaling":
        arn = f"arn:aws:autoscaling:{REGION}:{ACCOUNT}:autoScalingGroup:1:autoScalingGroupName/"
        return f"autoscaling:{request.action}", arn + request.form["AutoScalingGroupName"], {}
    if request.service == "sns":
        return f"sns:{request.action}", request.form["TopicArn"], {}
    path, _, query = request.path.partition("?")
    bucket, _, key = urllib.parse.unquote(path).lstrip("/").partition("/")
    if not key:
        prefix = dict(urllib.parse.parse_qsl(query)).get("prefix", "")
        return "s3:ListBucket", f"arn:aws:s3:::{bucket}", {"s3:prefix": prefix}
    action = {"GET": "GetObject", "HEAD": "GetObject", "PUT": "PutObject"}.get(request.action, "?")
    return f"s3:{action}", f"arn:aws:s3:::{bucket}/{key}", {}


def _list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def no_prices(request: Request) -> Answer | None:
    """AWS's price list, which moto does not know, as for who may not ask for it."""
    refused = error(400, "AccessDeniedException", "", "pricing")
    return refused if request.service == "pricing" else None


@pytest.fixture(scope="session")
def aws_proxy() -> Iterator[Proxy]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    # Looked up again in folders for each request, which takes longer than the answer.
    modules = tuple(moto.backends.list_of_moto_modules())
    moto.backends.list_of_moto_modules = lambda: modules
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
    # No request here is encrypted, and reading the certificates takes longer than any.
    monkeypatch.setattr("botocore.httpsession.URLLib3Session._get_ssl_context", lambda self: None)
    # Waits between attempts are for real services.
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", _no_delay)
    cloud = Cloud(aws_proxy, capsys)
    _make_region(cloud)
    aws_proxy.rules.append(no_prices)
    monkeypatch.setattr(aws, "POLL_S", 0.05)
    # moto makes what a condition now lets in only where a parameter of it changes too, and two
    # deadlines of the same second do not.
    later, of = itertools.count(), deploy._deadline
    monkeypatch.setattr(deploy, "_deadline", lambda hours: of(hours + next(later) / 3600))
    aws_proxy.requests.clear()
    return cloud


def _make_region(cloud: Cloud) -> None:
    """What an account has and moto's has not: images, and a way out of the default network."""
    parameters = ssm_backends[ACCOUNT][REGION]._parameters
    for (_, architecture), name in deploy.IMAGES.items():
        image = f"ami-0000000000000{'a64' if architecture == 'arm64' else '886'}"
        now = datetime.datetime.now()
        parameters[name] = [
            Parameter(  # type: ignore[abstract]
                ACCOUNT, name, image, "String", "", None, None, now, 1, "text"
            )
        ]
    ec2_client = cloud.client("ec2")
    (vpc,) = ec2_client.describe_vpcs()["Vpcs"]
    gateway = ec2_client.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
    ec2_client.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc["VpcId"])
    (table,) = ec2_client.describe_route_tables()["RouteTables"]
    ec2_client.create_route(
        RouteTableId=table["RouteTableId"], GatewayId=gateway, DestinationCidrBlock="0.0.0.0/0"
    )


@pytest.fixture
def project(tmp_path: Path, project_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small project under git that deploys; launch/ is the real one."""
    path = tmp_path / "project"
    path.mkdir()
    shutil.copytree(project_dir / "launch", path / "launch", ignore=shutil.ignore_patterns("__py*"))
    shutil.copy(Path(__file__).parent / "small_train.py", path / "train.py")
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


def write_data(
    path: Path, seed: int, *, shards: int = 3, size: int = 50_000, records: int = 0
) -> Path:
    path.mkdir()
    entries = []
    for number in range(shards):
        content = hashlib.shake_256(f"{seed} {number}".encode()).digest(size)
        name = f"fold-0-of-1.tfrecord-{number:05d}-of-{shards:05d}"
        (path / name).write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        entries.append(
            {"name": name, "bytes": size, "sha256": sha256, "records": records // shards}
        )
    manifest = {"format": "emotion_tfdata", "version": 2, "provenance": "made up"}
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
