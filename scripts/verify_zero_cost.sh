#!/usr/bin/env bash
# Proves that annotations cost nothing in a plain build: the release executable of this tree and that of the same
# tree with every annotation blanked (lines and columns kept) must be the same file, byte for byte, and the
# plain executable must hold no symbol and no string of the trace runtime beyond the start-up notice.
#
# Usage: scripts/verify_zero_cost.sh [--self-test]
#
# Both copies are of the tracked files as they are now, built one after the other at one path
# (target-zero-cost/tree, remapped), so that nothing but the annotations can differ.
#
# --self-test shows that the proof can fail: annotations that leave a statement behind must make the executables
# differ, and the search for symbols and strings must find the runtime in an instrumented executable.
#
# Writes receipts/zero_cost.json (not in a self-test).
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
self_test=false
if [[ ${1:-} == --self-test ]]; then
    self_test=true
    shift
fi
[[ $# -eq 0 ]] || die "$1: unknown argument; see --help"
for tool in perl nm git tar cmp; do
    command -v "$tool" >/dev/null || die "$tool is needed"
done

work=$ROOT/target-zero-cost
tree=$work/tree
target=$work/target
mkdir -p "$work"
mkdir "$work/lock" 2>/dev/null || die "another run holds $work/lock (remove it if there is none)"
trap 'rm -rf "$work/lock" "$tree"' EXIT

# fresh_tree: the tracked files, as they are in the working tree.
fresh_tree() {
    rm -rf "$tree"
    mkdir "$tree"
    (cd "$ROOT" && git ls-files -z --cached | while IFS= read -r -d '' file; do
        [[ -e $file ]] && printf '%s\0' "$file"
    done | tar --null -T - -cf -) | tar -xf - -C "$tree" || die "cannot copy the tracked files"
    [[ -f $tree/Cargo.lock ]] || die "Cargo.lock is not tracked"
}

# build_tree NAME [FLAG]...: the workspace's crates anew, whatever the timestamps say; dependencies as they are.
build_tree() {
    local name=$1 flags
    shift
    rm -rf "$target"/release/.fingerprint/bitnet-* "$target"/release/bitnet
    flags=$(printf '%s\x1f%s' "--remap-path-prefix=$tree=/bitnet" \
        "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo")
    (cd "$tree" && env -u RUSTFLAGS CARGO_ENCODED_RUSTFLAGS="$flags" CARGO_INCREMENTAL=0 \
        cargo build --quiet --locked --release -p bitnet-cli --target-dir "$target" "$@" 2>"$work/$name.log") \
        || die "the $name tree does not build: $(grep -m 3 '^error' "$work/$name.log" | tr '\n' ' ')(see $work/$name.log)"
    cp "$target/release/bitnet" "$work/$name"
}

# Symbols of the runtime, in either mangling; the notice and its reader of the environment are what may stay.
runtime_symbols() {
    nm "$1" | grep -E 'bitnet_core(5trace|\.\.trace\.\.)|6quanta' \
        | grep -v -E 'bitnet_core(5trace|\.\.trace\.\.)(6notice|11environment|notice\.\.|environment)' || true
}

# Strings of the runtime's lines and files.
RUNTIME_STRINGS=('quant_dispatch: tensor=' 'timing: embed_us=' 'displayTimeUnit' 'dropped_spans' 'thread_name')
runtime_strings() {
    local text
    for text in "${RUNTIME_STRINGS[@]}"; do
        if LC_ALL=C grep -q -a -F "$text" "$1"; then echo "$text"; fi
    done
}

check_searchable() {
    [[ $(nm "$1" 2>/dev/null | grep -c 'bitnet_core') -gt 0 ]] || die "$1 has no symbols of the engine to search"
}

perl "$ROOT/scripts/blank_annotations.pl" --self-test >&2 || die "the tool that blanks annotations is broken"

say "building the blanked tree"
fresh_tree
counts=$(perl "$ROOT/scripts/blank_annotations.pl" "$tree") || die "cannot blank the annotations"
read -r attributes calls files <<<"$counts"
say "blanked $attributes #[trace_timing] and $calls calls in $files files"
build_tree blanked

if $self_test; then
    say "building a tree whose annotations leave a statement behind"
    fresh_tree
    perl "$ROOT/scripts/blank_annotations.pl" --leak "$tree" >/dev/null || die "cannot plant a leak"
    build_tree leaking
    if cmp -s "$work/leaking" "$work/blanked"; then
        die "self-test: a leaked annotation went unnoticed"
    fi
    say "building the instrumented tree"
    fresh_tree
    build_tree instrumented --features instrument
    check_searchable "$work/instrumented"
    [[ -n $(runtime_symbols "$work/instrumented") ]] || die "self-test: no runtime symbol found where there must be some"
    found=$(runtime_strings "$work/instrumented")
    for text in "${RUNTIME_STRINGS[@]}"; do
        grep -q -x -F "$text" <<<"$found" || die "self-test: '$text' not found where it must be"
    done
    say "self-test passed: a leak is noticed, and so is the runtime"
    exit 0
fi

say "building the annotated tree"
fresh_tree
build_tree annotated
say "annotated: $(sha256 "$work/annotated")"
say "blanked:   $(sha256 "$work/blanked")"
cmp "$work/annotated" "$work/blanked" || die "the executables differ: an annotation left something behind"

check_searchable "$work/annotated"
symbols=$(runtime_symbols "$work/annotated")
[[ -z $symbols ]] || die "trace symbols in the plain executable: $(head -n 3 <<<"$symbols")"
strings=$(runtime_strings "$work/annotated")
[[ -z $strings ]] || die "trace strings in the plain executable: $strings"
notices=$(LC_ALL=C grep -a -o 'was built without .instrument. and traces nothing' "$work/annotated" | wc -l | tr -d ' ')
[[ $notices -eq 1 ]] || die "expected the start-up notice once in the plain executable, found it $notices times"

{
    echo "{"
    json_header zero_cost
    echo "  \"features\": \"\","
    echo "  \"blanked_attributes\": $attributes,"
    echo "  \"blanked_calls\": $calls,"
    echo "  \"blanked_files\": $files,"
    echo "  \"annotated_sha256\": \"$(sha256 "$work/annotated")\","
    echo "  \"blanked_sha256\": \"$(sha256 "$work/blanked")\","
    echo "  \"bytes\": $(size "$work/annotated"),"
    echo "  \"identical\": true,"
    echo "  \"trace_symbols\": 0,"
    echo "  \"trace_strings\": 0,"
    echo "  \"startup_notices\": 1,"
    echo "  \"command\": \"scripts/verify_zero_cost.sh\""
    echo "}"
} >"$work/receipt"
write_receipt zero_cost.json "$work/receipt"
say "the executables are the same file"
