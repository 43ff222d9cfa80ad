#!/bin/sh
# At most so many at a time, on all machines together: as many imports as the database can take.
#
#   ./limit.sh ./import batch-17
set -eu

[ $# -gt 0 ] || { echo "usage: $0 COMMAND [ARGUMENT…]" >&2; exit 64; }

# Where a custom resource says how many there are (examples/semaphore.yaml), leave --size out.
exec kubectl leasehold run "${NAME:-db-imports}" --semaphore --size "${SIZE:-3}" -- "$@"
