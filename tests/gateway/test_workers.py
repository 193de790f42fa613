"""Several workers as one gateway: limits hold over all, counts add up, a dead one is replaced."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modeltainer.gateway import shared_limits
from modeltainer.gateway.limits import KeyLimits, Limits, Refusal, Reservation, is_full
from modeltainer.gateway.metrics import Metrics
from modeltainer.gateway.peers import WRITE_EVERY_S, one_status
from modeltainer.gateway.shared_limits import SharedLimiter
from modeltainer.registry import keys, usage
from modeltainer.registry.keys import KeyRecord
from modeltainer.scheduler import start_ticks
from tests.engine.scripted import STREAM_HEAD, Gate, Send, piece, token, whole
from tests.gateway.setup import World
from tests.gateway.test_lifecycle import Process

ANSWER = whole({"usage": {"prompt_tokens": 3, "completion_tokens": 4}})
STREAM = {"model": "m", "stream": True}


def until(true: Callable[[], bool]) -> None:
    """Several processes start, and write once a second, on whatever else the machine does."""
    World.until(true, within=30)


@pytest.fixture
def process(world: World, tmp_path: Path) -> Iterator[Process]:
    world.launch().engine.answer = ANSWER
    made = Process(world, tmp_path, workers=2)
    until(lambda: len(workers(made)) == 2)
    for _ in range(20):  # both have to have found the engine
        made.routed()
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.communicate()


def workers(process: Process) -> list[int]:
    """Process ids of the workers."""
    path = Path(f"/proc/{process.process.pid}/task/{process.process.pid}/children")
    found = []
    for pid in map(int, path.read_text().split()):
        with contextlib.suppress(FileNotFoundError):  # it has ended since
            if b"gateway.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


def metric(process: Process, name: str) -> float:
    """The sum over all labels."""
    text = process.client().get("/metrics").text
    found = re.findall(rf"^modeltainer_gateway_{name}{{.*}} (\S+)$", text, re.MULTILINE)
    return sum(map(float, found))


def test_both_serve_and_are_counted_as_one(process: Process) -> None:
    layout = process.world.layout
    sent = 0

    def ask_until_both_have_answered() -> bool:
        nonlocal sent
        with process.client() as client:
            assert client.post("/v1/completions", json={"model": "m"}).status_code == 200
        sent += 1
        return layout.usage.exists() and len(list(layout.usage.iterdir())) == 2

    until(ask_until_both_have_answered)
    until(lambda: metric(process, "requests_total") == sent)
    until(lambda: metric(process, "tokens_total") == sent * 7)
    assert metric(process, "config_ok") == 1
    assert metric(process, "endpoint_routed") == 1

    def status() -> dict[str, Any]:
        found: dict[str, Any] = process.client().get("/admin/status").json()
        return found

    until(lambda: status()["endpoints"][0]["requests"] == sent)
    assert status()["workers"] == 2
    until(lambda: len(list(usage.read(layout))) == sent)


def test_connections_are_shared_out_evenly(process: Process) -> None:
    held = [process.client() for _ in range(10)]
    for client in held:
        assert client.get("/health").status_code == 200
    try:
        sockets = [
            sum(
                str(link.readlink()).startswith("socket:")
                for link in Path(f"/proc/{pid}/fd").iterdir()
                if link.is_symlink()
            )
            for pid in workers(process)
        ]
        assert abs(sockets[0] - sockets[1]) <= 2
    finally:
        for client in held:
            client.close()


def test_a_keys_limits_hold_over_both(process: Process) -> None:
    _, plain = keys.create(process.world.layout, "one", concurrent=3)
    gate = Gate()
    engine = process.world._engines[0]
    engine.answer = [Send(STREAM_HEAD), piece(token("a")), gate, Send(b"0\r\n\r\n")]
    statuses: list[int] = []

    def ask() -> None:
        with process.client() as client:
            client.headers["authorization"] = f"Bearer {plain}"
            with client.stream("POST", "/v1/completions", json=STREAM) as answer:
                statuses.append(answer.status_code)
                answer.read()

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(16)]
    for thread in threads:
        thread.start()
    until(lambda: len(statuses) == 16)
    assert Counter(statuses) == {200: 3, 429: 13}
    gate.event.set()
    for thread in threads:
        thread.join(20)
    until(lambda: metric(process, "in_flight") == 0)
    engine.answer = ANSWER
    statuses.clear()
    ask()
    assert statuses == [200]


def test_a_killed_worker_is_replaced_and_what_it_counted_stays(process: Process) -> None:
    _, plain = keys.create(process.world.layout, "one", concurrent=1)
    for _ in range(10):
        with process.client() as client:
            client.post("/v1/completions", json={"model": "m"})
    until(lambda: metric(process, "requests_total") == 10)
    time.sleep(2 * WRITE_EVERY_S)  # what it has counted since its last report would die with it
    engine = process.world._engines[0]
    engine.answer = [Send(STREAM_HEAD), piece(token("a")), Gate()]
    with process.client() as client:
        client.headers["authorization"] = f"Bearer {plain}"
        with client.stream("POST", "/v1/completions", json=STREAM) as answer:
            assert answer.status_code == 200
            before = workers(process)
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            with pytest.raises(httpx.TransportError):
                answer.read()
    until(lambda: len(set(workers(process)) - set(before)) == 2)
    engine.answer = ANSWER
    until(process._up)
    process.routed()
    with process.client() as client:
        client.headers["authorization"] = f"Bearer {plain}"
        found = client.post("/v1/completions", json={"model": "m"})
    assert found.status_code == 200, "the dead worker's request still counts"
    until(lambda: metric(process, "requests_total") == 11)
    until(lambda: metric(process, "in_flight") == 0)


def test_sigterm_drains_both(process: Process) -> None:
    engine, gate = process.world._engines[0], Gate()
    engine.answer = [
        Send(STREAM_HEAD),
        piece(token("a")),
        gate,
        piece(token("b")),
        Send(b"0\r\n\r\n"),
    ]
    whole_streams: list[bytes] = []

    def ask() -> None:
        with process.client() as client:
            whole_streams.append(client.post("/v1/completions", json=STREAM).content)

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    until(lambda: len(engine.requests) == 8)
    process.process.send_signal(signal.SIGTERM)
    until(lambda: process.client().get("/ready").status_code == 503)
    gate.event.set()
    for thread in threads:
        thread.join(20)
    assert whole_streams == [token("a") + token("b")] * 8
    log = process.ended()
    assert process.process.returncode == 0
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert events.count("worker_started") == 2
    assert "worker_ended" not in events
    assert events[-1] == "ended"


def test_a_second_sigterm_ends_both(process: Process) -> None:
    process.world._engines[0].answer = [Send(STREAM_HEAD), piece(token("a")), Gate()]
    with process.client().stream("POST", "/v1/completions", json=STREAM) as answer:
        received = answer.iter_raw()
        assert next(received) == token("a")
        for _ in range(2):
            process.process.send_signal(signal.SIGTERM)
            time.sleep(0.2)
        assert b"shutting down" in b"".join(received)
    process.ended()


def test_workers_end_with_their_supervisor(process: Process) -> None:
    left = {pid: start_ticks(pid) for pid in workers(process)}
    process.process.kill()
    process.process.communicate()
    until(lambda: all(start_ticks(pid) != ticks for pid, ticks in left.items()))


def test_reload_reaches_both(process: Process) -> None:
    process.config.write_text(process.config.read_text().replace("cold", "colder"))
    process.process.send_signal(signal.SIGHUP)

    def names() -> set[str]:
        with process.client() as client:
            return {one["id"] for one in client.get("/v1/models").json()["data"]}

    until(lambda: all("colder" in names() for _ in range(12)))


def test_a_worker_that_cannot_start_ends_the_gateway(world: World, tmp_path: Path) -> None:
    process = Process(world, tmp_path, workers=2)
    process.process.terminate()
    process.ended()
    environ = {**os.environ, "PYTHONPATH": str(tmp_path), "XDG_CONFIG_HOME": "/nonexistent"}
    # Stands for an installation that is broken: the worker's first import fails.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nif 'modeltainer.gateway.worker' in sys.orig_argv: sys.exit(1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "modeltainer.gateway", "--config", str(process.config)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 3
    assert "a worker could not start" in done.stderr


LIMITED = KeyRecord(id="kaaaabbbb", name="k", sha256="", rpm=6, tpm=600, concurrent=3)
STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # which worker
        st.sampled_from(["reserve", "settle"]),
        st.integers(0, 400),  # tokens
        st.floats(0, 20),  # seconds since the last step
    ),
    max_size=60,
)


@settings(deadline=None)
@given(STEPS)
def test_shared_limits_are_those_of_one_worker(
    steps: Sequence[tuple[int, str, int, float]],
) -> None:
    """Whatever workers do in turn, each gets the answer that a single one would have got."""
    descriptor = shared_limits.create()
    try:
        one = KeyLimits(LIMITED, 0.0)
        found = [SharedLimiter(descriptor, worker).of(LIMITED, 0.0) for worker in range(3)]
        shared: list[Limits] = [limits for limits in found if limits is not None]
        assert len(shared) == 3
        running: list[tuple[int, Reservation]] = []
        now = 0.0
        for worker, what, tokens, passed in steps:
            now += passed
            if what == "reserve":
                expected, answer = one.reserve(tokens, now), shared[worker].reserve(tokens, now)
                assert answer == expected
                if isinstance(expected, Reservation):
                    running.append((worker, expected))
            elif running:
                its_worker, reservation = running.pop()
                one.settle(reservation, tokens, now)
                shared[its_worker].settle(reservation, tokens, now)
    finally:
        os.close(descriptor)


def test_a_dead_workers_requests_are_over() -> None:
    descriptor = shared_limits.create()
    dead, other = (SharedLimiter(descriptor, number).of(LIMITED, 0.0) for number in (0, 1))
    assert dead is not None
    assert other is not None
    dead.reserve(0, 0.0)
    dead.reserve(0, 0.0)
    other.reserve(0, 0.0)
    assert isinstance(other.reserve(0, 0.0), Refusal)
    shared_limits.forget_worker(descriptor, 0)
    assert isinstance(other.reserve(0, 0.0), Reservation)
    os.close(descriptor)


def guest(number: int, **limits: int) -> KeyRecord:
    return KeyRecord(f"k{number}", "k", "", **limits)  # type: ignore[arg-type]


def test_more_keys_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """None gets more than it may, and who is refused gets in when there is room."""
    monkeypatch.setattr(shared_limits, "KEYS", 2)
    descriptor = shared_limits.create()
    told: list[str] = []
    workers = [SharedLimiter(descriptor, number, lambda: told.append("full")) for number in (0, 1)]

    def ask(worker: int, key: KeyRecord, now: float) -> Reservation | Refusal:
        limits = workers[worker].of(key, now)
        assert limits is not None
        return limits.reserve(0, now)

    busy, spent, third = guest(0, concurrent=1), guest(1, rpm=1), guest(2, rpm=1)
    first = ask(0, busy, 0.0)
    assert isinstance(first, Reservation)
    once = ask(0, spent, 0.0)
    assert isinstance(once, Reservation)
    limits = workers[0].of(spent, 0.0)
    assert limits is not None
    limits.settle(once, 0, 0.0)
    for now in (0.0, 0.5, 59.0):
        for worker in (0, 1):
            refused = ask(worker, third, now)
            assert isinstance(refused, Refusal)
            assert (refused.limit, refused.allowed) == ("keys", 2)
    assert told == ["full", "full"]  # once a minute, by each
    assert isinstance(ask(1, third, 61.0), Reservation)  # in the place of the one that is idle
    assert isinstance(ask(0, third, 61.0), Refusal)
    assert isinstance(ask(0, spent, 62.0), Refusal)  # its place is another's now
    limits = workers[0].of(busy, 62.0)
    assert limits is not None
    assert isinstance(ask(1, busy, 62.0), Refusal)  # it kept its own
    limits.settle(first, 0, 62.0)
    assert isinstance(ask(0, spent, 64.0), Reservation)
    assert isinstance(ask(1, spent, 64.0), Refusal)
    assert workers[0].of(KeyRecord("free", "free", ""), 0.0) is None
    os.close(descriptor)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),  # which worker
            st.integers(0, 4),  # which key
            st.sampled_from(["reserve", "settle"]),
            st.just(0.0) | st.floats(0, 30),  # seconds since the last step
        ),
        max_size=60,
    )
)
def test_keys_that_make_room_lose_nothing(steps: Sequence[tuple[int, int, str, float]]) -> None:
    """Five keys in three places: each gets what it would get alone, or is told to wait where the
    places are in use, or were a moment ago."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared_limits, "KEYS", 3)
        descriptor = shared_limits.create()
        workers = [SharedLimiter(descriptor, number) for number in (0, 1)]
        keys = [guest(number, rpm=6, tpm=600, concurrent=3) for number in range(5)]
        alone = [KeyLimits(key, 0.0) for key in keys]
        running: list[tuple[int, int, Reservation]] = []
        full_at = [float("-inf")] * 2
        now = 0.0

        def in_use(number: int) -> bool:
            one, key = alone[number], keys[number]
            return one.running > 0 or not is_full(key.rpm or 0, key.tpm or 0, one.levels, now)

        for worker, number, what, passed in steps:
            now += passed
            limits = workers[worker].of(keys[number], now)
            assert limits is not None
            if what == "reserve":
                answer = limits.reserve(100, now)
                if isinstance(answer, Refusal) and answer.limit == "keys":
                    assert not in_use(number), "it has a place"
                    if now - full_at[worker] >= shared_limits.SEEK_EVERY_S:
                        assert sum(map(in_use, range(5))) == 3
                        full_at[worker] = now
                    continue
                assert answer == alone[number].reserve(100, now)
                if isinstance(answer, Reservation):
                    running.append((worker, number, answer))
            elif running:
                its_worker, its_number, reservation = running.pop()
                its_limits = workers[its_worker].of(keys[its_number], now)
                assert its_limits is not None
                its_limits.settle(reservation, 150, now)
                alone[its_number].settle(reservation, 150, now)
        os.close(descriptor)


