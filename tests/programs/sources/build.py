"""make -j in the middle of a build: jobs of two makes share one jobserver, and
each waits at its gate (a FIFO) until it is let through."""

import os
import sys

from daemon import LIMIT, start, wait_for
from stage import DIR, Stage

HALVES = {"low": range(0, 8), "high": range(8, 16)}
JOBS = 4
MAKEFILE = """
result: low high
	cat low high >$@
low high:
	+$(MAKE) -f parts-$@
"""
PARTS_MAKEFILE = """
{half}: {parts}
	cat $^ >$@
%.o:
	: >at-$*; read -r word <gate-$* && echo "$$word $*" >$@.new && mv $@.new $@
"""


def write(name, text):
    with open(name, "w") as f:
        f.write(text)


def lay_out():
    write("Makefile", MAKEFILE)
    for half, numbers in HALVES.items():
        parts = " ".join(f"{number}.o" for number in numbers)
        write(f"parts-{half}", PARTS_MAKEFILE.format(half=half, parts=parts))
        for number in numbers:
            os.mkfifo(f"gate-{number}")


class Build:
    """A build, and what of it has been let through."""

    def __init__(self):
        self.make = start("/usr/bin/make", f"-j{JOBS}", "--no-print-directory")
        self.left = [number for numbers in HALVES.values() for number in numbers]
        self.rest()

    def started(self):
        return [number for number in self.left if os.path.exists(f"at-{number}")]

    def rest(self):
        """Waits until as many jobs as are allowed wait at their gates."""
        expected = min(JOBS, len(self.left))
        wait_for(f"{expected} jobs", lambda: len(self.started()) >= expected)
        if len(now := self.started()) > JOBS:
            sys.exit(f"jobs {now} run at the same time")

    def let_through(self):
        number = self.started()[0]
        write(f"gate-{number}", "part\n")
        wait_for("a part", lambda: os.path.exists(f"{number}.o"))
        self.left.remove(number)


def main():
    os.chdir(DIR)
    lay_out()
    build, stage = Build(), Stage()
    while stage.next():
        build.let_through()
        build.let_through()
        build.rest()
    while build.left:
        wait_for("a job", build.started)
        build.let_through()
    if (status := build.make.wait(LIMIT)) != 0:
        sys.exit(f"make ended with {status}")
    with open("result") as f:
        if f.read() != "".join(f"part {number}\n" for number in range(16)):
            sys.exit("the build's result is wrong")


main()
