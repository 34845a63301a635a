#!/usr/bin/env bash
# srupp_lm and fairseq's transformer_lm of equal size with adaptive input and softmax, side by side for the same time, one
# processor core each.
#   compare.sh DATA OUT
# DATA is what ../wiki103/prepare.sh made of WikiText-2. HOURS (default 0.75) is how long each trains; a first run of 60
# updates tells how many updates that makes, which is the length of the learning rate's cosine. The same command again
# leaves out what has been done.
set -euo pipefail
. "$(dirname "$0")/../common.sh"
[ $# -eq 2 ] && filled "$@" || usage
data=$1 out=$2 hours=${HOURS:-0.75}
amount HOURS "$hours"
prepared "$data/dict.txt" "$data"/{train,valid,test}.{bin,idx}
one_path "$data"
user_dir=$(python -m fairseq_srupp user-dir)
export OMP_NUM_THREADS=1
comparison "$out" "HOURS=$hours"

common=("$data" --user-dir "$user_dir" --adaptive-input --adaptive-input-cutoff 4000,12000 --adaptive-softmax-cutoff 4000,12000
  --tie-adaptive-weights --tie-adaptive-proj --criterion adaptive_loss --ddp-backend legacy_ddp
  --cpu --bf16 --dropout 0.1 --clip-norm 1.0 --lr-scheduler cosine --warmup-updates 100
  --no-epoch-checkpoints --log-format simple --log-interval 50 --seed 1)
srupp_lm=(--task streaming_language_modeling --arch srupp_lm --layers 4 --hidden-size 696 --attention-dim 174 --embed-dim 256
  --tokens-per-sample 128 --batch-size 16 --batch-size-valid 16
  --adaptive-input-dropout 0 --adaptive-softmax-dropout 0 --optimizer radam --lr 0.005 --weight-decay 0.1)
transformer_lm=(--task language_modeling --arch transformer_lm --decoder-layers 3 --decoder-embed-dim 256
  --decoder-input-dim 256 --decoder-output-dim 256 --decoder-ffn-embed-dim 1024 --decoder-attention-heads 4
  --decoder-normalize-before --attention-dropout 0.1 --tokens-per-sample 256 --sample-break-mode none --batch-size 8
  --optimizer adam --adam-betas '(0.9,0.98)' --lr 0.002 --weight-decay 0.01)

# both SUFFIX OUR_UPDATES THEIR_UPDATES OPTIONS...: at the same time; when one fails, the other is stopped
both() {
  local suffix=$1 ours=$2 theirs=$3; shift 3
  start train_on 0 "$out/srupp_lm$suffix" "${common[@]}" "${srupp_lm[@]}" --max-update "$ours" "$@"
  start train_on 1 "$out/transformer_lm$suffix" "${common[@]}" "${transformer_lm[@]}" --max-update "$theirs" "$@"
  wait -n && wait -n
}

# evaluate NAME OPTIONS...
evaluate() {
  local name=$1 log=$out/$1/eval.log; shift
  run fairseq-eval-lm "$data" --user-dir "$user_dir" --path "$out/$name/checkpoint_last.pt" --gen-subset test --cpu \
    "$@" > "$log" 2>&1 || fail "evaluation failed, see $log: $(reason "$log")"
  echo "$name: $(grep -o 'ppl: .*' "$log"), $(grep -o 'Evaluated .*' "$log")"
}

both .speed 60 60 --log-interval 20 --no-save --disable-validation
ours=$(updates_within "$(seconds "$hours")" "$out/srupp_lm.speed/train.log")
theirs=$(updates_within "$(seconds "$hours")" "$out/transformer_lm.speed/train.log")
echo "updates: $ours and $theirs"
both "" "$ours" "$theirs" --stop-time-hours "$hours"
evaluate srupp_lm --task streaming_language_modeling --tokens-per-sample 256 --batch-size 1 --model-overrides "{'mem_len': 256}"
evaluate transformer_lm --task language_modeling --tokens-per-sample 256 --context-window 192 --batch-size 8
