#!/bin/sh
# Copies into the chart what stands in config/ and crds/, which Helm cannot read from outside the chart.
#
#   sync.sh          copy
#   sync.sh --check  fail where the chart has something else
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
files=$root/charts/leasehold/files
fresh=$files.new
trap 'rm -rf "$fresh"' EXIT
rm -rf "$fresh"

for folder in crds config/rbac config/manager config/flowcontrol config/monitoring config/fencing config/strict; do
	to=$fresh/${folder#config/}
	mkdir -p "$to"
	for file in "$root/$folder"/*.yaml "$root/$folder"/*.json; do
		case $file in
		# The namespace of a release cannot be one of its objects.
		*/kustomization.yaml | */manager/namespace.yaml | *'/*.'*) ;;
		*) cp "$file" "$to/" ;;
		esac
	done
done

case ${1-} in
--check)
	diff -ru "$files" "$fresh" || {
		echo "charts/leasehold/files is not what stands in config/ and crds/; run: make chart" >&2
		exit 1
	}
	;;
'')
	rm -rf "$files"
	mv "$fresh" "$files"
	;;
*)
	sed -n '2,5s/^# \{0,1\}//p' "$0" >&2
	exit 64
	;;
esac
