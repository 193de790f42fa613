"""vLLM's own parser and configuration on the command lines that are made for it.

One process of vLLM's interpreter reads them all (its imports take a quarter of a minute), and goes
as far as the configuration of the engine, on a CPU: what counts GPUs or starts ranks comes later.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from modeltainer.config.resolve import launch_spec
from modeltainer.config.schema import Config
from modeltainer.hpc.mig import usable_mib
from modeltainer.jobs.engines.base import CERTIFICATE_FILE, PRIVATE_KEY_FILE, EngineStart, Rank
from modeltainer.jobs.engines.vllm import Vllm
from modeltainer.sizing.devices import Device
from modeltainer.sizing.fit import MAX_UTILIZATION, Wish, fit
from modeltainer.spec import Resources, Source
from modeltainer.weights.inspect import read_path
from tests.docs.code_blocks import ROOT, fenced, pages
from tests.jobs.vllm_plans import FRACTIONS, HEAD, OTHER, SHARING, start
from tests.weights.published import CONFIGS

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]  # the first run installs vLLM

PROGRAM = Path(__file__).with_name("read_command_lines.py")
MODEL = "llama-3.1-70b"
"""64 heads and 80 layers: all sizes of the plans divide them."""
ONE = Resources(gpus=1)


@dataclass(frozen=True)
class Line:
    """A command line, and what vLLM must make of it."""

    start: EngineStart
    options: Mapping[str, Any]
    """By the names of vLLM's parser."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Of the engine's configuration, for a model that need not be downloaded."""
    flags: tuple[str, ...] = ()
    """Added as they are."""


def planned_parallelism() -> dict[str, Line]:
    """Every plan of how a model is shared, on each of its nodes."""
    found = {}
    for plan in SHARING:
        several = plan.wanted.nodes > 1
        ranks: tuple[Rank | None, ...] = (HEAD, OTHER) if several else (None,)
        sizes = {
            "tensor_parallel_size": plan.tensor or 1,
            "pipeline_parallel_size": plan.pipeline or 1,
            "data_parallel_size": plan.options.get("data-parallel-size", 1),
        }
        for rank in ranks:
            place: dict[str, Any] = {
                "nnodes": plan.wanted.nodes,
                "node_rank": rank.number if rank else 0,
                "distributed_executor_backend": "mp" if rank else None,
            }
            if rank is not None:
                place |= {"master_addr": rank.head_address, "master_port": rank.head_port}
            name = f"{plan.wanted.nodes} nodes of {plan.wanted.gpus}, {plan.options}"
            found[f"{name}, {rank and rank.number}"] = Line(
                start(plan.wanted, rank, **plan.options),
                {**sizes, **place, "headless": rank is not None and rank.number > 0},
                {
                    **sizes,
                    "world_size": sizes["tensor_parallel_size"] * sizes["pipeline_parallel_size"],
                },
            )
    return found


def planned_fractions() -> dict[str, Line]:
    """Every plan of how much of a GPU is taken."""
    found = {}
    for plan in FRACTIONS:
        # Left to vLLM, the fraction is what sizing takes for its default.
        fraction = {"gpu_memory_utilization": float(plan.fraction or MAX_UTILIZATION)}
        name = f"{plan.gres} {plan.share}"
        found[name] = Line(start(ONE, placement=plan.placement), fraction, fraction)
    return found


def what_a_user_asks_for() -> dict[str, Line]:
    """Options that vLLM has for one model or another, in every form of YAML."""
    rerank = {"architectures": ["LlamaForSequenceClassification"], "num_labels": 1}
    given: dict[str, Any] = {
        "shutdown-timeout": 40,
        "max_num_seqs": 64,
        "enforce-eager": True,
        "enable-prefix-caching": False,
        "quantization": None,
        "seed": -1,
        "swap-space": None,
        "gpu-memory-utilization": 0.5,
        "override-generation-config": {"temperature": 0.6, "top_p": 0.9},
        "chat-template": "{{ messages[0]['content'] }} -- $(no shell)",
        "lora-modules": [{"name": "a", "path": "/loras/a"}, "b=/loras/b"],
        "enable-lora": True,
        "enable-auto-tool-choice": True,
        "tool-call-parser": "hermes",
    }
    same = {
        name.replace("-", "_"): given[name]
        for name in given.keys() - {"lora-modules", "quantization", "swap-space"}
    }
    switches: dict[str, Any] = dict.fromkeys(
        ("headless", "grpc", "disable_log_stats", "aggregate_engine_logging"), False
    )
    return {
        "switches that are off": Line(start(ONE, **switches), switches),
        "all forms of values": Line(
            start(ONE, **given),
            {**same, "quantization": None},
            {"shutdown_timeout": 40, "gpu_memory_utilization": 0.5},
        ),
        "embeddings": Line(
            start(ONE, runner="pooling", convert="embed"),
            {"runner": "pooling", "convert": "embed"},
            {"runner_type": "pooling", "convert_type": "embed"},
        ),
        "rerank": Line(
            start(ONE, runner="pooling", convert="classify", hf_overrides=rerank),
            {"runner": "pooling", "convert": "classify", "hf_overrides": rerank},
            {"runner_type": "pooling", "convert_type": "classify"},
        ),
        "TLS": Line(
            replace(start(ONE), bind="127.0.0.1", tls=True),
            {
                "host": "127.0.0.1",
                "port": 8000,
                "ssl_certfile": CERTIFICATE_FILE,
                "ssl_keyfile": PRIVATE_KEY_FILE,
            },
        ),
        "a hub's revision": Line(
            replace(
                start(ONE),
                spec=replace(start(ONE).spec, source=Source("hub", "org/name", revision="v1.0")),
            ),
            {"model": "org/name", "revision": "v1.0"},
        ),
    }


def what_size_prints() -> dict[str, Line]:
    """The flags of ``mt-submit size``: on a slice, old and several GPUs, a smaller cache."""
    found = {}
    for name, gpus, model, wish, sequences in (
        ("a100_3g.40gb", 1, "llama-3.1-8b", Wish("vllm", 8192, 4), 256),
        ("t4", 4, "llama-3.1-8b", Wish("vllm", 512, 300), 300),
        ("h100", 4, MODEL, Wish("vllm", 2048, 300, element_bytes=1), 1024),
        ("l40s", 6, MODEL, Wish("vllm", 4096, 1), 256),
    ):
        memory = usable_mib(name)
        answer = fit(
            read_path(CONFIGS / f"{model}.json"),
            Device(name, memory, memory, gpus, "g." in name),
            wish,
        )
        assert answer.fits, answer.why
        options = {
            "max_model_len": wish.context,
            "tensor_parallel_size": answer.tensor,
            "pipeline_parallel_size": answer.pipeline,
            "gpu_memory_utilization": answer.utilization,
            "max_num_seqs": sequences,
            "kv_cache_dtype": "fp8" if wish.element_bytes == 1 else "auto",
            "dtype": "half" if name == "t4" else "auto",
        }
        engine = {key: options[key] for key in ("max_model_len", "tensor_parallel_size")}
        found[f"size {name} {model}"] = Line(start(ONE), options, engine, answer.flags)
    return found


def documented() -> dict[str, Line]:
    """Every vLLM model of config/models.yaml and of the docs."""
    texts = {"config/models.yaml": [(ROOT / "config" / "models.yaml").read_text()]}
    texts |= {str(page.relative_to(ROOT)): fenced(page, "yaml") for page in pages()}
    found = {}
    for where, blocks in texts.items():
        for number, block in enumerate(blocks):
            content = yaml.safe_load(block)
            if not isinstance(content, dict) or "models" not in content:
                continue
            config = Config.model_validate(content)
            for name, section in config.models.items():
                if section.engine != "vllm":
                    continue
                spec = launch_spec(config, name, 0, executor="slurm")
                options = {
                    key.replace("-", "_"): value for key, value in section.engine_args.items()
                }
                rank = HEAD if spec.resources.nodes > 1 else None
                found[f"{where} {number} {name}"] = Line(
                    EngineStart(spec, "0.0.0.0", 8000, "nonce", rank=rank),
                    {
                        **options,
                        "max_model_len": section.context,
                        "model": spec.source.value,
                        "tensor_parallel_size": spec.resources.gpus,
                        "pipeline_parallel_size": spec.resources.nodes,
                    },
                )
    return found


LINES = {
    **planned_parallelism(),
    **planned_fractions(),
    **what_a_user_asks_for(),
    **what_size_prints(),
    **documented(),
}
WRONG = {
    "unknown": ("--no-such-option", "unrecognized arguments: --no-such-option"),
    "cut short": ("--tensor-parallel=2", "unrecognized arguments: --tensor-parallel=2"),
    "no number": ("--shutdown-timeout=soon", "--shutdown-timeout: invalid"),
    "refused later": ("--enable-auto-tool-choice", "requires --tool-call-parser"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder without weights."""
    made = tmp_path_factory.mktemp("model")
    config = json.loads((CONFIGS / f"{MODEL}.json").read_text())
    config["architectures"] = ["LlamaForCausalLM"]
    (made / "config.json").write_text(json.dumps(config))
    return made


