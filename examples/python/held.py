#!/usr/bin/env python3
"""A part of a program under a lock: `with held("name"): …`.

The lock is held for a fixed term and not renewed by itself, so the part must be done by then: ask `left()` before a step that
takes long, and `renew()` if that is not enough. Where the whole program can be run under the lock, under_lock.py is safer.
"""

import json
import os
import subprocess
import sys
import time


class NotHeld(Exception):
    """Somebody else has the lock, or it is over."""


def leasehold(*words):
    done = subprocess.run(["kubectl", "leasehold", *words], stdout=subprocess.PIPE, text=True)
    if done.returncode in (75, 79):
        raise NotHeld(f"kubectl leasehold {words[0]} ended with {done.returncode}")
    done.check_returncode()
    return done.stdout


class held:
    def __init__(self, name, seconds=600, wait=60):
        self.name, self.seconds, self.wait = name, seconds, wait

    def __enter__(self):
        self._take("acquire", self.name, "--wait", f"{self.wait}s")
        return self

    def __exit__(self, *_):
        try:
            leasehold("release", self.handle)
        except NotHeld:
            # What was done may have been done without the lock. The token has protected what compares it.
            print(f"{self.name} was over before it was released", file=sys.stderr)

    def renew(self):
        self._take("renew", self.handle)

    def left(self):
        """For how many seconds it is held still. Linux only, as the clock is."""
        return max(0.0, self.until - time.clock_gettime(time.CLOCK_BOOTTIME))

    def _take(self, *words):
        told = json.loads(leasehold(*words, "--for", f"{self.seconds}s", "-q", "-o", "json"))
        self.handle = told["handle"]
        self.token = told.get("token", getattr(self, "token", None))
        # By the clock, and not so many seconds from now on: this process may have been paused since they were counted.
        self.until = told["expiresAtBootTimeSeconds"]


def main():
    with held(os.environ.get("NAME", "catalogue-import"), seconds=60) as lock:
        print(f"nobody else is here, for {lock.left():.0f} s; the token is {lock.token}", flush=True)
        lock.renew()
        print("renewed", flush=True)


if __name__ == "__main__":
    main()
