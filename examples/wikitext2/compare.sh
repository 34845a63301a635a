#!/usr/bin/env bash
# srupp_lm and fairseq's transformer_lm of equal size with adaptive input and softmax, side by side for the same time, one
# processor core each.
#   compare.sh DATA OUT
# DATA is what ../wiki103/prepare.sh made of WikiText-2. HOURS (default 0.75) is how long each trains; a first run of 60
# updates tells how many updates that makes, which is the length of the learning rate's cosine.
set -euo pipefail
[ $# -eq 2 ] || { sed -n '2,6s/^# *//p' "$0" >&2; exit 2; }
data=$1 out=$2 hours=${HOURS:-0.75}
user_dir=$(python -m fairseq_srupp user-dir)
export OMP_NUM_THREADS=1
# glibc keeps freed memory: a training step on the CPU asks for the same large blocks again and again.
export MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=1099511627776

adaptive="--adaptive-input --adaptive-input-cutoff 4000,12000 --adaptive-softmax-cutoff 4000,12000
  --tie-adaptive-weights --tie-adaptive-proj --criterion adaptive_loss --ddp-backend legacy_ddp"
common="--user-dir $user_dir $adaptive --cpu --bf16 --dropout 0.1 --clip-norm 1.0 --lr-scheduler cosine --warmup-updates 100
  --no-epoch-checkpoints --log-format simple --log-interval 50 --seed 1"
srupp_lm="--task streaming_language_modeling --arch srupp_lm --layers 4 --hidden-size 696 --attention-dim 174 --embed-dim 256
  --tokens-per-sample 128 --batch-size 16 --batch-size-valid 16
  --adaptive-input-dropout 0 --adaptive-softmax-dropout 0 --optimizer radam --lr 0.005 --weight-decay 0.1"
transformer_lm="--task language_modeling --arch transformer_lm --decoder-layers 3 --decoder-embed-dim 256
  --decoder-input-dim 256 --decoder-output-dim 256 --decoder-ffn-embed-dim 1024 --decoder-attention-heads 4
  --decoder-normalize-before --attention-dropout 0.1 --tokens-per-sample 256 --sample-break-mode none --batch-size 8
  --optimizer adam --adam-betas (0.9,0.98) --lr 0.002 --weight-decay 0.01"

train() {  # NAME SUFFIX MODEL OPTIONS...
  local folder=$out/$1$2 model=$3; shift 3
  mkdir -p "$folder"
  fairseq-train "$data" $model $common --save-dir "$folder" "$@" > "$folder/train.log" 2>&1
}

updates() {  # LOG: how many fit into the time, by the speed of the log's last lines
  awk -v hours="$hours" -F'[=, ]+' '/train_inner/ { for (i = 1; i < NF; i++) if ($i == "ups") ups = $(i + 1) }
    END { printf "%d", 3600 * hours * 0.96 * ups }' "$1"
}

both() {  # SUFFIX, options of each
  (taskset -pc 0 $BASHPID > /dev/null; train srupp_lm "$1" "$srupp_lm" $2) &
  (taskset -pc 1 $BASHPID > /dev/null; train transformer_lm "$1" "$transformer_lm" $3) &
  wait -n && wait -n
}

speed="--max-update 60 --log-interval 20 --no-save --disable-validation"
both .speed "$speed" "$speed"
both "" "--max-update $(updates "$out/srupp_lm.speed/train.log") --stop-time-hours $hours" \
  "--max-update $(updates "$out/transformer_lm.speed/train.log") --stop-time-hours $hours"

evaluate() {  # NAME OPTIONS...
  local name=$1; shift
  fairseq-eval-lm "$data" --user-dir "$user_dir" --path "$out/$name/checkpoint_last.pt" --gen-subset test --cpu \
    "$@" > "$out/$name/eval.log" 2>&1
  echo "$name: $(grep -o 'ppl: .*' "$out/$name/eval.log"), $(grep -o 'Evaluated .*' "$out/$name/eval.log")"
}
evaluate srupp_lm --task streaming_language_modeling --tokens-per-sample 256 --batch-size 1 --model-overrides "{'mem_len': 256}"
evaluate transformer_lm --task language_modeling --tokens-per-sample 256 --context-window 192 --batch-size 8
