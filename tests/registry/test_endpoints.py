"""Endpoint files under many writers, crashes, strangers and time."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.registry.atomic import write_whole
from modeltainer.registry.endpoints import LEASE_PERIODS, EndpointReader, EndpointWriter
from modeltainer.registry.layout import Layout, new_launch_id
from modeltainer.registry.records import (
    MAX_RECORD_BYTES,
    BadRecordError,
    Endpoint,
    State,
    decode,
    encode,
)

WRITERS = 64


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def endpoint(launch_id: str | None = None, **changes: object) -> Endpoint:
    base = Endpoint(
        launch_id=launch_id or new_launch_id("tiny", 0),
        model="tiny",
        replica=0,
        job_id="17",
        owner="alice",
        engine="llamacpp",
        runtime="apptainer",
        state=State.READY,
        node="c1",
        host="c1",
        port=20001,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "registry")
    found.create()
    return found


def test_64_writers_and_a_reader_that_sees_only_whole_records(layout: Layout) -> None:
    code = """
import sys
from dataclasses import replace
from pathlib import Path
from modeltainer.registry.endpoints import EndpointWriter
from modeltainer.registry.layout import Layout
from tests.registry.test_endpoints import endpoint
number = int(sys.argv[2])
writer = EndpointWriter(Layout(Path(sys.argv[1])), endpoint(f"tiny-r{number}-aaaaaa"))
print(flush=True)
sys.stdin.readline()
for turn in range(40):
    writer.write(node="n" * (turn * 50), engine_version=str(turn))
"""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(layout.root), str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(WRITERS)
    ]
    for writer in writers:
        assert writer.stdout
        writer.stdout.readline()
    for writer in writers:
        assert writer.stdin
        writer.stdin.write("\n")
        writer.stdin.flush()
    reader = EndpointReader(layout)
    polls = 0
    while any(writer.poll() is None for writer in writers):
        for seen in reader.poll():
            turn = int(seen.endpoint.engine_version or -1)
            assert len(seen.endpoint.node) == turn * 50
            assert seen.endpoint.counter == turn + 1
        assert reader.problems == {}
        polls += 1
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    assert polls > 3
    final = reader.poll()
    assert len(final) == WRITERS
    assert all(seen.endpoint.counter == 40 for seen in final)
    assert not list(layout.endpoints.glob(".*.tmp"))


STEPS = ["open", "fdopen", "fsync", "replace"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("how", ["error", "kill"])
def test_a_crash_at_any_step_of_a_write_loses_nothing_older(
    layout: Layout, step: str, how: str
) -> None:
    path = layout.endpoints / "record.json"
    write_whole(path, b"old\n")
    code = f"""
import os, signal, sys
from pathlib import Path
def crash(*args, **kwargs):
    if {how!r} == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(28, "No space left on device")
if {step!r} == "replace":
    Path.replace = crash
else:
    setattr(os, {step!r}, crash)
from modeltainer.registry.atomic import write_whole
write_whole(Path(sys.argv[1]), b"new\\n")
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], stderr=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == (-signal.SIGKILL if how == "kill" else 1)
    assert path.read_bytes() == b"old\n"
    left = [file.name for file in layout.endpoints.iterdir() if file != path]
    if how == "error":
        assert left == []
    assert all(name.startswith(".") for name in left)  # and so no reader takes it for a record
    write_whole(path, b"new\n")
    assert path.read_bytes() == b"new\n"


@given(st.data())
def test_a_record_that_is_cut_or_damaged_is_never_believed(data: st.DataObject) -> None:
    whole = encode(endpoint())
    cut = data.draw(st.integers(0, len(whole) - 2))
    with pytest.raises(BadRecordError):
        decode(whole[:cut], Endpoint)
    assert decode(whole, Endpoint).model == "tiny"


@given(st.binary(max_size=300))
def test_foreign_bytes_are_refused_in_words(raw: bytes) -> None:
    with pytest.raises(BadRecordError):
        decode(raw, Endpoint)


def test_records_of_a_newer_schema_are_left_alone() -> None:
    with pytest.raises(BadRecordError, match="schema 99"):
        decode(encode(endpoint(schema=99)), Endpoint)


def test_a_lease_is_judged_by_the_readers_own_clock(layout: Layout) -> None:
    clock = Clock()
    writer = EndpointWriter(layout, endpoint(started_unix=1.0, period_s=5.0))
    reader = EndpointReader(layout, clock=clock)
    writer.write()
    [seen] = reader.poll()
    assert seen.alive
    assert not seen.confirmed  # a crashed job's leftover would look the same
    clock.now += 5
    writer.write()
    [seen] = reader.poll()
    assert seen.confirmed
    clock.now += LEASE_PERIODS * 5.0
    assert reader.poll()[0].alive
    clock.now += 0.1
    assert not reader.poll()[0].alive
    writer.write()
    assert reader.poll()[0].alive


def test_mtimes_mean_nothing(layout: Layout) -> None:
    clock = Clock()
    writer = EndpointWriter(layout, endpoint())
    reader = EndpointReader(layout, clock=clock)
    writer.write()
    reader.poll()
    [path] = list(layout.endpoints.glob("*.json"))
    clock.now += 100
    os.utime(path)
    assert not reader.poll()[0].alive
    writer.write()
    os.utime(path, (0, 0))
    assert reader.poll()[0].alive


