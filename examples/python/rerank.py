"""Which document answers best? Of a reranking model."""

import argparse

import httpx
from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
model = parser.parse_args().model

documents = ["a river in Africa", "a lake in Europe", "how to bake bread"]
client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
body = {"model": model, "query": "Where is the Nile?", "documents": documents}
# OpenAI has no such API; its client sends what it does not know, too.
answer = client.post("/rerank", body=body, cast_to=httpx.Response).json()
for row in sorted(answer["results"], key=lambda row: -row["relevance_score"]):
    print(f"{row['relevance_score']:+.3f}  {documents[row['index']]}")
