#!/usr/bin/env python3
"""A program that runs itself under a lock.

`kubectl leasehold run` renews the lock, and stops this program before anybody else can have it. The token grows with every
holder: send it along with every write, and let what is written to refuse a smaller one than it has seen.
"""

import os
import sys

LOCK = os.environ.get("NAME", "monthly-invoices")


def under_lock(name):
    """Starts this program anew under the lock, unless it runs under it already."""
    if os.environ.get("LEASEHOLD_NAME") != name:
        run = ["kubectl", "leasehold", "run", name, "--", sys.executable, *sys.argv]
        os.execvp(run[0], run)
    return int(os.environ["LEASEHOLD_TOKEN"])


def main():
    token = under_lock(LOCK)
    print(f"nobody else is here; what is written carries the token {token}", flush=True)


if __name__ == "__main__":
    main()
