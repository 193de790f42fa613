#!/bin/sh
# OpenAI's Responses API, where the engine has it (vLLM, llama.cpp). Usage: responses.sh MODEL
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/responses" \
    -H @/dev/fd/3 -H "Content-Type: application/json" \
    -d @- 3<<KEY <<EOF
Authorization: Bearer $OPENAI_API_KEY
KEY
{
  "model": "${1:?usage: responses.sh MODEL}",
  "input": "Name three rivers.",
  "max_output_tokens": 100
}
EOF
