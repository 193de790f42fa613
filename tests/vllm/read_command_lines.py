"""Reads ``vllm serve`` command lines as vLLM does, up to its engine's configuration.

A program for vLLM's own interpreter, which has neither pytest nor modeltainer. On stdin: a JSON
list of command lines, each a list of words from ``serve`` on. Its last argument names a file, into
which it writes a JSON list with one object each: ``error``, or what vLLM made of the line.

The steps are those of vllm/entrypoints/cli/main.py and serve.py (0.32): the parser with its
``serve`` subcommand, ``validate``, ``AsyncEngineArgs.from_cli_args``, ``create_engine_config``.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from vllm import AsyncEngineArgs
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser


def read(words: list[str]) -> dict[str, Any]:
    """What vLLM makes of one command line: its options by name, and with ``engine`` the engine's
    configuration where the model is a folder (nothing is downloaded)."""
    parser = FlexibleArgumentParser()
    serve = ServeSubcommand()
    own = serve.subparser_init(parser.add_subparsers(required=False, dest="subparser"))
    # A name that is cut short would pass, until another one begins like it.
    own.allow_abbrev = False
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            given = parser.parse_args(words)
    except SystemExit:
        return {"error": said.getvalue()}
    try:
        serve.validate(given)
        given.model = given.model_tag
        arguments = AsyncEngineArgs.from_cli_args(given)
        found = {**vars(given), **vars(arguments)}
        if Path(given.model).is_dir():
            found["engine"] = configured(arguments, headless=given.headless)
    except (TypeError, ValueError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return found


def configured(arguments: AsyncEngineArgs, *, headless: bool) -> dict[str, Any]:
    """The engine's configuration: of it, what says how a model is shared out and served."""
    config = arguments.create_engine_config(headless=headless)
    parallel, model, cache = config.parallel_config, config.model_config, config.cache_config
    return {
        "tensor_parallel_size": parallel.tensor_parallel_size,
        "pipeline_parallel_size": parallel.pipeline_parallel_size,
        "data_parallel_size": parallel.data_parallel_size,
        "world_size": parallel.world_size,
        "nnodes": parallel.nnodes,
        "node_rank": parallel.node_rank,
        "master_addr": parallel.master_addr,
        "master_port": parallel.master_port,
        "distributed_executor_backend": parallel.distributed_executor_backend,
        "max_model_len": model.max_model_len,
        "runner_type": model.runner_type,
        "convert_type": model.convert_type,
        "served_model_name": model.served_model_name,
        "gpu_memory_utilization": cache.gpu_memory_utilization,
        "shutdown_timeout": config.shutdown_timeout,
    }


if __name__ == "__main__":
    read_all = [read(words) for words in json.load(sys.stdin)]
    Path(sys.argv[-1]).write_text(json.dumps(read_all, default=repr))
