"""CPython's multiprocessing, in the middle of its work: a pool of eight, a
manager that all talk to, a queue with its thread, locks and shared memory."""

import multiprocessing
import os
import sys
import time
from multiprocessing import shared_memory

from stage import Stage

LIMIT = 30
JOBS = 64


def set_up(total, lock, block):
    global shared_total, shared_lock, shared_block
    shared_total, shared_lock, shared_block = total, lock, block


def work(job):
    """A little work, and word of it in every place that is shared."""
    number, seen = job
    time.sleep(0.01)
    with shared_total.get_lock():
        shared_total.value += 1
    with shared_lock:
        seen[number] = os.getpid()
    shared_block.buf[number] += 1
    return number * number


def main():
    context = multiprocessing.get_context("fork")
    total, lock = context.Value("q", 0), context.Lock()
    block = shared_memory.SharedMemory(create=True, size=4096)
    queue = context.Queue()
    with context.Manager() as manager, context.Pool(8, set_up, (total, lock, block)) as pool:
        seen = manager.dict()
        start = lambda: pool.map_async(work, [(n, seen) for n in range(JOBS)], chunksize=1)
        workers = {process.pid for process in pool._pool}
        stage, rounds, running = Stage(), 0, start()
        while stage.next():
            rounds += 1
            if running.get(LIMIT) != [n * n for n in range(JOBS)]:
                sys.exit("the pool's results are wrong")
            if total.value != rounds * JOBS:
                sys.exit(f"{total.value} of {rounds * JOBS} jobs counted")
            if len(seen) != JOBS or not set(seen.values()) <= workers:
                sys.exit(f"jobs done by {seen}, which are not {workers}")
            if any(count != rounds for count in block.buf[:JOBS]):
                sys.exit("the shared memory does not count right")
            queue.put(("round", rounds))
            if queue.get(timeout=LIMIT) != ("round", rounds):
                sys.exit("the queue does not give back what it was given")
            seen.clear()
            running = start()
    block.close()
    block.unlink()


main()
