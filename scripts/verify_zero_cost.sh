#!/usr/bin/env bash
# Proves that annotations cost nothing in a plain build: the release executable of this tree and that of the same
# tree with every annotation blanked (lines and columns kept) must be the same file, byte for byte, and the
# plain executable must hold no symbol and no string of the trace runtime beyond two notices, each once: that of
# start-up, to someone who sets a switch ("... was built without `instrument` and traces nothing"), and the refusal of
# `profile` and of a trace file ("... builds one that traces").
#
# Usage: scripts/verify_zero_cost.sh [--self-test | --plant attributes|calls]
#
# Both copies are of the tracked files as they are now, built one after the other at one path (target-zero-cost/tree), so
# that nothing but the annotations can differ.
#
# --plant runs the same proof on a tree with a leak, a statement left behind by every #[trace_timing] or by every
# quant_trace! and parity_trace!, and so has to fail. It takes the blanked executable of an earlier run if that is of
# the same sources and compiler, and writes no receipt.
#
# --self-test shows that the proof can fail: it runs itself with either leak and requires the failure, and the search
# for symbols and strings must find the runtime in the instrumented executable.
#
# Writes receipts/zero_cost.json, or with --self-test receipts/zero_cost_self_test.json.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
self_test=false leak=""
if [[ ${1:-} == --self-test ]]; then
    self_test=true
    shift
elif [[ ${1:-} == --plant ]]; then
    leak=${2:-}
    [[ $leak == attributes || $leak == calls ]] || die "--plant '$leak': expected attributes or calls"
    shift 2
