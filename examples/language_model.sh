# Sourced by the train.sh and evaluate.sh of enwik8, wiki103 and lm1b: what the paper does alike for all of them.
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# train_lm ARCH DATA OUT ROWS SEGMENT OPTIONS...: RAdam with weight decay 0.1, gradients clipped at 1, and a cosine over all
# updates, beside the warm-up.
# From the environment:
#   GPUS        processes that share the rows (all GPUs; without any, one on the CPU)
#   ROWS        sequences per batch, instead of the paper's
#   UPDATE_FREQ segments of each row per update (1): with ROWS smaller by this factor, less memory for as large a batch
#   PRECISION   option of fairseq-train (--amp on GPUs)
train_lm() {
  local arch=$1 data=$2 out=$3 rows=${ROWS:-$4} segment=$5 every=${UPDATE_FREQ:-1} gpus user_dir; shift 5
  number ROWS "$rows" 1
  number UPDATE_FREQ "$every" 1
  prepared "$data/dict.txt" "$data/train.bin"
  one_path "$data"
  gpus=$(gpus) || return
  local device=(--distributed-world-size "$gpus" ${PRECISION---amp})
  if [ "$gpus" -eq 0 ]; then gpus=1 device=(--cpu ${PRECISION-}); fi
  [ $((rows % gpus)) -eq 0 ] || fail "$rows rows cannot be shared by $gpus GPUs"
  user_dir=$(python -m fairseq_srupp user-dir)
  folder "$out"
  run logged "$out/train.log" fairseq-train "$data" --user-dir "$user_dir" --task streaming_language_modeling \
    --arch "$arch" --tokens-per-sample "$segment" --batch-size $((rows / gpus)) --batch-size-valid 8 \
    --update-freq "$every" --optimizer radam --weight-decay 0.1 --clip-norm 1.0 --lr-scheduler cosine_annealing \
    --validate-interval-updates 8000 --save-interval-updates 8000 --keep-interval-updates 1 --no-epoch-checkpoints \
    --log-format simple --log-interval 200 --save-dir "$out" "${device[@]}" "$@"
}

# evaluate_lm DATA CHECKPOINT WINDOW OPTIONS...: each position sees the WINDOW positions before it.
evaluate_lm() {
  local data=$1 checkpoint=$2 window=$3 user_dir; shift 3
  number WINDOW "$window" 1
  prepared "$data/dict.txt"
  present "$checkpoint"
  user_dir=$(python -m fairseq_srupp user-dir)
  run fairseq-eval-lm "$data" --user-dir "$user_dir" --task streaming_language_modeling \
    --path "$checkpoint" --gen-subset test --batch-size 1 --distributed-world-size 1 --tokens-per-sample "$window" \
    --model-overrides "{'mem_len': $window}" "$@"
}
