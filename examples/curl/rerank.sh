#!/bin/sh
# Documents in the order of how well they answer, of a reranking model. Usage: rerank.sh MODEL
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/rerank" \
    -H @/dev/fd/3 -H "Content-Type: application/json" \
    -d @- 3<<KEY <<EOF
Authorization: Bearer $OPENAI_API_KEY
KEY
{
  "model": "${1:?usage: rerank.sh MODEL}",
  "query": "Where is the Nile?",
  "documents": ["a river in Africa", "a lake in Europe", "how to bake bread"]
}
EOF
