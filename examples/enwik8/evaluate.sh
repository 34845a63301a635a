#!/usr/bin/env bash
# Bits per character of a model of enwik8, on the test text.
#   evaluate.sh DATA CHECKPOINT [WINDOW [fairseq-eval-lm options]]
# WINDOW is how many characters before itself a position sees: 3072, and 2048 for the small models.
set -euo pipefail
. "$(dirname "$0")/../language_model.sh"
[ $# -ge 2 ] && filled "${@:1:2}" || usage
evaluate_lm "$1" "$2" "${3:-3072}" "${@:4}"
