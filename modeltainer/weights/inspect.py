"""From what a user names (a folder, a file, a hub id) to a :class:`ModelShape`, without network."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from modeltainer.weights.config_json import UnknownShapeError, read_config, with_weights
from modeltainer.weights.gguf import BadGgufError
from modeltainer.weights.gguf_shape import read_gguf
from modeltainer.weights.hub_cache import find_snapshot
from modeltainer.weights.safetensors import BadSafetensorsError, read_folder
from modeltainer.weights.shape import ModelShape

_PROJECTORS = "mmproj"


class NoWeightsError(ValueError):
    """Nothing there that tells the model's shape; the message says what to do."""


def read_path(path: Path) -> ModelShape:
    """A ``.gguf``, a ``config.json``, or a folder with either.

    Raises:
        NoWeightsError: not there, unreadable, damaged, or without a shape.
    """
    try:
        return _read(path)
    except (BadGgufError, BadSafetensorsError) as error:
        raise NoWeightsError(f"{path}: {error}") from error
    except UnknownShapeError as error:
        raise NoWeightsError(str(error)) from error
    except OSError as error:
        raise NoWeightsError(f"{path} cannot be read: {error.strerror or error}") from error


def read_hub(
    repository: str,
    *,
    revision: str | None = None,
    file: str | None = None,
    folders: Iterable[Path],
) -> ModelShape:
    """A hub id, when a local cache has it; ``file`` is one GGUF of it.

    Raises:
        NoWeightsError: no cache has it, or what is there does not tell.
    """
    snapshot = find_snapshot(repository, revision=revision, folders=folders)
    if snapshot is None:
        raise NoWeightsError(
            f"{repository} is in no local Hugging Face cache; fetch its config.json (hf download "
            f"{repository} config.json) or give a path"
        )
    return read_path(snapshot / file if file else snapshot)


def _read(path: Path) -> ModelShape:
    if not path.exists():
        raise NoWeightsError(f"{path} does not exist")
    if not path.is_dir():
        return read_gguf(path) if path.suffix == ".gguf" else read_config(path)
    if (path / "config.json").exists():
        shape = read_config(path / "config.json")
        weights = read_folder(path)
        if weights is not None:
            return with_weights(shape, weights.size_bytes, "the safetensors headers")
        return shape
    found = sorted(one for one in path.glob("*.gguf") if not one.name.startswith(_PROJECTORS))
    if not found:
        raise NoWeightsError(f"{path} has neither a config.json nor a .gguf")
    names = {one.name.split("-00001-of-")[0] for one in found if "-of-" not in one.name} | {
        one.name for one in found if "-00001-of-" in one.name
    }
    if len(names) > 1:
        raise NoWeightsError(
            f"{path} has {len(names)} models; name one of them: "
            + ", ".join(one.name for one in found[:4])
        )
    return read_gguf(found[0])
