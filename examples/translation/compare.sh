#!/usr/bin/env bash
# srupp_transformer and fairseq's transformer of equal size, side by side, one processor core each.
#   compare.sh SRC TGT DATA OUT
# UPDATES and BASELINE_UPDATES (default 3000): the length of the learning rate's cosine, ours and fairseq's; HOURS
# (default 0.4167: 25 minutes): when a side stops that has not come to its end; DROPOUT (default 0.1): of both; OPTIONS:
# more of both, as --bf16 on a processor with instructions for it.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,6s/^# *//p' "$0" >&2; exit 2; }
src=$1 tgt=$2 data=$3 out=$4
here=$(cd "$(dirname "$0")" && pwd)
dropout=${DROPOUT:-0.1}
export OMP_NUM_THREADS=1
# glibc keeps freed memory: a training step on the CPU asks for the same large blocks again and again.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=1099511627776
mkdir -p "$out/srupp_transformer" "$out/transformer"

# Runs a command on processor core $1; its time, that of the processor too, is left in $2/time.
timed() {
  local core=$1 dir=$2; shift 2
  TIMEFORMAT='%R s, of the processor %U s and %S s'
  { time taskset -c "$core" "$@" 2>&1; } 2> "$dir/time"
}

timed 0 "$out/srupp_transformer" "$here/train.sh" "$src" "$tgt" "$data" "$out/srupp_transformer" --cpu ${OPTIONS:-} \
  --dropout "$dropout" --stop-time-hours "${HOURS:-0.4167}" --max-update "${UPDATES:-3000}" > /dev/null &
timed 1 "$out/transformer" fairseq-train "$data" --user-dir "$(python -m fairseq_srupp user-dir)" \
  --source-lang "$src" --target-lang "$tgt" \
  --arch transformer --encoder-embed-dim 256 --encoder-ffn-embed-dim 1024 --encoder-attention-heads 4 --encoder-layers 3 \
  --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024 --decoder-attention-heads 4 --decoder-layers 3 \
  --share-all-embeddings --dropout "$dropout" --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
  --max-tokens 1024 --optimizer adam --adam-betas '(0.9, 0.98)' --lr 0.001 --clip-norm 1.0 \
  --lr-scheduler cosine --warmup-updates 400 --max-update "${BASELINE_UPDATES:-3000}" \
  --no-epoch-checkpoints --log-format simple --log-interval 100 --seed 1 --cpu ${OPTIONS:-} \
  --stop-time-hours "${HOURS:-0.4167}" --save-dir "$out/transformer" > "$out/transformer/train.log" &
wait

for model in srupp_transformer transformer; do
  echo "$model: $(cat "$out/$model/time")"
  "$here/evaluate.sh" "$src" "$tgt" "$data" "$out/$model/checkpoint_best.pt"
done
