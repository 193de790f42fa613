"""Runs services of a compose project as Docker would, as far as root and namespaces go.

Root file system from the cluster's layers, read-only where the service says so, tmpfs, mounts,
secrets, user, no capabilities, no new privileges, environment and command: all from what Compose
itself makes of the rendered file. Not done: memory, CPU and PID limits (no cgroups), separate
networks (one network namespace for the project, with nothing but loopback in it).
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("container.sh")


class Containers:
    """A project's running services."""

    def __init__(self, document: Mapping[str, Any], folder: Path) -> None:
        self.services: dict[str, Any] = document["services"]
        self._secrets: dict[str, Any] = document.get("secrets", {})
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._layers: dict[str, tuple[Path, ...]] = {}
        self._more: dict[str, list[str]] = {}
        self._network = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._count = 0
        folder.mkdir()
        self._hosts = folder / "hosts"
        names = " ".join(self.services)
        self._hosts.write_text(f"127.0.0.1 localhost {names}\n")
        self._wait(lambda: Path(self._netns()).readlink() != Path("/proc/self/ns/net").readlink())
        subprocess.run([*self.enter(), "ip", "link", "set", "lo", "up"], check=True)

    def _netns(self) -> str:
        return f"/proc/{self._network.pid}/ns/net"

    def enter(self) -> list[str]:
        """The prefix that runs a command of this machine in the project's network."""
        return ["nsenter", f"--net={self._netns()}", "--"]

    def start(
        self, name: str, layers: Sequence[Path], more: Sequence[tuple[Path, str]] = ()
    ) -> None:
        """Start a service on these layers (topmost first).

        ``more``: folders that stand for parts of the image, with where they are in it.
        """
        self._more[name] = [f"{here}\t{there}\tro" for here, there in more]
        service = self.services[name]
        self._layers[name] = tuple(layers)
        argv = [*(service.get("entrypoint") or []), *(service.get("command") or [])]
        self._running[name] = self._spawn(name, argv, self.log(name))

    def log(self, name: str) -> Path:
        """What the service printed."""
        return self._folder / f"{name}.log"

    def execute(self, name: str, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """``docker compose exec``, in a second container of the same kind."""
        out = self._folder / f"exec-{self._count}.log"
        process = self._spawn(name, argv, out)
        code = process.wait(60)
        return subprocess.CompletedProcess(list(argv), code, out.read_text(), "")

    def healthy(self, name: str) -> bool:
        """Run the service's health check."""
        kind, *words = self.services[name]["healthcheck"]["test"]
        assert kind == "CMD"
        return self.execute(name, words).returncode == 0

    def stop(self, name: str, number: int = signal.SIGTERM) -> int:
        """End one service; returns its exit status."""
        process = self._running.pop(name)
        for pid in _children(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return process.wait(30)

    def close(self) -> None:
        """End everything."""
        for name in list(self._running):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.stop(name, signal.SIGKILL)
        self._network.kill()
        self._network.wait()

    def _spawn(self, name: str, argv: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        service = self.services[name]
        self._count += 1
        work = self._folder / f"container-{self._count}"
        work.mkdir()
        uid, _, gid = service["user"].partition(":")
        image = {"PATH": "/opt/modeltainer/bin:/usr/local/bin:/usr/bin:/bin"}
        environment = {**image, **service.get("environment", {})}
        (work / "env").write_bytes(_nul(f"{key}={value}" for key, value in environment.items()))
        (work / "argv").write_bytes(_nul(argv))
        [tmpfs] = service["tmpfs"]
        settings = {
            "lower": ":".join(map(str, self._layers[name])),
            "work": str(work),
            "readonly": "1" if service.get("read_only") else "0",
            "mounts": "\n".join(self._mounts(service) + self._more[name]),
            "scratch": tmpfs.partition(":")[2],
            "hosts": str(self._hosts),
            "uid": uid,
            "gid": gid,
            "envfile": str(work / "env"),
            "argvfile": str(work / "argv"),
        }
        (work / "settings").write_text(
            "".join(f"{key}={shlex.quote(value)}\n" for key, value in settings.items())
        )
        with log.open("ab") as out:
            return subprocess.Popen(
                [
                    *self.enter(),
                    *("unshare", "--mount", "--propagation=private", "--pid", "--fork"),
                    *("--kill-child", "--", "bash", str(SCRIPT), str(work / "settings")),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def _mounts(self, service: Mapping[str, Any]) -> list[str]:
        lines = []
        for one in service.get("volumes", []):
            assert one["type"] == "bind"
            mode = "ro" if one.get("read_only") else "rw"
            lines.append(f"{one['source']}\t{one['target']}\t{mode}")
        for one in service.get("secrets", []):
            file = self._secrets[one["source"]]["file"]
            target = f"/run/secrets/{one.get('target') or one['source']}"
            lines.append(f"{file}\t{target}\tro")
        return lines

    @staticmethod
    def _wait(true: Callable[[], bool], within: float = 10.0) -> None:
        deadline = time.monotonic() + within
        while not true():
            assert time.monotonic() < deadline
            time.sleep(0.01)


def _nul(words: Any) -> bytes:
    return b"".join(word.encode() + b"\0" for word in words)


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(one) for one in listed]
