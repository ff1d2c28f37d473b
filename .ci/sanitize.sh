#!/usr/bin/env bash
# Runs the Rust tests under AddressSanitizer with leak detection, without suppressions. Every toolchain for x86-64 Linux
# has the sanitizer's runtime; RUSTC_BOOTSTRAP lets a stable one use it. `--target` excludes build scripts and proc
# macros.
set -euo pipefail
cd "$(dirname "$0")/.."

target="$(rustc -vV | sed -n 's/^host: //p')"
library="$(rustc --print sysroot)/lib/rustlib/$target/lib"
if ! ls "$library"/librustc-*_rt.asan.a >/dev/null 2>&1; then
  echo "this toolchain has no AddressSanitizer for $target"
  exit 1
fi

export RUSTC_BOOTSTRAP=1 RUSTFLAGS='-Zsanitizer=address'
export ASAN_OPTIONS='detect_leaks=1:detect_stack_use_after_return=1'

# Checks the sanitizer itself: it must report a use after free and a leak.
probe="$(mktemp -d)"
trap 'rm -rf "$probe"' EXIT
cat >"$probe/probe.rs" <<'RUST'
fn main() {
    let bytes = std::hint::black_box(vec![1_u8; 64]);
    match std::env::args().nth(1).as_deref() {
        Some("late") => {
            let address = bytes.as_ptr();
            drop(bytes);
            // SAFETY: none: the sanitizer must find this use after free.
            std::hint::black_box(unsafe { address.read_volatile() });
        }
        Some("lost") => std::mem::forget(std::hint::black_box(bytes)),
        _ => {}
    }
}
RUST
rustc $RUSTFLAGS --target "$target" -g -o "$probe/probe" "$probe/probe.rs"
"$probe/probe" none
for error in late lost; do
if "$probe/probe" "$error" >/dev/null 2>&1; then echo "the sanitizer does not report '$error'" && exit 1; fi
done

# Leaves out the rooms without unsafe code: their random programs take long and cannot show memory errors.
cargo test --quiet --no-default-features --target "$target" --lib \
  --test compaction --test conformance --test faults --test pool
