#!/usr/bin/env bash
# Holds `bitnet convert` and our logits against transformers: its BitNet and Llama classes make tiny random checkpoints
# in the layouts of the publishers, we convert and run them, and every token must be its argmax, the recorded logits as
# near as rounding lets them be. Copies of them with one thing changed must not pass. Not part of CI, because torch is
# large.
#
# Usage: scripts/check_transformers.sh
#
# PYTHON   an interpreter with torch, transformers, accelerate and safetensors; by default one is made in
#          target/transformers-venv
# BITNET   the binary; by default a release build
#
# Writes receipts/transformers.json.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
[[ $# -eq 0 ]] || die "$1: unknown argument; see --help"

[[ -n ${PYTHON:-} ]] || python_with transformers torch transformers==5.23.0 accelerate safetensors
profile="given, not built here"
if [[ -z ${BITNET:-} ]]; then
    build plain
    BITNET=$PLAIN
    profile=release
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say "making checkpoints"
"$PYTHON" "$ROOT/scripts/check_transformers.py" make "$work" 2>"$work/stderr" || die "$(tail -1 "$work/stderr")"
for tokens in "$work"/*.tokens; do
    name=$(basename "$tokens" .tokens)
    say "case $name"
    # In full precision, as the other side has them: embeddings are not what is compared here.
    "$BITNET" convert --quiet --embd f32 "$work/$name" "$work/$name.gguf"
    "$BITNET" parity --record "$work/$name.log" -m "$work/$name.gguf" --tokens "$(<"$tokens")" -n 24
done
passed=true
"$PYTHON" "$ROOT/scripts/check_transformers.py" compare "$work" >"$work/body" 2>"$work/stderr" || passed=false
[[ -s $work/body ]] || die "$(tail -1 "$work/stderr")"
{
    echo "{"
    json_header transformers | sed "s/\"profile\": \"release\"/\"profile\": \"$profile\"/"
    member command "$INVOKED"
    json_binaries "$BITNET"
    tail -n +2 "$work/body"
} >"$work/receipt"
write_receipt transformers.json "$work/receipt"
grep -E '"(case|mistake|argmax_equal|rms[a-z_]*|pass)"' "$work/body"
$passed || die "a case differs from transformers; see the receipt"
