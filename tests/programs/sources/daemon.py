"""What the programs that drive servers have in common."""

import http.client
import os
import socket
import subprocess
import sys
import time

LIMIT = 30.0


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def wait_for(what, condition):
    deadline = time.monotonic() + LIMIT
    while not (value := condition()):
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain for {what}")
        time.sleep(0.005)
    return value


def start(*command, **options):
    """A server in the group of this program, with nothing of its descriptors
    but standard error."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, **options
    )


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        return {int(child) for child in f.read().split()}


def get(port, path="/"):
    """The body of a page, fetched through a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            sys.exit(f"{path}: status {answer.status}: {body}")
        return body
    finally:
        connection.close()


def serves(port, path="/"):
    try:
        return get(port, path) is not None
    except OSError:
        return False


def end(server, signal):
    server.send_signal(signal)
    status = server.wait(LIMIT)
    if status != 0:
        sys.exit(f"{server.args[0]} ended with {status}")
