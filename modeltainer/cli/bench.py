"""``mt-submit bench``."""

from __future__ import annotations

import errno
import json
import re
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from modeltainer.cli import bench_options as option
from modeltainer.cli import exit_codes
from modeltainer.cli.failures import Failure, Interrupted
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.names import complete_model
from modeltainer.cli.text import note

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from modeltainer.bench.client import Target
    from modeltainer.bench.store import Store
    from modeltainer.bench.sweep import RunPlan, RunState
    from modeltainer.bench.workload import Workload
    from modeltainer.registry.layout import Layout

_PREFLIGHT_CODES = {
    "unreachable": exit_codes.GATEWAY_UNREACHABLE,
    "model": exit_codes.NO_MATCH,
}


class _BenchGroup(click.Group):
    """``bench MODEL`` is ``bench run MODEL``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in {"-h", "--help"}:
            args = ["run", *args]
        return super().parse_args(ctx, args)


@click.group(
    "bench",
    cls=_BenchGroup,
    epilog="\b\nExample:\n"
    "  mt-submit bench qwen2.5-7b --concurrency 1,4,16 --report\n"
    "  mt-submit bench qwen2.5-7b --rate 0.5,1,2 --duration 60s\n"
    "  mt-submit bench qwen2.5-7b --slo ttft=500ms,tpot=50ms\n"
    "  mt-submit bench report bench-qwen2.5-7b-20260101-120000",
)
def command() -> None:
    """Measure a model under load: mt-submit bench MODEL is mt-submit bench run MODEL."""


@command.command(
    "run",
    epilog="\b\nExample:\n"
    "  mt-submit bench run qwen2.5-7b --concurrency 1,4,16 --report\n"
    "  mt-submit bench run qwen2.5-7b --url http://127.0.0.1:8000 --key KEY --rate 2\n"
    "  mt-submit bench run qwen2.5-7b --against qwen2.5-7b-awq --concurrency 8",
)
@click.argument("model", shell_complete=complete_model)
@click.option(
    "--url",
    envvar="MODELTAINER_URL",
    metavar="URL",
    help="http://host:port or unix:/path of a gateway or an engine; otherwise your own gateway.",
)
@click.option("--key", envvar="MODELTAINER_KEY", metavar="KEY", help="Its key.")
@click.option(
    "--concurrency",
    type=option.counts,
    metavar="N,N,…",
    help="Users who ask again at once: 1,4,16.",
)
@click.option(
    "--rate", "rates", type=option.rates, metavar="R,R,…", help="Requests per second: 0.5,1,2."
)
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "constant"]),
    default="poisson",
    show_default=True,
    help="Times between requests of --rate and --slo.",
)
@click.option(
    "--trace",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Replay: JSON lines with timestamp (ms), input_length, output_length.",
)
@click.option("--speed", type=click.FloatRange(0, min_open=True), default=1.0, help="Of the trace.")
@click.option(
    "--slo",
    type=option.objectives,
    metavar="NAME=TIME,…",
    help="Objectives: ttft=500ms,tpot=50ms,e2e=10s. Alone, it searches for the highest rate.",
)
@click.option(
    "--requests",
    type=option.count,
    metavar="N",
    help="Of each point.  [default: 8 of each user, >= 20]",
)
@click.option(
    "--duration",
    type=option.duration,
    metavar="TIME",
    help="Of each point: 60s, 5m.  [default: 30s of --rate]",
)
@click.option("--warmup", type=click.IntRange(0), default=2, show_default=True)
@click.option(
    "--prompt-tokens", type=option.token_range, default="256", show_default=True, metavar="N[-M]"
)
@click.option(
    "--output-tokens", type=option.token_range, default="128", show_default=True, metavar="N[-M]"
)
@click.option(
    "--prompts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Prompts from a file: ShareGPT's JSON, JSON lines, or a prompt a line.",
)
@click.option("--shared-prefix", type=click.IntRange(0), default=0, metavar="TOKENS")
@click.option("--no-nonce", is_flag=True, help="Let a prefix cache know the prompts.")
@click.option("--api", type=click.Choice(["chat", "completions"]), default="chat")
@click.option("--no-stream", is_flag=True, help="Ask for whole answers.")
@click.option("--no-ignore-eos", is_flag=True, help="Answers end where the model ends them.")
@click.option("--body", metavar="JSON", help="More fields of each request.")
@click.option("--against", metavar="MODEL", help="A/B: ask this model too, in pairs.")
@click.option("--against-url", metavar="URL", help="A/B: ask there too, in pairs.")
@click.option("--against-key", metavar="KEY", help="Its key; --key is only sent to --url's.")
@click.option(
    "--timeout",
    type=option.duration,
    metavar="TIME",
    default="600s",
    show_default=True,
    help="Of an answer.",
)
@click.option("--workers", type=click.IntRange(1), help="Client processes.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--no-calibration", is_flag=True, help="Leave out the harness's own floor.")
@click.option("--direct", is_flag=True, help="Ask a ready engine of yours, not the gateway.")
@click.option("--on-cluster", is_flag=True, help="Run as a Slurm job, with --direct.")
@click.option("--partition", metavar="NAME", help="Of --on-cluster.")
@click.option(
    "--time",
    "walltime",
    type=option.duration,
    metavar="TIME",
    default="3600s",
    show_default=True,
    help="Of --on-cluster.",
)
@click.option("--output", type=click.Path(file_okay=False, path_type=Path), metavar="DIR")
@click.option("--report", is_flag=True, help="Draw the plots and report.html too.")
@click.option("--json", "as_json", is_flag=True, help="Print summary.json on standard output.")
@pass_invocation
def run_command(invocation: Invocation, /, **options: Any) -> None:
    """Put load on MODEL and write every request and all figures to a folder.

    Without --concurrency, --rate, --trace or --slo: 1, 4 and 16 users. Ctrl-C keeps what there is.
    """
    from modeltainer.bench import provenance

    if options["direct"] or options["on_cluster"]:
        options |= _without_environment("url", "key")
    _check_choices(options)
    if options["on_cluster"]:
        _submit(invocation, options)
        return
    targets = _targets(invocation, options)
    if options["report"]:
        _need_report_packages()
    facts, workload = _prepare(targets, options, _registry(invocation))
    plan = _plan(options, targets, workload)
    folder: Path = options["output"] or _folder_for(options["model"])
    about = {
        "command": _redacted(sys.argv[1:]),
        "client": provenance.client_facts(),
        "servers": facts,
        "workload": _workload_facts(workload),
        "slo": asdict(plan.slo),
    }
    with _store(folder) as store:
        try:
            store.begin(about)
        except OSError as error:
            raise _disk(error, folder) from error
        state = _run(plan, store)
        summary = {
            **about,
            "ended_early": state.ended_early,
            "limit_rate": state.limit_rate,
            "limit_note": state.limit_note,
            "points": state.points,
        }
        try:
            names = store.finish(summary, state.records)
        except OSError as error:
            raise _disk(error, folder) from error
    _tell(state, folder, names, summary, options)


@command.command("report", epilog="\b\nExample:\n  mt-submit bench report bench-qwen2.5-7b")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def report_command(folder: Path) -> None:
    """Draw the plots of the run in FOLDER, and one self-contained report.html."""
    _need_report_packages()
    _draw(folder)


@command.command(
    "scaling",
    epilog="\b\nExample:\n  mt-submit bench scaling one-replica two-replicas four-replicas",
)
@click.argument(
    "folders",
    nargs=-1,
    required=True,
    metavar="FOLDER FOLDER…",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("scaling.png"),
    show_default=True,
    help="The picture.",
)
def scaling_command(folders: tuple[Path, ...], output: Path) -> None:
    """Compare runs of one model that had different numbers of replicas: what does each bring?

    Of each run the valid point with the highest throughput counts, so let the sweep go on until
    more load brings no more.
    """
    from modeltainer.bench.report.scaling import ScalingError, efficiency, over_replicas, scaled
    from modeltainer.bench.store import StoreError, load
    from modeltainer.cli.text import table

    _need_report_packages()
    try:
        found = scaled(load(folder)[0] for folder in folders)
    except (ScalingError, StoreError) as error:
        raise Failure(str(error)) from error
    _save(over_replicas(found), output)
    rows = [
        [
            str(one.replicas),
            f"{one.load:g}",
            f"{one.tokens_per_s:.0f}",
            f"{one.tokens_per_s / one.replicas:.0f}",
            f"{efficiency(one, found[0]):.0%}",
            "-" if one.ttft_s is None else f"{one.ttft_s * 1000:.1f} ms",
        ]
        for one in found
    ]
    heads = ["REPLICAS", "LOAD", "TOKENS/S", "EACH", "OF THE FIRST", "TTFT P50"]
    click.echo(table(heads, rows))
    note(f"drawn: {output}")


@command.command(
    "starts",
    epilog="\b\nExample:\n"
    "  mt-submit bench starts\n"
    "  mt-submit bench starts qwen2.5-7b --output qwen.png",
)
@click.argument("models", nargs=-1, metavar="[MODEL…]", shell_complete=complete_model)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("starts.png"),
    show_default=True,
    help="The picture.",
)
@pass_invocation
def starts_command(invocation: Invocation, /, models: tuple[str, ...], output: Path) -> None:
    """Draw where the time of each launch's start went: queue, image, copying, loading.

    Of the launches that mt-submit ls --all shows, those that came to serve.
    """
    from modeltainer.service import Observer

    rows = [
        row
        for row in Observer(invocation.config()).rows()
        if row.serving_s is not None and (not models or row.model in models)
    ]
    if not rows:
        raise Failure(
            (
                f"no launch of {', '.join(models)} that has served is there"
                if models
                else "no launch that has served is there"
            ),
            "mt-submit ls --all shows which there are",
            exit_code=exit_codes.NO_MATCH,
        )
    _need_report_packages()
    from modeltainer.bench.report.launches import launches_frame, startup_split
    from modeltainer.cli.text import table

    figure = startup_split(launches_frame([row.to_json() for row in rows]))
    assert figure is not None  # there are rows
    _save(figure, output)
    clocks = [(row.queue_s, row.pulling_s, row.staging_s, row.loading_s) for row in rows]
    cells = [
        [row.launch_id, *("-" if one is None else f"{one:.1f} s" for one in parts)]
        for row, parts in zip(rows, clocks, strict=True)
    ]
    click.echo(table(["LAUNCH", "QUEUE", "IMAGE", "COPYING", "LOADING"], cells))
    note(f"drawn: {output}")


@command.command(
    "calibrate", epilog="\b\nExample:\n  mt-submit bench calibrate --concurrency 32 --gap 20ms"
)
@click.option(
    "--concurrency", type=option.counts, metavar="N,N,…", default="1,32,256", show_default=True
)
@click.option(
    "--gap",
    type=option.duration,
    metavar="TIME",
    default="20ms",
    show_default=True,
    help="Between chunks.",
)
@click.option("--workers", type=click.IntRange(1))
def calibrate_command(concurrency: tuple[int, ...], gap: float, workers: int | None) -> None:
    """Measure the harness itself, against a server with known timing on this machine."""
    from modeltainer.bench.calibrate import calibrate
    from modeltainer.bench.sweep import default_workers
    from modeltainer.cli.text import table

    rows = []
    for streams in concurrency:
        floor = calibrate(streams, gap, workers or default_workers(streams))
        errors = (floor.ttft_s, floor.ttft_p95_s, floor.tpot_s)
        cells = [f"{error * 1000:.2f} ms" for error in errors]
        rows.append([str(streams), *cells, f"{floor.cpu_share:.0%}"])
    click.echo(table(["STREAMS", "TTFT ERROR p50", "p95", "TPOT ERROR p50", "CPU"], rows))


def _after_bench(words: list[str]) -> list[str]:
    return words[words.index("bench") + 1 :] if "bench" in words else words[1:]


def _submit(invocation: Invocation, options: dict[str, Any]) -> None:
    from modeltainer.cli import bench_job
    from modeltainer.cli.gateway_client import engine_door

    bench_job.check(options)
    engine_door(invocation.layout(), options["model"])  # nothing to measure: said now, not later
    if options["report"]:
        _need_report_packages()
    bench_job.submit(
        options["model"],
        invocation.config_path(),
        options["output"] or _folder_for(options["model"]),
        bench_job.job_options(_after_bench(sys.argv), run_command),
        partition=options["partition"],
        walltime_s=int(options["walltime"]),
    )


def _save(figure: Figure, output: Path) -> None:
    try:
        figure.savefig(output, format="png")
    except OSError as error:
        raise Failure(f"{output} cannot be written: {error.strerror}") from error


def _without_environment(*names: str) -> dict[str, None]:
    """Those of the options that only the environment gives: it names another way to the model than
    the one that was typed."""
    source = click.get_current_context().get_parameter_source
    return {name: None for name in names if source(name) is ParameterSource.ENVIRONMENT}


def _folder_for(model: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]", "_", model)
    return Path(f"bench-{name}-{time.strftime('%Y%m%d-%H%M%S')}")


def _check_choices(options: dict[str, Any]) -> None:
    given = [name for name in ("concurrency", "rates", "trace") if options[name]]
    if len(given) > 1:
        names = " and ".join("--rate" if name == "rates" else f"--{name}" for name in given)
        raise click.UsageError(f"{names} exclude each other")
    if options["trace"] and (options["requests"] or options["duration"]):
        raise click.UsageError("--trace says itself how many requests there are, and when")
    if options["direct"] and (options["url"] or options["against_url"]):
        raise click.UsageError("--direct finds the engine itself: leave --url out")
    paired = options["against"] or options["against_url"]
    if paired and (options["rates"] or options["trace"]):
        raise click.UsageError("an A/B run asks in pairs: it takes --concurrency only")
    if options["body"]:
        try:
            fields = json.loads(options["body"])
        except ValueError as error:
            raise click.UsageError(f"--body is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise click.UsageError("--body must be a JSON object")


def _targets(invocation: Invocation, options: dict[str, Any]) -> tuple[Target, ...]:
    from dataclasses import replace

    from modeltainer.bench.client import TargetError, target
    from modeltainer.cli.gateway_client import certificate_at, engine_door, own_door

    def at(url: str, model: str, key: str) -> Target:
        return target(url, model, key, certificate=certificate_at(invocation.layout, url))

    def engine_target(model: str) -> Target:
        door = engine_door(invocation.layout(), model)
        return target(door.url, model, door.key, certificate=door.certificate)

    try:
        if options["direct"]:
            first = engine_target(options["model"])
            other = options["against"]
            return (first, engine_target(other)) if other else (first,)
        if options["url"]:
            first = at(options["url"], options["model"], options["key"] or "")
        else:
            door = own_door(invocation.layout())
            first = target(door.url, options["model"], options["key"] or door.key, door.socket)
        if not (options["against"] or options["against_url"]):
            return (first,)
        other = options["against"] or options["model"]
        if options["against_url"]:
            second = at(options["against_url"], other, options["against_key"] or "")
            # A key is only for whoever gave it: another port may be another person's server.
            if options["against_key"] is None and _place(second) == _place(first):
                second = replace(second, key=first.key)
            return first, second
    except TargetError as error:
        raise click.UsageError(str(error)) from None
    return first, replace(first, model=other)


def _place(one: Target) -> tuple[object, ...]:
    return one.socket, one.host, one.port, one.certificate is None


def _registry(invocation: Invocation) -> Layout | None:
    """This user's own; None without a configuration, which other servers do not need."""
    from modeltainer.config.problems import ConfigError

    try:
        return invocation.layout()
    except ConfigError:
        return None


