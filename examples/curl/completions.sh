#!/bin/sh
# Text that goes on, without a chat template: for base models. Usage: completions.sh MODEL
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/completions" \
    -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
    -d @- <<EOF
{
  "model": "${1:?usage: completions.sh MODEL}",
  "prompt": "The longest river of Africa is",
  "max_tokens": 20,
  "temperature": 0
}
EOF
