"""Anthropic's own client against the same gateway, where the engine has /v1/messages."""

import argparse
import os

from anthropic import Anthropic

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
model = parser.parse_args().model

client = Anthropic(
    base_url=os.environ["OPENAI_BASE_URL"].removesuffix("/v1"),  # it adds /v1 itself
    api_key=os.environ["OPENAI_API_KEY"],
)
with client.messages.stream(
    model=model,
    max_tokens=100,
    messages=[{"role": "user", "content": "Name three rivers."}],
) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()
