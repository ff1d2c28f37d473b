//! Links the addon as a Node-API module, and tells the crate how it is built; see `MemoryManager.buildInfo`.

use std::env::var;
use std::path::Path;

fn main() {
    #[cfg(feature = "napi")]
    napi_build::setup();

    // `PROFILE` names only "release" or "debug". OUT_DIR has the profile's folder: <profile>/build/<crate>/out.
    let out = var("OUT_DIR").unwrap_or_default();
    let profile = Path::new(&out).ancestors().nth(3).and_then(Path::file_name).and_then(|name| name.to_str());
    // The script that packs the binaries sets the revision. Other builds have none, because they would be built again
    // after each commit.
    let revision = var("RKLLM_REVISION").unwrap_or_default();
    println!("cargo:rustc-env=RKLLM_BUILD_TARGET={}", var("TARGET").unwrap_or_default());
    println!("cargo:rustc-env=RKLLM_BUILD_PROFILE={}", profile.unwrap_or_default());
    println!("cargo:rustc-env=RKLLM_BUILD_REVISION={revision}");
    println!("cargo:rerun-if-env-changed=RKLLM_REVISION");
    println!("cargo:rerun-if-changed=build.rs");
}
