"""A load generator's client as many are: what the tests of the real one are held against.

Any event with ``choices`` is a token, the first one is the first token, latency ends with the
answer, and status 200 is success.
"""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass
class Naive:
    """What the naive client believes. Seconds."""

    ok: bool = False
    ttft_s: float = 0.0
    e2e_s: float = 0.0
    tokens: int = 0
    times: list[float] = field(default_factory=list)

    @property
    def tpot_s(self) -> float:
        """Mean gap between events."""
        return (self.times[-1] - self.times[0]) / max(1, len(self.times) - 1)


def ask(url: str, model: str, tokens: int) -> Naive:
    """One request."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=30)
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "word"}],
        "max_tokens": tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    began = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    answer = connection.getresponse()
    found = Naive(ok=answer.status == 200)
    try:
        for line in answer:
            text = line.decode().strip()
            if text.startswith("data:") and text != "data: [DONE]":
                now = time.monotonic()
                if json.loads(text[5:]).get("choices"):
                    found.times.append(now - began)
    except http.client.HTTPException:
        pass  # it has had its 200
    found.e2e_s = time.monotonic() - began
    found.ttft_s = found.times[0] if found.times else 0.0
    found.tokens = len(found.times)
    connection.close()
    return found
