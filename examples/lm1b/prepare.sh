#!/usr/bin/env bash
# The One Billion Word benchmark as fairseq data: sentences, each followed by </s>.
#   prepare.sh OUT [1-billion-word-language-modeling-benchmark-r13output.tar.gz]
# Without a file, it (1.8 GB) is downloaded into OUT. The data is OUT/data: 99 files of training text, held-out file 1 to
# validate, 0 to test, and the words that occur three times in the training text. WORKERS is how many processes work (all
# cores, at most 24).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
[ $# -eq 1 ] || [ $# -eq 2 ] && filled "$@" || usage
name=1-billion-word-language-modeling-benchmark-r13output
out=$1 file=${2:-$1/$name.tar.gz}

# The public file. Each of these may be set in the environment, for another address or another text.
url=${LM1B_URL:-http://www.statmt.org/lm-benchmark/$name.tar.gz}
bytes=${LM1B_BYTES:-1792209805}
sha256=${LM1B_SHA256:-01ba60381110baf7f189dfd2b8374de371e8c9a340835793f190bdae9e90a34e}
tokens=${LM1B_TOKENS:-798949912 165560 159658}  # of train, valid and test, </s> included
words=${LM1B_WORDS:-793471}  # as the field counts them: with <unk> and two marks of sentence borders
cores=$(nproc)  # 24 processes take up to 4 GB
workers=${WORKERS:-$((cores < 24 ? cores : 24))}
number LM1B_BYTES "$bytes" 1
number LM1B_WORDS "$words" 1
number WORKERS "$workers" 1
[[ $tokens =~ ^[0-9]+( [0-9]+){2}$ ]] || fail "LM1B_TOKENS is not three whole numbers: $tokens"
one_path "$out"

[ ! -e "$out/data" ] || { echo "$out/data is already there"; exit 0; }
if [ $# -eq 1 ]; then
  run python "$here/../download.py" "$url" "$file" --bytes "$bytes" --sha256 "$sha256"
fi
[ -f "$file" ] || fail "$file is missing"

new=$out/unfinished
folder "$out"
rm -rf "$new"
trap 'stop; rm -rf "$new"; rmdir "$out" 2> /dev/null || true' EXIT
folder "$new/text"
folder "$new/data"
echo "unpacking $file"
run tar -xzf "$file" -C "$new/text" --strip-components 1 --wildcards '*/training-monolingual.tokenized.shuffled/news.en-*' \
  '*/heldout-monolingual.tokenized.shuffled/news.en.heldout-0000[01]-of-00050' 2> "$new/log" ||
  fail "$file is not the corpus, or broken: $(head -n 1 "$new/log")"
train=("$new"/text/training-monolingual.tokenized.shuffled/news.en-000??-of-00100)
heldout=$new/text/heldout-monolingual.tokenized.shuffled/news.en.heldout-0000
[ ${#train[@]} -eq 99 ] || fail "$file has ${#train[@]} files of training text instead of 99"
for held in "${heldout}0-of-00050" "${heldout}1-of-00050"; do
  [ -f "$held" ] || fail "$file lacks $(basename "$held")"
done

run python "$here/encode.py" --train "${train[@]}" --valid "${heldout}1-of-00050" --test "${heldout}0-of-00050" \
  --workers "$workers" --destdir "$new/data"
for split in train valid test; do
  found=$(($(stat -c %s "$new/data/$split.bin") / 4))
  [ "$found" -eq "${tokens%% *}" ] || fail "$file has $found tokens for $split instead of ${tokens%% *}"
  tokens=${tokens#* }
done
found=$(($(wc -l < "$new/data/dict.txt") + 3))
[ "$found" -eq "$words" ] || echo "${0##*/}: $found words, where the field counts $words" >&2
mv "$new/data" "$out/data"
echo "data in $out/data: $found words"
