#!/usr/bin/env bash
# Holds our GGUF files and number formats against the `gguf` package of llama.cpp, which shares no code with us:
# it reads a file we wrote, we read one it wrote, and every value of every tensor must be the same bits.
#
# Usage: scripts/check_gguf_py.sh [--install]
#
# Needs python3 with venv and pip. Installs gguf, pinned, and the numpy it asks for into target/gguf-venv; with
# --install, that is all it does.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
[[ $# -eq 0 || $* == --install ]] || die "$1: unknown argument; see --help"

python_with gguf gguf==0.19.0
[[ ${1:-} != --install ]] || exit 0

cd "$ROOT"
target=${CARGO_TARGET_DIR:-$ROOT/target}
cargo build --quiet --locked -p bitnet-core --example gguf_exchange || die "the example gguf_exchange does not build"
exchange=$target/debug/examples/gguf_exchange

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/ours" "$work/theirs"
"$exchange" write "$work/ours.gguf"
"$PYTHON" scripts/check_gguf_py.py write "$work/theirs.gguf"
for side in ours theirs; do
    "$exchange" dump "$work/$side.gguf" "$work/$side" >"$work/$side.metadata"
    "$PYTHON" scripts/check_gguf_py.py compare "$side" "$work/$side.gguf" "$work/$side" "$work/$side.metadata"
done
