"""CPython at work: eight threads, a timer signal, sqlite in mid-transaction."""

import hashlib
import os
import queue
import signal
import sqlite3
import sys
import threading
import time

from stage import DIR, Stage

LIMIT = 30.0


class Chain(threading.Thread):
    """Hashes a hash, over and over; can be recomputed from any link."""

    def __init__(self, seed):
        super().__init__(daemon=True)
        self.lock = threading.Lock()
        self.link = (0, hashlib.sha256(seed).digest())
        self.checked = self.link

    def run(self):
        while True:
            with self.lock:
                number, digest = self.link
                self.link = (number + 1, hashlib.sha256(digest).digest())
            time.sleep(0.001)

    def check(self):
        number, digest = self.checked
        wait_for(lambda: self.link[0] > number, "a chain to grow")
        with self.lock:
            last = self.link
        while number < last[0]:
            number, digest = number + 1, hashlib.sha256(digest).digest()
        if digest != last[1]:
            sys.exit(f"a chain is broken at link {number}")
        self.checked = last


class Consumer(threading.Thread):
    """Waits for work with a time limit."""

    def __init__(self):
        super().__init__(daemon=True)
        self.work = queue.Queue()
        self.done = queue.Queue()
        self.idle = 0

    def run(self):
        while True:
            try:
                self.done.put(self.work.get(timeout=0.05) * 2)
            except queue.Empty:
                self.idle += 1

    def check(self):
        self.work.put(21)
        if self.done.get(timeout=LIMIT) != 42:
            sys.exit("the consumer cannot multiply any more")
        idle = self.idle
        wait_for(lambda: self.idle > idle, "a wait with a time limit to end")


class Sleeper(threading.Thread):
    """Sleeps and looks at the clock: never too short, never much too long."""

    def __init__(self):
        super().__init__(daemon=True)
        self.naps = 0
        self.problem = None

    def run(self):
        while True:
            before = time.monotonic()
            time.sleep(0.3)
            slept = time.monotonic() - before
            if not 0.3 <= slept < LIMIT:
                self.problem = f"a nap of 0.3 s took {slept} s"
            self.naps += 1

    def check(self):
        naps = self.naps
        wait_for(lambda: self.naps > naps, "a nap to end")
        if self.problem:
            sys.exit(self.problem)


class Database:
    """Always in the middle of a transaction."""

    def __init__(self):
        self.path = os.path.join(DIR, "rows.db")
        self.rows = 0
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        self.connection.execute("pragma cache_spill = 1")
        self.connection.execute("pragma cache_size = 4")
        self.connection.execute("create table rows (id integer, text text)")
        self.begin()

    def begin(self):
        self.connection.execute("begin immediate")
        more = [(self.rows + i, "x" * 500) for i in range(200)]
        self.connection.executemany("insert into rows values (?, ?)", more)
        self.rows += len(more)

    def check(self):
        inside = self.count(self.connection)
        if inside != self.rows:
            sys.exit(f"{inside} rows inside the transaction instead of {self.rows}")
        self.connection.execute("commit")
        other = sqlite3.connect(self.path)
        outside = self.count(other)
        sound = other.execute("pragma integrity_check").fetchone()[0]
        other.close()
        if outside != self.rows or sound != "ok":
            sys.exit(f"{outside} rows after the commit instead of {self.rows}: {sound}")
        self.begin()

    @staticmethod
    def count(connection):
        return connection.execute("select count(*) from rows").fetchone()[0]


def wait_for(condition, what):
    deadline = time.monotonic() + LIMIT
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.002)


class Alarm:
    """An interval timer and its signal."""

    def __init__(self):
        self.count = 0
        signal.signal(signal.SIGALRM, self.rings)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)

    def rings(self, number, frame):
        self.count += 1

    def check(self):
        count = self.count
        wait_for(lambda: self.count > count, "an alarm")


def main():
    workers = [Chain(b"%d" % i) for i in range(6)] + [Consumer(), Sleeper()]
    for worker in workers:
        worker.start()
    checked = workers + [Alarm(), Database()]
    stage = Stage()
    while stage.next():
        for part in checked:
            part.check()
    # At the end the interpreter takes its handler away.
    signal.setitimer(signal.ITIMER_REAL, 0)


main()
