#!/bin/sh
# How near is one text to each of the others? Of a model for that, with vLLM. Usage: score.sh MODEL
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/score" \
    -H @/dev/fd/3 -H "Content-Type: application/json" \
    -d @- 3<<KEY <<EOF
Authorization: Bearer $OPENAI_API_KEY
KEY
{
  "model": "${1:?usage: score.sh MODEL}",
  "text_1": "Where is the Nile?",
  "text_2": ["a river in Africa", "a lake in Europe", "how to bake bread"]
}
EOF
