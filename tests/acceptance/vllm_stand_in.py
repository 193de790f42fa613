#!/usr/bin/python3
"""Stands for ``vllm`` in an image that no test can pull, on GPUs that are not there.

It takes vLLM's options and no others, wants as many visible devices as they share the model among,
meets the other nodes' ranks, demands the key, and answers every prompt with one word. Its first
line of output says how it was started.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

STARTED = "stand-in for vLLM: "


def options() -> argparse.Namespace:
    """``vllm serve``'s options, as far as the example files use them."""
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    parser.add_argument("serve", choices=["serve"])
    parser.add_argument("model")
    parser.add_argument("--config", required=True)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--max-num-seqs", type=int)
    parser.add_argument("--enable-prefix-caching", action="store_true")
    parser.add_argument("--gpu-memory-utilization", type=float)
    parser.add_argument("--tensor-parallel-size", type=int, default=1)
    parser.add_argument("--pipeline-parallel-size", type=int, default=1)
    parser.add_argument("--distributed-executor-backend", choices=["mp"])
    parser.add_argument("--nnodes", type=int, default=1)
    parser.add_argument("--node-rank", type=int, default=0)
    parser.add_argument("--master-addr")
    parser.add_argument("--master-port", type=int)
    parser.add_argument("--headless", action="store_true")
    return parser.parse_args()


def meet(given: argparse.Namespace) -> list[socket.socket]:
    """Connections between rank 0 and all the others; they stay open while all of them live."""
    if given.nnodes == 1:
        return []
    where = (given.master_addr, given.master_port)
    if given.node_rank == 0:
        with socket.create_server(where) as server:
            return [server.accept()[0] for _ in range(given.nnodes - 1)]
    for _ in range(300):
        with contextlib.suppress(OSError):
            return [socket.create_connection(where, timeout=5)]
        time.sleep(0.1)
    sys.exit(f"no rank 0 at {where}")


class Handler(BaseHTTPRequestHandler):
    names: tuple[str, ...] = ()

    def log_message(self, *args: Any) -> None:
        pass

    def reply(self, status: int, body: object) -> None:
        data = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        if self.path == "/metrics":
            self.reply(200, "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n")
        elif self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [{"id": name} for name in self.names]})
        else:
            self.reply(200 if self.path == "/health" else 404, {})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {os.environ['VLLM_API_KEY']}":
            self.reply(401, {"error": "Unauthorized"})
        elif asked["model"] not in self.names:
            self.reply(404, {"error": f"The model {asked['model']} does not exist."})
        else:
            words = {"text": "stands", "message": {"role": "assistant", "content": "stands"}}
            self.reply(200, {"choices": [{"index": 0, "finish_reason": "stop", **words}]})


def main() -> None:
    given = options()
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    print(STARTED + json.dumps({**vars(given), "devices": devices}), flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    share = given.tensor_parallel_size * given.pipeline_parallel_size
    if share != len(devices) * given.nnodes:
        sys.exit(f"the model is shared among {share} GPUs of {len(devices)} on each node")
    others = meet(given)
    if given.headless:
        others[0].settimeout(None)
        others[0].recv(1)
        return
    Handler.names = tuple(json.loads(Path(given.config).read_text())["served-model-name"])
    ThreadingHTTPServer((given.host, given.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
