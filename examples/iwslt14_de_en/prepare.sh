#!/usr/bin/env bash
# IWSLT'14 German to English as fairseq data: lower case, one SentencePiece BPE for both languages, a dictionary for each.
#   prepare.sh OUT [de-en.tgz]
# Without the campaign's archive (20 MB) it is downloaded into OUT. The data is OUT/data, the text it was made of OUT/text.
# CASED=1 keeps upper case, VOCAB says how many pieces (14000).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
[ $# -eq 1 ] || [ $# -eq 2 ] && filled "$@" || usage
out=$1 archive=${2:-$1/de-en.tgz} vocab=${VOCAB:-14000}
number VOCAB "$vocab" 1
one_path "$out"

# fairseq's copy; the campaign's own address is gone.
url=${IWSLT14_URL:-http://dl.fbaipublicfiles.com/fairseq/data/iwslt14/de-en.tgz}
bytes=${IWSLT14_BYTES:-19982877} md5=${IWSLT14_MD5:-10936dfdf616504ddbd844e91b94ef4a}
test_sha256=${IWSLT14_TEST_SHA256:-4bfd5d3a6cf87ab137d11c799559ef806d57d94eec31570da1d567ecc4883d1b}
number IWSLT14_BYTES "$bytes" 1

settings="VOCAB=$vocab CASED=${CASED:+1}"
if [ -e "$out/data" ]; then
  made_alike "$out/data" "$settings" "is already there, made with"
  echo "$out/data is already there"
  exit 0
fi

new=$out/unfinished
folder "$out"
rm -rf "$new"
trap 'stop; rm -rf "$new"; rmdir "$out" 2> /dev/null || true' EXIT
fetched=
if [ $# -eq 1 ] && [ ! -e "$archive" ]; then
  fetched=$archive
  run python "$here/iwslt14.py" fetch "$url" "$archive" "$bytes" "$md5"
fi
folder "$new/text"
text=$new/text
run python "$here/iwslt14.py" extract "$archive" "$text" "$test_sha256" "${CASED:+cased}" ||
  { rm -f "$fetched"; exit 1; } # or the next call would take it again
echo "learning $vocab joint BPE pieces"
SEPARATE_DICTIONARIES=1 run "$here/../translation/prepare.sh" de en "$text/train" "$text/valid" "$text/test" "$new/data" \
  "$vocab" > /dev/null
mv "$text/reference.tok.en" "$new/data/bpe"
echo "$settings" > "$new/data/settings"
rm -rf "$out/text"
mv "$text" "$out/text"
mv "$new/data" "$out/data"
echo "data in $out/data"
