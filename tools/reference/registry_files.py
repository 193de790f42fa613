"""The page of files and exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from modeltainer import spec
from modeltainer.batch import orders, stored_files
from modeltainer.cli import exit_codes
from modeltainer.gateway.address import GatewayAddress, of_host, state_file
from modeltainer.reconcile.demand import Demand
from modeltainer.registry import deployments, keys, records, usage
from modeltainer.registry.endpoints import LEASE_PERIODS
from modeltainer.registry.layout import Layout
from tools.reference.markdown import HEAD, code, one_line, table
from tools.reference.source import fields

_ROOT = Layout(Path("REGISTRY"))
_LAUNCH, _JOB = "qwen2.5-7b-r0-k3m9xw", "4711"
_FILE, _BATCH = "file-0123456789abcdefghijklmn", "batch_0123456789abcdefghijklmn"
_FILES: tuple[tuple[Path, str, str], ...] = (
    (_ROOT.spec(_LAUNCH), "mt-submit, once", "[LaunchSpec](#launchspec): what to run"),
    (
        _ROOT.submission(_LAUNCH),
        "mt-submit, once",
        "[Submission](#submission): which job it became",
    ),
    (_ROOT.secret(_LAUNCH), "mt-submit, once", "[LaunchSecret](#launchsecret); mode 0600"),
    (
        _ROOT.drain(_LAUNCH),
        "mt-submit or the reconciler",
        "its presence asks to drain, it says why",
    ),
    (_ROOT.log(_LAUNCH) / "engine.log", "the engine", "its output: `mt-submit logs`"),
    (_ROOT.log(_LAUNCH) / "agent.log", "the agent", "`mt-submit logs --agent`"),
    (
        _ROOT.endpoint(_JOB, _LAUNCH),
        "the agent",
        "[Endpoint](#endpoint): state, address, lease, cause of the end",
    ),
    (
        _ROOT.rendezvous(_LAUNCH),
        "the agent of the first of several nodes",
        "[Rendezvous](#rendezvous): where they meet",
    ),
    (
        _ROOT.rank(_LAUNCH, 1),
        "the agent of the second",
        "[RankRecord](#rankrecord): its lease, cause of its end",
    ),
    (
        _ROOT.run(_JOB, _LAUNCH),
        "the agent of a job with GPUs",
        "[RunRecord](#runrecord): how long it has held them",
    ),
    (_ROOT.keys / "k2ab34cd5.json", "mt-submit, once", "[KeyRecord](#keyrecord)"),
    (
        state_file(_ROOT, "HOST"),
        "the gateway",
        "[GatewayAddress](#gatewayaddress): where it listens; mode 0600",
    ),
    (
        of_host(_ROOT, "gateway", "log", "HOST"),
        "the gateway",
        "[its log](log.md); before it was full: `gateway.HOST.log.1`, …",
    ),
    (
        of_host(_ROOT, "gateway", "out", "HOST"),
        "the gateway",
        "what else it said since it was started, as when it cannot start",
    ),
    (of_host(_ROOT, "reconcile", "log", "HOST"), "the reconciler", "what it did and why"),
    (of_host(_ROOT, "batches", "log", "HOST"), "the process of batches", "what it did"),
    (
        _ROOT.files / _FILE / "file.json",
        "the gateway or the process of batches, once",
        "[StoredFile](#storedfile); `content` beside it has the bytes",
    ),
    (
        _ROOT.open_batches / _BATCH / "order.json",
        "the gateway, once",
        "[Order](#order); the folder goes to `ended/` when the batch is over",
    ),
    (
        _ROOT.open_batches / _BATCH / "state.json",
        "the process of batches",
        "[BatchState](#batchstate): how far it is",
    ),
    (
        _ROOT.open_batches / _BATCH / "output.jsonl",
        "the process of batches",
        "answers so far, a line each; `output.failed.jsonl`: rows that failed",
    ),
    (_ROOT.open_batches / _BATCH / "cancel", "the gateway", "its presence asks to cancel"),
    (
        _ROOT.gateway / "demand-HOST.json",
        "the gateway (each worker: HOST-NUMBER)",
        "[Demand](#demand): what clients ask for",
    ),
    (
        _ROOT.starting / f"1a2b3c4d-{deployments.file_name('qwen2.5-7b')}",
        "the gateway, each process its own",
        "a model that a request has had started within a minute, for `cold_start.max_jobs`",
    ),
    (
        _ROOT.usage / "DAY.HOST.jsonl",
        "the gateway, as above",
        "[UsageRecord](#usagerecord), one a line",
    ),
    (
        _ROOT.deployments / deployments.file_name("qwen2.5-7b"),
        "mt-submit up --keep, the gateway at a cold start",
        "[Deployment](#deployment): what should run",
    ),
    (
        _ROOT.reconcile / deployments.file_name("qwen2.5-7b"),
        "the reconciler",
        "[History](#history): what it has learned",
    ),
    (_ROOT.reconcile / deployments.RECONCILER_LOCK, "the reconciler", "its lease: a counter"),
)
_KINDS = {
    "State": [one.value for one in records.State],
    "EngineName": get_args(spec.EngineName),
    "RuntimeName": get_args(spec.RuntimeName),
}
_RECORDS = (
    records.Endpoint,
    records.Clocks,
    records.Cause,
    records.Submission,
    records.LaunchSecret,
    records.Rendezvous,
    records.RankRecord,
    records.RunRecord,
    spec.LaunchSpec,
    spec.Resources,
    spec.Placement,
    keys.KeyRecord,
    usage.UsageRecord,
    GatewayAddress,
    Demand,
    stored_files.StoredFile,
    orders.Order,
    orders.BatchState,
    orders.Flaw,
    deployments.Deployment,
    deployments.History,
)


def page() -> str:
    """Exit codes, then every file of the registry with its fields."""
    parts = ["# Files and exit codes\n", HEAD, "## Exit codes of mt-submit\n"]
    parts.append("They do not change between versions.\n")
    parts.append(
        table(
            ("code", "name", "meaning"),
            [(one.default, one.name, one_line(one.text)) for one in fields(exit_codes)],
        )
    )
    period = next(one.default for one in fields(records.Endpoint) if one.name == "period_s")
    parts += ["## The registry\n"]
    parts.append(
        "`REGISTRY` is `site.registry`, mode 0700, one for each user. Each file has one writer, "
        "which replaces it by rename. An endpoint's lease is a counter that its agent raises about "
        f"every {float(period):g} s; a reader that sees no step for {LEASE_PERIODS} such periods "
        "on its own clock takes the agent for dead. [How it works](../explanation/registry.md).\n"
    )
    parts.append(
        table(
            ("file", "written by", "holds"),
            [(code(str(path)), writer, text) for path, writer, text in _FILES],
        )
    )
    kinds = [f"`{name}`: {', '.join(map(code, values))}" for name, values in _KINDS.items()]
    parts.append(
        "The JSON files hold these records. Fields that end in `_s` are seconds, in `_unix` "
        f"seconds since 1970, in `_mib` MiB. {'; '.join(kinds)}.\n"
    )
    for record in _RECORDS:
        about = (record.__doc__ or "").replace(":func:", "").replace(":attr:", "")
        parts += [f"### {record.__name__}\n", one_line(about) + "\n"]
        parts.append(
            table(
                ("field", "type", "default", "meaning"),
                [
                    (
                        code(one.name),
                        code(one.kind.replace("|", "or")),
                        code(_default(one.default)),
                        one_line(one.text.replace(":attr:", "")),
                    )
                    for one in fields(record)
                ],
            )
        )
    return "\n".join(parts)


def _default(written: str) -> str:
    if written == "None" or "default_factory" in written:
        return ""
    return "" if written in {"()", "''"} else written
