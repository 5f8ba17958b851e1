#!/bin/bash
# A script with a pipeline in it: numbers flow through without a gap.
source "${BASH_SOURCE%/*}/stage.sh"

produce() {
    local i
    for ((i = 0; ; i++)); do
        echo "$i" || exit 1
        [ -e "$ICECORE_STAGE/stop" ] && break
        ((i % 64)) || pause 0.001
    done
    echo end
}

consume() {
    local expected=0 got
    exec 3<>"$ICECORE_STAGE/count"
    while read -r got; do
        [ "$got" = "<end>" ] && exit 7
        [ "$got" = "<$expected>" ] || fail "after $((expected - 1)) came $got"
        expected=$((expected + 1))
        ((expected % 256)) || echo "$expected" >&3
    done
    fail "the pipeline ended early at $expected"
}

# The last number that arrived, as far as it was written down.
last() {
    local line=0
    while read -r line; do seen=$line; done <"$ICECORE_STAGE/count"
}

moved_on() {
    last
    ((seen > before))
}

: >"$ICECORE_STAGE/count"
seen=0 before=0
produce | sed -u 's/.*/<&>/' | cat -u | consume &
pipeline=$!
until_true moved_on
while stage_next; do
    last
    before=$seen
    until_true moved_on
done
: >"$ICECORE_STAGE/stop"
wait "$pipeline"
status=$?
((status == 7)) || fail "the pipeline ended with $status"
