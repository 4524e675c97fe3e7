#!/usr/bin/env bash
# Phase 1: which kernel takes which tensor. Runs one token with BITNET_TRACE_QUANT=1 and keeps the lines.
#
# Usage: scripts/perf_phase1_quant_probe.sh [MODEL] [TOKENIZER]
#
# MODEL defaults to models/microsoft-bitnet-b1.58-2B-4T-gguf/ggml-model-i2_s.gguf, TOKENIZER to the
# tokenizer.json beside the model; without that model the demo model is taken, and the receipt says so.
# Fails if no line came, if a line cannot be read, if a tensor was named twice, or if there are more or fewer lines than
# tensors for which `bitnet inspect` names a kernel.
#
# Writes receipts/phase1_quant_probe.txt.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
[[ ${1:-} != -* ]] || die "$1: unknown argument; see --help"
[[ $# -le 2 ]] || die "expected at most two arguments; see --help"

build instrument
choose_model "$@"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

command=("$INSTRUMENT" run --model "$MODEL" "${INPUT[@]}" -n 1 --greedy --quiet)
shown=$(shown_command "${command[@]}")
unset_switches env BITNET_TRACE_QUANT=1 "${command[@]}" >"$work/stdout" 2>"$work/stderr" \
    || die "the run failed: $(tail -n 3 "$work/stderr")"

grep '^quant_dispatch: ' "$work/stderr" >"$work/lines" || die "no quant_dispatch line on stderr"
line='^quant_dispatch: tensor=[^ ]+ format=[^ ]+ kernel=[^ ]+ shape=\[[0-9]+(, [0-9]+)*\]$'
if grep -v -E "$line" "$work/lines" >"$work/odd"; then
    die "not a line of the documented form: $(head -n 1 "$work/odd")"
fi
twice=$(sed 's/^quant_dispatch: tensor=\([^ ]*\) .*/\1/' "$work/lines" | sort | uniq -d | awk 'NR <= 3' | tr '\n' ' ')
[[ -z $twice ]] || die "named more than once: $twice"

# One member to a line, and `null` where a tensor is not multiplied by.
"$INSTRUMENT" inspect --json "$MODEL" >"$work/inspect" || die "the model cannot be inspected"
expected=$(grep -c '^ *"kernel": "' "$work/inspect") || die "inspect names no kernel"
found=$(wc -l <"$work/lines" | tr -d ' ')
[[ $found -eq $expected ]] || die "$found tensors were named, but inspect names a kernel for $expected"
ask_engine "$INSTRUMENT"

{
    text_header phase1_quant_probe
    echo "features: instrument"
    text_binary "$INSTRUMENT"
    text_model
    echo "command: BITNET_TRACE_QUANT=1 $shown"
    echo "tensors: $found"
    echo
    echo "tensors per format and kernel:"
    sed 's/.* \(format=[^ ]* kernel=[^ ]*\) .*/\1/' "$work/lines" | sort | uniq -c
    echo
    echo "every line:"
    cat "$work/lines"
} >"$work/receipt"
write_receipt phase1_quant_probe.txt "$work/receipt"
