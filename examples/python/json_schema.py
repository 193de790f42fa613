"""An answer as an object of your own: the engine keeps to the JSON schema of a pydantic model."""

import argparse

from openai import OpenAI
from pydantic import BaseModel, Field

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True)
model = parser.parse_args().model


class Place(BaseModel):
    city: str = Field(max_length=40)
    country: str = Field(max_length=40)


client = OpenAI()  # reads OPENAI_BASE_URL and OPENAI_API_KEY
question = "Which city is the capital of France? Answer with city and country as JSON."
answer = client.chat.completions.parse(
    model=model,
    messages=[{"role": "user", "content": question}],
    response_format=Place,
    max_tokens=100,
    temperature=0,
)
place = answer.choices[0].message.parsed
print(f"city: {place.city}, country: {place.country}")
