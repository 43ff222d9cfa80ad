#!/bin/sh
# Builds the control plane of the tests (etcd, kube-apiserver,
# kube-controller-manager, kubectl) once per Kubernetes version and prints the
# folder of the binaries on standard output. Progress goes to standard error.
#
#   build.sh           build unless built already
#   build.sh --print   say where the binaries are or would be; build nothing
#   build.sh --version say which Kubernetes version go.mod asks for
#
# Needs Linux, Go, and the Go module proxy. The binaries are kept in
# ${XDG_CACHE_HOME:-$HOME/.cache}/leasehold; remove that folder to start afresh.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
version=$(sed -n 's|^[[:space:]]*k8s\.io/kubernetes \(v[^ ]*\).*|\1|p' "$here/go.mod" | head -n 1)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/leasehold
home=$cache/controlplane-$version
bin=$home/bin

say() { echo "controlplane: $*" >&2; }

case ${1-} in
--print) echo "$bin"; exit 0 ;;
--version) echo "$version"; exit 0 ;;
'') ;;
*) sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 64 ;;
esac

if [ -x "$bin/kube-apiserver" ]; then
	echo "$bin"
	exit 0
fi

if ! command -v go >/dev/null; then
	say "Go is missing, and the test control plane is built with it:"
	say "install Go (https://go.dev/dl), or point KUBEBUILDER_ASSETS at a folder with"
	say "etcd and kube-apiserver, or LEASEHOLD_TEST_KUBECONFIG at a cluster to test in"
	exit 69
fi

# One build at a time: whoever waits here finds the other's result below. The
# lock goes with the shell; its children must not keep it (9>&-).
mkdir -p "$cache"
exec 9>"$cache/controlplane.lock"
if ! flock --nonblock 9; then
	say "another build is running; waiting for it"
	flock 9
fi
if [ -x "$bin/kube-apiserver" ]; then
	echo "$bin"
	exit 0
fi

# Temporary folders that are here now were left by builds that were killed.
rm -rf "$cache"/controlplane-*.building
building=$home.building
mkdir -p "$building/bin"
log=$building/build.log
go_pid=
cleanup() {
	[ -z "$go_pid" ] || kill "$go_pid" 2>/dev/null || :
	rm -rf "$building"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

export CGO_ENABLED=0 GOFLAGS=-mod=readonly GOWORK=off
cd "$here"
start=$(date +%s)
elapsed() {
	seconds=$(($(date +%s) - start))
	printf '%d:%02d' $((seconds / 60)) $((seconds % 60))
}

say "building etcd, kube-apiserver, kube-controller-manager and kubectl $version"
say "into $bin (once; about five minutes on two cores)"
go build -v -o "$building/bin/" -trimpath -buildvcs=false \
	-ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" \
	tool >"$log" 2>&1 9>&- &
go_pid=$!

# `go build -v` writes one line per module fetched and per package compiled.
tick=0
while kill -0 "$go_pid" 2>/dev/null; do
	sleep 1 9>&-
	tick=$((tick + 1))
	if [ $((tick % 10)) -eq 0 ]; then
		fetched=$(grep -c '^go: downloading' "$log" || :)
		compiled=$(grep -cv '^go: ' "$log" || :)
		now=$(grep -v '^go: ' "$log" | tail -n 1)
		say "$(elapsed)  $fetched modules fetched, $compiled packages compiled ${now:+($now)}"
	fi
done
if ! wait "$go_pid"; then
	go_pid=
	say "the build failed after $(elapsed):"
	grep -v '^go: downloading' "$log" | tail -n 25 >&2
	exit 1
fi
go_pid=

# The package's folder is named after its module: server/v3.
for name in server v3; do
	[ ! -e "$building/bin/$name" ] || mv "$building/bin/$name" "$building/bin/etcd"
done
for name in etcd kube-apiserver kube-controller-manager kubectl; do
	if [ ! -x "$building/bin/$name" ]; then
		say "the build left no $name in $building/bin: $(ls "$building/bin")"
		exit 1
	fi
done
rm -f "$log"
rm -rf "$home"
mv "$building" "$home"
say "built in $(elapsed)"
echo "$bin"
