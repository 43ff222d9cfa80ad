#!/bin/sh
# Builds a program that tests call, once per content of its module and version of
# Go, and prints its path on standard output. Progress goes to standard error.
#
#   build.sh helm        renders, checks and installs charts/leasehold
#   build.sh promtool    checks and tries the rules of config/monitoring
#   build.sh crds        builds nothing: the folder with the definitions of
#                        ServiceMonitor and PrometheusRule
#
# Needs Go and the Go module proxy. The programs are kept in
# ${XDG_CACHE_HOME:-$HOME/.cache}/leasehold.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/leasehold

say() { echo "tools: $*" >&2; }

tags=
case ${1-} in
helm) ;;
# Without what finds things to scrape: promtool asks none of it.
promtool) tags=remove_all_sd ;;
crds) ;;
*) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac
name=$1

if ! command -v go >/dev/null; then
	say "Go is missing, and $name comes by it: install Go (https://go.dev/dl)"
	exit 69
fi
export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off

if [ "$name" = crds ]; then
	cd "$here/prometheus-operator"
	go mod download github.com/prometheus-operator/prometheus-operator >&2
	echo "$(go list -m -f '{{.Dir}}' github.com/prometheus-operator/prometheus-operator)/example/prometheus-operator-crd"
	exit 0
fi

cd "$here/$name"
# They run for seconds, and would be optimized for a minute.
gcflags="all=-N -l"
content=$({ go version; cat go.mod go.sum; echo "$tags $gcflags"; } | sha256sum | cut -c 1-16)
program=$cache/$name-$content/$name
if [ -x "$program" ]; then
	echo "$program"
	exit 0
fi

# One build at a time: whoever waits here finds the other's result below. The
# lock goes with the shell; its children must not keep it (9>&-).
mkdir -p "$cache"
exec 9>"$cache/tools.lock"
if ! flock --nonblock 9; then
	say "another build is running; waiting for it"
	flock 9
fi
if [ -x "$program" ]; then
	echo "$program"
	exit 0
fi

building=$cache/$name.building
trap 'rm -rf "$building"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
rm -rf "$building"
mkdir -p "$building"
say "building $name into ${program%/*} (once; two to four minutes on two cores)"
if ! go build -v -trimpath -buildvcs=false -tags "$tags" -gcflags "$gcflags" -ldflags "-s -w" -o "$building/" tool >"$building/log" 2>&1 9>&-; then
	say "the build failed:"
	grep -v '^go: downloading' "$building/log" | tail -n 25 >&2
	exit 1
fi
rm -f "$building/log"
rm -rf "${program%/*}"
mv "$building" "${program%/*}"
echo "$program"