def _prepare(
    targets: tuple[Target, ...], options: dict[str, Any], registry: Layout | None
) -> tuple[list[dict[str, Any]], Workload]:
    """Ask each server what it is and takes, and how it counts tokens."""
    from dataclasses import replace

    from modeltainer.bench import preflight, sweep
    from modeltainer.bench.schedule import ScheduleError, read_trace
    from modeltainer.bench.workload import Length, Workload, WorkloadError, read_prompts

    try:
        rows = read_trace(options["trace"]) if options["trace"] else []
        texts = read_prompts(options["prompts"]) if options["prompts"] else ()
    except (ScheduleError, WorkloadError, UnicodeDecodeError) as error:
        raise click.UsageError(str(error)) from None
    workload = Workload(
        api=options["api"],
        stream=not options["no_stream"],
        seed=options["seed"],
        salt=sweep.salt(),
        nonce=not options["no_nonce"],
        prompt=Length(*options["prompt_tokens"]),
        output=Length(*options["output_tokens"]),
        prompt_tokens_of=tuple(row.prompt_tokens for row in rows),
        output_tokens_of=tuple(row.output_tokens for row in rows),
        shared_prefix=options["shared_prefix"],
        texts=texts,
        ignore_eos=not options["no_ignore_eos"],
        extra=json.loads(options["body"]) if options["body"] else {},
    )
    facts = []
    try:
        for one in targets:
            found = preflight.check(one, registry).facts
            facts.append({"model": one.model, "url": one.name, **found})
            taken = preflight.adapt(one, workload)
            if workload.ignore_eos and taken.ignore_eos_refused:
                note(f"{one.name} refuses ignore_eos: answers may end before --output-tokens")
            workload = taken
        if not texts:
            workload = replace(workload, sizer=preflight.size(targets[0], workload))
    except preflight.PreflightError as error:
        code = _PREFLIGHT_CODES.get(error.kind, exit_codes.FAILURE)
        raise Failure(error.message, error.hint, code) from error
    return facts, workload


