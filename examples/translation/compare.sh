#!/usr/bin/env bash
# srupp_transformer and fairseq's transformer of equal size, side by side, one processor core each.
#   compare.sh SRC TGT DATA OUT
# MINUTES (25) is how long each trains: a trial of 100 updates tells how many updates that are, which is the length of its
# learning rate's cosine. DROPOUT (0.1), SEED (1): of both. OPTIONS: more of both, as --bf16 on a processor with instructions for it.
# The same command again goes on with what was stopped.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
[ $# -eq 4 ] && filled "$@" || usage
src=$1 tgt=$2 data=$3 out=$4 minutes=${MINUTES:-25} dropout=${DROPOUT:-0.1} seed=${SEED:-1}
amount MINUTES "$minutes"
decimal DROPOUT "$dropout"
number SEED "$seed"
prepared "$data/dict.$src.txt" "$data/dict.$tgt.txt" "$data/bpe/reference.$tgt"
user_dir=$(python -m fairseq_srupp user-dir)
export OMP_NUM_THREADS=1
comparison "$out" "MINUTES=$minutes DROPOUT=$dropout SEED=$seed OPTIONS=${OPTIONS:-}"

# ours SAVE_DIR [options], theirs SAVE_DIR [options]
ours() { taskset -c 0 "$here/train.sh" "$src" "$tgt" "$data" "$@" > /dev/null; }
theirs() {
  taskset -c 1 fairseq-train "$data" --user-dir "$user_dir" --source-lang "$src" --target-lang "$tgt" \
    --arch transformer --encoder-embed-dim 256 --encoder-ffn-embed-dim 1024 --encoder-attention-heads 4 --encoder-layers 3 \
    --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024 --decoder-attention-heads 4 --decoder-layers 3 \
    --encoder-normalize-before --decoder-normalize-before \
    --share-all-embeddings --criterion label_smoothed_cross_entropy --label-smoothing 0.1 \
    --max-tokens 1024 --optimizer adam --adam-betas '(0.9, 0.98)' --lr 0.0015 --clip-norm 1.0 \
    --lr-scheduler cosine --no-epoch-checkpoints --log-format simple --log-interval 100 --seed 1 \
    --save-dir "$@" >> "$1/train.log" 2>&1
}

# both DIR [options]: `ours` and `theirs` at the same time, in two folders of DIR; when one fails, the trap stops the other
both() {
  local dir=$1; shift
  start once "$dir/srupp_transformer" ours "$dir/srupp_transformer" --max-update "$our_updates" --warmup-updates $((our_updates / 10)) "$@"
  start once "$dir/transformer" theirs "$dir/transformer" --max-update "$their_updates" --warmup-updates $((their_updates / 5)) "$@"
  wait -n && wait -n
}

# trained_for CHECKPOINT: the seconds of training until then, in all parts of a run that was stopped; in the log, all clocks begin anew with each part
trained_for() {
  python -c 'import sys
from fairseq_srupp.compat.files import weights_only
print(round(weights_only.load(sys.argv[1])["extra_state"]["previous_training_time"]))' "$1"
}

options=(--cpu --dropout "$dropout" --seed "$seed" ${OPTIONS:-})
if [ ! -s "$out/updates" ]; then
  rm -rf "$out/trial"
  our_updates=100 their_updates=100
  both "$out/trial" "${options[@]}" --log-interval 50 --no-save --disable-validation
  # at the speed of the trial's second half
  our_updates=$(updates_within "$(seconds "$minutes" 60)" "$out/trial/srupp_transformer/train.log")
  their_updates=$(updates_within "$(seconds "$minutes" 60)" "$out/trial/transformer/train.log")
  echo "$our_updates $their_updates" > "$out/updates"
fi
read -r our_updates their_updates < "$out/updates"
echo "updates: $our_updates and $their_updates"
both "$out" "${options[@]}"
for model in srupp_transformer transformer; do
  time=$(trained_for "$out/$model/checkpoint_last.pt")
  echo "$model: trained for $time seconds"
  run "$here/evaluate.sh" "$src" "$tgt" "$data" "$out/$model/checkpoint_best.pt"
done
