#!/usr/bin/env bash
# WikiText-103, word level, as fairseq data.
#   prepare.sh OUT [wikitext-103-v1.zip | FOLDER]
# FOLDER holds wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens. Without either, the zip file (190 MB) is
# downloaded into OUT. The data is OUT/data, 267,735 words with <unk> and the end of line. WIKITEXT_WORDS says how many
# words another text of this form must have (33278: WikiText-2), WORKERS how many processes work (all cores).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
[ $# -eq 1 ] || [ $# -eq 2 ] && filled "$@" || usage
out=$1 input=${2:-$1/wikitext-103-v1.zip}

# The public file. Stephen Merity, who made it, serves it here; the address of its first years is gone.
url=${WIKITEXT_URL:-https://wikitext.smerity.com/wikitext-103-v1.zip}
bytes=${WIKITEXT_BYTES:-190229076}
sha256=${WIKITEXT_SHA256:-242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590}
declare -A sha1=([train]=b7497e2dfe77e72cfef5e3dbc61b7b53712ac211
                 [valid]=c326ac59dc587676d58c422eb8a03e119582f92b
                 [test]=8a5befc548865cec54ed4273cf87dbbad60d1e47)
words=${WIKITEXT_WORDS:-267735} workers=${WORKERS:-$(nproc)}
number WIKITEXT_BYTES "$bytes" 1
number WIKITEXT_WORDS "$words" 1
number WORKERS "$workers" 1
one_path "$out"

[ ! -e "$out/data" ] || { echo "$out/data is already there"; exit 0; }
if [ $# -eq 1 ]; then
  run python "$here/../download.py" "$url" "$input" --bytes "$bytes" --sha256 "$sha256"
fi
[ -e "$input" ] || fail "$input is missing"

new=$out/unfinished
folder "$out"
rm -rf "$new"
trap 'stop; rm -rf "$new"; rmdir "$out" 2> /dev/null || true' EXIT
folder "$new"
text=$input
if [ -f "$input" ]; then
  run python -m zipfile -e "$input" "$new/zip" 2> /dev/null || fail "$input is no zip file, or a broken one"
  text=$(find "$new/zip" -name wiki.train.tokens -printf %h -quit)
  [ -n "$text" ] || fail "$input holds no wiki.train.tokens"
fi
for split in train valid test; do
  tokens=$text/wiki.$split.tokens
  [ -s "$tokens" ] || fail "$input: wiki.$split.tokens is missing or empty"
  [ -n "${WIKITEXT_WORDS:-}" ] || [ "$(sha1sum < "$tokens")" = "${sha1[$split]}  -" ] ||
    fail "$input: wiki.$split.tokens is not WikiText-103's (another text needs WIKITEXT_WORDS)"
done

echo "counting words and writing tokens"
run fairseq-preprocess --only-source --padding-factor 1 --workers "$workers" --trainpref "$text/wiki.train.tokens" \
  --validpref "$text/wiki.valid.tokens" --testpref "$text/wiki.test.tokens" --destdir "$new/data" \
  > "$new/log" 2>&1 || fail "fairseq-preprocess: $(tail -n 1 "$new/log")"
found=$(($(wc -l < "$new/data/dict.txt") + 2))  # the file leaves <unk> and </s> out
[ "$found" -eq "$words" ] || fail "$input has $found words instead of $words"
mv "$new/data" "$out/data"
echo "data in $out/data: $found words"
