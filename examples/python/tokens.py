"""The tokens of a text, and the text of the tokens."""

import argparse
import os
from typing import Any

import httpx
from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
parser.add_argument("text")
args = parser.parse_args()

client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
root = os.environ["OPENAI_BASE_URL"].removesuffix("/v1")  # these two are not below /v1


def ask(path: str, **fields: object) -> Any:
    body = {"model": args.model, **fields}
    return client.post(f"{root}/{path}", body=body, cast_to=httpx.Response).json()


# vLLM calls the text prompt, llama.cpp content; each overlooks the other word.
tokens = ask("tokenize", prompt=args.text, content=args.text)["tokens"]
print(len(tokens), "tokens:", *tokens)
# All at once: a token may be a part of a character.
back = ask("detokenize", tokens=tokens)
print(back.get("prompt", back.get("content")))
