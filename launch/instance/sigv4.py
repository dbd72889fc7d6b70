"""Signs requests to AWS (Signature Version 4) with the standard library alone."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import hmac
import urllib.parse


@dataclasses.dataclass(frozen=True)
class Credentials:
    """Who is asking.

    Attributes:
      key_id: the access key's identifier.
      secret: what it signs with.
      token: of a session, as a role has one; empty for a user's own key.
    """

    key_id: str
    secret: str
    token: str = ""


def signed(
    method: str,
    url: str,
    headers: dict[str, str],
    body: bytes,
    *,
    service: str,
    region: str,
    credentials: Credentials,
    at: datetime.datetime,
) -> dict[str, str]:
    """The headers to send.

    Args:
      method: of HTTP.
      url: as it is sent. Path and query are quoted already, and for another service than S3 the
        path is `/`: those want it quoted twice.
      headers: that the request has besides.
      body: of the request; signed too.
      service: `s3`, `ec2` and the like.
      region: where it is.
      credentials: of who is asking.
      at: the time now, in UTC; AWS takes it for a few minutes.
    """
    parts = urllib.parse.urlsplit(url)
    time = at.strftime("%Y%m%dT%H%M%SZ")
    scope = f"{time[:8]}/{region}/{service}/aws4_request"
    digest = hashlib.sha256(body).hexdigest()
    headers = {**headers, "Host": parts.netloc, "X-Amz-Date": time, "X-Amz-Content-SHA256": digest}
    if credentials.token:
        headers["X-Amz-Security-Token"] = credentials.token

    lines = {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    names = ";".join(sorted(lines))
    query = sorted(part.partition("=")[::2] for part in parts.query.split("&") if part)
    canonical = [
        *(method, parts.path or "/", "&".join(f"{name}={value}" for name, value in query)),
        *(f"{name}:{lines[name]}" for name in sorted(lines)),
        *("", names, digest),
    ]
    of_canonical = hashlib.sha256("\n".join(canonical).encode()).hexdigest()
    key = f"AWS4{credentials.secret}".encode()
    for part in (time[:8], region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{time}\n{scope}\n{of_canonical}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    headers["Authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={credentials.key_id}/{scope}, SignedHeaders={names}, "
        f"Signature={signature}"
    )
    return headers
