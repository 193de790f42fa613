#!/bin/sh
# What the gateway serves, and to whom your key lets you. Usage: models.sh
set -eu
curl -sS --fail-with-body "$OPENAI_BASE_URL/models" -H @- <<KEY
Authorization: Bearer $OPENAI_API_KEY
KEY
