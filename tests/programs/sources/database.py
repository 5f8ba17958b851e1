"""PostgreSQL and a dozen sessions in the middle of their transactions: rows not
committed, cursors half read, temporary tables, one waiting for a lock of
another's. All of them commit after waking up."""

import glob
import os
import shutil
import signal
import subprocess
import sys

from daemon import end, start, wait_for
from stage import DIR, Stage

SESSIONS = 12
DATA = os.path.join(DIR, "data")
AS_SERVER = {"user": "postgres", "group": "postgres", "extra_groups": []}


def programs():
    """Where Debian has what is not in PATH."""
    return max(glob.glob("/usr/lib/postgresql/*/bin"))


class Session:
    """psql, told what to do through a pipe."""

    def __init__(self, number):
        self.number = number
        self.asked = 0
        self.psql = subprocess.Popen(
            [os.path.join(programs(), "psql"), "-XqAt", "-h", DIR, "-v", "ON_ERROR_STOP=1", "postgres"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **AS_SERVER,
        )  # fmt: skip

    def tell(self, sql):
        self.asked += 1
        self.psql.stdin.write(f"{sql};\n\\echo done {self.asked}\n")
        self.psql.stdin.flush()

    def hear(self):
        lines = []
        while (line := self.psql.stdout.readline().rstrip("\n")) != f"done {self.asked}":
            if line == "" and self.psql.poll() is not None:
                sys.exit(f"session {self.number} has ended")
            lines.append(line)
        return lines

    def ask(self, sql):
        self.tell(sql)
        return self.hear()

    def begin(self, round):
        self.ask("BEGIN")
        self.ask(f"INSERT INTO done VALUES ({self.number}, {round})")
        self.ask("DECLARE c CURSOR FOR SELECT generate_series(1, 1000)")
        self.ask("FETCH 10 FROM c")
        self.ask(f"INSERT INTO mine VALUES ({round})")

    def commit(self, round):
        if self.ask("FETCH 2 FROM c") != ["11", "12"]:
            sys.exit("a cursor has lost its place")
        if self.ask("SELECT count(*) FROM mine") != [str(round + 1)]:
            sys.exit("a temporary table has lost its rows")
        self.ask("COMMIT")


def serve():
    initdb = [os.path.join(programs(), "initdb"), "-D", DATA, "--no-sync", "-A", "trust"]
    os.mkdir(DATA, 0o700)
    shutil.chown(DATA, "postgres", "postgres")
    subprocess.run(initdb, check=True, stdout=subprocess.DEVNULL, cwd="/", **AS_SERVER)
    with open(os.path.join(DIR, "server.log"), "a") as log:
        return start(
            os.path.join(programs(), "postgres"), "-D", DATA, "-k", DIR, "-h", "",
            "-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "autovacuum=off",
            # None of its helpers does anything between two looks at it.
            "-c", "wal_writer_delay=10s", "-c", "bgwriter_delay=10s",
            stderr=log, cwd="/", **AS_SERVER,
        )  # fmt: skip


def log():
    with open(os.path.join(DIR, "server.log")) as f:
        return f.read()


def complaints():
    levels = ("WARNING:", "ERROR:", "FATAL:", "PANIC:")
    return [line for line in log().splitlines() if any(level in line for level in levels)]


def main():
    server = serve()
    wait_for("the database", lambda: "ready to accept connections" in log())
    sessions = [Session(n) for n in range(SESSIONS)]
    first, last = sessions[0], sessions[-1]
    first.ask("CREATE TABLE done (session int, round int)")
    first.ask("CREATE TABLE counter AS SELECT 0 AS value")
    for session in sessions:
        session.ask("CREATE TEMPORARY TABLE mine (round int)")

    def begin(round):
        for session in sessions:
            session.begin(round)
        first.ask("UPDATE counter SET value = value + 1")
        last.tell("UPDATE counter SET value = value + 1")

    stage, round = Stage(), 0
    begin(round)
    while stage.next():
        if first.ask("SELECT count(*) FROM done") != [str(SESSIONS * round + 1)]:
            sys.exit("a session sees what was not committed")
        first.commit(round)
        last.hear()
        for session in sessions[1:]:
            session.commit(round)
        round += 1
        if first.ask("SELECT value FROM counter") != [str(2 * round)]:
            sys.exit("the counter is wrong")
        begin(round)
    if complaints():
        sys.exit("\n".join(complaints()))
    for session in sessions:
        session.psql.kill()
        session.psql.wait()
    end(server, signal.SIGINT)
    if any(word in log() for word in ("PANIC", "was terminated", "corrupt", "not properly")):
        sys.exit(log())
    if "database system is shut down" not in log():
        sys.exit("the server did not shut down in order: " + log())


main()
