"""A scripted engine with known timing; the model's name says how it behaves.

``python -m tests.bench.engine --ttft 0.2 --gap 0.05 --tokens 20`` prints its port. Every event is
due at an absolute time from the request's arrival, so that lateness does not add up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
MODELS = {
    "plain": "role chunk, one token per event, finish_reason, usage, [DONE]",
    "bare-usage": "the same, with usage only at the end",
    "pings": "comments and a role-only chunk long before the first token",
    "bundled": "four tokens per event, counted in each",
    "bundled-uncounted": "four tokens per event, counted at the end",
    "no-usage": "never counts",
    "error-in-stream": "three tokens, then an error, under status 200",
    "error-as-200": "an error as JSON under status 200",
    "truncated": "three tokens, then [DONE] without a finish_reason",
    "no-done": "ends in order, but without [DONE]",
    "cut": "three tokens, then the connection is closed",
    "late-end": "finish, usage and [DONE] come half a second after the last token",
    "split": "CRLF line ends, written in pieces of seven bytes",
    "mixed": "every fourth request's first token comes twice as late",
    "stalls": "answers nothing from 1.0 to 2.0 s after its first request",
    "queues": "serves a few at a time (--slots); the others wait",
    "reasoning": "its first events are reasoning, not content",
    "whole": "does not stream",
    "no-ignore-eos": "refuses ignore_eos",
}


@dataclass
class Script:
    """Timing."""

    ttft: float
    gap: float
    tokens: int
    slots: int
    die_after: int
    refuse_after: int
    record: str
    key: str


class Engine:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.count = 0
        self.first: float | None = None
        self.slots = asyncio.Semaphore(script.slots)

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                length = int(head.partition("content-length:")[2].split("\r\n")[0] or 0)
                body = await reader.readexactly(length)
                arrived = time.monotonic()
                if self.script.key and f"bearer {self.script.key}" not in head:
                    respond(writer, {"error": {"message": "bad key"}}, "401 Unauthorized")
                elif head.startswith("get "):
                    known = head.startswith("get /v1/models ")
                    listed = {"object": "list", "data": [{"id": name} for name in MODELS]}
                    respond(writer, listed if known else {}, "200 OK" if known else "404 None")
                else:
                    self.note(head, json.loads(body), arrived)
                    await self.answer(json.loads(body), arrived, writer)
                    if writer.is_closing():
                        return
                await writer.drain()

    def note(self, head: str, asked: dict[str, Any], arrived: float) -> None:
        if self.script.record:
            noted = {"path": head.split()[1], "head": head, "asked": asked, "arrived": arrived}
            with Path(self.script.record).open("a") as file:
                file.write(json.dumps(noted) + "\n")

    async def answer(
        self, asked: dict[str, Any], arrived: float, writer: asyncio.StreamWriter
    ) -> None:
        self.count += 1
        if self.script.die_after and self.count > self.script.die_after:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.script.refuse_after and self.count > self.script.refuse_after:
            respond(writer, {"error": {"message": "not running"}}, "503 Service Unavailable")
            return
        model, script = asked["model"], self.script
        tokens = min(script.tokens, asked["max_tokens"])
        words = json.dumps(asked.get("messages", asked.get("prompt"))).split()
        usage = {
            "prompt_tokens": len(words) + 5,
            "completion_tokens": tokens,
            "total_tokens": len(words) + 5 + tokens,
        }
        if model == "no-ignore-eos" and "ignore_eos" in asked:
            respond(writer, {"error": {"message": "ignore_eos?"}}, "400 Bad Request")
            return
        if model == "error-as-200":
            respond(writer, {"error": {"message": "out of memory"}})
            return
        if model == "whole" or not asked.get("stream"):
            await until(arrived + script.ttft)
            choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
            if "prompt" in asked:
                choice["text"] = "word " * tokens
            else:
                choice["message"] = {"role": "assistant", "content": "word " * tokens}
            respond(writer, {"choices": [choice], "usage": usage})
            return
        if model == "queues":
            async with self.slots:
                await self.stream(asked, time.monotonic(), tokens, usage, writer)
        else:
            await self.stream(asked, arrived, tokens, usage, writer)

    async def stream(
        self,
        asked: dict[str, Any],
        arrived: float,
        tokens: int,
        usage: dict[str, int],
        writer: asyncio.StreamWriter,
    ) -> None:
        model, script = asked["model"], self.script
        options = asked.get("stream_options", {})
        event = text_event if "prompt" in asked else chat_event
        ttft = script.ttft
        if model == "mixed" and self.count % 4 == 0:
            ttft *= 2
        if model == "stalls":
            self.first = self.first or arrived
            stall = (self.first + 1.0, self.first + 2.0)
            if stall[0] <= arrived + ttft < stall[1]:
                ttft = stall[1] - arrived
        per_event = 4 if model.startswith("bundled") else 1
        counts = options.get("continuous_usage_stats") and model not in {
            "bare-usage",
            "bundled-uncounted",
            "no-usage",
        }
        writer.write(HEAD)
        write(writer, event({"role": "assistant", "content": ""}), model)
        if model == "pings":
            for number in range(1, 5):
                await until(arrived + ttft * number / 5)
                write(writer, b": ping\n\n", model)
        sent = 0
        while sent < tokens:
            await until(arrived + ttft + (sent // per_event) * script.gap * per_event)
            sent = min(tokens, sent + per_event)
            said = {"content": " word" * per_event}
            if model == "reasoning" and sent <= tokens // 2:
                said = {"reasoning_content": "thought"}
            so_far = {**usage, "completion_tokens": sent} if counts else None
            write(writer, event(said, usage=so_far), model)
            if sent == 3 and model in {"error-in-stream", "truncated", "cut"}:
                break
        if model == "cut":
            await writer.drain()
            writer.close()
            return
        if model == "late-end":
            await until(time.monotonic() + 0.5)
        if model == "error-in-stream":
            write(writer, b'data: {"error": {"message": "the engine has died"}}\n\n', model)
        elif model != "truncated":
            write(writer, event({}, "length"), model)
            if model != "no-usage":
                write(writer, sse({"choices": [], "usage": usage}), model)
        if model not in {"no-done", "error-in-stream"}:
            write(writer, b"data: [DONE]\n\n", model)
        writer.write(b"0\r\n\r\n")


def sse(document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


def chat_event(
    delta: dict[str, str], finish: str | None = None, usage: dict[str, int] | None = None
) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    document: dict[str, Any] = {"id": "c", "object": "chat.completion.chunk", "choices": [choice]}
    if usage is not None:
        document["usage"] = usage
    return sse(document)


def text_event(
    delta: dict[str, str], finish: str | None = None, usage: dict[str, int] | None = None
) -> bytes:
    """The same of the completions API, which knows no roles: its events have text, and no delta."""
    choice = {"index": 0, "text": delta.get("content", ""), "finish_reason": finish}
    document: dict[str, Any] = {"id": "c", "object": "text_completion", "choices": [choice]}
    if usage is not None:
        document["usage"] = usage
    return sse(document)


def write(writer: asyncio.StreamWriter, data: bytes, model: str) -> None:
    if model != "split":
        writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        return
    data = data.replace(b"\n", b"\r\n")
    for start in range(0, len(data), 7):
        piece = data[start : start + 7]
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece))


def respond(writer: asyncio.StreamWriter, document: object, status: str = "200 OK") -> None:
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\n"
    writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)


async def until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.monotonic()))


async def serve(script: Script) -> None:
    engine = Engine(script)
    server = await asyncio.start_server(engine.connection, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def serving(**script: float | str) -> Iterator[str]:
    """An engine in a process of its own; gives its URL."""
    words = [word for name, value in script.items() for word in (f"--{name}", str(value))]
    argv = [sys.executable, "-m", "tests.bench.engine", *words]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ttft", type=float, default=0.2, help="seconds")
    parser.add_argument("--gap", type=float, default=0.05, help="seconds per token")
    parser.add_argument("--tokens", type=int, default=20, help="at most; max_tokens counts too")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--die_after", type=int, default=0, help="requests; 0: never")
    parser.add_argument("--refuse_after", type=int, default=0, help="requests, as a gateway does")
    parser.add_argument("--record", default="", help="a file for what is asked, JSON lines")
    parser.add_argument("--key", default="")
    asyncio.run(serve(Script(**vars(parser.parse_args()))))


if __name__ == "__main__":
    main()
