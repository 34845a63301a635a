#!/usr/bin/env bash
# A byte-level language model of 4.8M parameters on plain text: prepare, train for a time, evaluate.
#   run.sh TRAIN VALID TEST OUT [fairseq-train options]
# HOURS (default 0.4167: 25 minutes) is how long training may take, UPDATES the length of the learning rate's cosine;
# TRAIN_ONLY=1 leaves the evaluation out.
set -euo pipefail
. "$(dirname "$0")/../common.sh"
[ $# -ge 4 ] && filled "${@:1:4}" || usage
train=$1 valid=$2 test=$3 out=$4 updates=${UPDATES:-8000} hours=${HOURS:-0.4167}; shift 4
number UPDATES "$updates" 1
amount HOURS "$hours"
number TRAIN_ONLY "${TRAIN_ONLY:-0}"
one_path "$out"
present "$train" "$valid" "$test"
user_dir=$(python -m fairseq_srupp user-dir)
stream=(--user-dir "$user_dir" --task streaming_language_modeling)
folder "$out"

run python -m fairseq_srupp prepare-bytes --train "$train" --valid "$valid" --test "$test" --destdir "$out/data"
rm -f "$out/train.log"
run logged "$out/train.log" fairseq-train "$out/data" "${stream[@]}" --tokens-per-sample 128 --mem-len 256 --batch-size 8 \
  --batch-size-valid 16 --arch srupp_lm --hidden-size 864 --attention-dim 216 --layers 6 --attention-every-n-layers 3 \
  --share-decoder-input-output-embed --dropout 0 --bf16 \
  --optimizer radam --lr 0.006 --weight-decay 0.01 --clip-norm 1.0 \
  --lr-scheduler cosine --warmup-updates 100 --max-update "$updates" --stop-time-hours "$hours" \
  --disable-validation --no-epoch-checkpoints --save-interval-updates 1000 --keep-interval-updates 1 \
  --log-format simple --log-interval 100 --seed 1 --save-dir "$out/checkpoints" "$@"

[ "${TRAIN_ONLY:-0}" = 0 ] || exit 0
head -c 1000000 "$test" > "$out/first_million"
for text in "$test" "$out/first_million"; do
  [ "$text" = "$test" ] || ! cmp -s "$text" "$test" || continue  # the test file is no longer than that
  name=$(basename "$text")
  run python -m fairseq_srupp prepare-bytes --test "$text" --dict "$out/data/dict.txt" --destdir "$out/data.$name"
  rm -f "$out/eval.$name.log"
  run logged "$out/eval.$name.log" fairseq-eval-lm "$out/data.$name" "${stream[@]}" \
    --path "$out/checkpoints/checkpoint_last.pt" --gen-subset test --tokens-per-sample 512 --batch-size 8
done
