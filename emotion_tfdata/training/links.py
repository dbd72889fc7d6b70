"""Connections between the chief and each other worker, from before the training to its end.

They carry what is not arithmetic (who asks for what, the state to begin with, predictions), and
they tell at once when a worker is gone: a process that dies, however it does, closes its sockets.
TensorFlow's own connections tell ten seconds later, or never while a cluster is being made.

A message is a letter, its length and its content. Addresses are those of `TF_CONFIG`: the chief
listens on its own port until all are there, then leaves the port to TensorFlow.
"""

from __future__ import annotations

import json
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from emotion_tfdata.training.cluster import Cluster, ClusterError
from emotion_tfdata.training.run_dir import differences

_MAGIC = b"emotion_tfdata workers 1\n"
_GO, _MESSAGE, _BYE, _FAILED = b"G", b"M", b"B", b"F"
_HEAD = struct.Struct("!cQ")
_POLL_S = 0.3
_ANSWER_S = 5.0  # for a greeting; whoever takes longer is no worker
_SILENCE_S = 30  # after which a machine that answers nothing at all is taken for dead
_TELL_S = (10.0, 60.0)  # when, and from then on how often, to say who is waited for


class Links:
    """Of the chief: one to each other worker. Of another worker: one to the chief.

    Attributes:
      cluster: who is linked.
    """

    def __init__(
        self,
        cluster: Cluster,
        sockets: Mapping[int, socket.socket],
        on_lost: Callable[[str], None],
        on_failed: Callable[[str], None],
    ) -> None:
        """Listens to every socket, in a thread each.

        Args:
          cluster: who is linked.
          sockets: by index of who is at the other end.
          on_lost: called, from such a thread, with the name of a worker that is gone.
          on_failed: called likewise with the reason of a worker that gave up.
        """
        self.cluster = cluster
        self._sockets = dict(sockets)
        self._on_lost, self._on_failed = on_lost, on_failed
        self._closing = False
        self._inbox: dict[int, queue.SimpleQueue[bytes]] = {}
        self._listeners: dict[int, threading.Thread] = {}
        for peer in self._sockets:
            self._inbox[peer] = queue.SimpleQueue()
            self._listeners[peer] = threading.Thread(target=self._listen, args=(peer,), daemon=True)
        for listener in self._listeners.values():
            listener.start()

    def share(self, make: Callable[[], bytes]) -> bytes:
        """What `make` gives at the chief, at every worker. All must call it."""
        if self.cluster.index:
            return self._inbox[0].get()
        content = make()
        for peer in self._sockets:
            self._send(peer, content)
        return content

    def gather(self, content: bytes) -> list[bytes]:
        """Every worker's content, by index, at every worker. All must call it."""
        if self.cluster.index:
            self._send(0, content)
            return [self._inbox[0].get() for _ in range(self.cluster.count)]
        contents = [content] + [self._inbox[peer].get() for peer in range(1, self.cluster.count)]
        for peer in self._sockets:
            for one in contents:
                self._send(peer, one)
        return contents

    def close(self, failure: str | None = None) -> None:
        """Takes leave, so that nobody takes this worker for lost.

        Args:
          failure: why this worker gives up, if it does; then the others do too.
        """
        self._closing = True
        last = (_BYE, b"") if failure is None else (_FAILED, failure.encode())
        for peer in self._sockets:
            self._send(peer, last[1], kind=last[0])

    def _send(self, peer: int, content: bytes, kind: bytes = _MESSAGE) -> None:
        try:
            _write(self._sockets[peer], kind, content)
        except OSError:
            # Whoever listens to the same socket sees the end too and acts on it.
            return

    def _listen(self, peer: int) -> None:
        while True:
            try:
                kind, content = _read(self._sockets[peer])
            except OSError:
                if not self._closing:
                    self._on_lost(self.cluster.name(peer))
                return
            if kind == _MESSAGE:
                self._inbox[peer].put(content)
            elif kind == _BYE:
                return
            elif kind == _FAILED:
                if not self._closing:
                    if not self.cluster.index:
                        self.close(content.decode())
                    self._on_failed(content.decode())
                return


def meet(
    cluster: Cluster,
    about: Mapping[str, Any],
    should_stop: Callable[[], bool],
    tell: Callable[[str], None],
) -> dict[int, socket.socket] | None:
    """Waits until every worker is there and asks for the same training, however long it takes.

    Args:
      cluster: who is to come.
      about: what this worker is to do, as JSON holds it; must be the same for all.
      should_stop: asked several times a second.
      tell: called now and then with a line about who is waited for.

    Returns:
      Sockets, as `Links` takes them; None if asked to stop.

    Raises:
      ClusterError: if a worker asks for another training, or the port is taken.
    """
    waiting = _Waiting(should_stop, tell)
    hello = {"index": cluster.index, "addresses": list(cluster.addresses), "about": about}
    with _bound(cluster) as server:
        if not cluster.index:
            return _meet_all(cluster, hello, server, waiting)
    return _meet_chief(cluster, hello, waiting)


class _Waiting:
    def __init__(self, should_stop: Callable[[], bool], tell: Callable[[str], None]) -> None:
        self.should_stop, self._tell = should_stop, tell
        self._next_s = time.monotonic() + _TELL_S[0]

    def for_(self, who: str) -> None:
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + _TELL_S[1]
            self._tell(f"waits for {who}")


