# Sourced by the scripts of the examples.

# One line that says what is wrong; the head of the script, which says how it is called.
fail() { echo "${0##*/}: $*" >&2; exit 1; }
usage() { sed -n '2,/^[^#]/s/^# *//p' "$0" >&2; exit 2; }

# present FILE...: they have something in them; prepared FILE...: prepare.sh has made them
present() { local file; for file; do [ -f "$file" ] && [ -s "$file" ] || fail "$file is missing or empty"; done; }
prepared() { local file; for file; do [ -s "$file" ] || fail "$file is missing: run prepare.sh"; done; }

# one_path DIR: fairseq splits options at commas, and the paths of data at colons
one_path() { [[ $1 != *[,:]* ]] || fail "fairseq does not take a comma or colon in the path of data: $1"; }

# folder DIR: make it
folder() { local message; message=$(mkdir -p "$1" 2>&1) || fail "${message#mkdir: }"; }

# start COMMAND...: in the background, as a process group of its own; run COMMAND...: and wait for it, which a signal ends at once;
# stop: end all of them with what they have started, so that nothing goes on or is written after the script has ended.
trap stop EXIT # a script that clears away as well sets its own: trap 'stop; ...' EXIT
start() { set -m; "$@" & set +m; }
run() { start "$@"; wait $!; }
stop() { local job; for job in $(jobs -p); do kill -- "-$job" 2> /dev/null && kill -CONT -- "-$job" || true; done; wait 2> /dev/null || true; }

# reason LOG: why a command of fairseq failed: what the plugin or the command itself says in the end, or the last line
reason() {
  tail -n 20 "$1" | awk '{ last = $0 } /^fairseq(_srupp|-[a-z]+: error): / { said = $0 } END { print said ? said : last }'
}

# number NAME VALUE [LEAST]: a whole one, of at least LEAST (0); decimal NAME VALUE: one that may have a fraction; amount NAME
# VALUE: a decimal above 0
number() {
  [[ $2 =~ ^(0|[1-9][0-9]{0,14})$ ]] || fail "$1 is no whole number: $2"
  [ "$2" -ge "${3:-0}" ] || fail "$1 must be at least $3: $2"
}
decimal() { [[ $2 =~ ^[0-9]*\.?[0-9]+$ ]] || fail "$1 is no number: $2"; }
amount() { decimal "$1" "$2"; [[ $2 =~ [1-9] ]] || fail "$1 must be above 0: $2"; }

# updates_within SECONDS LOG: how many updates of fairseq-train fit into 95 % of the time (the rest is for validation and
# checkpoints), at the speed that the log tells in the end; at least 1
updates_within() {
  grep -ao 'ups=[0-9.]*' "$2" | tail -n 1 | awk -F= -v s="$1" '{ n = int($2 * s * 0.95); print n < 1 ? 1 : n }' ||
    fail "$2 has no line with a speed"
}

# seconds HOURS, or seconds MINUTES 60
seconds() { awk -v n="$1" -v each="${2:-3600}" 'BEGIN { print n * each }'; }

# logged LOG COMMAND...: its output goes on at the end of the log as well
logged() { local log=$1; shift; "$@" 2>&1 | tee -a "$log"; }

# once DIR COMMAND...: unless DIR/train.log says that a training came to its end; train_on CORE DIR ARGUMENTS...: fairseq-train on
# one processor core, into DIR with its log, once
once() {
  local log=$1/train.log
  folder "$1"
  grep -aqs 'done training in' "$log" || "${@:2}" || fail "training failed, see $log: $(reason "$log")"
}
on_core() { taskset -c "$1" fairseq-train "${@:3}" --save-dir "$2" >> "$2/train.log" 2>&1; }
train_on() { once "$2" on_core "$@"; }

# made_alike DIR SETTINGS WORDS: what is in DIR was made with the same SETTINGS; WORDS lead to them in the message
made_alike() {
  local made
  made=$(cat "$1/settings" 2> /dev/null || echo "$2")
  [ "$made" = "$2" ] || fail "$1 $3 $made instead of $2"
}

# comparison DIR SETTINGS: makes the folder of one, which keeps its settings
comparison() {
  folder "$1"
  made_alike "$1" "$2" "has a comparison with"
  echo "$2" > "$1/settings"
}

# gpus: how many processes train, GPUS or one for each GPU that torch sees; 0: one on the CPU
gpus() {
  local count
  count=${GPUS:-$(python -c 'import torch; print(torch.cuda.device_count())')} || exit
  number GPUS "$count"
  echo "$count"
}

# filled WORD...: none of them is empty. A variable that was not set would make paths that begin at the root.
filled() { local word; for word; do [ -n "$word" ] || return 1; done; }
