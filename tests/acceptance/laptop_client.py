"""Runs on the laptop: the official openai client, streaming, against OPENAI_BASE_URL."""

from __future__ import annotations

import json
import sys
import time

import openai

model, prompt = sys.argv[1:3]
client = openai.OpenAI(max_retries=0)
for _ in range(50):  # ssh may still be opening the tunnel
    try:
        client.models.list()
        break
    except openai.APIConnectionError:
        time.sleep(0.2)
pieces, stamps, finish = [], [], None
for chunk in client.completions.create(
    model=model, prompt=prompt, max_tokens=24, temperature=0, stream=True
):
    if chunk.choices:
        pieces.append(chunk.choices[0].text)
        finish = chunk.choices[0].finish_reason or finish
        stamps.append(time.monotonic())
chat = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": "Hello"}], max_tokens=4
)
print(
    json.dumps(
        {
            "text": "".join(pieces),
            "chunks": len(pieces),
            "spread_s": stamps[-1] - stamps[0],
            "finish": finish,
            "chat_tokens": chat.usage.completion_tokens if chat.usage else None,
            "models": [found.id for found in client.models.list()],
        }
    )
)
