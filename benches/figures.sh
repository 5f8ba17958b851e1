#!/usr/bin/env bash
# Prints the table of the README: dumps and restores of a process with SIZE MiB
# of random memory, alternating with dd writing as many bytes to the same place.
#   benches/figures.sh [SIZE [ROUNDS [DIR]]]
# Absolute times are this machine's; the ratio to dd is what can be compared.
set -euo pipefail
size=${1:-1024} rounds=${2:-5} dir=${3:-$(mktemp -d)}
cd "$(dirname "$0")/.."
cargo build --release --locked --quiet
icecore=$PWD/target/release/icecore
work=$(mktemp -d "$dir/figures-XXXXXX")
pid=
end() { if [ -n "$pid" ]; then kill -KILL "$pid" 2>/dev/null || true; fi; rm -rf "$work"; }
trap end EXIT

figure() { sed -n "s/^$1: //p" "$2"; }
median() { sort -n | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'; }

program='
import os, sys, time
os.setsid()
memory = bytearray(os.urandom(1 << 20) * int(sys.argv[1]))
for i in range(0, len(memory), 4096):
    memory[i:i + 8] = i.to_bytes(8, "little")
open(sys.argv[2], "w").close()
while True:
    time.sleep(1)
'
/usr/bin/python3 -c "$program" "$size" "$work/ready" </dev/null >/dev/null 2>&1 &
pid=$!
disown
until [ -e "$work/ready" ]; do sleep 0.05; done

for ((round = 1; round <= rounds; round++)); do
    started=$(date +%s%N)
    dd if=/dev/zero of="$work/dd" bs=1M count="$size" conv=fsync status=none
    echo $((($(date +%s%N) - started) / 1000)) >>"$work/dd.us"
    rm "$work/dd"
    "$icecore" dump --no-default-config -t "$pid" -D "$work/image" --display-stats >"$work/dump"
    "$icecore" restore --no-default-config -D "$work/image" -d --display-stats >"$work/restore"
    for name in frozen_us total_us bytes_written; do
        figure "$name" "$work/dump" >>"$work/dump.$name"
    done
    figure total_us "$work/restore" >>"$work/restore.total_us"
    rm -r "$work/image"
done

ms() { awk -v us="$1" 'BEGIN { printf "%.0f ms", us / 1000 }'; }
to_dd() { awk -v us="$1" -v dd="$dd" 'BEGIN { printf "%.2f", us / dd }'; }
dd=$(median <"$work/dd.us")
frozen=$(median <"$work/dump.frozen_us") dump=$(median <"$work/dump.total_us")
restore=$(median <"$work/restore.total_us") bytes=$(median <"$work/dump.bytes_written")
echo "median of $rounds rounds; image: $((bytes >> 20)) MiB"
echo "| | time | relative to dd with fsync |"
echo "|---|---|---|"
echo "| dd conv=fsync | $(ms "$dd") | 1 |"
echo "| dump | $(ms "$dump") | $(to_dd "$dump") |"
echo "| of which the process stood still | $(ms "$frozen") | $(to_dd "$frozen") |"
echo "| restore | $(ms "$restore") | $(to_dd "$restore") |"
