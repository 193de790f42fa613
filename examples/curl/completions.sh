#!/bin/sh
# Text that goes on, without a chat template: for base models. Usage: completions.sh MODEL
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/completions" \
    -H @/dev/fd/3 -H "Content-Type: application/json" \
    -d @- 3<<KEY <<EOF
Authorization: Bearer $OPENAI_API_KEY
KEY
{
  "model": "${1:?usage: completions.sh MODEL}",
  "prompt": "The longest river of Africa is",
  "max_tokens": 20,
  "temperature": 0
}
EOF
