#!/bin/sh
# Every row of questions.jsonl, exactly one answer each; run it again to go on after a crash.
# Usage: run.sh MODEL [OUTPUT]
set -eu
model=${1:?usage: run.sh MODEL [OUTPUT]}
export MODELTAINER_KEY="$OPENAI_API_KEY" # not --key, which ps would show to everybody
mt-submit batch run "$(dirname "$0")/questions.jsonl" --model "$model" \
    --output "${2:-answers.jsonl}" --url "$OPENAI_BASE_URL"
