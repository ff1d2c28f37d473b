//! `rkllm.h`: the structs that librkllmrt passes to callbacks, by version of the header (`docs/design/runtime-api.md`
//! §1). Offsets are those of a 64-bit C compiler.

use std::ffi::{c_char, c_int};
use std::mem::offset_of;

/// `RKLLMResultLastHiddenLayer` and `RKLLMResultLogits`: rows of floats, good only inside the callback.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Rows {
    /// The first float, or null.
    pub data: *const f32,
    /// Floats of a row: `embd_size` or `vocab_size`.
    pub width: c_int,
    /// The number of rows: `num_tokens`.
    pub count: c_int,
}

/// `RKLLMPerfStat`, of 1.2.1 and later.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PerfStat {
    /// Milliseconds of the prefill.
    pub prefill_time_ms: f32,
    /// Tokens of the prefill.
    pub prefill_tokens: c_int,
    /// Milliseconds of the generation.
    pub generate_time_ms: f32,
    /// Tokens generated.
    pub generate_tokens: c_int,
    /// VmHWM of the process in MB.
    pub memory_usage_mb: f32,
}

/// `RKLLMResult` of 1.1.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Result11 {
    /// UTF-8 with a final NUL, or null.
    pub text: *const c_char,
    /// The token.
    pub token_id: i32,
    /// Hidden states of the last layer.
    pub last_hidden_layer: Rows,
}

/// `RKLLMResult` of 1.2.0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Result120 {
    /// The fields of 1.1.
    pub base: Result11,
    /// Logits.
    pub logits: Rows,
}

/// `RKLLMResult` of 1.2.1 and later.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Result121 {
    /// The fields of 1.2.0.
    pub base: Result120,
    /// Figures of the run.
    pub perf: PerfStat,
}

const _: () = {
    assert!(size_of::<Rows>() == 16 && offset_of!(Rows, width) == 8 && offset_of!(Rows, count) == 12);
    assert!(size_of::<PerfStat>() == 20 && offset_of!(PerfStat, prefill_tokens) == 4);
    assert!(offset_of!(PerfStat, generate_time_ms) == 8 && offset_of!(PerfStat, generate_tokens) == 12);
    assert!(offset_of!(PerfStat, memory_usage_mb) == 16);
    assert!(size_of::<Result11>() == 32 && offset_of!(Result11, text) == 0 && offset_of!(Result11, token_id) == 8);
    assert!(offset_of!(Result11, last_hidden_layer) == 16);
    assert!(size_of::<Result120>() == 48 && offset_of!(Result120, base) == 0 && offset_of!(Result120, logits) == 32);
    assert!(size_of::<Result121>() == 72 && offset_of!(Result121, base) == 0 && offset_of!(Result121, perf) == 48);
};

/// Values of `LLMCallState`.
pub mod state {
    use std::ffi::c_int;

    /// A token.
    pub const NORMAL: c_int = 0;
    /// The token's text is the beginning of a UTF-8 character.
    pub const WAITING: c_int = 1;
    /// The run has ended.
    pub const FINISH: c_int = 2;
    /// The run has failed.
    pub const ERROR: c_int = 3;
    /// Hidden states of the last layer, in 1.1. Later versions give them with `NORMAL`.
    pub const LAST_HIDDEN_LAYER: c_int = 4;
}

/// Answers of the result callback, of 1.2.1 and later.
pub mod answer {
    use std::ffi::c_int;

    /// The run goes on.
    pub const CONTINUE: c_int = 0;
    /// The run pauses.
    pub const PAUSE: c_int = 1;
    /// The run goes on, and the runtime gives its output buffer back.
    pub const RELEASE_OUTPUT: c_int = 2;
}

/// Number of pointers of `RKLLMCallback` (1.3): result, tokenizer and embedding callback, each with its userdata.
pub const CALLBACK_POINTERS: usize = 6;
