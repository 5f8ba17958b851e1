# The stage protocol in bash, by built-in commands only, so that no process
# comes and goes while the program is watched: see tests/victims/harness/stage.rs.

stage_round=0
exec {stage_pause}<> <(:)

# Sleeps a moment: nothing ever comes through this pipe.
pause() { read -r -t "${1:-0.005}" -u "$stage_pause" || :; }

fail() {
    echo "$*" >&2
    exit 1
}

# Succeeds: check yourself and come back. Fails: it is over.
stage_next() {
    local go="$ICECORE_STAGE/go-$stage_round" i
    : >"$ICECORE_STAGE/ready-$stage_round"
    stage_round=$((stage_round + 1))
    for ((i = 0; i < 60000; i++)); do
        [ -e "$go" ] && return 0
        [ -e "$ICECORE_STAGE/end" ] && return 1
        pause
    done
    fail "abandoned by the harness"
}

# until_true COMMAND...: waits for it to succeed.
until_true() {
    local i
    for ((i = 0; i < 12000; i++)); do
        "$@" && return 0
        pause
    done
    fail "waited in vain for: $*"
}
