"""Faults in number: deployments killed at random moments.

    python tests/benchmarks/launch_faults.py [--kills=40] [--seed=0]

Every deployment is a process of its own, killed by SIGKILL after a random time, and then run again
or removed. Against moto on 127.0.0.1, whose RunInstances knows no client tokens: a proxy gives the
answer of the first call to every call with the same token, as EC2 does. At the end, and after each
kill, the account must hold one instance, or nothing.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PROJECT_DIR = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(PROJECT_DIR), str(PROJECT_DIR / "tests" / "launch")]
os.environ["MOTO_AMIS_PATH"] = str(PROJECT_DIR / "tests" / "launch" / "amis.json")

import fake_aws  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402


class Tokens:
    """EC2's memory of client tokens, in front of moto."""

    def __init__(self, proxy: fake_aws.Proxy, port: int) -> None:
        self._port, self._answers = port, dict[str, fake_aws.Answer]()
        self._lock = threading.Lock()
        self.repeated = 0
        proxy.rules.append(self)

    def __call__(self, request: fake_aws.Request) -> fake_aws.Answer | None:
        if request.action != "RunInstances":
            return None
        token = request.form["ClientToken"]
        with self._lock:
            if token in self._answers:
                self.repeated += 1
            else:
                self._answers[token] = fake_aws.forward(request, self._port)
            return self._answers[token]


def main() -> None:
    """Prints what happened; ends with an error at the first thing left behind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    proxy = fake_aws.Proxy(port)
    tokens = Tokens(proxy, port)
    proxy.rules += [fake_aws.images, fake_aws.quota(10_000)]
    with tempfile.TemporaryDirectory() as scratch:
        project = _copy(Path(scratch, "project"))
        data_dir = fake_aws.write_data(Path(scratch, "data"), seed=0)
        os.environ |= {
            "AWS_ENDPOINT_URL": proxy.url,
            "AWS_ACCESS_KEY_ID": "AKIACALLER",
            "AWS_SECRET_ACCESS_KEY": "of-the-caller",
            "AWS_DEFAULT_REGION": fake_aws.REGION,
        }
        cloud = fake_aws.Cloud(proxy, None)
        deploy = ["deploy", f"--data_dir={data_dir}", "--yes", "--name=faulty"]
        remove = ["stop", "faulty", "--delete", "--yes"]
        started = time.monotonic()
        assert _run(project, deploy) == 0
        whole_s = time.monotonic() - started
        again = removed = finished = 0
        for number in range(options.kills):
            assert _run(project, remove) in (0, 1)  # 1: killed before anything was made
            left = cloud.left_over()
            assert left == [], f"after {number} kills: {left}"
            started = time.monotonic()
            if _run(project, deploy, kill_after_s=rng.uniform(0.4, 1.0) * whole_s) == 0:
                finished += 1
                whole_s = min(whole_s, time.monotonic() - started)
            if rng.random() < 0.5:
                again += 1
                assert _run(project, deploy) == 0
                assert len(cloud.instances()) == 1, f"after {number + 1} kills"
            else:
                removed += 1
        assert _run(project, remove) in (0, 1)
        assert cloud.left_over() == []
    print(f"{options.kills} deployments of {whole_s:.1f} s killed at random moments")
    print(f"  {finished} had finished before")
    print(f"  {again} run again: one instance each, {tokens.repeated} of them by its client token")
    print(f"  {removed} removed; nothing was left behind by any")
    proxy.close()
    server.stop()


def _copy(path: Path) -> Path:
    """A project that nobody changes meanwhile."""
    shutil.copytree(PROJECT_DIR / "launch", path / "launch")
    for name in ("train.py", "tcn.flags"):
        shutil.copy(PROJECT_DIR / name, path)
    fake_aws.git(path, "init", "--quiet")
    fake_aws.git(path, "add", "-A")
    return path


def _run(project: Path, arguments: list[str], kill_after_s: float | None = None) -> int:
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.ec2", *arguments],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        _, said = process.communicate(timeout=kill_after_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return -9
    if process.returncode:
        print(said.decode(), file=sys.stderr)
    return process.returncode


if __name__ == "__main__":
    main()
