"""Write the example batch files of scripts/slurm: ``python tools/sbatch_files.py [FOLDER]``.

They are what `mt-submit render` and `mt-submit gateway render` print, with folders of an invented
user and for models of config/models.yaml; a site's own come from those commands there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from modeltainer.config.load import load
from modeltainer.config.resolve import launch_spec
from modeltainer.config.schema import Config
from modeltainer.hpc import gateway_job
from modeltainer.hpc.sbatch import render, template
from modeltainer.spec import Placement

ROOT = Path(__file__).parents[1]
HOME = Path("/shared/home/you")
PYTHON = f"{HOME}/modeltainer/bin/python"
CONFIG_FILE = HOME / ".config/modeltainer/models.yaml"
ENVIRONMENT = {
    "HOME": str(HOME),
    "MODELTAINER_REGISTRY": f"{HOME}/registry",
    "MODELTAINER_CACHE": f"{HOME}/cache",
}
ENGINES: Mapping[str, tuple[str, str, str | None]] = {
    "vllm-gpu": ("qwen2.5-7b", "gpu", "gpu:a100:1"),
    "vllm-mig": ("qwen2.5-7b", "gpu", "gpu:a100_3g.40gb:1"),
    "vllm-two-gpus": ("qwen2.5-32b", "gpu", "gpu:a100:2"),
    "vllm-two-nodes": ("qwen3-235b", "gpu", "gpu:a100:4"),
    "llamacpp-cpu": ("smollm2-cpu", "cpu", None),
    "llamacpp-gpu": ("qwen2.5-3b-gguf", "gpu", "gpu:a100_1g.10gb:1"),
}
"""Model, partition and GRES, the latter as an A100 site may spell them."""


def files() -> dict[str, str]:
    """Names to texts."""
    config = load(ROOT / "config" / "models.yaml", ENVIRONMENT)
    made = {name: _engine(config, *what) for name, what in ENGINES.items()}
    for name, chain in (("gateway", False), ("gateway-chain", True)):
        made[name] = gateway_job.render(
            CONFIG_FILE,
            walltime_s=24 * 3600,
            drain_s=config.gateway.drain,
            options={"partition": "cpu"},
            chain=chain,
            python=PYTHON,
        )
    made["bench"] = template("bench.sbatch.j2").render(python=PYTHON, config=CONFIG_FILE)
    return {f"{name}.sbatch": text for name, text in made.items()}


def _engine(config: Config, model: str, partition: str, gres: str | None) -> str:
    spec = launch_spec(config, model, 0, executor="slurm")
    placement = Placement(partition, gres, spec.resources.walltime_s)
    return render(replace(spec, launch_id=f"{model}-r0-000000", placement=placement), PYTHON)


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "scripts" / "slurm"
    for name, text in files().items():
        (folder / name).write_text(text)
