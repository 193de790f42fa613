"""``mt-submit size``: models by every name, on common GPUs and on a cluster's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modeltainer.cli.exit_codes import CANNOT_PLACE
from modeltainer.hpc import snapshot
from modeltainer.hpc.commands import SlurmError
from tests.cli.conftest import Shell
from tests.hpc.test_clusters import cluster
from tests.weights.published import CONFIGS

QWEN = str(CONFIGS / "qwen2.5-7b.json")


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> snapshot.Snapshot:
        raise SlurmError("no Slurm here")

    monkeypatch.setattr(snapshot, "take_snapshot", none)


def test_common_gpus_as_a_table(shell: Shell) -> None:
    done = shell.run("size", QWEN, "--context", "8192", "--concurrency", "8", "--any-gpu")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("qwen2: 7.62 B parameters, weights 15.23 GB")
    assert "KV cache 56 KiB per token" in lines[0]
    rows = {line.split("  ")[0]: line for line in lines}
    assert " no " in rows["H200 1g.18gb"]
    assert "weights and overhead take" in rows["H200 1g.18gb"]
    assert " yes " in rows["l4"]
    assert "TP 2" in rows["t4"]
    flags = lines[-1]
    assert "--max-model-len 8192" in flags
    assert "--gpu-memory-utilization" in flags


def test_the_clusters_own_gpus(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "take_snapshot", lambda: cluster("mig-mix"))
    said = shell.json("size", QWEN, "--context", "8192")
    assert said["best"] == "a100_3g.20gb"
    assert said["kv_bytes_per_token"] == 57344
    answers = {one["device"]["name"]: one for one in said["answers"]}
    assert not answers["a100_2g.10gb"]["fits"]
    assert answers["a100"]["device"]["partitions"] == ["full"]
    only = shell.json("size", QWEN, "--context", "8192", "--partition", "full")
    assert [one["device"]["name"] for one in only["answers"]] == ["a100"]


def test_a_part_of_a_gpu_is_shown_and_is_the_answer_only_for_who_may_share(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "take_snapshot", lambda: cluster("shards"))
    asked = ["size", QWEN, "--context", "8192", "--partition", "shared"]
    shown = shell.run(*asked)
    assert "smallest of this cluster that holds it: a100\n" in shown.stdout
    assert shown.stdout.endswith("if it may share a GPU (--shared): 4/8 a100\n")
    said = shell.json(*asked, "--shared")
    assert said["best"] == "4/8 a100"
    answers = {one["device"]["name"]: one for one in said["answers"]}
    assert answers.keys() == {"4/8 a100", "a100"}
    part, whole = answers["4/8 a100"], answers["a100"]
    assert part["device"]["memory_mib"] == whole["device"]["memory_mib"] // 2
    flags = part["flags"]
    assert flags[flags.index("--gpu-memory-utilization") + 1] == "0.460"
    assert part["sequences"] < whole["sequences"]
    without = shell.json(*asked, "--no-shared")
    assert [one["device"]["name"] for one in without["answers"]] == ["a100"]


def test_a_model_of_the_configuration_by_its_alias(shell: Shell) -> None:
    said = shell.json("size", "small", "--any-gpu")
    assert said["wish"]["engine"] == "llamacpp"
    assert said["wish"]["context"] == 256
    assert said["model"]["quantization"] == "gguf"
    assert said["best"] is not None


def test_without_a_cluster_it_says_what_is_shown(shell: Shell) -> None:
    done = shell.run("size", QWEN, "--context", "4096")
    assert done.exit_code == 0
    assert "common GPUs and slices are shown instead" in done.stderr


def test_an_8_bit_cache_holds_twice_as_much(shell: Shell) -> None:
    options = ["size", QWEN, "--context", "8192", "--any-gpu"]
    sixteen = {one["device"]["name"]: one["sequences"] for one in shell.json(*options)["answers"]}
    eight = {
        one["device"]["name"]: one["sequences"]
        for one in shell.json(*options, "--kv-fp8")["answers"]
    }
    assert eight["h100"] in {2 * sixteen["h100"], 2 * sixteen["h100"] + 1}


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["nothing-like-this"], 9, "there is no model, file or folder"),
        (["org/model"], 9, "org/model"),
        (
            [str(CONFIGS / "deepseek-v3.json"), "--gpus", "1", "--any-gpu"],
            CANNOT_PLACE,
            "nothing of",
        ),
        ([QWEN, "--partition", "gpu"], CANNOT_PLACE, "partition gpu shows no GPUs"),
    ],
)
def test_what_cannot_be_sized(shell: Shell, words: list[str], code: int, says: str) -> None:
    done = shell.run("size", *words)
    assert done.exit_code == code, done.output
    assert says in done.stderr
    assert "Traceback" not in done.output


def test_a_truncated_file_is_named(shell: Shell, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(b"GGUF\3\0\0\0")
    done = shell.run("size", str(cut), "--any-gpu")
    assert done.exit_code == 9
    assert str(cut) in done.stderr


def test_a_config_without_a_shape_is_named(shell: Shell, tmp_path: Path) -> None:
    odd = tmp_path / "config.json"
    odd.write_text(json.dumps({"model_type": "diffuser"}))
    done = shell.run("size", str(odd), "--any-gpu")
    assert done.exit_code == 9
    assert done.stderr.count("error:") == 1
