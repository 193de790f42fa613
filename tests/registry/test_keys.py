"""Client keys as files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modeltainer.registry import keys
from modeltainer.registry.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "registry")


def test_the_plain_key_is_nowhere_on_disk(layout: Layout) -> None:
    record, plain = keys.create(layout, "me", models=["m"])
    assert plain.startswith("mt-")
    [file] = layout.keys.iterdir()
    assert file.name == f"{record.id}.json"
    assert file.stat().st_mode & 0o777 == 0o600
    assert plain[3:] not in file.read_text()
    assert keys.list_keys(layout) == [record]


def test_revoke_by_id_or_by_a_name_that_is_one_keys(layout: Layout) -> None:
    one, _ = keys.create(layout, "a")
    keys.create(layout, "b")
    keys.create(layout, "b")
    assert keys.revoke(layout, "b") is None
    assert keys.revoke(layout, "a") == one
    assert keys.revoke(layout, one.id) is None
    assert [record.name for record in keys.list_keys(layout)] == ["b", "b"]


def test_ring_follows_the_folder(layout: Layout) -> None:
    ring = keys.KeyRing(layout)
    assert not ring.refresh()  # no folder yet
    record, plain = keys.create(layout, "me")
    assert ring.find(plain) is None
    assert ring.refresh()
    assert not ring.refresh()
    assert ring.find(plain) == record
    assert ring.find(plain + "x") is None
    assert ring.find("mt-\udce4") is None
    keys.revoke(layout, record.id)
    assert ring.refresh()
    assert ring.find(plain) is None


def test_ring_knows_the_time(layout: Layout) -> None:
    now = 1000.0
    ring = keys.KeyRing(layout, clock=lambda: now)
    _, plain = keys.create(layout, "me", expires_unix=1001.0)
    ring.refresh()
    assert ring.find(plain) is not None
    now = 1001.0
    assert ring.find(plain) is None


def test_foreign_and_damaged_files_are_no_keys(layout: Layout) -> None:
    record, plain = keys.create(layout, "me")
    file = layout.keys / f"{record.id}.json"
    data = file.read_bytes()
    (layout.keys / "kaaaaaaaa.json").write_bytes(data)  # says it is another
    (layout.keys / "notes.json").write_bytes(data)
    (layout.keys / "kbbbbbbbb.json").symlink_to(file)
    ring = keys.KeyRing(layout)
    ring.refresh()
    assert len(ring) == 1
    file.chmod(0o666)  # anybody could have put their own hash in
    again = keys.KeyRing(layout)
    again.refresh()
    assert again.find(plain) is None
    file.chmod(0o600)
    file.write_bytes(data[:-20])
    assert keys.list_keys(layout) == []
    if os.getuid() == 0:
        file.write_bytes(data)
        os.chown(file, 12345, -1)
        assert keys.list_keys(layout) == []
