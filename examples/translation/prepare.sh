#!/usr/bin/env bash
# From parallel text to fairseq's binary data: joint SentencePiece BPE, one dictionary for both sides.
#   prepare.sh SRC TGT TRAIN VALID TEST DESTDIR [VOCAB=8000]
# TRAIN, VALID and TEST are prefixes: TRAIN.SRC and TRAIN.TGT hold one sentence a line. SEPARATE_DICTIONARIES=1: one for
# each side.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
[ $# -eq 6 ] || [ $# -eq 7 ] && filled "$@" || usage
src=$1 tgt=$2 train=$3 valid=$4 test=$5 dest=$6 vocab=${7:-8000}
number VOCAB "$vocab" 1
one_path "$dest"

for split in "$train" "$valid" "$test"; do
  present "$split.$src" "$split.$tgt"
  n=$(grep -ac '' "$split.$src") m=$(grep -ac '' "$split.$tgt") # the last line may lack its end
  [ "$n" -eq "$m" ] || fail "$split.$src has $n lines, $split.$tgt has $m"
done
[ ! -e "$dest/bpe" ] || [ -e "$dest/bpe/spm.model" ] || fail "$dest/bpe holds something else"

# All of it is made beside its place first: DESTDIR never holds half of a result.
new=$dest/unfinished
folder "$dest"
rm -rf "$new"
trap 'stop; rm -rf "$new"; rmdir "$dest" 2> /dev/null || true' EXIT
folder "$new/bpe"
model=$new/bpe/spm.model
echo "learning $vocab joint BPE pieces"
run python "$here/spm.py" train "$model" "$vocab" "$train.$src" "$train.$tgt"
for lang in "$src" "$tgt"; do
  for split in train valid test; do
    run python "$here/spm.py" encode "$model" "${!split}.$lang" "$new/bpe/$split.$lang"
  done
done
cp "$test.$tgt" "$new/bpe/reference.$tgt"
joined=(--joined-dictionary)
[ -z "${SEPARATE_DICTIONARIES:-}" ] || joined=()
run fairseq-preprocess --source-lang "$src" --target-lang "$tgt" "${joined[@]}" --workers 2 \
  --trainpref "$new/bpe/train" --validpref "$new/bpe/valid" --testpref "$new/bpe/test" --destdir "$new" \
  > /dev/null 2> "$new/errors" || fail "fairseq-preprocess failed: $(reason "$new/errors")"
rm -rf "$new/errors" "$dest/bpe"
mv -f "$new"/* "$dest"
echo "data in $dest"
