"""A newcomer's path: the quickstart pages, typed as they stand, from nothing but a checkout.

A home with nothing in it, a copy of the tracked files, and environments that the pages' own
commands make. Docker's part is played by a stand-in: see tests/compose/container.py.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.newcomer import Newcomer, checkout
from tests.cluster.cluster import Cluster
from tests.cluster.fixtures import require_cluster
from tests.cluster.wheels import wheels
from tests.compose.container import Containers
from tests.compose.image import gateway_layers, llama_layers
from tests.compose.plugin import config, plugin
from tests.compose.workstation import ask, until
from tests.docs.code_blocks import ROOT, fenced, typed
from tests.tiny_gguf import write_tiny_gguf

QUICKSTART = ROOT / "docs" / "quickstart"
REQUIRE_DOCKER = "MODELTAINER_REQUIRE_DOCKER"
"""Set to 1 where Docker may build and run images."""
PATH = "/usr/local/bin:/usr/bin:/bin"


@pytest.fixture
def index(cluster: Cluster) -> Iterator[str]:
    """A folder of wheels, which is the package index of the cluster's hosts."""
    folder = cluster.shared / "wheels"
    shutil.copytree(wheels("sid"), folder)
    yield "/shared/wheels"
    shutil.rmtree(folder)


def environment(home: str, index: str) -> dict[str, str]:
    """What a login has with the host's own Python and nothing of ours."""
    return {
        "HOME": home,
        "PATH": PATH,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": index,
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


@pytest.mark.cluster
def test_on_a_cluster(cluster: Cluster, index: str) -> None:
    home, there = cluster.shared / "home/alice/newcomer", "/shared/home/alice/newcomer"
    cluster.run("login", ["mkdir", "-p", f"{there}/ModelTainer"])
    checkout(home / "ModelTainer")
    cluster.run("login", ["chown", "-R", "alice:", there], user="root")
    script = f"set -ex\ncd {there}/ModelTainer\n{typed(QUICKSTART / 'cluster.md')}"
    done = cluster.run(
        "login",
        ["bash"],
        input=f"{script}\ntype -p mt-submit\n",
        timeout=300,
        env=environment(there, index),
    )
    assert done.stdout.endswith(f"{there}/modeltainer/bin/mt-submit\n")
    assert "ready" in done.stderr
    assert "ssh -N" in done.stdout
    assert re.search(r"^mt-\S+$", done.stdout, re.MULTILINE)
    assert cluster.run("login", ["squeue", "--me", "-h"]).stdout == ""
    assert not list((home / "modeltainer-registry" / "launches").iterdir())


EDITOR = """\
#!/bin/bash
# Somebody who puts a small model in the worked example's place.
set -e
grep --quiet '^  qwen2.5-7b:' "$1"
cat > "$1" <<'END'
site:
  images: {llamacpp: /shared/images/llama.cpp-cpu.sif}
models:
  qwen2.5-7b:
    engine: llamacpp
    source: /shared/models/gemma-3-270m.gguf
    context: 1024
    resources: {cpus: 2, memory: 2G, walltime: 20}
END
"""


@pytest.mark.cluster
def test_the_readme_on_a_cluster(cluster: Cluster, index: str) -> None:
    home, there = cluster.shared / "home/alice/reader", "/shared/home/alice/reader"
    cluster.run("login", ["mkdir", "-p", f"{there}/ModelTainer"])
    checkout(home / "ModelTainer")
    (home / "editor").write_text(EDITOR)
    (home / "editor").chmod(0o755)
    cluster.run("login", ["chown", "-R", "alice:", there], user="root")
    [block] = [one for one in fenced(ROOT / "README.md", "sh") if "mt-submit tunnel" in one]
    install, rest = block.split("\n", 1)
    assert install.startswith("pip install .")
    before = f"cd {there}/ModelTainer\npython3 -m venv {there}/env\n. {there}/env/bin/activate\n"
    after = "mt-submit chat qwen2.5-7b Hello --max-tokens 4\nmt-submit stop --all\n"
    done = cluster.run(
        "login",
        ["bash"],
        input=f"set -ex\n{before}{install}\n{rest}{after}mt-submit gateway stop\n",
        timeout=300,
        env={**environment(there, index), "EDITOR": f"{there}/editor"},
    )
    assert "1 model" in done.stdout + done.stderr
    assert "ready" in done.stderr
    assert "ssh -N" in done.stdout
    assert cluster.run("login", ["squeue", "--me", "-h"]).stdout == ""


@pytest.mark.cluster
def test_for_an_admin(cluster: Cluster, index: str) -> None:
    """The first half is typed by root, what a user does by bob."""
    page = typed(QUICKSTART / "admin.md")
    installs, export, uses = page.partition("export PATH=")
    assert "pip install" in installs
    assert "mt-submit" not in installs
    checkout(cluster.shared / "checkout")
    home = "/shared/home/bob/newcomer"
    cluster.run("login", ["mkdir", home], user="bob")
    try:
        cluster.run(
            "login",
            ["bash"],
            user="root",
            input=f"set -ex\ncd /shared/checkout\n{installs}",
            timeout=300,
            env=environment("/root", index),
        )
        done = cluster.run(
            "login",
            ["bash"],
            user="bob",
            input=f"set -ex\ncd\n{export}{uses}",
            timeout=300,
            env=environment(home, index),
        )
    finally:
        for made in ("checkout", "modeltainer", "modulefiles", "home/bob/newcomer"):
            shutil.rmtree(cluster.shared / made, ignore_errors=True)
    assert "models.yaml: good, 1 model" in done.stdout + done.stderr
    assert "failure" not in done.stdout
    assert "01:00:00" in done.stdout  # of the site file
    assert cluster.run("login", ["squeue", "--me", "-h"], user="bob").stdout == ""


@pytest.mark.model
def test_on_a_laptop(tmp_path: Path) -> None:
    done = Newcomer(tmp_path).types(typed(QUICKSTART / "laptop.md"), timeout_s=900)
    assert done.returncode == 0, done.stderr
    assert "+ make demo" in done.stderr
    assert "ready" in done.stderr
    assert (tmp_path / "llm" / "models.yaml").exists()


@pytest.mark.cluster
def test_on_a_workstation(tmp_path: Path, docker: StandIn) -> None:
    """``make image`` apart, whose steps the stand-in's images are made by."""
    (tmp_path / "models").mkdir()
    write_tiny_gguf(tmp_path / "models" / "small.gguf", context=2048)
    before, first, after = typed(QUICKSTART / "workstation.md").partition("docker compose")
    assert before.startswith("make image\n")
    before = before.removeprefix("make image\n")
    if os.getuid() == 0:  # the services are nobody's but their user's
        assert "compose small" in before
        before = before.replace("compose small", "compose small --user 10001:10001")
    done = Newcomer(tmp_path).types(before, timeout_s=300)
    assert done.returncode == 0, done.stderr
    seen = [docker.types(line) for line in (first + after).splitlines()]
    assert seen == ["up", "exec", "curl", "down"]


@pytest.mark.skipif(
    os.environ.get(REQUIRE_DOCKER) != "1",
    reason=f"builds and runs images with Docker, where {REQUIRE_DOCKER}=1",
)
@pytest.mark.timeout(1500)
def test_on_a_workstation_with_docker(tmp_path: Path) -> None:
    """Every line as it stands, by a user who is not root: what CI does on a machine with Docker."""
    assert os.getuid() != 0
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    write_tiny_gguf(home / "models" / "small.gguf", context=2048)
    # A reader waits until the services are up.
    (home / ".curlrc").write_text("silent\nfail\nretry = 120\nretry-delay = 1\nretry-all-errors\n")
    (home / "page.sh").write_text(with_the_key_copied(typed(QUICKSTART / "workstation.md")))
    try:
        # From a file: docker compose exec would read the rest of a script on standard input.
        done = Newcomer(home).types("bash -exo pipefail ~/page.sh </dev/null", timeout_s=1200)
    finally:
        if (home / "llm" / "compose.yaml").exists():
            Newcomer(home).types("cd ~/llm && docker compose --profile cpu down", timeout_s=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"id":"small"' in done.stdout
    assert '"completion_tokens"' in done.stdout


def with_the_key_copied(page: str) -> str:
    """The page with the key that it has made in place of its dots, and a question to the model
    before all is taken down."""
    create, ask, down = "key create me\n", "curl http://127.0.0.1:8000/v1/models", "docker compose"
    assert page.count(create) == page.count(ask) == 1
    page = page.replace(create, "key create me | tee ~/key\n")
    page = page.replace("mt-…", "$(grep -o '^mt-[^[:space:]]*' ~/key)")
    before, _, last = page.rpartition(down)
    header = before.splitlines()[-1].partition(" -H ")[2]
    body = json.dumps({"model": "small", "prompt": "One", "max_tokens": 4})
    url = "http://127.0.0.1:8000/v1/completions"
    return f"{before}curl {url} -H {header} --json {shlex.quote(body)}\n{down}{last}"


@pytest.fixture
def docker(tmp_path: Path) -> Iterator[StandIn]:
    require_cluster()
    made = StandIn(tmp_path / "llm", tmp_path / "run")
    yield made
    made.close()


class StandIn:
    """A shell with Docker: Compose's plugin judges each line, and what it asks for is done to the
    tests' own containers."""

    def __init__(self, folder: Path, run: Path) -> None:
        self._folder, self._run = folder, run
        self._project: Containers | None = None
        self._key = ""

    def types(self, line: str) -> str:
        """Do what a line says; returns what it was."""
        words = shlex.split(line)
        if words[0] == "curl":
            self._curl(line)
            return "curl"
        assert words[:2] == ["docker", "compose"]
        self._understood(words[2:])
        profiles, rest = [], words[2:]
        while rest[0] == "--profile":
            profiles.append(rest[1])
            rest = rest[2:]
        if rest == ["up", "-d"]:
            self._up(profiles)
        elif rest[0] == "exec":
            said = self.project.execute(rest[1], rest[2:]).stdout
            [self._key] = re.findall(r"^mt-\S+$", said, re.MULTILINE)
        else:
            assert rest == ["down"]
            for name in self.project.services:
                self.project.stop(name)
        return rest[0]

    @property
    def project(self) -> Containers:
        """What ``up`` has started."""
        assert self._project is not None
        return self._project

    def close(self) -> None:
        """End what is left."""
        if self._project is not None:
            self._project.close()

    def _up(self, profiles: list[str]) -> None:
        self._project = Containers(config(self._folder / "compose.yaml", profiles), self._run)
        for name in self.project.services:
            layers = llama_layers() if name.startswith("engine-") else gateway_layers()
            self.project.start(name, layers)
        until(lambda: self.project.healthy("gateway"))

    def _curl(self, line: str) -> None:
        command = [*self.project.enter(), "bash", "-c", line.replace("mt-…", self._key)]
        assert '"id":"small"' in subprocess.check_output(command, text=True)
        until(lambda: ask(self.project, self._key, "small").returncode == 0)

    def _understood(self, words: list[str]) -> None:
        """Docker's plugin takes the words as they stand, and fails for want of Docker alone."""
        done = subprocess.run(
            [str(plugin()), *words],
            cwd=self._folder,
            env={"PATH": PATH, "HOME": str(self._folder), "DOCKER_HOST": "unix:///nowhere.sock"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Docker daemon" in done.stderr, done.stderr
