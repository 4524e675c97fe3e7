#!/usr/bin/env bash
# Asks the demo model inside the binary its held-out questions, and fails if it knows too few answers or if an
# instruction set or a number of threads changes a single bit of a logit.
#
# Usage: scripts/eval_demo.sh
#
# The minimum is 99.5 % of sums and differences to 99, 99 % of those to 999, all products of 1 to 12, and 97 % of every
# other task. Every seventh question is asked again with each instruction set this machine has, on one thread and on two:
# the answers and the hash over all logits have to be the same.
#
# Writes receipts/demo_eval.json.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
[[ $# -eq 0 ]] || die "$1: unknown argument; see --help"

questions=$ROOT/bitnet-cli/tests/data/demo_eval.tsv
build plain
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

least=()
while IFS= read -r task; do
    case $task in
        add_99 | sub_99) percent=99.5 ;;
        add_999 | sub_999) percent=99 ;;
        product) percent=100 ;;
        *) percent=97 ;;
    esac
    least+=(--min "$task=$percent")
done < <(cut -f 1 "$questions" | uniq)
[[ ${#least[@]} -ge 20 ]] || die "$questions: expected at least ten tasks, one after the other"

mkdir -p "$RECEIPTS"
(cd "$ROOT" && "$(shown "$PLAIN")" eval --quiet --data "$(shown "$questions")" "${least[@]}" \
    --receipt "${RECEIPTS#"$ROOT"/}/demo_eval.json" --force) || die "the demo model knows too few answers"

sed -n '1~7p' "$questions" >"$work/some.tsv"
"$PLAIN" eval --quiet --data "$work/some.tsv" --json >"$work/expected"
compared=()
for isa in scalar avx2 avx512 neon; do
    code=0
    "$PLAIN" run --isa "$isa" -p "2+2=" --quiet >"$work/has" 2>&1 || code=$?
    [[ $code -ne 2 ]] || continue # not this machine's
    [[ $code -eq 0 ]] || die "--isa $isa: exit $code: $(tail -n 3 "$work/has")"
    for threads in 1 2; do
        "$PLAIN" eval --quiet --data "$work/some.tsv" --json --isa "$isa" -t "$threads" >"$work/found"
        cmp -s "$work/found" "$work/expected" || die "--isa $isa -t $threads: other answers or logits than by default"
    done
    compared+=("$isa")
done
[[ ${#compared[@]} -ge 2 ]] || die "expected two instruction sets at least, found: ${compared[*]}"
say "the same answers and logits on one thread and on two with ${compared[*]}"
