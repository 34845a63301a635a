#!/usr/bin/env bash
# BLEU of the test set: detokenised sacreBLEU with its signature, then that of Moses' tokens in lower case, over all 6,750
# lines and over the 5,585 without TEDX.dev2012, which the paper's code leaves out.
#   evaluate.sh DATA CHECKPOINT [fairseq-generate options]
# DATA is what prepare.sh made. The translations are left beside the checkpoint.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
[ $# -ge 2 ] && filled "${@:1:2}" || usage
data=$1 checkpoint=$2; shift 2
reference=$data/bpe/reference
prepared "$reference.tok.en"

LC_ALL=C grep -q '[A-Z]' "$reference.en" && lower= || lower=lower
SACREBLEU_OPTIONS=${lower:+--lowercase} run "$here/../translation/evaluate.sh" de en "$data" "$checkpoint" "$@"

out=${checkpoint%.pt}.test
python "$here/moses.py" en $lower < "$out.en" > "$out.tok.en"
# tokenised_bleu COMMAND...: of the lines that the command lets through
tokenised_bleu() {
  printf 'tokenised, %s lines: ' "$("$@" "$reference.tok.en" | wc -l)"
  sacrebleu <("$@" "$reference.tok.en") --input <("$@" "$out.tok.en") --lowercase --tokenize none --force \
    --width 2 --format text
}
tokenised_bleu cat
[ "$(wc -l < "$reference.tok.en")" -ne 6750 ] || tokenised_bleu sed 888,2052d
