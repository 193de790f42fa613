"""``mt-submit size``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modeltainer.cli import exit_codes
from modeltainer.cli.failures import Failure
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.names import complete_model
from modeltainer.cli.text import echo_json, note, table

if TYPE_CHECKING:
    from modeltainer.sizing.devices import Device
    from modeltainer.sizing.fit import Fit, Wish
    from modeltainer.spec import Source
    from modeltainer.weights.shape import ModelShape


@click.command(
    "size",
    epilog="\b\nExample:\n"
    "  mt-submit size qwen2.5-7b --context 32768 --concurrency 16\n"
    "  mt-submit size ./Llama-3.1-8B-Instruct/config.json --any-gpu\n"
    "  mt-submit size /models/tiny.gguf --json",
)
@click.argument("model", shell_complete=complete_model)
@click.option(
    "--context", type=click.IntRange(1), help="Tokens per sequence. [default: the model's own]"
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 65536),
    default=1,
    show_default=True,
    help="Sequences of that length at once.",
)
@click.option("--gpus", "-G", type=click.IntRange(1, 64), help="Exactly so many GPUs.")
@click.option(
    "--engine",
    type=click.Choice(["vllm", "llamacpp"]),
    help="[default: the model's own; llamacpp for a .gguf]",
)
@click.option("--kv-fp8", is_flag=True, help="A KV cache of 8-bit numbers.")
@click.option("--partition", "-p", metavar="NAME", help="Only this partition's GPUs.")
@click.option(
    "--shared/--no-shared",
    default=None,
    help="A part of one GPU will do, where the site shares GPUs. [default: the model's own]",
)
@click.option(
    "--any-gpu", is_flag=True, help="Common GPUs and slices instead of this cluster's own."
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@pass_invocation
def command(
    invocation: Invocation,
    /,
    *,
    model: str,
    context: int | None,
    concurrency: int,
    gpus: int | None,
    engine: str | None,
    kv_fp8: bool,
    partition: str | None,
    shared: bool | None,
    any_gpu: bool,
    as_json: bool,
) -> None:
    """Size MODEL: a name in models.yaml, a folder, a config.json, a .gguf, or a hub id that is in
    the local Hugging Face cache. Nothing is downloaded and nothing is submitted.

    Where a cluster divides GPUs into shards, the table has the smallest part that holds the model;
    it is the answer only for a model that may share a GPU.
    """
    from modeltainer.sizing.fit import Wish, best, fits
    from modeltainer.sizing.launch import DEFAULT_CONTEXT

    shape, named_engine, named_context, may_share = _shape(invocation, model)
    may_share = may_share if shared is None else shared
    chosen: Any = engine or named_engine or ("llamacpp" if shape.quantization == "gguf" else "vllm")
    wish = Wish(
        chosen,
        context or named_context or shape.context_max or DEFAULT_CONTEXT,
        concurrency,
        gpus,
        1 if kv_fp8 else 2,
    )
    devices, where = _devices(partition, any_gpu)
    answers = fits(shape, [one for one in devices if shared is not False or not one.shards], wish)
    winner = best(answers, shared=may_share)
    if as_json:
        echo_json(_json(shape, wish, answers, winner))
    else:
        _show(shape, wish, answers, winner, where)
        part = best([one for one in answers if one.device.share < 1])
        if part is not None and not may_share:
            click.echo(f"\nif it may share a GPU (--shared): {part.device.name}")
    if winner is None:
        raise Failure(
            f"nothing of {where} holds it at context {wish.context} x {concurrency}",
            "try a smaller --context or --concurrency, --kv-fp8, or a quantized model",
            exit_codes.CANNOT_PLACE,
        )


def _shape(invocation: Invocation, model: str) -> tuple[ModelShape, str | None, int | None, bool]:
    """The model's shape, and what models.yaml says of its engine, its context and whether it may
    share a GPU."""
    from modeltainer.config.problems import ConfigError
    from modeltainer.spec import Source
    from modeltainer.weights.inspect import NoWeightsError

    path = Path(model).expanduser()
    engine, context, may_share = None, None, False
    source: Source
    cache: str | None = None
    if path.exists():
        source = Source("path", str(path))
    else:
        try:
            config = invocation.config()
            name, cache = config.model_named(model), str(config.site.cache)
        except ConfigError:
            if "/" not in model:
                raise
            name = None
        if name is not None:
            section = config.models[name]
            engine, context = section.engine, section.context
            own = section.resources.shared
            may_share = bool(config.site.defaults.shared if own is None else own)
            given = section.source
            source = (
                Source("path", str(given.path))
                if given.path is not None
                else Source("hub", given.hub or "", given.revision, given.file)
            )
        elif model.count("/") == 1 and not model.startswith((".", "~", "/")):
            source = Source("hub", model)
        else:
            raise Failure(
                f"there is no model, file or folder {model!r}",
                "mt-submit models lists the names; a path or a hub id (org/name) will do too",
                exit_codes.NO_MATCH,
            )
    from modeltainer.service import model_shape

    try:
        return model_shape(source, cache=cache), engine, context, may_share
    except NoWeightsError as error:
        raise Failure(str(error), "", exit_codes.NO_MATCH) from error


def _devices(partition: str | None, any_gpu: bool) -> tuple[tuple[Device, ...], str]:
    from modeltainer.hpc.commands import SlurmError
    from modeltainer.hpc.snapshot import take_snapshot
    from modeltainer.sizing.devices import known, of_snapshot

    if not any_gpu:
        try:
            found = of_snapshot(take_snapshot(), partition)
        except SlurmError:
            found = ()
        if found:
            return found, "this cluster"
        if partition is not None:
            raise Failure(
                f"partition {partition} shows no GPUs",
                "leave --partition out, or take --any-gpu",
                exit_codes.CANNOT_PLACE,
            )
        note("no cluster with GPUs answers here: common GPUs and slices are shown instead")
    return known(), "the common GPUs"


def _show(
    shape: ModelShape, wish: Wish, answers: tuple[Fit, ...], winner: Fit | None, where: str
) -> None:
    from modeltainer.sizing.launch import describe

    click.echo(describe(shape))
    made_for = f", made for up to {shape.context_max}" if shape.context_max else ""
    click.echo(
        f"{wish.engine}, {wish.concurrency} sequence(s) of {wish.context} tokens{made_for}\n"
    )
    rows = []
    for one in answers:
        split = f"TP {one.tensor}" if one.tensor > 1 else "-"
        if one.pipeline > 1:
            split = f"PP {one.pipeline}" if one.tensor == 1 else f"{split} x PP {one.pipeline}"
        rows.append(
            (
                one.device.name,
                f"{one.device.memory_mib / 1024:.1f}" if one.device.memory_mib else "?",
                ",".join(one.device.partitions) or "-",
                "yes" if one.fits else "no",
                str(one.gpus) if one.gpus else "-",
                split,
                str(one.sequences) if one.estimate else "-",
                one.why,
            )
        )
    heads = ("GPU OR SLICE", "GIB", "PARTITION", "FITS", "GPUS", "SPLIT", "SEQUENCES", "WHY")
    click.echo(table(heads, rows))
    if winner is not None and winner.estimate is not None:
        sized = winner.estimate
        count = f"{winner.gpus} x " if winner.gpus > 1 else ""
        click.echo(
            f"\nsmallest of {where} that holds it: {count}{winner.device.name}\n"
            f"  of each: weights {sized.weights_mib / 1024:.2f} GiB, KV cache "
            f"{sized.kv_mib / 1024:.2f} GiB, activations {sized.activations_mib / 1024:.2f} GiB, "
            f"overhead {sized.overhead_mib / 1024:.2f} GiB\n"
            f"  flags: {' '.join(winner.flags)}"
        )


def _json(
    shape: ModelShape, wish: Wish, answers: tuple[Fit, ...], winner: Fit | None
) -> dict[str, Any]:
    import msgspec

    from modeltainer.sizing.memory import kv_bytes_per_token

    value: dict[str, Any] = msgspec.to_builtins({"model": shape, "wish": wish, "answers": answers})
    value["kv_bytes_per_token"] = kv_bytes_per_token(shape, element_bytes=wish.element_bytes)
    value["best"] = winner.device.name if winner else None
    return value