def test_a_requeued_job_starts_a_lease_of_its_own(layout: Layout) -> None:
    clock = Clock()
    first = endpoint("tiny-r0-aaaaaa", started_unix=1.0)
    EndpointWriter(layout, first).write()
    reader = EndpointReader(layout, clock=clock)
    reader.poll()
    clock.now += 1000
    assert not reader.poll()[0].alive
    EndpointWriter(layout, replace(first, started_unix=2.0)).write()  # the same counter again
    assert reader.poll()[0].alive


def test_what_does_not_belong_is_named_and_left_out(layout: Layout, tmp_path: Path) -> None:
    good = endpoint("good-r0-aaaaaa")
    EndpointWriter(layout, good).write()
    folder = layout.endpoints
    (folder / "half.json").write_bytes(encode(good)[:50])
    (folder / "huge.json").write_bytes(b"[" * (MAX_RECORD_BYTES + 10))
    (folder / "17.other-r0-aaaaaa.json").write_bytes(encode(good))
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "link.json").symlink_to(folder / f"{good.key}.json")
    (folder / ".hidden.json").write_bytes(b"x")
    (folder / "notes.txt").write_bytes(b"x")
    reader = EndpointReader(layout)
    assert [seen.endpoint.launch_id for seen in reader.poll()] == ["good-r0-aaaaaa"]
    assert set(reader.problems) == {
        *("half.json", "huge.json", "folder.json", "pipe.json", "link.json"),
        "17.other-r0-aaaaaa.json",
    }


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file to another user")
def test_a_record_of_another_user_is_not_believed(layout: Layout) -> None:
    EndpointWriter(layout, endpoint()).write()
    [path] = list(layout.endpoints.glob("*.json"))
    os.chown(path, 12345, 12345)
    reader = EndpointReader(layout)
    assert reader.poll() == []
    assert "12345" in reader.problems[path.name]
    assert len(EndpointReader(layout, owners=[12345]).poll()) == 1


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
def test_a_file_that_cannot_be_read_for_a_moment_keeps_its_last_word(
    layout: Layout, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    clock = Clock()
    known, new = endpoint("known-r0-aaaaaa"), endpoint("new-r0-aaaaaa")
    EndpointWriter(layout, known).write()
    reader = EndpointReader(layout, clock=clock)
    reader.poll()
    EndpointWriter(layout, new).write()

    def fails(*_: object, **__: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fails)
        clock.now += LEASE_PERIODS * known.period_s
        [seen] = reader.poll()
        assert (seen.endpoint.launch_id, seen.alive) == (known.launch_id, True)
        assert set(reader.problems) == {f"{known.key}.json", f"{new.key}.json"}
        clock.now += 0.1
        assert not reader.poll()[0].alive
    assert len(reader.poll()) == 2
    assert reader.problems == {}


def test_a_file_that_vanishes_between_list_and_look(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = endpoint("one-r0-aaaaaa"), endpoint("other-r0-aaaaaa")
    for each in (one, other):
        EndpointWriter(layout, each).write()
    reader = EndpointReader(layout)
    listed = os.listdir(layout.endpoints)
    monkeypatch.setattr(os, "listdir", lambda _: listed)
    layout.endpoint(one.job_id, one.launch_id).unlink()
    assert [seen.endpoint.launch_id for seen in reader.poll()] == [other.launch_id]
    assert reader.problems == {}


def test_a_registry_that_vanishes_and_comes_back(layout: Layout, tmp_path: Path) -> None:
    EndpointWriter(layout, endpoint()).write()
    reader = EndpointReader(layout)
    assert len(reader.poll()) == 1
    layout.endpoints.rename(tmp_path / "away")
    assert reader.poll() == []
    (tmp_path / "away").rename(layout.endpoints)
    assert len(reader.poll()) == 1


def test_a_writers_own_failure_keeps_its_last_word(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = EndpointWriter(layout, endpoint())
    writer.write(node="first")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        writer.write(node="second")
    monkeypatch.undo()
    assert EndpointReader(layout).poll()[0].endpoint.node == "first"
    assert writer.write(node="third").counter == 2


def test_a_file_that_stays_is_not_decoded_again(layout: Layout) -> None:
    writer = EndpointWriter(layout, endpoint())
    writer.write()
    reader = EndpointReader(layout)
    [first], [second] = reader.poll(), reader.poll()
    assert second.endpoint is first.endpoint
    writer.write()
    [third] = reader.poll()
    assert third.endpoint.counter == first.endpoint.counter + 1
    assert third.confirmed


def test_an_owner_that_changes_is_seen_without_a_new_content(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    EndpointWriter(layout, endpoint()).write()
    reader = EndpointReader(layout)
    assert len(reader.poll()) == 1
    fstat = os.fstat

    def others(descriptor: int) -> os.stat_result:
        fields = list(fstat(descriptor))
        fields[4] += 1
        return os.stat_result(fields, {"st_mtime_ns": fstat(descriptor).st_mtime_ns})

    monkeypatch.setattr(os, "fstat", others)
    assert reader.poll() == []
    assert "not trusted" in next(iter(reader.problems.values()))
