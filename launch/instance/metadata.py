"""EC2's instance metadata, version 2 alone: who this instance is, and whether it is taken away."""

from __future__ import annotations

import datetime
import json
import os
import time
import urllib.error
import urllib.request

_TOKEN_S = 3600


class Metadata:
    """The metadata service. Where boto3 looks for it, so does this."""

    def __init__(self) -> None:
        self._base = os.environ.get(
            "AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254"
        ).rstrip("/")
        self._token = ""
        self._token_until_s = 0.0

    def get(self, path: str) -> str | None:
        """The text under a path of `latest/`, or None where there is none.

        Raises:
          OSError: if the service does not answer.
        """
        try:
            return self._get(path)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            if error.code != 401:
                raise
        self._token_until_s = 0.0  # the token was forgotten, as after a stop and start
        return self._get(path)

    def instance_id(self) -> str:
        """This instance's identifier, or empty where the service does not answer."""
        try:
            return self.get("meta-data/instance-id") or ""
        except OSError:
            return ""  # only the status speaks of it

    def credentials(self) -> dict[str, str]:
        """Keys of the instance's role: `AccessKeyId`, `SecretAccessKey`, `Token` and more.

        Raises:
          OSError: if the service does not answer, or knows no role, as moments after the start.
        """
        start = "meta-data/iam/security-credentials/"
        role = self.get(start)
        keys = self.get(start + role.strip()) if role else None
        if not keys:
            raise OSError("the metadata service knows no role of this instance")
        found = json.loads(keys)
        if "AccessKeyId" not in found:  # as while EC2 may not take the role yet
            raise OSError(f"the metadata service has no keys of {role}: {found.get('Code')}")
        return found

    def interruption_s(self) -> float | None:
        """When a spot instance is taken away, in seconds since 1970; None while it is not to be.

        Raises:
          OSError: if the service does not answer.
        """
        text = self.get("meta-data/spot/instance-action")
        if text is None:
            return None
        at = datetime.datetime.strptime(json.loads(text)["time"], "%Y-%m-%dT%H:%M:%SZ")
        return at.replace(tzinfo=datetime.timezone.utc).timestamp()

    def _get(self, path: str) -> str:
        if time.monotonic() >= self._token_until_s:
            self._token = self._ask(
                "PUT", "api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_S)}
            )
            self._token_until_s = time.monotonic() + _TOKEN_S / 2
        return self._ask("GET", path, {"X-aws-ec2-metadata-token": self._token})

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(
            f"{self._base}/latest/{path}", method=method, headers=headers
        )
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.read().decode()


def boot_time() -> float:
    """When this machine started, in seconds since 1970; 0 where its kernel does not say."""
    with open("/proc/stat", encoding="ascii") as stat:
        return next((float(line.split()[1]) for line in stat if line.startswith("btime ")), 0.0)
