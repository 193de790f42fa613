"""What the test has litellm and LangChain do, in an environment of their own; prints one JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

URL, KEY = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_API_KEY"]
PROMPT = "The capital of France is"


def by_litellm() -> dict[str, Any]:
    import litellm

    messages = [{"role": "user", "content": PROMPT}]
    common: dict[str, Any] = {"model": "openai/tiny", "api_base": URL, "api_key": KEY}
    whole = litellm.completion(messages=messages, max_tokens=8, **common)
    stream = litellm.completion(
        messages=messages,
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
        **common,
    )
    chunks = list(stream)
    vectors = litellm.embedding(
        model="openai/vectors",
        input=["one", "two"],
        api_base=URL,
        api_key=KEY,
        encoding_format="float",
    )
    try:
        litellm.completion(messages=messages, **{**common, "model": "openai/nobody"})
        refused = ""
    except litellm.NotFoundError as error:
        refused = str(error)
    return {
        "tokens": whole.usage.completion_tokens,
        "chunks": len(chunks),
        "usage": next(
            chunk.usage.completion_tokens
            for chunk in chunks
            if getattr(chunk, "usage", None) is not None
        ),
        "vectors": [len(one["embedding"]) for one in vectors.data],
        "refused": refused,
    }


def by_langchain() -> dict[str, Any]:
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    chat = ChatOpenAI(model="tiny", base_url=URL, api_key=KEY, max_completion_tokens=8)
    whole = chat.invoke(PROMPT)
    chunks = list(chat.stream(PROMPT))
    embed = OpenAIEmbeddings(
        model="vectors", base_url=URL, api_key=KEY, check_embedding_ctx_length=False
    )
    return {
        "tokens": whole.usage_metadata["output_tokens"],
        "chunks": len(chunks),
        "vectors": [len(one) for one in embed.embed_documents(["one", "two"])],
    }


if __name__ == "__main__":
    print(json.dumps({"litellm": by_litellm, "langchain": by_langchain}[sys.argv[1]]()))
