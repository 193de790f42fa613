"""Copies on the node's disk: made once, whole, kept while used, and removed when room is needed."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeltainer.jobs import staging
from modeltainer.jobs.mounts import NETWORK, filesystem
from modeltainer.jobs.staging import (
    CancelledError,
    NotStagedError,
    Stage,
    original,
    stage_image,
    stage_weights,
)
from modeltainer.spec import NodeCache, Source
from tests.launch_spec import launch_spec

MIB = 1024 * 1024


class Node:
    """A node's folder of copies, and what was said."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "scratch" / "copies"
        self.wished = NodeCache(str(self.folder), when="always")
        self.said: list[str] = []

    def stage(self, cancelled: Callable[[], bool] = lambda: False, **changes: object) -> Stage:
        wished = replace(self.wished, **changes)  # type: ignore[arg-type]
        return Stage(wished, self.said.append, cancelled)

    def copies(self) -> set[str]:
        """Names of the originals that have a copy here."""
        found = [one.name for one in self.folder.iterdir() if one.is_dir()]
        return {name.rpartition("-")[0] for name in found}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    monkeypatch.setattr(staging, "SPARE_BYTES", 0)
    return Node(tmp_path)


def made(path: Path, size: int = 1000, byte: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(byte * size)
    return path


def test_a_file_is_copied_once(node: Node, tmp_path: Path) -> None:
    source = made(tmp_path / "shared" / "m.gguf")
    first, second = node.stage(), node.stage()
    copy = first.copy(source)
    assert copy.name == "m.gguf"
    assert copy.is_relative_to(node.folder)
    assert copy.read_bytes() == source.read_bytes()
    assert second.copy(source) == copy
    assert sum(line.startswith("copying") for line in node.said) == 1
    assert node.folder.stat().st_mode & 0o777 == 0o700


def test_a_file_that_has_changed_is_copied_anew(node: Node, tmp_path: Path) -> None:
    source = made(tmp_path / "m.gguf")
    old = node.stage().copy(source)
    made(source, byte=b"y")
    os.utime(source, (1, 1))
    new = node.stage().copy(source)
    assert new != old
    assert new.read_bytes() == source.read_bytes()


def test_a_folder_with_links_as_a_hub_cache_has_them(node: Node, tmp_path: Path) -> None:
    blob = made(tmp_path / "hub" / "blobs" / "abc", byte=b"w")
    folder = tmp_path / "hub" / "snapshots" / "1"
    made(folder / "tokenizer" / "vocab.json", byte=b"v")
    (folder / "model.safetensors").symlink_to(blob)
    copy = node.stage().copy(folder)
    assert (copy / "model.safetensors").read_bytes() == blob.read_bytes()
    assert not (copy / "model.safetensors").is_symlink()
    assert (copy / "tokenizer" / "vocab.json").read_bytes() == b"v" * 1000


def test_all_parts_of_a_model(node: Node, tmp_path: Path) -> None:
    for part in (1, 2, 3):
        made(tmp_path / f"big-0000{part}-of-00003.gguf", byte=str(part).encode())
    made(tmp_path / "other.gguf")
    copy = node.stage().copy(tmp_path / "big-00001-of-00003.gguf")
    assert sorted(one.name for one in copy.parent.iterdir()) == [
        f"big-0000{part}-of-00003.gguf" for part in (1, 2, 3)
    ]
    (tmp_path / "big-00002-of-00003.gguf").unlink()
    with pytest.raises(NotStagedError, match="big-00002"):
        node.stage().copy(tmp_path / "big-00001-of-00003.gguf")


def test_launches_at_once_copy_once(node: Node, tmp_path: Path) -> None:
    source = made(tmp_path / "m.gguf", 40 * MIB)
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(node.stage().copy(source)), daemon=True)
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 6
    assert len(set(found)) == 1
    assert sum(line.startswith("copying") for line in node.said) == 1


