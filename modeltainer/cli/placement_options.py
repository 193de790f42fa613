"""The options that ask for resources, shared by ``up`` and ``render``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from modeltainer.config.resolve import Overrides

CommandT = TypeVar("CommandT", bound=Callable[..., object])

_PROFILE = re.compile(r"\d+g\.\d+gb(\+me)?")


def seconds(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Callback of an option: a time span as Slurm writes it, or ``90m``."""
    from modeltainer.config.units import parse_duration_s

    return _converted(parse_duration_s, value)


def mebibytes(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Callback of an option: an amount of memory such as ``24GiB``."""
    from modeltainer.config.units import parse_size_mib

    return _converted(parse_size_mib, value)


def _converted(parse: Callable[[object], int], value: str | None) -> int | None:
    try:
        return None if value is None else parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


_OPTIONS = (
    click.option("--partition", "-p", metavar="NAME", help="The partition to run in."),
    click.option(
        "--nodes", "-N", type=click.IntRange(1, 64), help="Nodes per replica; the rest is for each."
    ),
    click.option("--gpus", "-G", type=click.IntRange(0, 64), help="GPUs or slices per replica."),
    click.option("--gpu-type", metavar="TYPE", help="A GPU type as the site spells it (a100)."),
    click.option(
        "--gpu-memory",
        metavar="SIZE",
        callback=mebibytes,
        help="Memory wanted per GPU or slice (24GiB).",
    ),
    click.option(
        "--mig",
        is_flag=False,
        flag_value="",
        metavar="[PROFILE]",
        help="A MIG slice will do; with a profile (1g.10gb), only that one.",
    ),
    click.option("--no-mig", is_flag=True, help="Whole GPUs only."),
    click.option(
        "--shared/--no-shared",
        default=None,
        help="A part of one GPU will do, where the site shares GPUs (Slurm's shards).",
    ),
    click.option(
        "--time",
        "-t",
        metavar="TIME",
        callback=seconds,
        help="Walltime: 4:00:00, 1-00:00:00 or 90m.",
    ),
    click.option(
        "--time-min",
        metavar="TIME",
        callback=seconds,
        help="Slurm may shorten the walltime to this, to begin before a maintenance or in a gap.",
    ),
    click.option("--cpus", "-c", type=click.IntRange(1, 1024), help="CPU cores per replica."),
    click.option(
        "--mem", metavar="SIZE", callback=mebibytes, help="Host memory per replica (48GiB)."
    ),
    click.option("--account", "-A", metavar="NAME", help="The account that pays."),
    click.option("--qos", metavar="NAME", help="Quality of service."),
    click.option("--nodelist", "-w", metavar="NODES", help="Only these nodes."),
    click.option(
        "--runtime",
        type=click.Choice(["apptainer", "native", "embedded"]),
        help="How the engine is started.",
    ),
)


def placement_options(function: CommandT) -> CommandT:
    """Decorate a command with all of them."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def take_overrides(options: dict[str, Any]) -> tuple[Overrides, list[str]]:
    """Take the placement options out of ``options`` and make the overrides of them.

    Returns:
        The overrides, and a model's name that ``--mig`` (whose profile is optional) had swallowed.

    Raises:
        click.UsageError: ``--mig`` and ``--no-mig``.
    """
    from modeltainer.config.resolve import Overrides

    wish, refused = options.pop("mig"), options.pop("no_mig")
    if wish is not None and refused:
        raise click.UsageError("--mig and --no-mig exclude each other")
    swallowed = [] if not wish or _PROFILE.fullmatch(wish) else [wish]
    mig: bool | str | None = None if wish is None else (not wish or bool(swallowed) or wish)
    overrides = Overrides(
        nodes=options.pop("nodes"),
        gpus=options.pop("gpus"),
        gpu_type=options.pop("gpu_type"),
        gpu_memory_mib=options.pop("gpu_memory"),
        mig=False if refused else mig,
        shared=options.pop("shared"),
        cpus=options.pop("cpus"),
        memory_mib=options.pop("mem"),
        walltime_s=options.pop("time"),
        time_min_s=options.pop("time_min"),
        partition=options.pop("partition"),
        account=options.pop("account"),
        qos=options.pop("qos"),
        nodelist=options.pop("nodelist"),
        runtime=options.pop("runtime"),
    )
    return overrides, swallowed
