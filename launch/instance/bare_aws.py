"""S3 and EC2 as far as an instance needs them while it has no package: Python's library alone."""

from __future__ import annotations

import base64
import datetime
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request

from launch.instance.metadata import Metadata
from launch.instance.sigv4 import Credentials, signed

# What passes by itself: a service that is busy or fails, and bytes that were damaged on the way.
_PASSING_STATUSES = (429, 500, 502, 503, 504)
_PASSING_CODES = ("RequestTimeout", "Throttling", "BadDigest", "XAmzContentSHA256Mismatch")
_WAITS_S = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 20.0, 20.0)
_TIMEOUT_S = 15.0
# A bucket's name that can be part of a host's: one with dots would fit no certificate.
_HOST_NAME = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")


class RefusedError(Exception):
    """AWS's answer to what it does not do.

    Attributes:
      status: of HTTP.
      passes: whether it may do it later.
    """

    def __init__(self, what: str, status: int, body: bytes) -> None:
        text = body.decode("utf-8", "replace")
        found = (re.search(f"<{tag}>([^<]*)<", text) for tag in ("Code", "Message"))
        code, message = (one[1] if one else "" for one in found)
        super().__init__(f"{what}: {status} {code} {message}".strip())
        self.status = status
        self.passes = status in _PASSING_STATUSES or code in _PASSING_CODES


class BareAws:
    """The services of a region, asked with the environment's credentials or the instance's role.

    Endpoints and credentials are looked for in the variables in which boto3 looks for them. Every
    method asks again, for a minute or so, where a service is busy, fails or is not reached, and
    raises then:
      RefusedError: if AWS does not do it.
      OSError, http.client.HTTPException: if AWS is not reached.
    """

    def __init__(self, region: str) -> None:
        self._region = region
        self._metadata = Metadata()

    def get(self, bucket: str, key: str) -> bytes:
        """An object's content, read whole."""
        return self._ask("s3", "GET", object_url(self._region, bucket, key))

    def put(self, bucket: str, key: str, content: bytes) -> None:
        """Uploads an object; S3 refuses it where another content arrives."""
        checksum = base64.b64encode(hashlib.sha256(content).digest()).decode()
        headers = {
            "Content-Type": "application/octet-stream",
            "x-amz-sdk-checksum-algorithm": "SHA256",
            "x-amz-checksum-sha256": checksum,
        }
        self._ask("s3", "PUT", object_url(self._region, bucket, key), headers, content)

    def cancel_spot_request(self, request_id: str) -> None:
        """Ends a spot request, so that it starts no other instance."""
        asked = {
            "Action": "CancelSpotInstanceRequests",
            "Version": "2016-11-15",
            "SpotInstanceRequestId.1": request_id,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        body = urllib.parse.urlencode(asked).encode()
        self._ask("ec2", "POST", f"{endpoint(self._region, 'ec2')}/", headers, body)

    def _ask(
        self,
        service: str,
        method: str,
        url: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> bytes:
        for wait_s in _WAITS_S:
            try:
                return self._ask_once(service, method, url, headers or {}, body)
            except RefusedError as refused:
                if not refused.passes:
                    raise
                why: Exception = refused
            except (OSError, http.client.HTTPException) as broken_off:
                why = broken_off
            print(f"{method} {url}: {why!r}; again in {wait_s:g} s", flush=True)
            time.sleep(wait_s)
        return self._ask_once(service, method, url, headers or {}, body)

    def _ask_once(
        self, service: str, method: str, url: str, headers: dict[str, str], body: bytes
    ) -> bytes:
        to_send = signed(
            method,
            url,
            headers,
            body,
            service=service,
            region=self._region,
            credentials=self._credentials(),
            at=datetime.datetime.now(datetime.timezone.utc),
        )
        request = urllib.request.Request(url, body or None, to_send, method=method)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            raise RefusedError(f"{method} {url}", error.code, error.read()) from None

    def _credentials(self) -> Credentials:
        """Looked up for each request: a role's are replaced every few hours."""
        if "AWS_ACCESS_KEY_ID" in os.environ:
            return Credentials(
                os.environ["AWS_ACCESS_KEY_ID"],
                os.environ["AWS_SECRET_ACCESS_KEY"],
                os.environ.get("AWS_SESSION_TOKEN", ""),
            )
        found = self._metadata.credentials()
        return Credentials(found["AccessKeyId"], found["SecretAccessKey"], found["Token"])


def endpoint(region: str, service: str) -> str:
    """Where a service is, with no slash at the end: as the environment says, or AWS's own."""
    given = os.environ.get(f"AWS_ENDPOINT_URL_{service.upper()}")
    given = given or os.environ.get("AWS_ENDPOINT_URL")
    return (given or f"https://{_host(region, service)}").rstrip("/")


def object_url(region: str, bucket: str, key: str) -> str:
    """An object's address: its bucket in AWS's host name where it can be, else in the path."""
    base, host, path = endpoint(region, "s3"), _host(region, "s3"), urllib.parse.quote(key)
    if base == f"https://{host}" and _HOST_NAME.fullmatch(bucket):
        return f"https://{bucket}.{host}/{path}"
    return f"{base}/{bucket}/{path}"


def _host(region: str, service: str) -> str:
    end = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
    return f"{service}.{region}.{end}"
