#!/usr/bin/env bash
# Packages both crates as for crates.io, and then does what a user of the client does: a new crate outside of the
# workspace, its dependencies and its main.rs taken from README.md word for word, is built against what was packaged and
# takes a lock of the API server that KUBECONFIG names.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo=${CARGO:-cargo}
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' Cargo.toml)

# The CLI needs the very client that is packaged beside it, which no registry has yet: so both in one go.
dirty=()
[ -z "$(git status --porcelain 2>/dev/null)" ] || dirty=(--allow-dirty)
"$cargo" package --quiet --offline "${dirty[@]}" --no-verify --package leasehold --package leasehold-cli

# Cargo's own verification would build the CLI against whatever it once unpacked under this version, so this does it.
user=$(mktemp -d)
trap 'rm -rf "$user"' EXIT
for crate in leasehold leasehold-cli; do
	tar -xzf "$target/package/$crate-$version.crate" -C "$user"
done
# The same versions as here, all of them downloaded already.
cp Cargo.lock "$user/leasehold-cli-$version/Cargo.lock"
outside() {
	env -C "$user/$1" -u K8S_OPENAPI_ENABLED_VERSION CARGO_TARGET_DIR="$target" "$cargo" "${@:2}" --quiet --offline
}
outside "leasehold-cli-$version" check --config "patch.crates-io.leasehold.path='$user/leasehold-$version'"

# The first block of this language under the heading "From Rust".
from_readme() {
	awk -v begin="^\`\`\`$1" '/^### /{here = /From Rust/} here && $0 ~ begin {on = 1; next} on && /^```/{exit} on' README.md
}
mkdir -p "$user/app/src"
{
	printf '[package]\nname = "app"\nedition = "2024"\n\n[workspace]\n\n'
	from_readme toml
	printf '\n[patch.crates-io]\nleasehold = { path = "../leasehold-%s" }\n' "$version"
} >"$user/app/Cargo.toml"
from_readme rust >"$user/app/src/main.rs"
cp Cargo.lock "$user/app/"

lines=$(grep -c '[^[:space:]]' "$user/app/src/main.rs")
if [ "$lines" -ge 15 ]; then
	echo "README.md needs $lines lines of code to take a lock: fewer than 15 are promised" >&2
	exit 1
fi
if ! grep -q 'acquire()' "$user/app/src/main.rs"; then
	echo "README.md's first example under \"From Rust\" takes no lock" >&2
	exit 1
fi
outside app build
cp "$target/debug/app" "$user/app/app"

"$user/app/app"
if KUBECONFIG=/dev/null "$user/app/app" 2>/dev/null; then
	echo "README.md's example succeeds without a cluster" >&2
	exit 1
fi
echo "packaged leasehold and leasehold-cli $version; a crate that depends on it took a lock with $lines lines of code"
