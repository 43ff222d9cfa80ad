#!/bin/sh
# Several steps under one lock, in a script that cannot be wrapped in `run` as a whole. Each step begins with a renewal: what
# is over fails there, before any harm is done. Nothing stops a step that takes longer than its term, so the term is long.
#
#   ./steps.sh ./step-one ./step-two
set -eu

name=${NAME:-deployment}
term=${TERM_OF_A_STEP:-10m}

# 75: somebody else has it, and had it for five minutes.
handle=$(kubectl leasehold acquire "$name" --for "$term" --wait "${WAIT:-5m}")
# However this ends, the next one need not wait for the end of the term.
trap 'kubectl leasehold release "$handle" || true' EXIT

for step in "$@"; do
    # 79: it is over, and somebody else may have it. The new handle takes the place of the old one.
    handle=$(kubectl leasehold renew "$handle" --for "$term")
    "$step"
done
