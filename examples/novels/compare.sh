#!/usr/bin/env bash
# srupp_lm and fairseq's transformer_lm of 4.8M parameters on bytes, side by side, one processor core each: bits per byte
# of the first 100,000 bytes of VALID against minutes of training.
#   compare.sh TRAIN VALID OUT
# Each trains for MINUTES (25) at the best of three learning rates, tried for SEARCH_MINUTES (3) each; a first run of 100 updates tells how many
# updates that makes, which is the length of the cosine. OUT/bits.svg shows the ten checkpoints of both. The same command again
# leaves out what has been done.
set -euo pipefail
. "$(dirname "$0")/../common.sh"
[ $# -eq 3 ] && filled "$@" || usage
train=$1 valid=$2 out=$3 minutes=${MINUTES:-25} search_minutes=${SEARCH_MINUTES:-3}
amount MINUTES "$minutes"
amount SEARCH_MINUTES "$search_minutes"
one_path "$out"
present "$train" "$valid"
user_dir=$(python -m fairseq_srupp user-dir)
export OMP_NUM_THREADS=1
comparison "$out" "TRAIN=$train VALID=$valid MINUTES=$minutes SEARCH_MINUTES=$search_minutes"

common=("$out/data" --user-dir "$user_dir" --cpu --bf16 --share-decoder-input-output-embed --dropout 0 --clip-norm 1.0 --lr-scheduler cosine
  --weight-decay 0.01 --disable-validation --no-epoch-checkpoints --log-format simple --log-interval 50 --seed 1)
srupp_lm=(--task streaming_language_modeling --arch srupp_lm --layers 6 --hidden-size 864 --attention-dim 216
  --attention-every-n-layers 3 --tokens-per-sample 128 --mem-len 256 --batch-size 8 --optimizer radam)
transformer_lm=(--task language_modeling --arch transformer_lm --decoder-layers 6 --decoder-embed-dim 256 --decoder-ffn-embed-dim 1024
  --decoder-attention-heads 4 --decoder-normalize-before --tokens-per-sample 256 --sample-break-mode none --batch-size 4
  --optimizer adam --adam-betas '(0.9,0.98)')
# as much context: 256 bytes and the recurrence's state; 128 to 255 bytes, as many as it was trained with
srupp_lm_scoring=(--task streaming_language_modeling --tokens-per-sample 512 --batch-size 1)
transformer_lm_scoring=(--task language_modeling --sample-break-mode none --tokens-per-sample 256 --context-window 128 --batch-size 8)
srupp_lm_rates="0.003 0.006 0.012"
transformer_lm_rates="0.0005 0.001 0.002"

# A step of one MODEL on one CORE; both STEP: of both models at the same time, and when one fails, the other is stopped
both() {
  start "$1" srupp_lm 0
  start "$1" transformer_lm 1
  wait -n && wait -n
}

# trained MODEL CORE DIR UPDATES OPTIONS...
trained() {
  local -n model=$1
  train_on "$2" "$3" "${common[@]}" "${model[@]}" --max-update "$4" --warmup-updates $((($4 + 9) / 10)) "${@:5}"
}

# score MODEL CORE CHECKPOINT LOG: bits per byte
score() {
  local -n scoring=$1_scoring
  grep -aqs 'Loss (base 2)' "$4" || taskset -c "$2" fairseq-eval-lm "$out/data" --user-dir "$user_dir" --cpu --gen-subset valid \
    --path "$3" "${scoring[@]}" > "$4" 2>&1 || fail "evaluation failed, see $4: $(reason "$4")"
  sed -n 's/.*Loss (base 2): \([^,]*\),.*/\1/p' "$4"
}

speed() { trained "$1" "$2" "$out/$1.speed" 100 --lr 0.001 --no-save; }

# updates MODEL MINUTES
updates() { updates_within "$(seconds "$2" 60)" "$out/$1.speed/train.log"; }

# A rate at which training diverges is out: fairseq-train says so in the log and fails.
search() {
  local rate rates=$1_rates dir updates bits
  updates=$(updates "$1" "$search_minutes")
  for rate in ${!rates}; do
    dir=$out/$1.$rate bits=nan
    if (trained "$1" "$2" "$dir" "$updates" --lr "$rate") 2> "$out/$1.failed"; then
      bits=$(score "$1" "$2" "$dir/checkpoint_last.pt" "$dir/eval.log")
    else
      grep -aq diverged "$dir/train.log" || { cat "$out/$1.failed" >&2; exit 1; }
    fi
    echo "$bits $rate"
  done > "$out/$1.rates"
  grep -v nan "$out/$1.rates" | sort -g | head -n 1 | cut -d ' ' -f 2 > "$out/$1.rate" ||
    fail "no learning rate of ${!rates} led to a loss"
}

whole() {
  local dir=$out/$1 tenth
  tenth=$(($(updates "$1" "$minutes") / 10 + 1))
  trained "$1" "$2" "$dir" $((10 * tenth)) --lr "$(cat "$dir.rate")" --log-interval "$tenth" --save-interval-updates "$tenth"
}

# What plot reads: fairseq's lines of training, and one of validation for each checkpoint
curve() {
  local dir=$out/$1 checkpoint bits
  grep -a '| train_inner |' "$dir/train.log" > "$dir/curve.part"
  for checkpoint in $(ls "$dir"/checkpoint_*_*.pt | sort -V); do
    bits=$(score "$1" "$2" "$checkpoint" "${checkpoint%.pt}.eval.log")
    checkpoint=${checkpoint%.pt}
    echo "| valid | epoch 001 | valid on 'valid' subset | bpc $bits | num_updates ${checkpoint##*_}" >> "$dir/curve.part"
  done
  mv "$dir/curve.part" "$dir/curve.log"
}

head -c 100000 "$valid" > "$out/valid"
[ -s "$out/data/valid.idx" ] || run python -m fairseq_srupp prepare-bytes --train "$train" --valid "$out/valid" --destdir "$out/data"
for step in speed search whole curve; do both $step; done
for model in srupp_lm transformer_lm; do
  awk -v model=$model '{ print model ", learning rate " $2 ", in the search: " $1 }' "$out/$model.rates"
done
run python - "$out"/{srupp_lm,transformer_lm}/curve.log <<'END'
import sys
import numpy as np
from fairseq_srupp.cli import plot

curves = []
for path in sys.argv[1:]:
    run = plot.read_run(path, path.split("/")[-2])
    (minutes, bits), = [curve[2:] for curve in plot.curves_of(run, path, "bpc", "minutes") if curve[1]]
    print(f"{run.label}, minutes and bits per byte:", *(f"{at:.1f} {value:.3f}" for at, value in zip(minutes, bits)), sep="  ")
    curves.append((minutes, bits))
(minutes, bits), (_, theirs) = curves
first = next((i for i, value in enumerate(bits) if value <= theirs[-1]), None)
if first is None:
    print("srupp_lm does not come to the last value of transformer_lm")
elif first == 0:
    print(f"srupp_lm has the last value of transformer_lm before {minutes[0]:.1f} minutes")
else:
    last = slice(first - 1, first + 1)
    passed = np.interp(-theirs[-1], [-value for value in bits[last]], minutes[last])
    print(f"srupp_lm has the last value of transformer_lm after {passed:.1f} minutes")
END
run python -m fairseq_srupp plot "$out/srupp_lm/curve.log" "$out/transformer_lm/curve.log" --label srupp_lm --label transformer_lm \
  --metric bpc --x minutes --valid-only --output "$out/bits.svg"
