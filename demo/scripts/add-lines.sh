#!/bin/sh
# Adds twenty lines to the file, under the lock. PPID is `kubectl leasehold`, for whoever wants to kill it.
echo "holds $LEASEHOLD_TOKEN $PPID"
line=0
while [ "$line" -lt 20 ]; do
    line=$((line + 1))
    echo "$LEASEHOLD_TOKEN $line $LEASEHOLD_HOLDER" >> file
    sleep 0.03
done
