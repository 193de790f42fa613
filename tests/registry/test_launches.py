"""Launch folders: owner-only, whole or not there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.registry import launches
from modeltainer.registry.layout import LAUNCH_ID, Layout, new_launch_id
from modeltainer.registry.records import BadRecordError, Submission
from modeltainer.spec import LaunchSpec, Resources, Site, Source


def spec(registry: Path) -> LaunchSpec:
    return LaunchSpec(
        launch_id=new_launch_id("Org/Name:7B", 3),
        model="Org/Name:7B",
        replica=3,
        engine="vllm",
        runtime="apptainer",
        source=Source("hub", "org/name", "abc"),
        resources=Resources(gpus=2, mig="1g.10gb"),
        site=Site(str(registry), str(registry)),
        engine_args={"a": {"b": [1, 2.5, None, True]}, "c": "ü"},
    )


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    wanted, secret = spec(tmp_path), launches.new_secret({"HF_TOKEN": "hf_x"})
    folder = launches.create(layout, wanted, secret)
    assert launches.read_spec(folder) == wanted
    assert launches.read_secret(folder) == secret
    assert launches.read_submission(folder) is None
    submission = Submission(wanted.launch_id, wanted.model, 3, "slurm", "42", 1.0)
    launches.record_submission(layout, submission)
    assert launches.read_all(layout) == [launches.Launch(wanted, submission)]
    launches.remove(layout, wanted.launch_id)
    assert launches.read_all(layout) == []


def test_only_the_owner_can_look_in(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "registry")
    old = os.umask(0)
    try:
        folder = launches.create(layout, spec(tmp_path), launches.new_secret())
    finally:
        os.umask(old)
    for path in [layout.root, layout.launches, layout.endpoints, folder, *folder.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_secret_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    folder = launches.create(Layout(tmp_path), spec(tmp_path), launches.new_secret())
    (folder / "secret.json").chmod(0o644)
    with pytest.raises(BadRecordError, match="open to others"):
        launches.read_secret(folder)


def test_no_two_launches_share_a_key_or_a_nonce() -> None:
    secrets = [launches.new_secret() for _ in range(100)]
    assert len({secret.key for secret in secrets} | {secret.nonce for secret in secrets}) == 200


def test_half_made_folders_are_passed_over(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    whole = spec(tmp_path)
    launches.create(layout, whole, launches.new_secret())
    layout.launch("empty-r0-aaaaaa").mkdir()
    (layout.launches / "not a launch").mkdir()
    damaged = replace(whole, launch_id=new_launch_id("x", 0))
    launches.create(layout, damaged, launches.new_secret())
    layout.spec(damaged.launch_id).write_bytes(b"{")
    assert [launch.spec.launch_id for launch in launches.read_all(layout)] == [whole.launch_id]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(tmp_path)
    layout.create()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        launches.create(layout, spec(tmp_path), launches.new_secret())
    assert list(layout.launches.iterdir()) == []


@given(st.text(max_size=150), st.integers(0, 9999))
def test_launch_ids_are_safe_as_file_names(model: str, replica: int) -> None:
    launch_id = new_launch_id(model, replica)
    assert LAUNCH_ID.fullmatch(launch_id)
    assert len(launch_id) < 120
    assert Path(launch_id).name == launch_id


@pytest.mark.parametrize("bad", ["..", "../x-r0-aaaaaa", "a/b-r0-aaaaaa", "", "x-r0-aaaaaa\n"])
def test_what_is_no_launch_id_never_becomes_a_path(bad: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a launch id"):
        Layout(tmp_path).launch(bad)
