"""Images: from a URI to one SIF file in the shared cache, fetched once for all nodes."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import secrets
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

from modeltainer.apptainer.command import tool
from modeltainer.apptainer.lock import shared_lock

_URI = re.compile(
    r"^(docker|oras|library|https?|shub|docker-archive|oci|docker-daemon|oci-archive):"
)
PART = ".part.sif"
_SIF_MAGIC = b"SIF_MAGIC"
_SIF_MAGIC_AT = 32
"""The magic stands behind the 32 bytes of the launch line (sylabs/sif, pkg/sif/sif.go)."""


class ImageError(RuntimeError):
    """An image is not there, is no SIF, or cannot be fetched.

    ``code`` is stable (``no-such-image``, ``no-apptainer``, ``pull-failed``, ``pull-cancelled``).
    """

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(f"{message}; {hint}" if hint else message)
        self.code, self.message, self.hint = code, message, hint


def is_uri(image: str) -> bool:
    """A URI that has to be pulled, rather than a path."""
    return _URI.match(image) is not None


def cache_path(image: str, cache: Path) -> Path:
    """Where the SIF of a URI lies: its name for people, a hash so that no two clash."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", image.partition(":")[2].strip("/"))[-80:].strip("-.")
    digest = hashlib.sha256(image.encode()).hexdigest()[:12]
    return cache / "images" / f"{name or 'image'}-{digest}.sif"


def cached(image: str, cache: Path) -> Path | None:
    """The SIF where it is already there; a path that is given always counts as there."""
    if not is_uri(image):
        return Path(image).expanduser()
    path = cache_path(image, cache)
    return path if path.is_file() else None


def check_file(path: Path) -> None:
    """A local image can be used.

    Raises:
        ImageError: it is missing or neither SIF nor a sandbox folder.
    """
    if path.is_dir():
        return
    try:
        with path.open("rb") as file:
            head = file.read(_SIF_MAGIC_AT + len(_SIF_MAGIC))
    except OSError as error:
        raise ImageError(
            "no-such-image",
            f"the image {path} cannot be read: {error.strerror or error}",
            "check image: in models.yaml, or give a URI such as docker://…, which is pulled",
        ) from error
    if head[_SIF_MAGIC_AT:] != _SIF_MAGIC:
        raise ImageError(
            "no-such-image", f"{path} is not a SIF image", "build or pull it again with apptainer"
        )


def pull(
    image: str,
    cache: Path,
    *,
    progress: Callable[[str], None] = lambda line: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Path:
    """Fetch a URI into the cache, once: whoever else wants it at the same moment, on whichever
    node, waits for the first. A fetch that is interrupted leaves nothing; one that is killed leaves
    a part, which the next removes.

    Args:
        progress: called with Apptainer's own lines, and with whom we wait for.
        cancelled: polled; true gives up.

    Raises:
        ImageError: with Apptainer's own words.
        OSError: the cache folder cannot be written.
    """
    if not is_uri(image):
        path = Path(image).expanduser()
        check_file(path)
        return path
    path = cache_path(image, cache)
    if path.is_file():
        return path
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with shared_lock(
            path.with_suffix(".lock"),
            on_wait=lambda holder: progress(f"waiting for {holder}, which pulls it already"),
            cancelled=cancelled,
        ):
            if not path.is_file():
                for part in path.parent.glob(f".{glob.escape(path.stem)}.*{PART}"):
                    part.unlink(missing_ok=True)  # of one that was killed
                _fetch(image, path, cache, progress, cancelled)
    except KeyboardInterrupt as error:
        if cancelled():
            raise ImageError("pull-cancelled", f"the pull of {image} was cancelled") from error
        raise
    return path


def _fetch(
    image: str,
    path: Path,
    cache: Path,
    progress: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> None:
    program = tool()
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(6)}{PART}")
    environment = {"APPTAINER_CACHEDIR": str(cache / "apptainer"), **os.environ}
    try:
        process = subprocess.Popen(
            [program, "pull", "--disable-cache", str(temporary), image],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except FileNotFoundError as error:
        raise ImageError(
            "no-apptainer",
            "Apptainer is not on PATH",
            "load its module (module load apptainer), or use runtime: native",
        ) from error
    lines: list[str] = []
    reader = threading.Thread(target=_read_lines, args=(process, lines, progress), daemon=True)
    reader.start()
    try:
        while process.poll() is None:
            if cancelled():
                raise KeyboardInterrupt
            time.sleep(0.1)
        reader.join()
        if process.returncode != 0:
            raise _pull_error(image, lines)
        temporary.rename(path)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        temporary.unlink(missing_ok=True)


def _read_lines(
    process: subprocess.Popen[str], lines: list[str], progress: Callable[[str], None]
) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())
        progress(lines[-1])


def _pull_error(image: str, lines: list[str]) -> ImageError:
    text = "\n".join(lines)
    last = next((line for line in reversed(lines) if line.strip()), "no output")
    if re.search(
        r"manifest unknown|name unknown|\b404\b|requested access to the resource is denied",
        text,
        re.IGNORECASE,
    ):
        return ImageError(
            "no-such-image", f"there is no image {image}: {last}", "check its name and tag"
        )
    if re.search(r"no space left|disk quota", text, re.IGNORECASE):
        return ImageError(
            "disk-full", f"no space to pull {image}", "free space in site.cache and in /tmp"
        )
    return ImageError(
        "pull-failed",
        f"apptainer could not pull {image}: {last}",
        "does this node reach the registry? Try mt-submit pull on the login node",
    )