def words(line: Line, model: Path, private: Path) -> list[str]:
    """The command line as the agent starts it, its files beside it."""
    private.mkdir()
    spec = line.start.spec
    if spec.source.kind == "path":
        spec = replace(spec, source=Source("path", str(model)))
    made = Vllm().command(replace(line.start, spec=spec, private_folder=str(private)))
    for name, content in made.files.items():
        (private / name).write_text(content)
    assert made.argv[:2] == ("vllm", "serve")
    return [*made.argv[1:], *line.flags]


@pytest.fixture(scope="module")
def read(
    vllm: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What vLLM makes of all lines, by their names."""
    there = tmp_path_factory.mktemp("lines")
    lines = {
        name: words(line, folder, there / str(number))
        for number, (name, line) in enumerate(LINES.items())
    }
    lines |= {name: ["serve", str(folder), flag] for name, (flag, _) in WRONG.items()}
    answer = there / "answer.json"
    subprocess.run(
        [str(vllm / "bin" / "python"), str(PROGRAM), str(answer)],
        input=json.dumps([*lines.values()]),
        text=True,
        check=True,
        env={
            **os.environ,
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CACHE_ROOT": str(there / "cache"),
        },
    )
    return dict(zip(lines, json.loads(answer.read_text()), strict=True))


@pytest.mark.parametrize("name", LINES)
def test_vllm_reads_what_was_planned(name: str, read: dict[str, dict[str, Any]]) -> None:
    line, made = LINES[name], read[name]
    assert "error" not in made, made["error"]
    served = [line.start.spec.model, "nonce"]
    assert made["served_model_name"] == served
    assert (made["host"], made["port"]) == (line.start.bind, line.start.port)
    for option, value in line.options.items():
        found = made[option]
        if option.startswith("ssl_"):
            found = Path(found).name
        assert found == value, option
    assert ("engine" in made) == (line.start.spec.source.kind == "path")
    assert {key: made["engine"][key] for key in line.engine} == line.engine


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_line_is_told(name: str, read: dict[str, dict[str, Any]]) -> None:
    """Else the tests above would pass whatever the lines say."""
    assert WRONG[name][1] in read[name]["error"]
