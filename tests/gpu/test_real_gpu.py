"""The path from ``mt-submit up`` to a streamed token, and sizing's promises, on a real GPU."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
import yaml

from modeltainer.jobs.devices import Relabelled, listed_uuids, nvidia_smi_list, relabel
from modeltainer.sizing.devices import Device
from modeltainer.sizing.fit import Fit, Wish, fit
from modeltainer.weights.inspect import read_path
from tests.bare_machine import BareMachine, bare_machine
from tests.tiny_gguf import write_tiny_gguf

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]

CONTEXT, CONCURRENCY = 8192, 8
LOADED = re.compile(r"Model loading took ([\d.]+) GiB")
CACHE = re.compile(r"GPU KV cache size: ([\d,]+) tokens")
BUFFER = re.compile(r"CUDA0 model buffer size =\s+([\d.]+) MiB")


@dataclass(frozen=True)
class Gpu:
    uuid: str
    name: str
    memory_mib: int


def first_gpu() -> Gpu:
    """GPU 0, as the driver describes it."""
    line = subprocess.run(
        [
            *("nvidia-smi", "--id=0", "--format=csv,noheader,nounits"),
            "--query-gpu=uuid,name,memory.total",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    uuid, name, memory = line.split(", ")
    return Gpu(uuid, name, int(memory))


def section(name: str, fields: dict[str, Any]) -> str:
    """One model of models.yaml, indented as it stands there."""
    return "".join(f"  {line}\n" for line in yaml.safe_dump({name: fields}).splitlines())


def vllm_section(command: list[str], folder: Path, flags: dict[str, Any]) -> dict[str, Any]:
    return {
        "engine": "vllm",
        "runtime": "native",
        "command": command,
        "source": str(folder),
        "context": CONTEXT,
        "resources": {"gpus": 1, "cpus": 8},
        "engine_args": {"load-format": "dummy", **flags},
    }


def streamed(machine: BareMachine, model: str) -> str:
    """What the official client streams through the gateway."""
    client = openai.OpenAI(
        base_url=machine.environ["OPENAI_BASE_URL"], api_key=machine.environ["OPENAI_API_KEY"]
    )
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": "Tell me of the sea"}],
        max_tokens=16,
        stream=True,
    )
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


def engine_log(machine: BareMachine) -> str:
    """The engine's log of the only launch."""
    (log,) = machine.folder.glob("registry/launches/*/log/engine.log")
    return log.read_text()


def used_mib() -> int:
    """Memory of GPU 0 that is taken."""
    asked = ["nvidia-smi", "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)


def remember(folder: Path, name: str, facts: dict[str, Any]) -> None:
    """Keep the figures beside the logs."""
    (folder / f"{name}.log").write_text(json.dumps(facts, indent=1))


def test_the_driver_names_its_gpus_as_we_read_them() -> None:
    uuids = listed_uuids(nvidia_smi_list())
    assert first_gpu().uuid in uuids or all(one.startswith("MIG-") for one in uuids)
    assert relabel(uuids, uuids) == Relabelled(",".join(str(i) for i in range(len(uuids))))


def test_vllm_serves_when_slurm_hands_out_a_uuid(
    keep: Path, vllm: list[str], random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", first_gpu().uuid)
    flags = {"hf-overrides": {"num_hidden_layers": 2}, "enforce-eager": True}
    models = section("two-layers", vllm_section(vllm, random_model / "qwen2.5-7b", flags))
    with bare_machine(keep, models, "two-layers", patience_s=400) as machine:
        assert streamed(machine, "two-layers")


@pytest.mark.parametrize("shape", ["qwen2.5-7b", "llama-3.1-8b", "qwen3-30b-a3b"])
def test_vllm_holds_what_sizing_promises(
    keep: Path, vllm: list[str], random_model: Path, shape: str
) -> None:
    gpu = first_gpu()
    promised = sized(random_model / shape, gpu)
    if not promised.fits:
        pytest.skip(f"{shape} does not fit {gpu.name}: {promised.why}")
    flags = dict(zip(promised.flags[::2], promised.flags[1::2], strict=True))
    given = {name.removeprefix("--"): value for name, value in flags.items()}
    given.pop("max-model-len")
    models = section(shape, vllm_section(vllm, random_model / shape, given))
    with bare_machine(keep, models, shape, patience_s=400) as machine:
        assert streamed(machine, shape)
        log = engine_log(machine)
        taken = used_mib()
    weights_gib = float(LOADED.findall(log)[-1])
    tokens = int(CACHE.findall(log)[-1].replace(",", ""))
    assert promised.estimate is not None
    remember(
        keep,
        f"sizing-{shape}",
        {
            "gpu": gpu.name,
            "memory_mib": gpu.memory_mib,
            "weights_gib": weights_gib,
            "promised_weights_gib": promised.estimate.weights_mib / 1024,
            "cache_tokens": tokens,
            "promised_tokens": promised.sequences * CONTEXT,
            "memory_taken_mib": taken,
            "flags": promised.flags,
        },
    )
    assert weights_gib == pytest.approx(promised.estimate.weights_mib / 1024, rel=0.02)
    assert 0.85 <= promised.sequences * CONTEXT / tokens <= 1.0


def test_llama_cpp_puts_the_whole_model_on_the_gpu(keep: Path, llama_server: list[str]) -> None:
    model = write_tiny_gguf(keep / "tiny.gguf", context=4096)
    fields = {
        "engine": "llamacpp",
        "runtime": "native",
        "command": llama_server,
        "source": str(model),
        "context": 4096,
        "resources": {"gpus": 1, "cpus": 4},
        "engine_args": {"verbosity": 5},
    }
    before = used_mib()
    with bare_machine(keep, section("on-gpu", fields), "on-gpu") as machine:
        assert streamed(machine, "on-gpu")
        assert used_mib() > before
        log = engine_log(machine)
    assert BUFFER.findall(log), "no layer is on the GPU"


def sized(folder: Path, gpu: Gpu) -> Fit:
    """What ``mt-submit size`` would promise for this very GPU."""
    device = Device(gpu.name, gpu.memory_mib, gpu.memory_mib, 1, is_slice=False)
    return fit(read_path(folder), device, Wish("vllm", CONTEXT, CONCURRENCY))
