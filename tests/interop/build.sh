#!/bin/sh
# Builds the client-go contender of the interop tests once per content of this
# folder and version of Go, and prints the path of the program on standard
# output. Progress goes to standard error.
#
# Needs Go and the Go module proxy. The program is kept in
# ${XDG_CACHE_HOME:-$HOME/.cache}/leasehold.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/leasehold

say() { echo "interop: $*" >&2; }

if ! command -v go >/dev/null; then
	say "Go is missing, and the client-go contender is built with it: install Go (https://go.dev/dl)"
	exit 69
fi

export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off
cd "$here"
content=$({ go version; cat go.mod go.sum main.go build.sh; } | sha256sum | cut -c 1-16)
program=$cache/interop-$content
if [ -x "$program" ]; then
	echo "$program"
	exit 0
fi

# One build at a time: whoever waits here finds the other's result below. The
# lock goes with the shell; its children must not keep it (9>&-).
mkdir -p "$cache"
exec 9>"$cache/interop.lock"
if ! flock --nonblock 9; then
	say "another build is running; waiting for it"
	flock 9
fi
if [ -x "$program" ]; then
	echo "$program"
	exit 0
fi

building=$cache/interop.building
log=$cache/interop.log
go_pid=
cleanup() {
	[ -z "$go_pid" ] || kill "$go_pid" 2>/dev/null || :
	rm -f "$building" "$log"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

start=$(date +%s)
elapsed() { echo "$(($(date +%s) - start)) s"; }

go build -v -trimpath -buildvcs=false -ldflags "-s -w" -o "$building" . >"$log" 2>&1 9>&- &
go_pid=$!
# `go build -v` writes one line per module fetched and per package compiled.
tick=0
while kill -0 "$go_pid" 2>/dev/null; do
	sleep 1 9>&-
	tick=$((tick + 1))
	if [ "$tick" -eq 2 ]; then
		say "building the client-go contender into $program (once; about a minute)"
	elif [ $((tick % 10)) -eq 0 ]; then
		say "$(elapsed), $(grep -cv '^go: ' "$log" || :) packages compiled"
	fi
done
if ! wait "$go_pid"; then
	go_pid=
	say "the build failed after $(elapsed):"
	grep -v '^go: downloading' "$log" | tail -n 25 >&2
	exit 1
fi
go_pid=
mv "$building" "$program"
echo "$program"
