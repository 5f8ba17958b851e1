#!/bin/bash
# Job control: each job has a process group, one of them is stopped, one has
# ended with a status that nobody has asked for yet; a trap counts signals.
source "${BASH_SOURCE%/*}/stage.sh"
set -m

count() {
    local i
    exec 3<>"$ICECORE_STAGE/$1"
    for ((i = 1; ; i++)); do
        printf '%08d\n' "$i" >&3
        [ -e "$ICECORE_STAGE/stop" ] && exit "$2"
        pause 0.002
    done
}

value() {
    local line
    value=0
    while read -r line; do value=$line; done <"$ICECORE_STAGE/$1"
    value=$((10#$value))
}

moved_on() {
    value "$1"
    ((value > before))
}

state_is() {
    local stat
    read -r stat <"/proc/$1/stat"
    stat=${stat##*) }
    [ "${stat%% *}" = "$2" ]
}

signals=0
trap 'signals=$((signals + 1))' USR1
: >"$ICECORE_STAGE/running"
: >"$ICECORE_STAGE/stopped"

count running 11 &
running=$!
count stopped 12 &
stopped=$!
(exit 13) &
ended=$!
sleep 1000 | cat &
pipeline=$!
before=0
until_true moved_on running
until_true moved_on stopped
kill -STOP %2
until_true state_is "$stopped" T

while stage_next; do
    value running
    before=$value
    until_true moved_on running
    # Stopped it stays, until it is told otherwise.
    state_is "$stopped" T || fail "the stopped job is not stopped"
    value stopped
    before=$value
    kill -CONT %2
    until_true moved_on stopped
    kill -STOP %2
    until_true state_is "$stopped" T
    kill -USR1 $$
    ((signals == stage_round)) || fail "$signals signals in round $stage_round"
done

: >"$ICECORE_STAGE/stop"
kill -CONT %2
# %4 is a process group of two.
kill -TERM %4
for job in "$running 11" "$stopped 12" "$ended 13" "$pipeline 143"; do
    wait "${job% *}"
    status=$?
    ((status == ${job#* })) || fail "job $job ended with $status"
done
