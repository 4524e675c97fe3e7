#!/usr/bin/env bash
# Holds TQ2_0 files of `bitnet quantize` against llama.cpp, as the package xllamacpp has it: llama.cpp loads them and
# goes on greedily, and so do we. It rounds activations by blocks, so bits cannot agree: how many tokens do is reported,
# and logits must be near. Logs of models with one thing changed must not be. Not part of CI, because the package is
# large.
#
# Usage: scripts/check_llama_cpp.sh
#
# PYTHON   an interpreter with xllamacpp and gguf; by default one is made in target/llama-cpp-venv
# BITNET   the binary; by default a release build
#
# Writes receipts/llama_cpp.json.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
[[ $# -eq 0 ]] || die "$1: unknown argument; see --help"

[[ -n ${PYTHON:-} ]] || python_with llama-cpp xllamacpp==2026.10.11549 gguf==0.19.0
profile="given, not built here"
if [[ -z ${BITNET:-} ]]; then
    build plain
    BITNET=$PLAIN
    profile=release
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say "making models"
"$PYTHON" "$ROOT/scripts/check_llama_cpp.py" make "$work" 2>"$work/stderr" || die "$(tail -1 "$work/stderr")"
for source in "$work"/*.f32.gguf; do
    name=$(basename "$source" .f32.gguf)
    say "case $name"
    "$BITNET" quantize --quiet --absmean --type tq2_0 "$source" "$work/$name.gguf"
    for tokens in "$work/$name".*.tokens; do
        "$BITNET" parity --record "${tokens%.tokens}.log" -m "$work/$name.gguf" --tokens "$(<"$tokens")" -n 24
    done
done
passed=true
"$PYTHON" "$ROOT/scripts/check_llama_cpp.py" compare "$work" >"$work/body" 2>"$work/stderr" || passed=false
[[ -s $work/body ]] || die "$(grep ' E ' "$work/stderr" || tail -1 "$work/stderr")"
{
    echo "{"
    json_header llama_cpp | sed "s/\"profile\": \"release\"/\"profile\": \"$profile\"/"
    member command "$INVOKED"
    json_binaries "$BITNET"
    tail -n +2 "$work/body"
} >"$work/receipt"
write_receipt llama_cpp.json "$work/receipt"
grep -E '"(case|mistake|(greedy|argmax)_share|rms[a-z_]*|pass)"' "$work/body"
$passed || die "a case differs from llama.cpp; see the receipt"