def _plan(options: dict[str, Any], targets: tuple[Target, ...], workload: Workload) -> RunPlan:
    from modeltainer.bench.metrics import Slo
    from modeltainer.bench.schedule import read_trace, replay
    from modeltainer.bench.sweep import RunPlan

    slo = Slo(**options["slo"]) if options["slo"] else Slo()
    chosen = options["concurrency"] or options["rates"] or options["trace"]
    search = bool(options["slo"]) and not chosen and len(targets) == 1
    trace = replay(read_trace(options["trace"]), options["speed"]) if options["trace"] else None
    return RunPlan(
        targets=targets,
        workload=workload,
        concurrency=options["concurrency"] or (1, 4, 16),
        rates=options["rates"] or (),
        arrivals=options["arrivals"],
        trace=trace,
        find_limit=search,
        slo=slo,
        requests=options["requests"],
        duration_s=options["duration"],
        warmup=options["warmup"],
        timeout_s=options["timeout"],
        workers=options["workers"],
        calibration=not options["no_calibration"],
    )


def _workload_facts(workload: Workload) -> dict[str, Any]:
    import hashlib

    facts = asdict(workload)
    sizer = facts.pop("sizer")
    facts["tokens_per_word"] = sizer["tokens_per_word"]
    facts["exact_prompt_tokens"] = sizer["exact"] and not workload.texts
    facts["prompts"] = len(workload.texts)
    digest = hashlib.sha256("\0".join(facts.pop("texts")).encode()).hexdigest()
    facts["prompts_sha256"] = digest if workload.texts else None
    for name in ("prompt_tokens_of", "output_tokens_of"):
        facts[name] = len(facts[name])
    return facts


