"""Pytest fixtures: a running cluster for each Slurm release, shared by the whole session."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.cluster import Cluster, clusters_dir, remove, running
from tests.cluster.machine import missing

PREFIX = "pytest-"
REQUIRE = "MODELTAINER_REQUIRE_CLUSTER"
"""Set to 1 where a test that needs the cluster must not be skipped."""


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Slurm 26.05 with Apptainer: login, c1, c2 and a laptop."""
    with _cluster("sid") as up:
        yield up


@pytest.fixture(scope="session")
def cluster_24_11() -> Iterator[Cluster]:
    """Slurm 24.11 with Apptainer."""
    with _cluster("trixie") as up:
        yield up


@pytest.fixture(scope="session")
def cluster_22_05() -> Iterator[Cluster]:
    """Slurm 22.05, without Apptainer: native llama.cpp only."""
    with _cluster("bookworm") as up:
        yield up


def must_not_skip() -> bool:
    """Whether a missing program is a failure here (see REQUIRE)."""
    return os.environ.get(REQUIRE) == "1"


def require_cluster() -> None:
    """Skip the test where the cluster (or a root file system of it) cannot run, or fail it if it
    must not be skipped."""
    lacking = missing()
    if lacking and must_not_skip():
        pytest.fail(f"{REQUIRE}=1, but {'; '.join(lacking)}")
    if lacking:
        pytest.skip("; ".join(lacking))


@contextmanager
def _cluster(flavour: str) -> Iterator[Cluster]:
    require_cluster()
    _remove_abandoned()
    up = Cluster.up(flavour, name=f"{PREFIX}{os.getpid()}-{flavour}")
    try:
        yield up
    finally:
        up.down()


def _remove_abandoned() -> None:
    """Take down what a killed test session has left."""
    for name in running():
        if name.startswith(PREFIX) and not Path("/proc", name.split("-")[1]).exists():
            remove(clusters_dir() / name)
