"""What killed processes leave is removed, and nothing that anybody still writes or needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modeltainer.registry import launches, leftovers
from modeltainer.registry.endpoints import EndpointReader, EndpointWriter
from modeltainer.registry.layout import Layout
from modeltainer.registry.leftovers import STILL_S, Leftovers
from modeltainer.registry.records import Endpoint, State
from modeltainer.spec import Site
from tests.launch_spec import launch_spec


class World:
    """A registry with a clock of its own."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout(root)
        self.layout.create()
        self.now = 0.0
        self._reader = EndpointReader(self.layout, clock=lambda: self.now)
        self._leftovers = Leftovers(self.layout, clock=lambda: self.now)

    def launch(self, name: str = "m-r0-aaaaaa") -> Path:
        spec = launch_spec(launch_id=name, site=Site(str(self.layout.root), "/c"))
        return launches.create(self.layout, spec, launches.new_secret())

    def agent(self, state: State, name: str = "m-r0-aaaaaa") -> EndpointWriter:
        endpoint = Endpoint(
            launch_id=name,
            model="m",
            replica=0,
            job_id="7",
            owner="me",
            engine="llamacpp",
            runtime="native",
            state=state,
            node="n1",
            started_unix=time.time(),
        )
        writer = EndpointWriter(self.layout, endpoint)
        writer.write()
        return writer

    def tidy(self) -> list[str]:
        found = self._leftovers.look(self._reader.poll())
        for path in found:
            leftovers.remove(path)
        return [path.name for path in found]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "registry")


def half_made(world: World) -> Path:
    folder = world.launch()
    (folder / "spec.json").unlink()
    return folder


def temporary(world: World) -> Path:
    path = world.layout.reconcile / ".m-1234.json.77.abcd.tmp"
    path.write_bytes(b"{")
    return path


def silent(world: World) -> Path:
    world.agent(State.READY)
    return world.layout.endpoint("7", "m-r0-aaaaaa")


@pytest.mark.parametrize("leave", [half_made, temporary, silent])
def test_what_stands_still_is_removed(world: World, leave: Callable[[World], Path]) -> None:
    path = leave(world)
    assert world.tidy() == []
    world.now += STILL_S - 1
    assert world.tidy() == []
    world.now += 1
    assert world.tidy() == [path.name]
    assert not path.exists()
    assert world.tidy() == []


def test_the_last_word_of_an_agent_whose_launch_is_gone(world: World) -> None:
    world.launch()
    world.agent(State.ENDED)
    assert world.tidy() == [], "its launch is there and says how it ended"
    launches.remove(world.layout, "m-r0-aaaaaa")
    assert world.tidy() == ["7.m-r0-aaaaaa.json"]


def test_what_is_whole_or_moves_stays(world: World) -> None:
    folder = world.launch()
    writer = world.agent(State.READY)
    orphan = world.agent(State.READY, "m-r1-bbbbbb")
    slow = world.launch("m-r2-cccccc")
    (slow / "spec.json").unlink()
    for step in range(5):
        world.now += STILL_S / 2
        writer.write()
        orphan.write()  # its folder is gone, but it lives
        (slow / f"{step}").touch()  # somebody still writes it
        assert world.tidy() == []
    assert folder.exists()
    assert slow.exists()


def test_files_that_are_not_ours_to_judge(world: World) -> None:
    strange = [
        world.layout.launches / "notes.txt",
        world.layout.endpoints / "readme",
        world.layout.reconcile / "reconciler.lock",
    ]
    for path in strange:
        path.write_text("kept")
    for _ in range(3):
        world.now += STILL_S
        assert world.tidy() == []
