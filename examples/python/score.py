"""How near is one text to each of the others? Of a model for that, with vLLM."""

import argparse

import httpx
from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
model = parser.parse_args().model

texts = ["a river in Africa", "a lake in Europe", "how to bake bread"]
client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
body = {"model": model, "text_1": "Where is the Nile?", "text_2": texts}
# OpenAI has no such API; its client sends what it does not know, too.
answer = client.post("/score", body=body, cast_to=httpx.Response).json()
for row in answer["data"]:
    print(f"{row['score']:+.3f}  {texts[row['index']]}")
