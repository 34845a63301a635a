#!/usr/bin/env bash
# Detokenised sacreBLEU of the test set, with its signature.
#   evaluate.sh SRC TGT DATA CHECKPOINT [fairseq-generate options]
# DATA is what prepare.sh made. The hypotheses are left beside the checkpoint. SACREBLEU_OPTIONS: more for sacrebleu.
set -euo pipefail
. "$(dirname "$0")/../common.sh"
[ $# -ge 4 ] && filled "${@:1:4}" || usage
src=$1 tgt=$2 data=$3 checkpoint=$4; shift 4
present "$checkpoint"
prepared "$data/bpe/reference.$tgt"

out=${checkpoint%.pt}.test
user_dir=$(python -m fairseq_srupp user-dir)
trap 'stop; rm -f "$out.txt" "$out.$tgt"' EXIT
run fairseq-generate "$data" --user-dir "$user_dir" --source-lang "$src" --target-lang "$tgt" --path "$checkpoint" \
  --gen-subset test --beam 5 --max-tokens 4000 --max-source-positions 4000 --max-target-positions 4000 \
  --remove-bpe sentencepiece "$@" > "$out.txt" 2> "$out.log" ||
  fail "fairseq-generate failed, see $out.log: $(reason "$out.log")"
grep -a '^H-' "$out.txt" | sed 's/^H-//' | sort -n | cut -f 3 > "$out.$tgt" || fail "fairseq-generate printed no translations"
trap stop EXIT
grep -aho 'Translated .*' "$out.log" "$out.txt" # fairseq's versions differ in where this line goes
run sacrebleu "$data/bpe/reference.$tgt" --input "$out.$tgt" --width 2 --format text ${SACREBLEU_OPTIONS:-}