def _redacted(words: list[str]) -> list[str]:
    kept, hide = [], False
    for word in words:
        name, equals, _ = word.partition("=")
        is_key = name in {"--key", "--against-key"}
        kept.append("…" if hide else f"{name}=…" if is_key and equals else word)
        hide = is_key and not equals
    return kept


def _store(folder: Path) -> Store:
    from modeltainer.bench.store import Store

    try:
        return Store(folder)
    except FileExistsError:
        raise Failure(f"{folder} holds a run already", "give another --output") from None
    except OSError as error:
        raise _disk(error, folder) from error


def _disk(error: OSError, folder: Path) -> Failure:
    hint = "give an --output on a disk with space"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        kept = folder / "requests.jsonl"
        return Failure(f"{folder}: no space left; the rows until then are in {kept}", hint)
    return Failure(f"{folder}: {error.strerror or error}", "give another --output")


def _run(plan: RunPlan, store: Store) -> RunState:
    from modeltainer.bench.run import WorkerError
    from modeltainer.bench.sweep import run
    from modeltainer.cli.bench_progress import Progress

    try:
        return run(plan, Progress(store))
    except WorkerError as error:
        raise Failure(str(error), "the rows until then are in " + str(store.folder)) from error
    except OSError as error:
        raise _disk(error, store.folder) from error