def test_many_new_keys_get_in_at_once_where_the_known_ones_are_idle() -> None:
    descriptor = shared_limits.create()
    told: list[str] = []
    limiter = SharedLimiter(descriptor, 0, lambda: told.append("full"))

    def ask(number: int, now: float) -> Reservation | Refusal:
        limits = limiter.of(guest(number, rpm=6), now)
        assert limits is not None
        answer = limits.reserve(None, now)
        if isinstance(answer, Reservation):
            limits.settle(answer, 0, now)
        return answer

    for number in range(shared_limits.KEYS):
        assert isinstance(ask(number, 0.0), Reservation)
    refused = ask(shared_limits.KEYS, 1.0)
    assert isinstance(refused, Refusal)
    assert told == ["full"]
    for number in range(shared_limits.KEYS, shared_limits.KEYS + 10):
        assert isinstance(ask(number, 60 + number / 1e6), Reservation)
    assert told == ["full"]
    os.close(descriptor)


def test_who_finds_no_room_is_told_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_limits, "KEYS", 1)
    world.launch()
    guests = [keys.create(world.layout, f"guest{n}", rpm=9)[1] for n in range(2)]
    descriptor = shared_limits.create()
    with world.serving():
        world.gateway.proxy.admission._limiter = SharedLimiter(descriptor, 0)
        asked = [
            world.client.post(
                "/v1/completions", json={"model": "m"}, headers={"authorization": f"Bearer {one}"}
            )
            for one in guests
        ]
        assert [one.status_code for one in asked] == [200, 503]
        error = asked[1].json()["error"]
        assert (error["code"], asked[1].headers["retry-after"]) == ("gateway_busy", "1")
        assert error["message"].startswith("the gateway counts the limits of 1 keys")
        assert 'limited_total{limit="keys"} 1' in world.client.get("/metrics").text
    os.close(descriptor)


