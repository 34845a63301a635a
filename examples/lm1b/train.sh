#!/usr/bin/env bash
# Train a model of the paper on the Billion Word corpus (table 6).
#   train.sh ARCH DATA OUT [fairseq-train options]
# ARCH is srupp_lm_lm1b_base or _large; ../language_model.sh tells of GPUS, ROWS and more.
set -euo pipefail
. "$(dirname "$0")/../language_model.sh"
[ $# -ge 3 ] && filled "${@:1:3}" || usage
arch=$1 data=$2 out=$3; shift 3

case $arch in
  srupp_lm_lm1b_base*) rows=1024 ;;
  srupp_lm_lm1b_large*) rows=1536 ;;
  *) fail "no settings for $arch" ;;
esac
train_lm "$arch" "$data" "$out" $rows 64 --shuffle-sentences --criterion adaptive_loss --ddp-backend legacy_ddp \
  --lr 0.0002 --warmup-updates 16000 --max-update 800000 "$@"
