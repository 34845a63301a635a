#!/usr/bin/env bash
# srupp_transformer and fairseq's transformer of equal size, side by side for the same time, one processor core each.
#   compare.sh SRC TGT DATA OUT
# HOURS (default 0.4167: 25 minutes) is how long each trains, UPDATES the length of ours' learning rate cosine.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,4s/^# *//p' "$0" >&2; exit 2; }
src=$1 tgt=$2 data=$3 out=$4
here=$(cd "$(dirname "$0")" && pwd)
export OMP_NUM_THREADS=1
# glibc keeps freed memory: a training step on the CPU asks for the same large blocks again and again.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=1099511627776
mkdir -p "$out/transformer"

taskset -c 0 "$here/train.sh" "$src" "$tgt" "$data" "$out/srupp_transformer" --cpu --bf16 \
  --stop-time-hours "${HOURS:-0.4167}" --max-update "${UPDATES:-3000}" > /dev/null &
taskset -c 1 fairseq-train "$data" --user-dir "$(python -m fairseq_srupp user-dir)" --source-lang "$src" --target-lang "$tgt" \
  --arch transformer --encoder-embed-dim 256 --encoder-ffn-embed-dim 1024 --encoder-attention-heads 4 --encoder-layers 3 \
  --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024 --decoder-attention-heads 4 --decoder-layers 3 \
  --share-all-embeddings --dropout 0.1 --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --max-tokens 1024 \
  --optimizer adam --adam-betas '(0.9, 0.98)' --lr 0.001 --lr-scheduler inverse_sqrt --warmup-updates 400 --clip-norm 1.0 \
  --no-epoch-checkpoints --log-format simple --log-interval 100 --seed 1 --cpu --bf16 \
  --stop-time-hours "${HOURS:-0.4167}" --save-dir "$out/transformer" > "$out/transformer/train.log" 2>&1 &
wait

for model in srupp_transformer transformer; do
  echo "$model"
  "$here/evaluate.sh" "$src" "$tgt" "$data" "$out/$model/checkpoint_last.pt"
done
