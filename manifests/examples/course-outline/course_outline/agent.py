"""What the task tells while it runs, through the helper binary in $ASYNCTASK_AGENT."""

import os
import subprocess
import sys
import time

MESSAGE_LIMIT = 1000  # characters


class Agent:
    """Without $ASYNCTASK_AGENT (a run by hand) everything is printed to stderr instead."""

    SECONDS_BETWEEN_UPDATES = 1.0

    def __init__(self, program: str | None) -> None:
        self._program = program
        self._next_update = 0.0
        self._last: tuple[int, int] | None = None

    @classmethod
    def from_environment(cls) -> "Agent":
        return cls(os.environ.get("ASYNCTASK_AGENT"))

    def stage(self, name: str) -> None:
        self._next_update = 0.0  # the first progress of a stage is always told
        self._last = None
        self._call("stage", name)

    def progress(self, done: int, total: int, unit: str, message: str) -> None:
        """Cheap to call in a loop: a call within a second of the last one is dropped, unless it is the last of all."""
        now = time.monotonic()
        if (done, total) == self._last or (now < self._next_update and done < total):
            return
        self._last = (done, total)
        self._next_update = now + self.SECONDS_BETWEEN_UPDATES
        self._call("progress", str(done), str(total), "--unit", unit, "--message", message)

    def fail(self, code: str, message: str) -> None:
        self._call("fail", "--code", code, "--message", message[:MESSAGE_LIMIT])

    def _call(self, *arguments: str) -> None:
        if self._program is None:
            print("agent:", *arguments, file=sys.stderr)
            return
        # A lost progress message is no reason to lose the work: say so in the log and go on.
        result = subprocess.run([self._program, *arguments], stdin=subprocess.DEVNULL, check=False)
        if result.returncode != 0:
            print(f"agent {arguments[0]}: exit code {result.returncode}", file=sys.stderr)
