"""bob against alice: another user of the same login and compute nodes, with a shell on both."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from modeltainer.registry.layout import new_launch_id
from tests.acceptance.site import Account, account
from tests.cluster.cluster import Cluster

pytestmark = pytest.mark.cluster


@dataclass
class Scene:
    """alice serves a model and runs a gateway on a TCP port of the login node."""

    cluster: Cluster
    alice: Account
    node: str
    engine: str
    """The engine's address, ``host:port``."""
    gateway: str
    secrets: list[str]
    """Everything that bob must not learn: the engine's key, the client's key, the owner's token."""
    job: str

    def bob(self, host: str, line: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a shell line as bob."""
        return self.cluster.run(host, ["bash", "-c", line], user="bob", check=False, input=given)


@pytest.fixture(scope="module")
def scene(cluster: Cluster) -> Iterator[Scene]:
    alice = account(cluster, "alice", "neighbours", ports="21000-21010")
    # A careless umask must not matter.
    alice.sh("umask 000; mt-submit up tiny --wait", timeout=180)
    alice.sh("umask 000; mt-submit gateway start --listen tcp --port 0")
    key = alice.mt("key create laptop").stdout.strip()
    [row] = alice.ls()
    [secret] = (alice.registry / "launches").glob("*/secret.json")
    token = json.loads((alice.registry / "gateway" / "gateway.login.json").read_text())["token"]
    status = json.loads(alice.mt("gateway status --json").stdout)
    yield Scene(
        cluster,
        alice,
        row["node"],
        row["url"].removeprefix("http://"),
        status["url"].removesuffix("/v1"),
        [json.loads(secret.read_text())["key"], key, token],
        row["job_id"],
    )
    alice.mt("gateway stop")
    alice.mt("stop --all")
    alice.assert_nothing_left()


def test_the_engines_port_opens_nothing_without_its_key(scene: Scene) -> None:
    for path in ("v1/chat/completions", "v1/completions", "slots", "props", "metrics", "tokenize"):
        for key in ("", "mte-guess", scene.secrets[1]):
            said = scene.bob(
                scene.node,
                f"curl -s -o /dev/null -w '%{{http_code}}' -H 'Authorization: Bearer {key}' "
                f'-d \'{{"prompt":"x"}}\' http://{scene.engine}/{path}',
            )
            assert said.stdout in ("401", "404"), path


def test_guessing_the_gateways_keys(scene: Scene) -> None:
    said = scene.bob(
        "login",
        f"for n in $(seq 30); do curl -s -o /dev/null -w '%{{http_code}} ' "
        f'-H "Authorization: Bearer mt-$n" {scene.gateway}/v1/models; done; '
        f"curl -s -o /dev/null -w '%{{http_code}}' {scene.gateway}/admin/status",
    )
    assert said.stdout.split() == ["401"] * 31


def test_no_file_of_alices_is_bobs_to_read_or_write(scene: Scene) -> None:
    registry = f"{scene.alice.home}/registry"
    said = scene.bob("login", f"chmod -R a+rwx {registry}; find {registry} -mindepth 1")
    assert said.stdout == ""
    # Nor would they be if she opened the folders above. Logs lie in a folder that is closed.
    listed = scene.alice.sh(f"find {registry} -perm /077").stdout.splitlines()
    assert [path for path in listed if "/log/" not in path] == []
    assert scene.bob("login", f"ls {registry}/..").stdout == ""


def test_secrets_are_in_nobodys_command_line_environment_or_job(scene: Scene) -> None:
    patterns = "\n".join(scene.secrets) + "\n"
    for host in ("login", scene.node):
        line = "grep -lsFf - /proc/[0-9]*/cmdline /proc/[0-9]*/environ /proc/[0-9]*/maps"
        assert scene.bob(host, line, patterns).stdout == ""
        everything = scene.cluster.run(
            host, ["bash", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'"], "root", check=False
        ).stdout
        assert not [secret for secret in scene.secrets if secret in everything]
    job = scene.alice.sh(
        f"scontrol show job -dd {scene.job}; scontrol write batch_script {scene.job} -"
    ).stdout
    assert "#SBATCH" in job
    assert not [secret for secret in scene.secrets if secret in job]


def test_logs_hold_no_secret(scene: Scene) -> None:
    patterns = "|".join(scene.secrets)
    registry = f"{scene.alice.home}/registry"
    found = scene.alice.sh(
        f"grep -rlE '{patterns}' {registry} --include='*.log' --include='*.jsonl' "
        "--include='*.pkl' --include='*.sh'",
        check=False,
    )
    assert found.stdout == ""


def test_memory_of_alices_processes_is_closed(scene: Scene) -> None:
    pids = scene.cluster.run(scene.node, ["pgrep", "-u", "alice"], "root").stdout.split()
    assert pids
    for pid in pids:
        for file in ("environ", "mem", "fd", "root", "cwd"):
            said = scene.bob(scene.node, f"cat /proc/{pid}/{file} || ls /proc/{pid}/{file}/")
            assert said.stdout == "", file


def test_a_crash_of_alices_processes_leaves_no_core_file(scene: Scene) -> None:
    found = {}
    for host in ("login", scene.node):
        for name in ("llama-server", "modeltainer"):
            for pid in scene.cluster.run(
                host, ["pgrep", "-u", "alice", "-f", name], "root", check=False
            ).stdout.split():
                line = f"grep 'core file' /proc/{pid}/limits; tr '\\0' ' ' < /proc/{pid}/cmdline"
                said = scene.cluster.run(host, ["sh", "-c", line], "root", check=False).stdout
                limit, _, command = said.partition("\n")
                if command and not command.startswith(("srun", "slurmstepd")):
                    found[command] = limit.split()[4]
    assert any("llama-server" in command for command in found)
    assert any("gateway start" in command for command in found)
    assert {command: soft for command, soft in found.items() if soft != "0"} == {}


def test_bob_cannot_plant_a_record_in_alices_registry(scene: Scene) -> None:
    target = f"{scene.alice.home}/registry/endpoints/1.x-r0-aaaaaa.json"
    assert scene.bob("login", f"echo '{{}}' > {target}").returncode != 0


def test_a_record_planted_in_a_shared_registry_is_not_believed(scene: Scene) -> None:
    """alice opens her registry's endpoints to the group; bob sends her gateway to Slurm's port."""
    registry = f"{scene.alice.home}/registry"
    folders = f"$HOME {scene.alice.home} {registry} {registry}/endpoints {registry}/launches"
    scene.alice.sh(f"chgrp lab {folders} && chmod 2770 {folders}")
    launch_id = new_launch_id("stolen", 0)
    record = {
        "launch_id": launch_id,
        "model": "stolen",
        "replica": 0,
        "job_id": "1",
        "owner": "alice",
        "engine": "llamacpp",
        "runtime": "native",
        "state": "ready",
        "node": "login",
        "host": "login",
        "port": 6817,
        "schema": 1,
    }
    file = f"{registry}/endpoints/1.{launch_id}.json"
    secret = json.dumps({"key": "mte-bob", "nonce": "nonce-bob"})
    folder = f"{registry}/launches/{launch_id}"
    planted = scene.bob(
        "login",
        f"cat > {file} && mkdir {folder} && echo '{secret}' > {folder}/secret.json && "
        f"chmod 600 {folder}/secret.json && "
        f"ln -s ../launches/{scene.alice.ls()[0]['launch_id']}/secret.json "
        f"{registry}/endpoints/2.{launch_id}.json",
        json.dumps(record),
    )
    try:
        assert planted.returncode == 0, planted.stderr
        scene.alice.sh("sleep 2.5")
        status = json.loads(scene.alice.mt("gateway status --json").stdout)["status"]
        assert "stolen" not in status["models"]
        problems = status["registry_problems"]
        assert "uid 2002, which is not trusted" in problems[f"1.{launch_id}.json"]
        assert problems[f"2.{launch_id}.json"]
        assert scene.secrets[0] not in json.dumps(status)
        assert "ready" in scene.alice.mt("ls").stdout
    finally:
        scene.bob("login", f"rm -rf {folder} {registry}/endpoints/?.{launch_id}.json")
        scene.alice.sh(f"chmod 0700 {folders}")


@pytest.mark.parametrize(
    "trick",
    [
        "ln -s /shared/home/bob /tmp/modeltainer-2001",
        "mkdir -m 777 /tmp/modeltainer-2001",
        "touch /tmp/modeltainer-2001",
    ],
)
def test_a_planted_folder_for_the_socket_is_refused(scene: Scene, trick: str) -> None:
    host = next(node for node in scene.cluster.nodes if node != scene.node)
    assert scene.bob(host, trick).returncode == 0
    try:
        command = f"cd {scene.alice.home} && mt-submit gateway start --foreground --listen unix"
        said = scene.cluster.run(host, ["bash", "-lc", command], "alice", check=False)
        assert said.returncode != 0
        assert "/tmp/modeltainer-2001 is not a folder of yours (owner: uid 2002)" in said.stderr
    finally:
        scene.bob(host, "rm -rf /tmp/modeltainer-2001")


def test_alices_socket_is_closed_to_bob(scene: Scene) -> None:
    said = scene.bob(
        "login",
        "ls /tmp/modeltainer-2001; curl -s --unix-socket "
        "/tmp/modeltainer-2001/x.sock http://x/health",
    )
    assert said.stdout == ""
    assert "Permission denied" in said.stderr


def test_bobs_own_engine_on_alices_port_range_is_never_adopted(scene: Scene) -> None:
    """What answers on every other port of the range is bob's; alice's next replica ignores it."""
    serve = (
        "import http.server,threading\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(s): s.answer()\n"
        "    def do_POST(s): s.answer()\n"
        "    def answer(s):\n"
        '        b=b\'{"data":[{"id":"gemma"}],"choices":[{"text":"bob"}]}\'\n'
        "        s.send_response(200); s.send_header('content-length',str(len(b)))\n"
        "        s.end_headers(); s.wfile.write(b)\n"
        "for p in range(21000,21011):\n"
        "    try: u=http.server.ThreadingHTTPServer(('0.0.0.0',p),H)\n"
        "    except OSError: continue\n"
        "    threading.Thread(target=u.serve_forever).start()\n"
    )
    squatter = scene.cluster.popen(
        scene.node, ["/opt/modeltainer/bin/python", "-c", serve], user="bob"
    )
    try:
        scene.alice.sh("sleep 1")
        said = scene.alice.mt(
            f"up gemma --nodelist {scene.node} --wait --timeout 60", check=False, timeout=150
        )
        assert said.returncode != 0
        assert "every port from 21000 to 21010 is taken" in said.stderr
        status = json.loads(scene.alice.mt("gateway status --json").stdout)["status"]
        assert [one["model"] for one in status["endpoints"] if one["routed"]] == ["tiny"]
    finally:
        squatter.kill()
        squatter.wait(10)
        scene.alice.mt("stop gemma", check=False)
