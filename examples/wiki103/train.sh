#!/usr/bin/env bash
# Train a model of the paper on WikiText-103 (tables 5 and 12).
#   train.sh ARCH DATA OUT [fairseq-train options]
# ARCH is srupp_lm_wiki103_base, _large or a variant; ../language_model.sh tells of GPUS, ROWS and more.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,4s/^# *//p' "$0" >&2; exit 2; }
arch=$1 data=$2 out=$3; shift 3
. "$(dirname "$0")/../language_model.sh"

case $arch in
  srupp_lm_wiki103_base*) segment=768 ;;
  srupp_lm_wiki103_large*) segment=1024 ;;
  *) echo "train.sh: no settings for $arch" >&2; exit 2 ;;
esac
mkdir -p "$out"
train_lm "$arch" "$data" "$out" 64 $segment --criterion adaptive_loss --ddp-backend legacy_ddp \
  --lr 0.0003 --warmup-updates 16000 --warmup-from-zero --max-update 400000 "$@"
