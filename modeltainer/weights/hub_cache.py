"""Models that are already in a Hugging Face cache, found without network.

Layout: huggingface_hub's docs, "Understand caching": ``hub/models--ORG--NAME/refs/REVISION`` holds
a commit, ``snapshots/COMMIT/`` its files. Environment: ``HF_HUB_CACHE``, ``HF_HOME``,
``XDG_CACHE_HOME``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path


def hub_folders(environ: Mapping[str, str] | None = None) -> tuple[Path, ...]:
    """Where the hub's cache may be for this user, first choice first."""
    environ = os.environ if environ is None else environ
    found = []
    if environ.get("HF_HUB_CACHE"):
        found.append(Path(environ["HF_HUB_CACHE"]))
    if environ.get("HF_HOME"):
        found.append(Path(environ["HF_HOME"]) / "hub")
    cache = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~")) / ".cache")
    found.append(Path(cache).expanduser() / "huggingface" / "hub")
    return tuple(dict.fromkeys(found))


def find_snapshot(
    repository: str, *, revision: str | None = None, folders: Iterable[Path]
) -> Path | None:
    """The newest local folder of ``org/name``; None when no cache has it.

    Args:
        revision: branch, tag or commit; None is ``main``.
        folders: caches to look in (:func:`hub_folders`).
    """
    wanted = revision or "main"
    for folder in folders:
        root = folder / ("models--" + repository.replace("/", "--"))
        try:
            commit = (root / "refs" / wanted).read_text().strip()
        except OSError:
            commit = wanted
        snapshot = root / "snapshots" / commit
        if commit and snapshot.is_dir():
            return snapshot
    return None
