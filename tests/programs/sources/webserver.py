"""nginx: a master and its workers, who serve before and after, and whom a
reload replaces."""

import os
import signal
import sys

from daemon import children, end, free_port, get, serves, start, wait_for
from stage import DIR, Stage

WORKERS = 3
CONFIGURATION = """
daemon off;
worker_processes {workers};
pid {dir}/nginx.pid;
error_log {dir}/nginx.error warn;
events {{ worker_connections 64; }}
http {{
    access_log {dir}/nginx.access;
    client_body_temp_path {dir}/body;
    proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi;
    uwsgi_temp_path {dir}/uwsgi;
    scgi_temp_path {dir}/scgi;
    server {{
        listen 127.0.0.1:{port} reuseport;
        root {dir}/www;
        location = /who {{ return 200 "$pid {round}"; }}
    }}
}}
"""


def configure(port, round):
    path = os.path.join(DIR, "nginx.conf")
    with open(path, "w") as f:
        f.write(CONFIGURATION.format(workers=WORKERS, dir=DIR, port=port, round=round))
    return path


def main():
    port, page = free_port(), os.urandom(100_000)
    os.mkdir(os.path.join(DIR, "www"))
    with open(os.path.join(DIR, "www", "page"), "wb") as f:
        f.write(page)
    master = start("/usr/sbin/nginx", "-e", "stderr", "-c", configure(port, 0))
    wait_for("nginx", lambda: serves(port, "/page") and len(children(master.pid)) == WORKERS)

    def who():
        return [int(number) for number in get(port, "/who").split()]

    stage, round = Stage(), 0
    while stage.next():
        workers = children(master.pid)
        for _ in range(10):
            if get(port, "/page") != page:
                sys.exit("the page is another")
            pid, configured = who()
            if pid not in workers or configured != round:
                sys.exit(f"{pid} of configuration {configured} answers in round {round}")
        # Other workers with another configuration, through the same sockets.
        round += 1
        configure(port, round)
        master.send_signal(signal.SIGHUP)
        wait_for(
            "new workers",
            lambda: len(now := children(master.pid)) == WORKERS and not now & workers,
        )
        wait_for("the new configuration", lambda: who()[1] == round)
    end(master, signal.SIGQUIT)


main()