def test_locks_are_between_processes() -> None:
    """A lost update would show: each of four processes takes what it can, many times."""
    descriptor = shared_limits.create()
    key = KeyRecord("kaaaabbbb", "k", "", rpm=1000)
    children = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            limits = SharedLimiter(descriptor, number).of(key, 0.0)
            got = 0
            for _ in range(500):
                if limits is not None and isinstance(limits.reserve(0, 0.0), Reservation):
                    got += 1
            os._exit(got // 10 if got % 10 == 0 else got // 10 + 1)
        children.append(pid)
    taken = sum(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children)
    left = SharedLimiter(descriptor, 5).of(key, 0.0)
    assert left is not None
    assert isinstance(left.reserve(0, 0.0), Refusal)
    assert 100 <= taken <= 104  # tens, rounded up by each
    os.close(descriptor)


def test_metrics_add_up() -> None:
    one, other, ended = Metrics(), Metrics(), Metrics()
    for metrics, count in ((one, 1), (other, 2), (ended, 4)):
        metrics.requests.add("chat", "m", "200", amount=count)
        metrics.seconds.of("chat", "m").observe(0.3)
        series = [((), float(count))]
        metrics.gauge("level", "x", (), series.copy)
        metrics.gauge("worst", "x", (), series.copy, add_up=max)
    other.requests.add("chat", "n", "200")
    text = one.render([other.snapshot()], [ended.snapshot()])
    name = "modeltainer_gateway_"
    assert f'{name}requests_total{{route="chat",model="m",status="200"}} 7\n' in text
    assert f'{name}requests_total{{route="chat",model="n",status="200"}} 1\n' in text
    assert f'{name}request_seconds_count{{route="chat",model="m"}} 3\n' in text
    assert f'{name}request_seconds_bucket{{route="chat",model="m",le="0.5"}} 3\n' in text
    assert f"{name}level{{}} 3\n" in text, "of those that have ended, gauges are gone"
    assert f"{name}worst{{}} 2\n" in text
    assert f"{name}level{{}} 1\n" in one.render()


def test_one_status_of_several() -> None:
    endpoint = {"endpoint": "1.a", "in_flight": 1, "requests": 5, "connections": {"idle": 1}}
    own = {"in_flight": 2, "in_flight_by_launch": {"a": 2}, "endpoints": [endpoint], "ready": True}
    other = {**own, "in_flight_by_launch": {"a": 1, "b": 1}, "ready": False}
    found = one_status(own, [other, {**own, "endpoints": []}])
    assert found["in_flight"] == 6
    assert found["in_flight_by_launch"] == {"a": 5, "b": 1}
    assert found["endpoints"] == [
        {"endpoint": "1.a", "in_flight": 2, "requests": 10, "connections": {"idle": 2}}
    ]
    assert found["ready"] is True
    assert found["workers"] == 3
    assert own["in_flight"] == 2
