#!/bin/sh
# The text of tokens, which vLLM calls prompt and llama.cpp content. Usage: detokenize.sh MODEL '[1, 2]'
set -eu
curl -sS --fail-with-body "${OPENAI_BASE_URL%/v1}/detokenize" \
    -H @/dev/fd/3 -H "Content-Type: application/json" \
    -d @- 3<<KEY <<EOF
Authorization: Bearer $OPENAI_API_KEY
KEY
{
  "model": "${1:?usage: detokenize.sh MODEL TOKENS}",
  "tokens": ${2:?usage: detokenize.sh MODEL TOKENS}
}
EOF
