//! Links the addon as a Node-API module; nothing to do for the bare core.

fn main() {
    #[cfg(feature = "napi")]
    napi_build::setup();
}
