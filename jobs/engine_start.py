"""The engine's start: its command in its runtime, with the files that only it may read."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from modeltainer.jobs import devices
from modeltainer.jobs.diagnose import no_command
from modeltainer.jobs.engines import Engine, EngineStart
from modeltainer.jobs.engines.base import CERTIFICATE_FILE, PRIVATE_KEY_FILE, Rank
from modeltainer.jobs.engines.options import BadOptionError
from modeltainer.jobs.mounts import NETWORK, filesystem_of
from modeltainer.jobs.process import EngineProcess
from modeltainer.jobs.scratch import Scratch
from modeltainer.jobs.site_facts import JobFacts
from modeltainer.registry.records import Cause, LaunchSecret
from modeltainer.spec import LaunchSpec, Source


class CannotStartEngineError(Exception):
    """The engine was not started; ``cause`` says why."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(cause.message)
        self.cause = cause


class EngineStarter:
    """Starts one launch's engine on this node, again where its port was taken."""

    def __init__(
        self,
        spec: LaunchSpec,
        secret: LaunchSecret,
        facts: JobFacts,
        engine: Engine,
        say: Callable[[str], None],
    ) -> None:
        self._spec, self._secret, self._facts = spec, secret, facts
        self._engine, self._say = engine, say
        self._scratch: Scratch | None = None

    def start(
        self,
        log: Path,
        *,
        image: str | None,
        bind: str,
        port: int,
        internal_port: int | None,
        rank: Rank | None = None,
    ) -> tuple[EngineProcess, str]:
        """Start it; returns it and the program's name for people.

        Args:
            log: where its output goes.
            image: path of the SIF; None runs on the node itself.

        Raises:
            CannotStartEngineError: with the cause.
        """
        try:
            argv, env = self._command(image, bind, port, internal_port, rank)
        except BadOptionError as error:
            raise CannotStartEngineError(
                Cause("bad-option", str(error), "mend engine_args in models.yaml")
            ) from error
        program = "apptainer" if self._spec.runtime == "apptainer" else argv[0]
        try:
            return EngineProcess(argv, env, log), program
        except FileNotFoundError as error:
            raise CannotStartEngineError(no_command(program)) from error
        except OSError as error:
            raise CannotStartEngineError(
                Cause(
                    "no-such-command",
                    f"{program} cannot be run on the compute node: {error.strerror or error}",
                    "check command: in models.yaml, and that the file is executable",
                )
            ) from error

    def read_from(self, source: Source) -> None:
        """Where the weights are, if not where the spec says."""
        self._spec = replace(self._spec, source=source)

    def close(self) -> None:
        """Remove what it left on the node."""
        if self._scratch is not None:
            self._scratch.close()
            self._scratch = None

    def _command(
        self, image: str | None, bind: str, port: int, internal: int | None, rank: Rank | None
    ) -> tuple[list[str], dict[str, str]]:
        spec = self._spec
        visible = None
        if spec.engine == "vllm" and self._facts.devices:
            listed = devices.listed_uuids(devices.nvidia_smi_list())
            label = devices.relabel(self._facts.devices, listed)
            visible = label.value
            if label.note:
                self._say(label.note)
        contained = spec.runtime == "apptainer" and image is not None
        scratch = self._scratch_folder()
        # The container sees the scratch folder as its /tmp.
        private = "/tmp" if contained else scratch  # noqa: S108
        tls = self._secret.certificate is not None
        nonce = self._secret.nonce
        start = EngineStart(
            spec,
            bind,
            port,
            nonce,
            internal_port=internal,
            cuda_visible_devices=visible,
            private_folder=private,
            tls=tls,
            rank=rank,
            weights_from_network=_is_on_network(spec),
        )
        command = self._engine.command(start)
        files = dict(command.files)
        if self._secret.certificate is not None and self._secret.private_key is not None:
            files[CERTIFICATE_FILE] = self._secret.certificate
            files[PRIVATE_KEY_FILE] = self._secret.private_key
        for name, content in files.items():
            file = Path(scratch) / name
            file.touch(mode=0o600)  # closed to others before there is anything in it
            file.write_text(content)
        secrets = {**self._secret.env, self._engine.key_variable: self._secret.key}
        if not contained or image is None:
            return list(command.argv), {**os.environ, **command.env, **spec.env, **secrets}
        from modeltainer.apptainer.command import containerize

        inside = containerize(
            command.argv,
            image=image,
            spec=spec,
            env={**command.env, **spec.env},
            secrets=secrets,
            environ=os.environ,
            scratch=scratch,
        )
        for folder in inside.folders:
            Path(folder).mkdir(parents=True, exist_ok=True, mode=0o700)
        return list(inside.argv), inside.env

    def _scratch_folder(self) -> str:
        """A folder of this user's on the node, the container's /tmp; removed with the job."""
        base = os.environ.get("SLURM_TMPDIR") or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108
        if self._scratch is None:
            self._scratch = Scratch(Path(base))
        return str(self._scratch.path)


def _is_on_network(spec: LaunchSpec) -> bool:
    """Whether the weights are read over the network: a hub's are in the site's cache."""
    weights = spec.source.value if spec.source.kind == "path" else spec.site.cache
    return filesystem_of(Path(weights)) in NETWORK
