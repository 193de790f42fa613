"""``mt-submit pull``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from modeltainer.cli.failures import Failure
from modeltainer.cli.invocation import Invocation, pass_invocation
from modeltainer.cli.names import complete_model
from modeltainer.cli.text import note

if TYPE_CHECKING:
    from modeltainer.config.schema import Config


@click.command(
    "pull",
    epilog="\b\nExample:\n"
    "  mt-submit pull qwen2.5-7b\n"
    "  mt-submit pull docker://ghcr.io/ggml-org/llama.cpp:server",
)
@click.argument(
    "images", nargs=-1, required=True, metavar="MODEL|URI...", shell_complete=complete_model
)
@pass_invocation
def command(invocation: Invocation, /, images: tuple[str, ...]) -> None:
    """Fetch container images into the shared cache, and print where they lie.

    An image that is there is not fetched again; whoever wants the same one at the same time, on
    whichever node, waits for the first.
    """
    from modeltainer.apptainer.image import pull

    config = invocation.config()
    for image in dict.fromkeys(_image(config, wished) for wished in images):
        click.echo(str(pull(image, config.site.cache, progress=note)))


def _image(config: Config, wished: str) -> str:
    from modeltainer import service
    from modeltainer.apptainer.image import is_uri
    from modeltainer.config.resolve import Overrides, launch_spec

    if is_uri(wished):
        return wished
    name = service.known_model(wished, config)
    overrides = Overrides(runtime="apptainer")
    image = launch_spec(config, name, 0, executor="slurm", overrides=overrides).image
    if image is None:
        raise Failure(f"{name} has no image")
    return image
