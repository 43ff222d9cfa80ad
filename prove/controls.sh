#!/usr/bin/env bash
# Negative controls: plants each bug of prove/bugs in a copy of this tree, and sees the proof catch it.
#
#   prove/controls.sh [NAME...]      all of them, or those named
#
# Layers are tried in the order of their cost, until one of them catches the bug: the model, the simulation, and the real
# faults (with TORTURE=seconds; left out without). A bug that concerns client-go alone is shown to that. What is passed on within
# a process is shown to its tests as well. Prints a line of a Markdown table for each; fails if one was missed.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${SECONDS_EACH:-90}
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$copy"
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
prove=$CARGO_TARGET_DIR/controls/leasehold-prove
log=$copy/controls.log

# Runs one layer. It has caught the bug if it says what was violated.
catches() {
	local begun=$EPOCHREALTIME
	"$prove" "$@" >"$log" 2>/dev/null || true
	took=$(awk -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }')
	grep -q '^VIOLATION' "$log"
}

# Runs a test. It has caught the bug if it fails.
fails() {
	local begun=$EPOCHREALTIME code=0
	(cd "$copy" && "$@") >"$log" 2>&1 || code=$?
	took=$(awk -v a="$begun" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f s", b - a }')
	sed -n 's/^test \(.*\) \.\.\. FAILED$/VIOLATION \1/p; s/^\(.*\) --- FAILED$/VIOLATION \1/p' "$log" >"$log.said"
	mv "$log.said" "$log"
	[ "$code" -ne 0 ] && [ -s "$log" ]
}

if [ $# -eq 0 ]; then
	set -- prove/bugs/*.patch
fi
missed=0
echo "| planted bug | caught by | after | what it said |"
echo "|---|---|---|---|"
for patch in "$@"; do
	name=$(basename "$patch" .patch)
	patch=prove/bugs/$name.patch
	git -C "$copy" apply --directory="" "$PWD/$patch" 2>/dev/null || (cd "$copy" && patch -sp1 <"$OLDPWD/$patch")
	# Model and simulation are one program; the others have workers, and the operator.
	bins=(--bin leasehold-prove)
	if [[ $name == interop-* || -n ${TORTURE:-} ]]; then
		bins=(--package leasehold-operator --bins)
	fi
	if ! (cd "$copy" && cargo build --quiet --profile controls --package leasehold-prove "${bins[@]}") 2>"$log"; then
		cat "$log" >&2
		echo "| $(head -1 "$patch") | does not build | | |"
		missed=1
	elif [[ $name == interop-* ]]; then
		# Some of it shows in a single step, which a test takes; the rest takes a while.
		if fails cargo test --quiet --profile controls --package leasehold-prove --test interop; then
			layer="client-go, a test"
		elif catches interop --duration 240s --seed 5; then
			layer=client-go
		else
			layer=nobody
			missed=1
		fi
	elif catches model --quick --stop; then
		layer=model
	elif catches simulate --brief --seeds 100000 --at-most "$seconds"; then
		layer=simulation
	elif [[ $name == lending-* ]] && fails cargo test --quiet --profile controls --package leasehold --all-features --test lending; then
		layer="a test in memory"
	elif [ -n "${TORTURE:-}" ] && catches torture --duration "$TORTURE"; then
		layer="real faults"
	else
		layer=nobody
		missed=1
	fi
	said=$(grep -m1 '^VIOLATION' "$log" | cut -c11-170 | tr '|' '/' || true)
	echo "| $(head -1 "$patch") | ${layer:-} | ${took:-} | $said |"
	(cd "$copy" && patch -Rsp1 <"$OLDPWD/$patch")
done
exit "$missed"
