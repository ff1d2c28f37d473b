//! Rust and JavaScript name the same errors of exhaustion.

use rkllmjs_memory::error::ErrorCode;

#[test]
fn javascript_reclaims_for_the_same_codes() {
    let text = include_str!("../../src/js/reclaim/exhaustion.js");
    for code in ErrorCode::ALL {
        assert_eq!(text.contains(&format!("'{code}'")), code.is_exhaustion(), "{code}");
    }
    assert_eq!(text.matches("'ERR_").count(), ErrorCode::ALL.iter().filter(|code| code.is_exhaustion()).count());
}
