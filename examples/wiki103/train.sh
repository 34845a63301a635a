#!/usr/bin/env bash
# Train a model of the paper on WikiText-103 (tables 5 and 12).
#   train.sh ARCH DATA OUT [fairseq-train options]
# ARCH is srupp_lm_wiki103_base, _large or a variant; ../language_model.sh tells of GPUS, ROWS and more.
set -euo pipefail
. "$(dirname "$0")/../language_model.sh"
[ $# -ge 3 ] && filled "${@:1:3}" || usage
arch=$1 data=$2 out=$3; shift 3

case $arch in
  srupp_lm_wiki103_base*) segment=768 ;;
  srupp_lm_wiki103_large*) segment=1024 ;;
  *) fail "no settings for $arch" ;;
esac
train_lm "$arch" "$data" "$out" 64 $segment --criterion adaptive_loss --ddp-backend legacy_ddp \
  --lr 0.0003 --warmup-updates 16000 --warmup-from-zero --max-update 400000 "$@"
