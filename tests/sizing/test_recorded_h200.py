"""Sizing against what an H200 (driver 580.159.04) and vLLM 0.22.1 on it said, as recorded.

Qwen2.5-7B's shape with random weights (``--load-format dummy``), 8192 tokens of context,
``--max-num-seqs 256 --gpu-memory-utilization 0.92``.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modeltainer.hpc.mig import PROFILES, usable_mib
from modeltainer.jobs.devices import listed_uuids
from modeltainer.sizing.devices import Device
from modeltainer.sizing.fit import Wish, fit
from modeltainer.weights.inspect import read_path
from tests.weights.published import CONFIGS

RECORDED = Path(__file__).parents[1] / "fixtures" / "gpu" / "h200"
PROFILE = re.compile(r"MIG (\d+g\.\d+gb) +\d+ +\d+/(\d+) +([\d.]+)")


def test_the_slices_are_those_that_the_driver_lists() -> None:
    listing = (RECORDED / "nvidia-smi-mig-lgip.txt").read_text()
    listed = {(name, int(count), float(gib)) for name, count, gib in PROFILE.findall(listing)}
    ours = [one for one in PROFILES if one.gpu == "H200"]
    assert {(one.name, one.instances, one.memory_mib / 1024) for one in ours} == listed
    assert all(one.listed for one in ours)


def test_a_job_can_use_no_more_than_the_driver_leaves() -> None:
    memory = (RECORDED / "nvidia-smi-q-memory.txt").read_text()
    total, reserved = (int(mib) for mib in re.findall(r"(?:Total|Reserved) +: (\d+) MiB", memory))
    usable = usable_mib("h200")
    assert usable is not None
    assert 0.995 * (total - reserved) <= usable <= total - reserved


def test_the_only_gpu_is_seen() -> None:
    listing = (RECORDED / "nvidia-smi-L.txt").read_text()
    assert listed_uuids(listing) == ("GPU-6f2d1c0a-8b3e-4c57-9d21-0a7e5b9c4d13",)


def test_vllm_holds_what_was_promised() -> None:
    log = (RECORDED / "vllm-0.22.1-qwen2.5-7b.log").read_text()
    memory = usable_mib("h200")
    device = Device("h200", memory, memory, 8, is_slice=False)
    promised = fit(read_path(CONFIGS / "qwen2.5-7b.json"), device, Wish("vllm", 8192, 8))
    assert promised.estimate is not None
    (weights_gib,) = re.findall(r"Model loading took ([\d.]+) GiB", log)
    assert promised.estimate.weights_mib / 1024 == pytest.approx(float(weights_gib), rel=0.01)
    (sequences,) = re.findall(r"Maximum concurrency for 8,192 tokens per request: ([\d.]+)x", log)
    assert 0.98 * float(sequences) <= promised.sequences <= float(sequences)
