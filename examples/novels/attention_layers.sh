#!/usr/bin/env bash
# Table 2 of the paper at 5M parameters: 10 layers with attention in every k-th layer, k = 1, 2, 5, 10, and in none.
#   attention_layers.sh TRAIN VALID TEST OUT [fairseq-train options]
# Each of the five trains for HOURS (default 0.25); a first run of 60 updates tells how many updates that makes.
set -euo pipefail
[ $# -ge 4 ] || { sed -n '2,4s/^# *//p' "$0" >&2; exit 2; }
train=$1 valid=$2 test=$3 out=$4; shift 4
hours=${HOURS:-0.25}
here=$(cd "$(dirname "$0")" && pwd)

run() {  # NAME, options; UPDATES and HOURS from the environment
  local name=$1; shift
  "$here/run.sh" "$train" "$valid" "$test" "$out/$name" --layers 10 --lr 0.004 "$@"
}

while read -r name d attention; do
  [ -f "$out/$name/done" ] && continue
  options="--hidden-size $d --attention-dim $((d / 4)) $attention"
  TRAIN_ONLY=1 UPDATES=60 HOURS=1 run "$name.speed" $options --log-interval 20 --no-save "$@"
  updates=$(awk -v hours="$hours" -F'[=, ]+' '/train_inner/ { for (i = 1; i < NF; i++) if ($i == "ups") ups = $(i + 1) }
    END { printf "%d", 3600 * hours * 0.95 * ups }' "$out/$name.speed/train.log")
  UPDATES=$updates HOURS=$hours run "$name" $options "$@"
  touch "$out/$name/done"
done <<'TABLE'
k1 660 --attention-every-n-layers 1
k2 680 --attention-every-n-layers 2
k5 692 --attention-every-n-layers 5
k10 696 --attention-every-n-layers 10
none 700 --no-attention
TABLE
