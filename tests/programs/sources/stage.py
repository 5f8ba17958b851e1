"""The stage protocol: see tests/victims/harness/stage.rs."""

import os
import sys
import time

DIR = os.environ["ICECORE_STAGE"]
PAUSE = 0.002


class Stage:
    """Announces that the program is ready and waits to be told to go on."""

    def __init__(self):
        self.round = 0
        self.deadline = time.time() + 300

    def next(self):
        """True: check yourself and come back; False: it is over."""
        said = self._announce()
        while (answer := self._answer(*said)) is None:
            time.sleep(PAUSE)
        return answer

    async def anext(self):
        """The same in an event loop, which goes on meanwhile."""
        import asyncio  # programs without one do without the module

        said = self._announce()
        while (answer := self._answer(*said)) is None:
            await asyncio.sleep(PAUSE)
        return answer

    def _announce(self):
        draft = os.path.join(DIR, ".draft")
        with open(draft, "w"):
            pass
        os.rename(draft, os.path.join(DIR, f"ready-{self.round}"))
        go = os.path.join(DIR, f"go-{self.round}")
        self.round += 1
        return go, os.path.join(DIR, "end")

    def _answer(self, go, end):
        if os.path.exists(go):
            return True
        if os.path.exists(end):
            return False
        if time.time() > self.deadline:
            sys.exit("abandoned by the harness")
        return None