def _bound(cluster: Cluster) -> socket.socket:
    """This worker's port, which TensorFlow will want; held for a moment to see that it is free."""
    host, port = cluster.host_and_port(cluster.index)
    try:
        if ":" in host:  # IPv6, and IPv4 too where the system can do both
            both = socket.has_dualstack_ipv6()
            family = socket.AF_INET6
            return socket.create_server(("", port), family=family, dualstack_ipv6=both)
        return socket.create_server(("", port))
    except OSError as error:
        raise ClusterError(
            f"port {port} of {cluster.name(cluster.index)} cannot be used: {error.strerror}. Is "
            "another training there?"
        ) from error


def _meet_all(
    cluster: Cluster, hello: Mapping[str, Any], server: socket.socket, waiting: _Waiting
) -> dict[int, socket.socket] | None:
    there: dict[int, socket.socket] = {}
    server.settimeout(_POLL_S)
    while len(there) < cluster.count - 1:
        if waiting.should_stop():
            return None
        there = {index: link for index, link in there.items() if not _is_closed(link)}
        missing = [i for i in range(1, cluster.count) if i not in there]
        waiting.for_(", ".join(map(cluster.name, missing)))
        try:
            link, _ = server.accept()
        except TimeoutError:  # nobody came: look again whether to stop
            continue
        theirs = _greeting(link)
        if theirs is None:
            link.close()
            continue
        index = theirs.get("index")
        problem = _disagreement(hello, theirs)
        if problem:
            for refused in (link, *there.values()):
                _refuse(refused, problem)
            raise ClusterError(problem)
        if index not in missing:
            # Another one of that number, or the same come back before its end was noticed: it asks
            # again until its place is free.
            link.close()
            continue
        _keep_alive(link)
        there[index] = link
    for link in there.values():
        try:
            link.sendall(_MAGIC)
            _write(link, _GO, b"")
        except OSError:
            continue  # gone again: `Links` will see it
    return there


def _meet_chief(
    cluster: Cluster, hello: Mapping[str, Any], waiting: _Waiting
) -> dict[int, socket.socket] | None:
    while not waiting.should_stop():
        waiting.for_(cluster.name(0))
        try:
            link = socket.create_connection(cluster.host_and_port(0), timeout=_ANSWER_S)
        except OSError:  # not there yet
            time.sleep(_POLL_S)
            continue
        try:
            _keep_alive(link)
            link.sendall(_MAGIC)
            _write(link, _GO, json.dumps(hello).encode())
            while not select.select([link], [], [], _POLL_S)[0]:
                if waiting.should_stop():
                    return None
                waiting.for_(f"the others, with {cluster.name(0)}")
            link.settimeout(_ANSWER_S)
            # Until the chief has noticed that its last training is over, TensorFlow answers here.
            if _read_exactly(link, len(_MAGIC)) == _MAGIC:
                kind, content = _read(link)
                link.settimeout(None)
                if kind == _FAILED:
                    raise ClusterError(content.decode())
                return {0: link}
        except OSError:
            pass  # the chief is gone, or was not one: asked again
        link.close()
        time.sleep(_POLL_S)
    return None


def _greeting(link: socket.socket) -> dict[str, Any] | None:
    """What a worker says first; None if it is no worker that speaks."""
    try:
        link.settimeout(_ANSWER_S)
        if _read_exactly(link, len(_MAGIC)) != _MAGIC:
            return None
        _, content = _read(link)
        link.settimeout(None)
        greeting = json.loads(content)
    except (OSError, ValueError):  # somebody else, who is sent away
        return None
    return greeting if isinstance(greeting, dict) else None


def _disagreement(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    plain = json.loads(json.dumps(mine))
    found = differences(
        {key: plain[key] for key in ("about", "addresses")},
        {key: theirs.get(key) for key in ("about", "addresses")},
    )
    if not found:
        return None
    texts = "; ".join(text.removeprefix("about.") for text in found[:4])
    return (
        f"worker {theirs.get('index')} was not started for the same training as worker 0 ({texts})"
    )


def _refuse(link: socket.socket, why: str) -> None:
    try:
        link.sendall(_MAGIC)
        _write(link, _FAILED, why.encode())
    except OSError:
        return  # gone already
    finally:
        link.close()


def _keep_alive(link: socket.socket) -> None:
    """Has the system look whether the other machine is still there, and keeps no data waiting."""
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_KEEPIDLE"):  # Linux
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENCE_S // 3)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _SILENCE_S // 6)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * _SILENCE_S)


def _is_closed(link: socket.socket) -> bool:
    try:
        return bool(select.select([link], [], [], 0)[0]) and not link.recv(1, socket.MSG_PEEK)
    except OSError:  # reset by the other side
        return True


def _write(link: socket.socket, kind: bytes, content: bytes) -> None:
    link.sendall(_HEAD.pack(kind, len(content)) + content)


def _read(link: socket.socket) -> tuple[bytes, bytes]:
    """The next message.

    Raises:
      OSError: if there will be none.
    """
    kind, length = _HEAD.unpack(_read_exactly(link, _HEAD.size))
    return kind, _read_exactly(link, length)


def _read_exactly(link: socket.socket, length: int) -> bytes:
    content = bytearray()
    while len(content) < length:
        part = link.recv(min(length - len(content), 1 << 20))
        if not part:
            raise ConnectionError("closed")
        content += part
    return bytes(content)
