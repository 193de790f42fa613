"""ModelTainer's Python environment on the hosts: its dependencies, and the source tree beside it.

The environment is built with the flavour's own Python and kept; the source tree is only mounted,
so that a change in the code is seen at once.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from shlex import quote
from urllib.parse import urlsplit

from tests.cluster.layers import Layer

SOURCE = Path(__file__).resolve().parents[2]
SOURCE_THERE = "/opt/modeltainer-src"
EXTRA_PACKAGES = ("openai>=1.60", "cryptography>=42")
"""Besides what ModelTainer needs: the client that the tests talk through, and the extra ``tls``."""

SCRIPT = f"""
python3 -m venv /opt/modeltainer
/opt/modeltainer/bin/python -m pip install --no-cache-dir {{}}
echo {SOURCE_THERE} >"$(echo /opt/modeltainer/lib/python3*/site-packages)/modeltainer-src.pth"
cat >/opt/modeltainer/bin/mt-submit <<'EOF'
#!/opt/modeltainer/bin/python
import sys

from modeltainer.cli.entry import main

sys.exit(main())
EOF
chmod 755 /opt/modeltainer/bin/mt-submit
"""


def environment_layer(system: Layer) -> Layer:
    """The layer with ``/opt/modeltainer``: a virtual environment with the dependencies."""
    wanted = (*dependencies(SOURCE / "pyproject.toml"), *EXTRA_PACKAGES)
    script = SCRIPT.format(" ".join(quote(name) for name in wanted))
    return Layer(
        system.name.replace("system", "environment"),
        system,
        script,
        prelude=pip_settings(),
        binds=tuple((path, str(path)) for path in pip_paths()),
    )


def dependencies(pyproject: Path) -> list[str]:
    """``[project] dependencies``; Python 3.10 has no TOML reader, so pip's own is used there."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        from pip._vendor import tomli as tomllib
    found = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    return [str(name) for name in found]


def pip_settings() -> str:
    """This machine's pip settings, from its files and environment, as ``export`` lines."""
    return "".join(f"export {name}={quote(value)}\n" for name, value in pip_variables().items())


def pip_variables() -> dict[str, str]:
    """This machine's pip settings as variables, for a pip that sees none of its files."""
    return {
        "PIP_" + key.upper().replace("-", "_"): " ".join(value.split())
        for key, value in sorted(_pip_config().items())
    }


def pip_paths() -> list[Path]:
    """Local folders and files which those settings name: indexes, wheels, certificates."""
    paths = []
    for word in " ".join(_pip_config().values()).split():
        path = Path(urlsplit(word).path if word.startswith("file:") else word)
        if path.is_absolute() and path.exists():
            # An index of links needs what they lead to as well.
            paths.append(path.parent if path.name == "simple" else path)
    return sorted(set(paths))


def _pip_config() -> dict[str, str]:
    """pip's settings by name; the environment's win over the files', as in pip itself."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
    ).stdout
    found: dict[str, str] = {}
    for line in listed.splitlines():
        match = re.fullmatch(r"(global|install|site|user|:env:)\.([\w-]+)='(.*)'", line)
        if match and (match[1] == ":env:" or match[2] not in found):
            found[match[2]] = match[3].encode().decode("unicode_escape")
    return found