fi
[[ $# -eq 0 ]] || die "$1: unknown argument; see --help"
for tool in perl nm git tar cmp; do
    command -v "$tool" >/dev/null || die "$tool is needed"
done

work=$ROOT/target-zero-cost
tree=$work/tree
target=$work/target
mkdir -p "$work"

# fresh_tree: the tracked files, as they are in the working tree.
fresh_tree() {
    rm -rf "$tree"
    mkdir "$tree"
    (cd "$ROOT" && git ls-files -z --cached | while IFS= read -r -d '' file; do
        [[ -e $file ]] && printf '%s\0' "$file"
    done | tar --null -T - -cf -) | tar -xf - -C "$tree" || die "cannot copy the tracked files"
    [[ -f $tree/Cargo.lock ]] || die "Cargo.lock is not tracked"
}

# state_of_tree: a hash of its files and of the compiler.
state_of_tree() {
    (cd "$tree" && rustc -vV && find . -type f -print0 | LC_ALL=C sort -z | xargs -0 cksum) >"$work/state"
    sha256 "$work/state"
}

# build_tree NAME: the workspace's crates anew, whatever the timestamps say; dependencies as they are.
build_tree() {
    local name=$1
    borrow_dependencies "$target"
    rm -rf "$target"/release/.fingerprint/bitnet-* "$target"/release/bitnet
    (cd "$tree" && env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS CARGO_INCREMENTAL=0 \
        cargo build --quiet --locked --release --bin bitnet --target-dir "$target" 2>"$work/$name.log") \
        || die "the $name tree does not build: $(grep -m 3 '^error' "$work/$name.log" | tr '\n' ' ')(see $work/$name.log)"
    cp "$target/release/bitnet" "$work/$name"
}

# Symbols of the runtime, in either mangling; the notices and their reader of the environment are what may stay.
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

# times TEXT FILE: how often it is there.
times() {
    { LC_ALL=C grep -a -o -F "$1" "$2" || true; } | wc -l | tr -d ' '
}

check_searchable() {
    [[ $(nm "$1" 2>/dev/null | grep -c 'bitnet_core') -gt 0 ]] || die "$1 has no symbols of the engine to search"
}

perl "$ROOT/scripts/blank_annotations.pl" --self-test >&2 || die "the tool that blanks annotations is broken"

if $self_test; then
    for leak in attributes calls; do
        say "the proof, with a leak planted in $leak"
        code=0
        bash "$0" --plant "$leak" >"$work/self_test.log" 2>&1 || code=$?
        # By its own words: a build that fails is no proof that works.
        if [[ $code -eq 0 ]] || ! grep -q 'the executables differ' "$work/self_test.log"; then
            die "self-test: a leak in $leak went unnoticed, exit $code: $(tail -n 1 "$work/self_test.log")"
        fi
    done
    build instrument
    check_searchable "$INSTRUMENT"
    symbols=$(runtime_symbols "$INSTRUMENT")
    [[ -n $symbols ]] || die "self-test: no runtime symbol found where there must be some"
    found=$(runtime_strings "$INSTRUMENT")
    for text in "${RUNTIME_STRINGS[@]}"; do
        grep -q -x -F "$text" <<<"$found" || die "self-test: '$text' not found where it must be"
    done
    n_symbols=$(wc -l <<<"$symbols" | tr -d ' ')
    {
        echo "{"
        json_header zero_cost_self_test
        echo "  \"self_test\": \"passed\","
        echo "  \"leaks_noticed\": [\"attributes\", \"calls\"],"
        echo "  \"symbols_found_in_instrumented\": $n_symbols,"
        echo "  \"strings_found_in_instrumented\": ${#RUNTIME_STRINGS[@]},"
        echo "  \"command\": \"scripts/verify_zero_cost.sh --self-test\""
        echo "}"
    } >"$work/receipt_self_test"
    write_receipt zero_cost_self_test.json "$work/receipt_self_test"
    say "self-test passed: both leaks are noticed, and so is the runtime"
    exit 0
fi

mkdir "$work/lock" 2>/dev/null || die "another run holds $work/lock (remove it if there is none)"
trap 'rm -rf "$work/lock" "$tree"' EXIT

fresh_tree
counts=$(perl "$ROOT/scripts/blank_annotations.pl" "$tree") || die "cannot blank the annotations"
read -r attributes calls files <<<"$counts"
say "blanked $attributes #[trace_timing] and $calls calls in $files files"
state=$(state_of_tree)
if [[ -n $leak && -f $work/blanked && -f $work/blanked.state && $(<"$work/blanked.state") == "$state" ]]; then
    say "the blanked tree is built already"
else
    say "building the blanked tree"
    rm -f "$work/blanked.state"
    build_tree blanked
    echo "$state" >"$work/blanked.state"
fi

fresh_tree
if [[ -n $leak ]]; then
    perl "$ROOT/scripts/blank_annotations.pl" --leak "$leak" "$tree" >/dev/null || die "cannot plant a leak"
fi
say "building the annotated tree${leak:+, with a leak in $leak}"
build_tree annotated
say "annotated: $(sha256 "$work/annotated")"
say "blanked:   $(sha256 "$work/blanked")"
cmp "$work/annotated" "$work/blanked" || die "the executables differ: an annotation left something behind"

check_searchable "$work/annotated"
symbols=$(runtime_symbols "$work/annotated")
[[ -z $symbols ]] || die "trace symbols in the plain executable: $(head -n 3 <<<"$symbols")"
strings=$(runtime_strings "$work/annotated")
[[ -z $strings ]] || die "trace strings in the plain executable: $strings"
# shellcheck disable=SC2016  # the backquotes are part of the text
startup=$(times 'was built without `instrument` and traces nothing' "$work/annotated")
[[ $startup -eq 1 ]] || die "expected the start-up notice once in the plain executable, found it $startup times"
refusal=$(times 'builds one that traces' "$work/annotated")
[[ $refusal -eq 1 ]] || die "expected the refusal to profile once in the plain executable, found it $refusal times"
[[ -z $leak ]] || die "the leak in $leak left no trace"

annotated_sha256=$(sha256 "$work/annotated")
blanked_sha256=$(sha256 "$work/blanked")
bytes=$(size "$work/annotated")
{
    echo "{"
    json_header zero_cost
    echo "  \"features\": \"\","
    echo "  \"blanked_attributes\": $attributes,"
    echo "  \"blanked_calls\": $calls,"
    echo "  \"blanked_files\": $files,"
    echo "  \"annotated_sha256\": \"$annotated_sha256\","
    echo "  \"blanked_sha256\": \"$blanked_sha256\","
    echo "  \"bytes\": $bytes,"
    echo "  \"identical\": true,"
    echo "  \"trace_symbols\": 0,"
    echo "  \"trace_strings\": 0,"
    echo "  \"startup_notices\": $startup,"
    echo "  \"refusal_notices\": $refusal,"
    echo "  \"command\": \"scripts/verify_zero_cost.sh\""
    echo "}"
} >"$work/receipt"
write_receipt zero_cost.json "$work/receipt"
say "the executables are the same file"