def test_who_waits_to_copy_takes_the_copy_of_another(node: Node, tmp_path: Path) -> None:
    """The other keeps its lock for as long as its job runs: two that both saw no copy."""
    source = made(tmp_path / "m.gguf")
    entry = node.folder / original(source).entry
    node.folder.mkdir(mode=0o700, parents=True)
    with entry.with_name(f"{entry.name}.lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        found: list[Path] = []
        waiting = threading.Thread(
            target=lambda: found.append(node.stage().copy(source)), daemon=True
        )
        waiting.start()
        while not node.said:
            time.sleep(0.01)
        made(entry / "m.gguf")
        waiting.join(10)
        assert found == [entry / "m.gguf"]


def test_a_copy_that_was_taken_from_its_users_is_not_waited_for(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "_LOOK_S", 0.001)
    source = made(tmp_path / "m.gguf")
    copy = node.stage().copy(source)
    shutil.rmtree(copy.parent)
    with pytest.raises(NotStagedError, match="removed while another launch uses it"):
        node.stage().copy(source)


def test_what_a_killed_launch_left_takes_no_room_of_its_own_copy(
    node: Node, tmp_path: Path
) -> None:
    other = node.stage(limit_mib=3)
    other.copy(made(tmp_path / "other.gguf", MIB))
    other.close()
    source = made(tmp_path / "m.gguf", 2 * MIB)
    left = node.folder / f".{original(source).entry}.part" / "m.gguf"
    made(left, 2 * MIB)
    left.parent.with_name(f"{original(source).entry}.lock").touch()
    node.stage(limit_mib=3).copy(source)
    assert node.copies() == {"m.gguf", "other.gguf"}


def test_those_not_used_for_the_longest_time_make_room(node: Node, tmp_path: Path) -> None:
    for name in "abc":
        stage = node.stage(limit_mib=3)
        stage.copy(made(tmp_path / name, MIB))
        stage.close()
        time.sleep(0.02)
    again = node.stage(limit_mib=3)
    again.copy(tmp_path / "a")  # used last
    again.close()
    node.stage(limit_mib=3).copy(made(tmp_path / "d", 2 * MIB - 1))
    assert node.copies() == {"a", "d"}


def test_what_is_used_is_never_removed(node: Node, tmp_path: Path) -> None:
    used = node.stage(limit_mib=2)
    kept = used.copy(made(tmp_path / "a", MIB))
    with pytest.raises(NotStagedError, match="other launches"):
        node.stage(limit_mib=2).copy(made(tmp_path / "b", MIB + 1))
    assert kept.exists()
    used.close()
    node.stage(limit_mib=2).copy(tmp_path / "b")
    assert node.copies() == {"b"}
    with pytest.raises(NotStagedError, match=r"limit is 0\.0 GiB"):
        node.stage(limit_mib=2).copy(made(tmp_path / "c", 3 * MIB))


def test_a_full_disk(node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "SPARE_BYTES", 2**60)
    with pytest.raises(NotStagedError, match="no room"):
        node.stage().copy(made(tmp_path / "a"))
    assert node.copies() == set()


def test_a_stop_ends_the_copying_and_leaves_nothing(node: Node, tmp_path: Path) -> None:
    source = made(tmp_path / "m.gguf", 40 * MIB)
    asked = iter([False, True])
    with pytest.raises(CancelledError):
        node.stage(lambda: next(asked)).copy(source)
    assert [one.name for one in node.folder.iterdir() if one.suffix != ".lock"] == []
    assert node.stage().copy(source).stat().st_size == 40 * MIB


def test_what_a_killed_launch_left_is_no_copy(node: Node, tmp_path: Path) -> None:
    source = made(tmp_path / "m.gguf")
    made(node.folder / f".{original(source).entry}.part" / "m.gguf", 10)
    node.folder.chmod(0o700)
    assert node.stage().copy(source).stat().st_size == 1000
    assert list(node.folder.glob(".*")) == []


def test_a_stop_while_another_launch_copies(node: Node, tmp_path: Path) -> None:
    source = made(tmp_path / "m.gguf", 20 * MIB)
    begun, go = threading.Event(), threading.Event()

    def slow() -> bool:
        begun.set()
        go.wait(20)
        return False

    copying = threading.Thread(target=lambda: node.stage(slow).copy(source), daemon=True)
    copying.start()
    assert begun.wait(20)
    with pytest.raises(CancelledError):
        node.stage(lambda: True).copy(source)
    go.set()
    copying.join(20)
    assert node.copies() == {"m.gguf"}


def test_folders_that_are_not_to_be_trusted(node: Node, tmp_path: Path) -> None:
    source = made(tmp_path / "m.gguf")

    def refused(folder: str, why: str) -> None:
        with pytest.raises(NotStagedError, match=why):
            node.stage(folder=folder).copy(source)

    refused("relative", "no folder")
    refused("/tmp/$NOT_SET_ANYWHERE/x", "no folder")
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    refused(str(open_to_all), "chmod 700")
    (tmp_path / "link").symlink_to(tmp_path)
    refused(str(tmp_path / "link"), "not a folder of this user")
    made(tmp_path / "file")
    refused(str(tmp_path / "file"), "File exists")


def test_variables_of_the_job_are_filled_in(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NODE_SCRATCH", str(tmp_path / "here"))
    copy = node.stage(folder="$NODE_SCRATCH/mt").copy(made(tmp_path / "m.gguf"))
    assert copy.is_relative_to(tmp_path / "here" / "mt")


def test_only_what_comes_over_the_network_is_copied(node: Node, tmp_path: Path) -> None:
    source = made(tmp_path / "m.gguf")
    wished = replace(node.wished, when="network")

    def on(kinds: dict[Path, str]) -> Stage:
        return Stage(wished, node.said.append, kind_of=lambda path: kinds[path])

    with pytest.raises(NotStagedError, match="own ext4"):
        on({source: "ext4", node.folder: "ext4"}).copy(source)
    with pytest.raises(NotStagedError, match="in memory"):
        on({source: "nfs4", node.folder: "tmpfs"}).copy(source)
    assert on({source: "lustre", node.folder: "xfs"}).copy(source).exists()


SPEC = launch_spec(
    engine="vllm", runtime="apptainer", source=Source("hub", "org/name", revision="main")
)


def test_a_hubs_model_only_when_it_is_whole_in_the_cache(node: Node, tmp_path: Path) -> None:
    spec = replace(SPEC, site=replace(SPEC.site, cache=str(tmp_path)))
    model = tmp_path / "huggingface" / "hub" / "models--org--name"
    folder = model / "snapshots" / "c0ffee"
    at = node.stage()

    def source() -> Source:
        return stage_weights(spec, at, node.said.append)

    assert source() == spec.source
    made(model / "refs" / "main").write_text("c0ffee")
    made(folder / "config.json")
    assert source() == spec.source, "its weights are not there yet"
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    made(folder / "1.safetensors")
    assert source() == spec.source, "one of its files is not there yet"
    made(folder / "2.safetensors")
    found = source()
    assert (found.kind, found.revision) == ("path", None)
    assert {one.name for one in Path(found.value).iterdir()} == {
        *("config.json", "model.safetensors.index.json", "1.safetensors", "2.safetensors")
    }
    assert stage_weights(replace(spec, engine="llamacpp"), at, node.said.append) == spec.source


def test_what_cannot_be_copied_is_read_where_it_is(node: Node, tmp_path: Path) -> None:
    at = node.stage()
    assert stage_image(None, at, node.said.append) is None
    assert stage_image(str(tmp_path), at, node.said.append) == str(tmp_path)
    spec = replace(SPEC, source=Source("path", str(tmp_path / "gone.gguf")))
    assert stage_weights(spec, at, node.said.append) == spec.source
    assert "read where it is" in node.said[-1]
    image = made(tmp_path / "i.sif")
    assert stage_image(str(image), at, node.said.append) != str(image)


MOUNTS = """\
1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
2 1 0:50 / /home rw - nfs4 server:/home rw,vers=4.2
3 2 8:2 / /home/local rw - xfs /dev/sdb rw
4 1 0:60 / /lustre/my\\040project rw - lustre mgs:/fs rw
5 1 0:70 / /scratch rw - tmpfs tmpfs rw
6 1 8:3 / /scratch rw shared:5 master:1 - xfs /dev/nvme0n1 rw
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/opt/x", "ext4"),
        ("/home/me/m.gguf", "nfs4"),
        ("/home/local/m.gguf", "xfs"),
        ("/home/locally", "nfs4"),
        ("/homeless", "ext4"),
        ("/lustre/my project/m", "lustre"),
        ("/scratch", "xfs"),  # the last of two on one folder hides the first
    ],
)
def test_which_filesystem(path: str, kind: str) -> None:
    assert filesystem(path, MOUNTS) == kind
    assert (kind in NETWORK) == (kind in {"nfs4", "lustre"})


@given(st.text(max_size=200))
def test_any_mountinfo(text: str) -> None:
    assert isinstance(filesystem("/a/b", text), str)


def test_the_real_one() -> None:
    assert filesystem("/proc/self", Path("/proc/self/mountinfo").read_text()) == "proc"
