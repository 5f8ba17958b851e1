import os, queue, sys, threading, time

os.setsid()
rows = queue.Queue()


def compute():
    a, b = 0, 1
    for n in range(1, 180):
        rows.put((n, b))
        a, b = b, a + b
        time.sleep(0.05)
    rows.put(None)


with open(sys.argv[1], "w") as file:
    threading.Thread(target=compute, daemon=True).start()
    for row in iter(rows.get, None):
        print(*row, file=file, flush=True)
