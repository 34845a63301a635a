#!/usr/bin/env bash
# Table 2 of the paper at 5M parameters: 10 layers with attention in every k-th layer, k = 1, 2, 5, 10, and in none.
#   attention_layers.sh TRAIN VALID TEST OUT [fairseq-train options]
# Each of the five trains for HOURS (default 0.25); a first run of 60 updates tells how many updates that makes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
[ $# -ge 4 ] && filled "${@:1:4}" || usage
train=$1 valid=$2 test=$3 out=$4 hours=${HOURS:-0.25}; shift 4
amount HOURS "$hours"
present "$train" "$valid" "$test"
folder "$out"

# train_and_score NAME OPTIONS...; UPDATES and HOURS from the environment
train_and_score() {
  local name=$1; shift
  run "$here/run.sh" "$train" "$valid" "$test" "$out/$name" --layers 10 --lr 0.004 "$@" < /dev/null
}

while read -r name d attention; do
  [ -f "$out/$name/done" ] && continue
  options="--hidden-size $d --attention-dim $((d / 4)) $attention"
  TRAIN_ONLY=1 UPDATES=60 HOURS=1 train_and_score "$name.speed" $options --log-interval 20 --no-save "$@"
  updates=$(updates_within "$(seconds "$hours")" "$out/$name.speed/train.log")
  UPDATES=$updates HOURS=$hours train_and_score "$name" $options "$@"
  touch "$out/$name/done"
done <<'TABLE'
k1 660 --attention-every-n-layers 1
k2 680 --attention-every-n-layers 2
k5 692 --attention-every-n-layers 5
k10 696 --attention-every-n-layers 10
none 700 --no-attention
TABLE
