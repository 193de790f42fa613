"""Bad input: one clear message each, an exit code, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.site import Account, account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster

CONFIGURATION, CANNOT_PLACE, LAUNCH_FAILED = 3, 4, 6


@pytest.fixture
def alice(cluster: Cluster) -> Account:
    return account(cluster, "alice", "bad-input")


def refused(alice: Account, line: str, code: int, *says: str) -> str:
    done = alice.mt(line, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for part in says:
        assert part in done.stderr
    alice.assert_nothing_left()
    return done.stderr


def with_model(alice: Account, **changes: object) -> None:
    alice.config["models"]["tiny"].update(changes)
    alice.write_config()


def test_a_misspelt_field(alice: Account) -> None:
    with_model(alice, contxt=256)
    refused(alice, "up tiny", CONFIGURATION, "models.yaml:", "contxt", "did you mean 'context'?")


def test_a_model_that_is_not_in_the_file(alice: Account) -> None:
    done = alice.mt("up tinny", check=False)
    assert done.returncode != 0
    assert "did you mean 'tiny'?" in done.stderr
    alice.assert_nothing_left()


def test_a_model_whose_weights_are_not_there(alice: Account) -> None:
    with_model(alice, source="/shared/models/no-such.gguf")
    refused(alice, "up tiny", CONFIGURATION, "/shared/models/no-such.gguf", "does not exist")


def test_a_partition_that_does_not_exist(alice: Account) -> None:
    refused(alice, "up tiny --partition gppu", CANNOT_PLACE, "gppu", "[no-such-partition]")


def test_more_gpus_than_any_node_has(alice: Account) -> None:
    refused(alice, "up tiny --gpus 9", CANNOT_PLACE, "9", "GPU", "[does-not-fit]")


def test_a_mig_profile_that_no_node_has(alice: Account) -> None:
    refused(alice, "up tiny --mig 7g.80gb", CANNOT_PLACE, "7g.80gb", "1g.10gb")


def test_a_walltime_over_the_partitions_limit(alice: Account) -> None:
    refused(alice, "up tiny --partition short --time 1:00:00", CANNOT_PLACE, "short", "10:00")


def test_a_truncated_gguf(alice: Account) -> None:
    alice.sh("head -c 100000 /shared/models/tiny.gguf > cut.gguf")
    with_model(alice, source=f"{alice.home}/cut.gguf")
    refused(alice, "up tiny", CONFIGURATION, "cut.gguf", "cut off")


def test_a_registry_that_is_read_only(alice: Account) -> None:
    alice.sh("mkdir -p sealed && chmod 500 sealed")
    alice.config["site"]["registry"] = f"{alice.home}/sealed/registry"
    alice.write_config()
    done = alice.mt("up tiny", check=False)
    assert done.returncode != 0
    assert "sealed" in done.stderr
    assert "Permission denied" in done.stderr
    assert alice.jobs() == []
    assert list(alice.here(f"{alice.home}/sealed").iterdir()) == []


def test_a_registry_on_a_full_disk(alice: Account) -> None:
    full = f"{alice.home}/full"
    alice.sh("mkdir -p full")
    root = "root"
    alice.cluster.run(
        "login", ["mount", "-t", "tmpfs", "-o", "size=16k,mode=777", "none", full], user=root
    )
    try:
        alice.sh(f"mkdir -m 700 {full}/registry; head -c 1M /dev/zero > {full}/ballast || true")
        alice.config["site"]["registry"] = f"{full}/registry"
        alice.write_config()
        done = alice.mt("up tiny", check=False)
        assert done.returncode != 0
        assert "No space left" in done.stderr
        assert alice.jobs() == []
        assert alice.sh(f"ls {full}/registry/launches", check=False).stdout == ""
    finally:
        alice.cluster.run("login", ["umount", full], user=root)


def test_no_apptainer_on_the_node(alice: Account) -> None:
    alice.sh("mkdir -p bin && ln -sf /usr/bin/srun bin/")
    alice.config["site"]["prelude"] = [f"export PATH={alice.home}/bin"]
    alice.write_config()
    done = alice.mt("up tiny --wait", check=False)
    assert done.returncode == LAUNCH_FAILED
    assert "Apptainer is not on the compute node's PATH [no-apptainer]" in done.stderr
    assert "PATH [no-apptainer]" in alice.mt("ls").stdout
    assert "module load apptainer" in done.stderr
    alice.mt("stop tiny")
    alice.assert_nothing_left()


def test_an_image_that_is_not_there(alice: Account) -> None:
    alice.config["site"]["images"] = {"llamacpp": "/shared/images/no-such.sif"}
    alice.write_config()
    refused(alice, "up tiny --wait", CONFIGURATION, "/shared/images/no-such.sif")


def test_an_engine_that_dies_while_loading(alice: Account) -> None:
    with_model(alice, engine_args={"no-such-option": 1})
    done = alice.mt("up tiny --wait", check=False)
    assert done.returncode == LAUNCH_FAILED
    assert "does not know one of its arguments" in done.stderr
    assert "no-such-option" in done.stderr  # the engine's own last words
    [row] = alice.ls()
    assert row["state"] == "ended"
    assert row["cause"]["code"] == "bad-option"
    assert "no-such-option" in alice.mt("logs tiny").stdout
    alice.mt("stop tiny")
    alice.assert_nothing_left()


def test_nothing_of_a_refused_pair_is_left(alice: Account, tmp_path: Path) -> None:
    models = alice.config["models"]
    models["gemma"]["resources"]["account"] = "no-such-account"
    models["gemma"]["resources"]["nodelist"] = "no-such-node"
    alice.write_config()
    done = alice.mt("up tiny gemma", check=False)
    assert done.returncode in {4, 5}
    alice.assert_nothing_left()