def _tell(
    state: RunState,
    folder: Path,
    names: list[str],
    summary: dict[str, Any],
    options: dict[str, Any],
) -> None:
    from modeltainer.cli.bench_progress import summary_table
    from modeltainer.cli.text import echo_json

    if options["as_json"]:
        echo_json(summary)
    else:
        click.echo(summary_table(state.points))
    if state.limit_note:
        note(state.limit_note)
    note(f"in {folder}: {', '.join(names)}")
    if options["report"] and state.records:
        _draw(folder)
    if state.ended_early == "interrupted":
        raise Interrupted("interrupted; the results so far are saved and marked")
    if state.ended_early == "server_died":
        raise Failure(
            "the server is gone: the last answers were errors, refused or cut off; "
            "the results so far are saved and marked",
            "mt-submit ls shows the model's state, mt-submit logs why it ended",
        )


def _need_report_packages() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("pandas", "matplotlib") if find_spec(name) is None]
    if missing:
        raise Failure(f"a report needs {' and '.join(missing)}", "pip install 'modeltainer[bench]'")


def _draw(folder: Path) -> None:
    from modeltainer.bench.report import write_report
    from modeltainer.bench.store import StoreError

    try:
        made = write_report(folder)
    except StoreError as error:
        raise Failure(str(error), "give the folder that mt-submit bench has written") from None
    except OSError as error:
        raise _disk(error, folder) from error
    note(f"report: {made}")
