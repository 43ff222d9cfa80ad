#!/bin/sh
# Moves 10 from one account to another. Two at once would lose some of it.
from=$(cat "$1") to=$(cat "$2")
sleep 0.05
echo $((from - 10)) > "$1"
echo $((to + 10)) > "$2"
