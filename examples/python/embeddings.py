"""Which text is nearest to a question? Of an embedding model."""

import argparse

from openai import OpenAI

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
model = parser.parse_args().model

texts = ["a river in Africa", "a lake in Europe", "how to bake bread"]
client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
answer = client.embeddings.create(model=model, input=["Where is the Nile?", *texts])
question, *others = (row.embedding for row in answer.data)


def cosine(a: list[float], b: list[float]) -> float:
    def dot(x: list[float], y: list[float]) -> float:
        return sum(p * q for p, q in zip(x, y, strict=True))

    return dot(a, b) / (dot(a, a) * dot(b, b)) ** 0.5


for text, vector in zip(texts, others, strict=True):
    print(f"{cosine(question, vector):+.3f}  {text}")
