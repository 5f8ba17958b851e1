"""gunicorn, a server that forks its workers beforehand. With --preload they
share what their master has loaded."""

import os
import signal
import sys

from daemon import LIMIT, children, end, free_port, get, serves, start, wait_for
from stage import DIR, Stage

WORKERS = 3


def main():
    preload = sys.argv[1:]
    here = os.path.dirname(os.path.abspath(__file__))
    port = free_port()
    master = start(
        "/usr/bin/python3", "-B", "/usr/bin/gunicorn", "--chdir", here, "--pythonpath", here,
        "--workers", str(WORKERS), "--bind", f"127.0.0.1:{port}", "--timeout", "60",
        "--worker-tmp-dir", DIR, "--log-level", "warning", *preload, "prefork_app:app",
    )  # fmt: skip
    wait_for("gunicorn", lambda: serves(port) and len(children(master.pid)) == WORKERS)
    seen, tokens = {}, {}

    def ask():
        pid, loaded_by, token, count = get(port).split()
        pid, count = int(pid), int(count)
        if pid not in children(master.pid):
            sys.exit(f"{pid} answers, which is no worker")
        if count <= seen.get(pid, 0) or tokens.setdefault(pid, token) != token:
            sys.exit(f"worker {pid} has forgotten what it had")
        if (int(loaded_by) == master.pid) != bool(preload):
            sys.exit(f"the program was loaded by {loaded_by}")
        seen[pid] = count

    stage = Stage()
    while stage.next():
        workers = children(master.pid)
        if len(workers) != WORKERS:
            sys.exit(f"{workers} are not {WORKERS} workers")
        for _ in range(20):
            ask()
        # One that dies is replaced.
        victim = min(workers)
        os.kill(victim, signal.SIGKILL)
        wait_for(
            "a new worker",
            lambda: victim not in (now := children(master.pid)) and len(now) == WORKERS,
        )
        wait_for("its answer", lambda: ask() or set(seen) >= children(master.pid))
    if preload and len(set(tokens.values())) != 1:
        sys.exit("workers do not share what was loaded")
    end(master, signal.SIGTERM)


main()
