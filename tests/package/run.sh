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
"$cargo" package --quiet --offline "${dirty[@]}" --package leasehold --package leasehold-cli

user=$(mktemp -d)
trap 'rm -rf "$user"' EXIT
tar -xzf "$target/package/leasehold-$version.crate" -C "$user"

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
# The same versions as here, all of them downloaded already.
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
(cd "$user/app" && env -u K8S_OPENAPI_ENABLED_VERSION CARGO_TARGET_DIR="$target" "$cargo" build --quiet --offline)
cp "$target/debug/app" "$user/app/app"

"$user/app/app"
if KUBECONFIG=/dev/null "$user/app/app" 2>/dev/null; then
	echo "README.md's example succeeds without a cluster" >&2
	exit 1
fi
echo "packaged leasehold and leasehold-cli $version; a crate that depends on it took a lock with $lines lines of code"
