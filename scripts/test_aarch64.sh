#!/usr/bin/env bash
# Runs the kernel battery and the golden models on aarch64, emulated by qemu: once on a CPU with the dot product
# instructions and once on one without, so that both NEON tables are held against the scalar definition.
#
# Usage: scripts/test_aarch64.sh
#
# Needs qemu-aarch64, the linker aarch64-linux-gnu-gcc with its C library, and a rustc with the aarch64 standard
# library: `rustup target add aarch64-unknown-linux-gnu`, or Debian's own. RUSTC chooses another one. Installs
# nothing: what is missing is named. Builds go to target-aarch64; a kernel that is not chosen is a failure.
set -euo pipefail
# shellcheck source=scripts/lib.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/lib.sh"

[[ ${1:-} == --help || ${1:-} == -h ]] && help_and_exit
[[ $# -eq 0 ]] || die "$1: unknown argument; see --help"

target=aarch64-unknown-linux-gnu
sysroot=/usr/aarch64-linux-gnu
missing=()

# has_target RUSTC: whether it has a standard library for aarch64.
has_target() {
    local lib
    lib=$("$1" --print target-libdir --target "$target" 2>/dev/null) || return 1
    compgen -G "$lib/libstd-*.rlib" >/dev/null
}

rustc=""
for candidate in "${RUSTC:-rustc}" /usr/bin/rustc; do
    if command -v "$candidate" >/dev/null && has_target "$candidate"; then
        rustc=$candidate
        break
    fi
done
command -v cargo >/dev/null || missing+=("cargo")
[[ -n $rustc ]] || missing+=("a rustc with $target (rustup target add $target; Debian: libstd-rust-web-dev:arm64)")
command -v aarch64-linux-gnu-gcc >/dev/null || missing+=("aarch64-linux-gnu-gcc (Debian: gcc-aarch64-linux-gnu)")
[[ -e $sysroot/lib/libc.so.6 ]] || missing+=("$sysroot/lib/libc.so.6 (Debian: libc6-dev-arm64-cross)")
command -v qemu-aarch64 >/dev/null || missing+=("qemu-aarch64 (Debian: qemu-user)")
if [[ ${#missing[@]} -gt 0 ]]; then
    printf 'missing: %s\n' "${missing[@]}" >&2
    die "cannot test aarch64 without what is missing"
fi
say "$("$rustc" --version), $(qemu-aarch64 --version | head -n 1)"

# emulated_cpu CPU KERNEL ARGUMENT...: tests of the engine on that CPU, which must choose that kernel. Dependencies do
# next to none of the work, and are not optimised.
emulated_cpu() {
    local cpu=$1 kernel=$2
    shift 2
    # The library path, too: where a C library for arm64 is installed beside the linker's, qemu would mix the two.
    env RUSTC="$rustc" CARGO_INCREMENTAL=0 \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $cpu -L $sysroot -E LD_LIBRARY_PATH=$sysroot/lib" \
        BITNET_REQUIRE_ISA=neon BITNET_REQUIRE_KERNEL="$kernel" \
        cargo test --quiet --locked --target "$target" --target-dir target-aarch64 \
        --config 'profile.dev.package."*".opt-level=0' -p bitnet-core "$@"
}

cd "$ROOT"
for run in max:neondot cortex-a57:neon; do
    cpu=${run%:*} kernel=${run#*:}
    say "qemu-aarch64 -cpu $cpu: kernels"
    emulated_cpu "$cpu" "$kernel" --lib -- kernels:: || die "$cpu: the kernels do not agree"
    say "qemu-aarch64 -cpu $cpu: golden models"
    # All settings of the largest model take minutes under emulation; its generation runs, and all of the others.
    emulated_cpu "$cpu" "$kernel" --test golden -- --skip b158_small::every || die "$cpu: logits are not bitnet.cpp's"
done
say "aarch64 agrees, with the dot product instructions and without"
