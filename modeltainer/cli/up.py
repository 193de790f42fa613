"""``mt-submit up``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from modeltainer.cli import exit_codes
from modeltainer.cli.failures import Failure, Interrupted
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.keep import Bounds, check_lives, keep_up, take_bounds
from modeltainer.cli.names import complete_model
from modeltainer.cli.outcome import failure_text, failures_of
from modeltainer.cli.placement_options import placement_options, seconds, take_overrides
from modeltainer.cli.text import echo_json, note, table

if TYPE_CHECKING:
    from modeltainer.config.resolve import Overrides
    from modeltainer.config.schema import Config
    from modeltainer.spec import LaunchSpec
    from modeltainer.view import Row


@click.command(
    "up",
    epilog="\b\nExample:\n"
    "  mt-submit up qwen2.5-7b --wait\n"
    "  mt-submit up qwen2.5-7b llama3.1-8b --replicas 2 --partition gpu --time 8:00:00\n"
    "  mt-submit up qwen2.5-3b-gguf --mig 1g.10gb --dry-run --explain",
)
@click.argument("models", nargs=-1, shell_complete=complete_model)
@click.option("--replicas", "-r", type=click.IntRange(1, 256), help="Jobs per model.")
@click.option(
    "--array/--no-array",
    "as_array",
    default=False,
    help="All replicas as tasks of one job array: one call of sbatch, whatever their number.",
)
@click.option(
    "--keep/--no-keep",
    default=False,
    help="Declare it: kept up across walltimes and failures until mt-submit stop.",
)
@click.option("--min", "minimum", type=click.IntRange(0, 256), help="Replicas that are always up.")
@click.option("--max", "maximum", type=click.IntRange(1, 256), help="Replicas under load.")
@click.option(
    "--idle-release",
    metavar="TIME",
    callback=seconds,
    help="With --min 0: the last replica goes after so long without a request. [default: 15m]",
)
@click.option(
    "--in-flight",
    type=click.IntRange(1, 10_000),
    help="Requests at once that one replica should carry. [default: 8]",
)
@click.option(
    "--first-token",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="Longest that streams should wait for their first token. [default: 10]",
)
@click.option(
    "--gpu-hours", type=click.FloatRange(0), help="GPU hours it may use a day (UTC), then it stops."
)
@click.option(
    "--spare-partition",
    metavar="NAME",
    help="Replicas beyond --min go to this partition; they may be preempted there.",
)
@placement_options
@click.option("--dry-run", is_flag=True, help="Plan only: nothing is written or submitted.")
@click.option("--explain", is_flag=True, help="Say why each launch goes where it goes.")
@click.option(
    "--wait/--no-wait", default=False, help="Wait until each launch is ready. [default: no-wait]"
)
@click.option(
    "--timeout",
    metavar="TIME",
    callback=seconds,
    help="With --wait: give up waiting (exit code 7).",
)
@click.option("--json", "as_json", is_flag=True, help="Rows (or, with --dry-run, specs) as JSON.")
@pass_invocation
def command(
    invocation: Invocation,
    /,
    *,
    models: tuple[str, ...],
    replicas: int | None,
    dry_run: bool,
    explain: bool,
    wait: bool,
    timeout: int | None,
    as_json: bool,
    as_array: bool,
    keep: bool,
    **options: Any,
) -> None:
    """Launch MODELS: one job per replica, which starts the engine and registers it.

    Options override models.yaml for this launch. All launches are submitted, or none. Without
    --wait the command returns when the jobs are in the queue. With --keep (which --min, --max,
    --idle-release, --in-flight, --first-token, --gpu-hours and --spare-partition imply) the gateway
    or mt-submit reconcile starts a successor before a walltime ends, replaces what fails, and
    scales between --min and --max.
    """
    bounds = take_bounds(options)
    overrides, swallowed = take_overrides(options)
    wanted = [*models, *swallowed]
    if not wanted:
        raise click.UsageError("name a model; mt-submit models lists them")
    if timeout is not None and not wait:
        raise click.UsageError("--timeout goes with --wait")
    keep = keep or bounds.given
    bounds.check(replicas, as_array=as_array and keep)
    from modeltainer import service

    config = invocation.config()
    specs = service.plan(wanted, config=config, replicas=replicas, overrides=overrides)
    if bounds.spare_partition is not None:
        specs += _spare(wanted, config, bounds, replicas, overrides)
    if explain:
        note("\n".join(_reasons(spec) for spec in specs))
    if dry_run:
        _show_plan(specs, as_json)
        return
    if keep:
        check_lives(invocation.layout(), specs)
        rows = keep_up(invocation, wanted, replicas, bounds, overrides, quiet=as_json)
    else:
        rows = _submit(specs, config, as_array=as_array)
    with _running_on(rows):
        if not as_json:
            note("\n".join(f"submitted {row.launch_id} as {_where(row)}" for row in rows))
        if wait:
            rows = _wait(rows, config, timeout)
    if as_json:
        echo_json([row.to_json() for row in rows])
    if wait:
        _tell_failures(rows)
    if rows and not as_json:
        note(_next_steps(invocation, rows, ready=wait))


def _spare(
    wanted: list[str], config: Config, bounds: Bounds, replicas: int | None, overrides: Overrides
) -> list[LaunchSpec]:
    """A spare replica of each, to see now that it may be and that there is a place for it."""
    from modeltainer import service

    there = replace(overrides, partition=bounds.spare_partition)
    found = service.plan(wanted, config=config, replicas=1, overrides=there)
    for spec in found:
        bounds.limits(replicas or config.models[spec.model].replicas)
    return [replace(spec, spare=True) for spec in found]


def _submit(specs: list[LaunchSpec], config: Config, *, as_array: bool) -> list[Row]:
    from modeltainer import service

    try:
        return service.submit(specs, config=config, as_array=as_array)
    except KeyboardInterrupt:
        raise Interrupted("interrupted while submitting: nothing was left behind") from None


def _tell_failures(rows: list[Row]) -> None:
    failed = failures_of(rows)
    if not failed:
        return
    note("\n".join(failure_text(row) for row in failed))
    count = f"{len(failed)} of {len(rows)} launches" if len(rows) > 1 else "the launch"
    raise Failure(
        f"{count} failed",
        f"mt-submit stop {' '.join(row.launch_id for row in failed)} clears away what is left",
        exit_codes.LAUNCH_FAILED,
    )


def _wait(rows: list[Row], config: Config, timeout: int | None) -> list[Row]:
    from modeltainer import service
    from modeltainer.cli.progress import shown
    from modeltainer.registry import deployments
    from modeltainer.registry.layout import Layout

    layout = Layout(config.site.registry)
    starts = {row.model: deployments.read_history(layout, row.model).start for row in rows}
    last = {model: start for model, start in starts.items() if start is not None}
    with shown(last) as changed:
        ids = [row.launch_id for row in rows]
        return service.wait(ids, config=config, timeout_s=timeout, on_change=changed)


@contextmanager
def _running_on(rows: list[Row]) -> Iterator[None]:
    """Ctrl-C in here ends the command only; it is told what goes on without it."""
    try:
        yield
    except KeyboardInterrupt:
        ids = [row.launch_id for row in rows]
        raise Interrupted(
            f"no longer waiting; still there: {', '.join(ids)}",
            f"mt-submit ls shows {'it' if len(ids) == 1 else 'them'}, "
            f"mt-submit stop {' '.join(ids)} ends {'it' if len(ids) == 1 else 'them'}",
        ) from None


def _where(row: Row) -> str:
    if row.executor == "local":
        return f"process {row.job_id} on this machine"
    parts = [f"job {row.job_id}"]
    parts += [f"in partition {row.partition}"] if row.partition else []
    parts += [f"on {row.gres}"] if row.gres else []
    return " ".join(parts)


def _reasons(spec: LaunchSpec) -> str:
    reasons = spec.placement.reasons if spec.placement else ("this machine: no scheduler to ask",)
    return "\n".join([f"{spec.model} {_which(spec)}:", *(f"  - {why}" for why in reasons)])


def _which(spec: LaunchSpec) -> str:
    return "spare replica" if spec.spare else f"replica {spec.replica}"


def _show_plan(specs: list[LaunchSpec], as_json: bool) -> None:
    if as_json:
        import msgspec

        echo_json([msgspec.to_builtins(spec) for spec in specs])
        return
    from modeltainer.config.units import format_duration, format_mib

    rows = []
    for spec in specs:
        placed, wanted = spec.placement, spec.resources
        rows.append(
            (
                spec.model,
                "spare" if spec.spare else str(spec.replica),
                spec.engine,
                spec.runtime,
                (placed.partition if placed else None) or "-",
                (placed.gres if placed else None) or (f"gpu:{wanted.gpus}" if wanted.gpus else "-"),
                str(wanted.cpus),
                format_mib(wanted.memory_mib) if wanted.memory_mib else "-",
                format_duration(placed.walltime_s if placed else wanted.walltime_s),
            )
        )
    heads = ("MODEL", "REPLICA", "ENGINE", "RUNTIME", "PARTITION", "GRES", "CPUS", "MEMORY", "TIME")
    click.echo(table(heads, rows))
    note("nothing was submitted (--dry-run)")


def _next_steps(invocation: Invocation, rows: list[Row], *, ready: bool) -> str:
    from modeltainer.gateway import address

    model = shlex.quote(rows[0].model)
    if not ready:
        return "follow with: mt-submit ls --watch"
    gateway = address.read(invocation.layout())
    if gateway is None or gateway.alive is False:
        return f"next: mt-submit gateway start, then mt-submit chat {model}"
    where = f"unix:{gateway.socket}" if gateway.socket else f"{gateway.url}/v1"
    return f"the gateway serves it at {where} on {gateway.host}; try: mt-submit chat {model}"
