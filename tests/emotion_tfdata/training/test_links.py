"""The connections between workers, over real sockets, each worker a thread."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from emotion_tfdata.training.cluster import Cluster, ClusterError
from emotion_tfdata.training.links import Links, meet

ABOUT = {"fold-0": {"learning_rate": 0.001, "seed": 0}}
WAIT_S = 30


def never():
    return False


def free_addresses(count):
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return tuple(f"127.0.0.1:{one.getsockname()[1]}" for one in held)


class Worker:
    """One end, with what it was told."""

    def __init__(self, addresses, index, about=None, should_stop=never):
        self.cluster = Cluster(addresses, index)
        self.about, self.should_stop = about or ABOUT, should_stop
        self.said, self.lost, self.failed = [], queue.Queue(), queue.Queue()
        self.sockets, self.links = None, None

    def meet(self):
        self.sockets = meet(self.cluster, self.about, self.should_stop, self.said.append)
        if self.sockets is not None:
            self.links = Links(self.cluster, self.sockets, self.lost.put, self.failed.put)
        return self

    def die(self):
        """What the system does for a process that ends."""
        for one in self.sockets.values():
            with contextlib.suppress(OSError):  # the other end may be gone
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def three(pool):
    addresses = free_addresses(3)
    coming = [pool.submit(Worker(addresses, index).meet) for index in (2, 1, 0)]
    workers = sorted((one.result(WAIT_S) for one in coming), key=lambda one: one.cluster.index)
    yield workers
    for one in workers:
        one.links.close()
        one.die()


def all_do(pool, workers, do):
    return [one.result(WAIT_S) for one in [pool.submit(do, worker) for worker in workers]]


def test_addresses_of_ipv6_meet_too(pool):
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as held:
            free = held.getsockname()[1]
    except OSError:
        pytest.skip("no IPv6 here")
    addresses = (f"[::1]:{free}", free_addresses(1)[0])
    coming = [pool.submit(Worker(addresses, index).meet) for index in (1, 0)]
    for one in [worker.result(WAIT_S) for worker in coming]:
        assert len(one.sockets) == 1
        one.links.close()
        one.die()


def test_the_chiefs_content_comes_to_all(pool, three):
    large = bytes(range(256)) * 40_000
    for content in (b"", b"state", large):
        given = all_do(pool, three, lambda w: w.links.share(lambda: content))  # noqa: B023
        assert given == [content] * 3


def test_only_the_chief_makes_what_is_shared(pool, three):
    made = []

    def make():
        made.append(threading.get_ident())
        return b""

    all_do(pool, three, lambda worker: worker.links.share(make))
    assert len(made) == 1


def test_everybodys_content_comes_to_all_in_order(pool, three):
    mine = [b"0" * 10, b"", b"2" * 1_000_000]
    given = all_do(pool, three, lambda w: w.links.gather(mine[w.cluster.index]))
    assert given == [mine] * 3


def test_a_worker_that_is_gone_is_named_to_the_chief_at_once(three):
    three[1].die()
    assert three[0].lost.get(timeout=WAIT_S) == three[0].cluster.name(1)
    assert three[2].lost.empty()


def test_the_chiefs_end_is_seen_by_all_others(three):
    three[0].die()
    for worker in three[1:]:
        assert worker.lost.get(timeout=WAIT_S) == worker.cluster.name(0)


def test_who_takes_leave_is_not_lost(three):
    three[1].links.close()
    three[1].die()
    listener = three[0].links._listeners[1]
    listener.join(WAIT_S)
    assert not listener.is_alive()
    assert three[0].lost.empty()


def test_a_failure_is_told_to_all(three):
    three[1].links.close("clip a/b is corrupt")
    for index in (0, 2):
        assert three[index].failed.get(timeout=WAIT_S) == "clip a/b is corrupt"


def test_who_asks_for_another_training_is_refused_and_all_are_told(pool):
    addresses = free_addresses(3)
    other = {"fold-0": {"learning_rate": 0.5, "seed": 0}}
    workers = [Worker(addresses, 0), Worker(addresses, 1), Worker(addresses, 2, other)]
    for coming in [pool.submit(worker.meet) for worker in workers[:1] + workers[2:]]:
        with pytest.raises(
            ClusterError,
            match=r"worker 2 was not started for the same training as worker 0 "
            r"\(fold-0.learning_rate: there 0.001, asked for 0.5\)",
        ):
            coming.result(WAIT_S)


def test_other_addresses_are_another_training(pool):
    first, second, third = free_addresses(3)
    coming = [
        pool.submit(Worker((first, second), 0).meet),
        pool.submit(Worker((first, third), 1).meet),
    ]
    for one in coming:
        with pytest.raises(ClusterError, match=r"addresses: there .* asked for"):
            one.result(WAIT_S)


def test_strangers_at_the_door_are_passed_over(pool):
    addresses = free_addresses(2)
    chief = pool.submit(Worker(addresses, 0).meet)
    host, port = Cluster(addresses, 0).host_and_port(0)
    for greeting in (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"emotion_tfdata workers 1\nG"):
        with (
            contextlib.suppress(ConnectionRefusedError),  # the chief is not there yet
            socket.create_connection((host, port), timeout=WAIT_S) as stranger,
        ):
            stranger.sendall(greeting)
    other = pool.submit(Worker(addresses, 1).meet).result(WAIT_S)
    chief = chief.result(WAIT_S)
    shared = pool.submit(chief.links.share, lambda: b"hello")
    assert other.links.share(lambda: b"") == b"hello"
    shared.result(WAIT_S)
    chief.links.close()
    other.links.close()


def test_a_worker_asks_again_while_something_else_answers_for_the_chief(pool):
    addresses = free_addresses(2)
    with socket.create_server(Cluster(addresses, 0).host_and_port(0)) as other_program:
        worker = pool.submit(Worker(addresses, 1).meet)
        for _ in range(2):
            link, _ = other_program.accept()
            with link:
                link.sendall(b"\0\0\x18\x04 not a chief's greeting, but long enough")
    chief = pool.submit(Worker(addresses, 0).meet).result(WAIT_S)
    worker = worker.result(WAIT_S)
    chief.links.close()
    worker.links.close()


@pytest.mark.parametrize("index", [0, 1])
def test_who_waits_can_be_stopped(pool, index):
    asked = threading.Event()
    worker = Worker(free_addresses(2), index, should_stop=asked.is_set)
    coming = pool.submit(worker.meet)
    asked.set()
    assert coming.result(WAIT_S).links is None


def test_a_taken_port_is_named():
    addresses = free_addresses(2)
    _, port = Cluster(addresses, 1).host_and_port(1)
    words = f"port {port} of worker 1 .* cannot be used: "
    with socket.create_server(("", port)), pytest.raises(ClusterError, match=words):
        Worker(addresses, 1).meet()


def test_a_wait_is_told_of(pool, monkeypatch):
    monkeypatch.setattr("emotion_tfdata.training.links._TELL_S", (0.0, 1000.0))
    addresses = free_addresses(3)
    chief = Worker(addresses, 0)
    chief.should_stop = lambda: bool(chief.said)
    chief.meet()
    assert chief.said == [f"waits for worker 1 ({addresses[1]}), worker 2 ({addresses[2]})"]
    other = Worker(addresses, 2)
    other.should_stop = lambda: bool(other.said)
    other.meet()
    assert other.said == [f"waits for worker 0 ({addresses[0]})"]
