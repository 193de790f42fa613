#!/bin/sh
# Vectors of two texts, of an embedding model. Usage: embeddings.sh MODEL
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/embeddings" \
    -H @/dev/fd/3 -H "Content-Type: application/json" \
    -d @- 3<<KEY <<EOF
Authorization: Bearer $OPENAI_API_KEY
KEY
{
  "model": "${1:?usage: embeddings.sh MODEL}",
  "input": ["a river in Africa", "a lake in Europe"]
}
EOF
