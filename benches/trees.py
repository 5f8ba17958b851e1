#!/usr/bin/env python3
"""Dumps and restores trees of 1, 10, 100 and 1000 tasks and shows how long
each stood still, as a table.

    benches/trees.py [ICECORE [TASKS...]]

ICECORE is the program, by default target/release/icecore. Each tree is a shell
with sleeping children in groups of 31. Times are of the last of three dumps
with -R, then of one dump that ends the tree and of the restore."""

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time

PR_SET_CHILD_SUBREAPER = 36
GROUP = 31


def tree(tasks):
    """A shell script whose tree has this many tasks, itself included."""
    if tasks == 1:
        return "exec sleep 100000"
    lines, left = [], tasks - 1
    while left > GROUP:
        lines.append(f"(for i in $(seq {GROUP - 1}); do sleep 100000 & done; wait) &")
        left -= GROUP
    lines += ["sleep 100000 &"] * left
    return "\n".join([*lines, "wait"])


def below(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        children = [int(child) for child in f.read().split()]
    return [pid, *(task for child in children for task in below(child))]


def settle(pid, tasks):
    """Waits until all are there and have become what they will be."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            commands = [open(f"/proc/{task}/comm").read() for task in below(pid)]
        except OSError:
            commands = []
        if len(commands) == tasks and commands.count("sleep\n") >= tasks - 1 - tasks // GROUP:
            return
        time.sleep(0.05)
    sys.exit(f"the tree has {len(commands)} tasks instead of {tasks}")


def run(*command):
    """The seconds it took, and the most memory it had, in MiB."""
    before = time.monotonic()
    pid = os.posix_spawn(command[0], command, os.environ)
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
    return time.monotonic() - before, usage.ru_maxrss / 1024


def stats(images):
    with open(os.path.join(images, "stats.json")) as f:
        return json.load(f)


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


def gone(tasks):
    while any(os.path.exists(f"/proc/{task}") for task in tasks):
        reap()
        time.sleep(0.01)


def measure(icecore, tasks, base):
    target = subprocess.Popen(
        ["setsid", "sh", "-c", tree(tasks)], cwd="/",
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    settle(target.pid, tasks)
    for attempt in range(3):
        images = os.path.join(base, f"{tasks}-{attempt}")
        dump, memory = run(icecore, "dump", "-t", str(target.pid), "-D", images, "-R")
    figures = stats(images)
    images = os.path.join(base, f"{tasks}-last")
    everyone = below(target.pid)
    run(icecore, "dump", "-t", str(target.pid), "-D", images)
    gone(everyone)
    restore, restore_memory = run(icecore, "restore", "-d", "-D", images)
    restored = below(target.pid)
    if sorted(restored) != sorted(everyone):
        sys.exit(f"{len(restored)} of {len(everyone)} tasks came back")
    for task in restored:
        os.kill(task, signal.SIGKILL)
    gone(restored)
    print(
        f"| {tasks} | {figures['freezing_us'] / 1000:.1f} | {figures['frozen_us'] / 1000:.1f} "
        f"| {dump:.2f} | {memory:.0f} | {restore:.2f} | {restore_memory:.0f} |",
        flush=True,
    )


def main():
    here = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    icecore = sys.argv[1] if len(sys.argv) > 1 else os.path.join(here, "target/release/icecore")
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print("| tasks | freezing, ms | frozen, ms | dump, s | MiB | restore, s | MiB |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    for tasks in [int(word) for word in sys.argv[2:]] or [1, 10, 100, 1000]:
        with tempfile.TemporaryDirectory() as base:
            measure(os.path.abspath(icecore), tasks, base)


main()
