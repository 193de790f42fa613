"""How long would these messages be? By Anthropic's client, where the engine has /v1/messages."""

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
messages = [{"role": "user", "content": "Name three rivers."}]
print(client.messages.count_tokens(model=model, messages=messages).input_tokens)
