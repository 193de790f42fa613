#!/bin/sh
# The tokens of a text: vLLM reads prompt, llama.cpp content. Usage: tokenize.sh MODEL
set -eu
curl -sS --fail-with-body "${OPENAI_BASE_URL%/v1}/tokenize" \
    -H @/dev/fd/3 -H "Content-Type: application/json" \
    -d @- 3<<KEY <<EOF
Authorization: Bearer $OPENAI_API_KEY
KEY
{
  "model": "${1:?usage: tokenize.sh MODEL}",
  "prompt": "Name three rivers.",
  "content": "Name three rivers."
}
EOF
