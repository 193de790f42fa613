"""Runs beside the gateway or on the laptop: one connection to OPENAI_BASE_URL.

``pause MODEL SECONDS ANSWERS``: two requests with a pause between them; prints their statuses.
``stream MODEL TOKENS ANSWERS``: prints a stream's first line; then a line of input says to
``leave``, or to ``stay``, which prints the rest once the gateway has ended the connection.
"""

from __future__ import annotations

import json
import os
import sys
import time
from http.client import HTTPConnection, HTTPResponse
from urllib.parse import urlsplit

mode, model, number, answers = sys.argv[1:]
url = urlsplit(os.environ["OPENAI_BASE_URL"])
connection = HTTPConnection(str(url.hostname), url.port, timeout=60)


def ask(**more: object) -> HTTPResponse:
    body = {"model": model, "prompt": "one two", "n": int(answers), "temperature": 1, **more}
    headers = {
        "Authorization": f"Bearer {os.environ['OPENAI_API_KEY']}",
        "Content-Type": "application/json",
    }
    connection.request("POST", f"{url.path}/completions", json.dumps(body), headers)
    return connection.getresponse()


if mode == "pause":
    for seconds in (float(number), 0):
        answer = ask(max_tokens=2)
        answer.read()
        print(answer.status)
        time.sleep(seconds)
else:
    answer = ask(max_tokens=int(number), ignore_eos=True, stream=True)
    print(answer.readline().decode(), end="", flush=True)
    if sys.stdin.readline() == "stay\n":
        rest = answer.read().decode()
        assert connection.sock.recv(1) == b"", "the connection goes on"
        print(rest)
