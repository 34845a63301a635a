#!/usr/bin/env bash
# Train srupp_transformer (7.4M parameters at 8,000 pieces) on what prepare.sh made; a run that was stopped goes on.
#   train.sh SRC TGT DATA SAVE_DIR [fairseq-train options, which override those below]
set -euo pipefail
. "$(dirname "$0")/../common.sh"
[ $# -ge 4 ] && filled "${@:1:4}" || usage
src=$1 tgt=$2 data=$3 save_dir=$4; shift 4
prepared "$data/dict.$src.txt" "$data/dict.$tgt.txt"
user_dir=$(python -m fairseq_srupp user-dir)
folder "$save_dir"
run logged "$save_dir/train.log" fairseq-train "$data" --user-dir "$user_dir" --source-lang "$src" --target-lang "$tgt" \
  --arch srupp_transformer --hidden-size 752 --attention-dim 188 --embed-dim 256 \
  --encoder-layers 4 --decoder-layers 4 --attention-every-n-layers 2 --share-all-embeddings --alpha-init 1 \
  --embed-scale 16 --query-key-norm --output-norm --dropout 0.1 --attention-dropout 0 \
  --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --max-tokens 1024 \
  --optimizer radam --adam-betas '(0.9, 0.98)' --lr 0.0015 --weight-decay 0.01 --clip-norm 1.0 \
  --lr-scheduler cosine --warmup-updates 200 --max-update 6000 \
  --no-epoch-checkpoints --patience 10 --log-format simple --log-interval 100 --seed 1 \
  --save-dir "$save_dir" "$@"
