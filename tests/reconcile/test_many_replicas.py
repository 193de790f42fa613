"""How often Slurm is asked does not grow with what is kept up (how long a look takes is
``bench/reconcile_step.py``'s business)."""

from __future__ import annotations

import os

import pytest

from modeltainer.bench.reconcile_step import first_look, measure, nodes_and_partitions
from modeltainer.hpc.placement import Places, place
from modeltainer.spec import Resources


def test_slurm_is_asked_a_few_times_a_minute_whatever_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])  # measure() puts its squeue before it
    few, many = measure(models=3, replicas=1), measure(models=50, replicas=4)
    assert many["replicas"] == 200
    assert many["slurm_queries_per_minute"] == few["slurm_queries_per_minute"]
    assert 1 <= int(str(many["slurm_queries_per_minute"])) <= 6


def test_two_hundred_are_placed_on_a_large_cluster() -> None:
    assert set(first_look(models=50, replicas=4)) == {"decide_s", "place_s"}
    places = Places(nodes_and_partitions(100))
    for memory_gib in (16, 40, 60, 16, 40):
        wanted = Resources(gpus=1, gpu_memory_mib=memory_gib * 1024)
        assert places.find(wanted) == place(places.snapshot, wanted)
