#!/usr/bin/env bash
# Train the paper's model (table 8) on what prepare.sh made; a run that was stopped goes on.
#   train.sh DATA SAVE_DIR [fairseq-train options, which override those below]
# GPUS processes (all GPUs; without any, one on the CPU) share the paper's batch of 128 pairs.
set -euo pipefail
. "$(dirname "$0")/../common.sh"
[ $# -ge 2 ] && filled "${@:1:2}" || usage
data=$1 save_dir=$2; shift 2
prepared "$data/dict.en.txt"
gpus=$(gpus)
device=(--distributed-world-size "$gpus")
if [ "$gpus" -eq 0 ]; then gpus=1 device=(--cpu); fi
[ $((128 % gpus)) -eq 0 ] || fail "128 pairs cannot be shared by $gpus GPUs"
user_dir=$(python -m fairseq_srupp user-dir)
folder "$save_dir"
run logged "$save_dir/train.log" fairseq-train "$data" --user-dir "$user_dir" --source-lang de --target-lang en \
  --arch srupp_transformer_iwslt_de_en --dropout 0.1 --criterion cross_entropy \
  --batch-size $((128 / gpus)) --max-epoch 50 \
  --optimizer radam --adam-betas '(0.9, 0.999)' --weight-decay 0.1 --clip-norm 5.0 \
  --lr 0.001 --lr-scheduler inverse_sqrt --warmup-updates 10000 \
  --no-epoch-checkpoints --log-format simple --log-interval 100 --seed 1 \
  --save-dir "$save_dir" "${device[@]}" "$@"
