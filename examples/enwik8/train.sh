#!/usr/bin/env bash
# Train a model of the paper on enwik8 (tables 1 to 4 and 9 to 11).
#   train.sh ARCH DATA OUT [fairseq-train options]
# ARCH is srupp_lm_enwik8_small, _base, _large or a variant of them; ../language_model.sh tells of GPUS, ROWS and more.
set -euo pipefail
. "$(dirname "$0")/../language_model.sh"
[ $# -ge 3 ] && filled "${@:1:3}" || usage
arch=$1 data=$2 out=$3; shift 3

case $arch in
  srupp_lm_enwik8_small*) rows=24 segment=512 lr=0.00025 warmup=0 ;;
  srupp_lm_enwik8_base*) rows=32 segment=1024 lr=0.0003 warmup=16000 ;;
  srupp_lm_enwik8_large*) rows=64 segment=1024 lr=0.0004 warmup=16000 ;;
  *) fail "no settings for $arch" ;;
esac
train_lm "$arch" "$data" "$out" $rows $segment --lr $lr --warmup-updates $warmup --max-update 400000 "$@"
