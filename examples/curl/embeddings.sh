#!/bin/sh
# Vectors of two texts, of an embedding model. Usage: embeddings.sh MODEL
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/embeddings" \
    -H "Authorization: Bearer $OPENAI_API_KEY" -H "Content-Type: application/json" \
    -d @- <<EOF
{
  "model": "${1:?usage: embeddings.sh MODEL}",
  "input": ["a river in Africa", "a lake in Europe"]
}
EOF
