#!/usr/bin/env bash
# The Rust tests under AddressSanitizer, leaks included, nothing suppressed. The sanitizer's runtime comes with every
# toolchain for x86-64 Linux; RUSTC_BOOTSTRAP lets a stable one use it. `--target` keeps build scripts and proc macros
# out of it.
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

# First, that it sees anything: it has to fail where bytes are used after they were freed, and where they are lost.
probe="$(mktemp -d)"
trap 'rm -rf "$probe"' EXIT
cat >"$probe/probe.rs" <<'RUST'
fn main() {
    let bytes = std::hint::black_box(vec![1_u8; 64]);
    match std::env::args().nth(1).as_deref() {
        Some("late") => {
            let address = bytes.as_ptr();
            drop(bytes);
            // SAFETY: none: this is what the sanitizer is to find.
            std::hint::black_box(unsafe { address.read_volatile() });
        }
        Some("lost") => std::mem::forget(std::hint::black_box(bytes)),
        _ => {}
    }
}
RUST
rustc $RUSTFLAGS --target "$target" -g -o "$probe/probe" "$probe/probe.rs"
"$probe/probe" sound
for sin in late lost; do
  if "$probe/probe" "$sin" >/dev/null 2>&1; then echo "the sanitizer does not see what is $sin" && exit 1; fi
done

# The rooms without unsafe code have nothing that it could find: their long random programs are left out.
cargo test --quiet --no-default-features --target "$target" --lib \
  --test compaction --test conformance --test faults --test pool
