#!/usr/bin/env bash
# Perplexity of a model of WikiText-103, on the test text.
#   evaluate.sh DATA CHECKPOINT [WINDOW [fairseq-eval-lm options]]
# WINDOW (2560) is how many words before itself a position sees.
set -euo pipefail
. "$(dirname "$0")/../language_model.sh"
[ $# -ge 2 ] && filled "${@:1:2}" || usage
evaluate_lm "$1" "$2" "${3:-2560}" "${@:4}"
