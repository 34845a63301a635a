#!/usr/bin/env bash
# enwik8 as fairseq data, one token per byte: the first 90M bytes for training, 5M to validate, 5M to test.
#   prepare.sh OUT [enwik8.zip | enwik8]
# Without a file, enwik8.zip (36 MB) is downloaded into OUT. The data is OUT/data, with a dictionary of 205 bytes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
. "$here/../common.sh"
[ $# -eq 1 ] || [ $# -eq 2 ] && filled "$@" || usage
out=$1 file=${2:-$1/enwik8.zip}

# The public file. Each of these may be set in the environment, for another address or another text.
url=${ENWIK8_URL:-http://mattmahoney.net/dc/enwik8.zip}
zip_bytes=${ENWIK8_ZIP_BYTES:-36445475}
zip_sha256=${ENWIK8_ZIP_SHA256:-547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc}
sha1=${ENWIK8_SHA1:-57b8363b814821dc9d47aa4d41f58733519076b2}
split=${ENWIK8_SPLIT:-90000000 5000000 5000000}
symbols=${ENWIK8_SYMBOLS:-205}
number ENWIK8_ZIP_BYTES "$zip_bytes" 1
number ENWIK8_SYMBOLS "$symbols" 1
[[ $split =~ ^[1-9][0-9]*( [1-9][0-9]*){2}$ ]] || fail "ENWIK8_SPLIT is not three whole numbers: $split"
one_path "$out"

[ ! -e "$out/data" ] || { echo "$out/data is already there"; exit 0; }
if [ $# -eq 1 ]; then
  run python "$here/../download.py" "$url" "$file" --bytes "$zip_bytes" --sha256 "$zip_sha256"
fi
[ -f "$file" ] || fail "$file is missing"

new=$out/unfinished
folder "$out"
rm -rf "$new"
trap 'stop; rm -rf "$new"; rmdir "$out" 2> /dev/null || true' EXIT
folder "$new"
text=$file
if [ "$(head -c 2 "$file" | tr -d '\0')" = PK ]; then
  run python -m zipfile -e "$file" "$new" 2> /dev/null || fail "$file is a broken zip file"
  text=$new/enwik8
  [ -f "$text" ] || fail "$file holds no enwik8"
fi
bytes=$((${split// /+}))
[ "$(wc -c < "$text")" -eq "$bytes" ] || fail "$file is not enwik8: $(wc -c < "$text") bytes instead of $bytes"
[ "$(sha1sum < "$text")" = "$sha1  -" ] || fail "$file is not enwik8: its SHA-1 is not $sha1"

# shellcheck disable=SC2086  # three numbers
run python -m fairseq_srupp prepare-bytes --input "$text" --split $split --destdir "$new/data"
found=$(wc -l < "$new/data/dict.txt")
[ "$found" -eq "$symbols" ] || fail "$file has $found different bytes instead of $symbols"
mv "$new/data" "$out/data"
echo "data in $out/data"
