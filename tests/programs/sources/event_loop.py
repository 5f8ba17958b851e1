"""CPython's asyncio: timers, tasks, a queue, calls in other threads, which wake
the event loop through a pair of sockets."""

import asyncio
import sys
import time

from stage import Stage

LIMIT = 30.0


class Ticker:
    """Sleeps again and again: never too short, never much too long."""

    def __init__(self, interval):
        self.interval = interval
        self.ticks = 0

    async def run(self):
        while True:
            before = time.monotonic()
            await asyncio.sleep(self.interval)
            slept = time.monotonic() - before
            # The loop rounds to the clock's resolution.
            if not self.interval - 0.002 <= slept < LIMIT:
                sys.exit(f"a sleep of {self.interval} s took {slept} s")
            self.ticks += 1

    async def check(self):
        ticks = self.ticks
        async with asyncio.timeout(LIMIT):
            while self.ticks == ticks:
                await asyncio.sleep(0.005)


async def double(work, done):
    while True:
        await done.put(2 * await work.get())


async def main():
    loop = asyncio.get_running_loop()
    tickers = [Ticker(0.01 * i) for i in range(1, 20)]
    work, done = asyncio.Queue(), asyncio.Queue()
    running = [asyncio.create_task(ticker.run()) for ticker in tickers]
    running.append(asyncio.create_task(double(work, done)))
    stage = Stage()
    while await stage.anext():
        for ticker in tickers:
            await ticker.check()
        await work.put(21)
        if await asyncio.wait_for(done.get(), LIMIT) != 42:
            sys.exit("the queue's other side cannot multiply any more")
        # The thread wakes the loop by writing to its socket.
        slept = await asyncio.wait_for(loop.run_in_executor(None, time.sleep, 0.05), LIMIT)
        if slept is not None:
            sys.exit("a call in a thread has a strange result")
    for task in running:
        task.cancel()


asyncio.run(main())
