//! The functions that librkllmrt calls with its results, and the only place that follows its pointers.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::panic::catch_unwind;
use std::ptr;

use super::result::{Event, Target};
use super::table::{find, remove_ended};
use crate::abi::rkllm::{answer, state, PerfStat, Result11, Result120, Result121, Rows};
use crate::handle::Handle;

/// The layouts of `RKLLMResult`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// 1.1.
    V11,
    /// 1.2.0.
    V120,
    /// 1.2.1 and later.
    V121,
}

/// Returns the address of the result callback of a layout.
pub fn address(layout: Layout) -> usize {
    match layout {
        Layout::V11 => on_result_11 as *const () as usize,
        Layout::V120 => on_result_120 as *const () as usize,
        Layout::V121 => on_result_121 as *const () as usize,
    }
}

const NO_ROWS: Rows = Rows { data: ptr::null(), width: 0, count: 0 };

/// `LLMResultCallback` of 1.1, which returns nothing.
///
/// # Safety
///
/// `result` is null or an `RKLLMResult` of 1.1 whose pointers are null or good for the call.
pub unsafe extern "C" fn on_result_11(result: *const Result11, userdata: *mut c_void, said: c_int) {
    // SAFETY: the caller's. Another layout would be read at the wrong places, which `header` of the session decides.
    let result = unsafe { result.as_ref() };
    let hidden = result.map_or(NO_ROWS, |result| result.last_hidden_layer);
    // SAFETY: the caller's.
    unsafe { take_in(userdata, said, result, [hidden, NO_ROWS], None, false) };
}

/// `LLMResultCallback` of 1.2.0, which returns nothing.
///
/// # Safety
///
/// `result` is null or an `RKLLMResult` of 1.2.0 whose pointers are null or good for the call.
pub unsafe extern "C" fn on_result_120(result: *const Result120, userdata: *mut c_void, said: c_int) {
    // SAFETY: the caller's, as in `on_result_11`.
    let result = unsafe { result.as_ref() };
    let rows = result.map_or([NO_ROWS; 2], |result| [result.base.last_hidden_layer, result.logits]);
    // SAFETY: the caller's.
    unsafe { take_in(userdata, said, result.map(|result| &result.base), rows, None, false) };
}

/// `LLMResultCallback` of 1.2.1 and later.
///
/// # Safety
///
/// `result` is null or an `RKLLMResult` of 1.2.1 whose pointers are null or good for the call.
pub unsafe extern "C" fn on_result_121(result: *const Result121, userdata: *mut c_void, said: c_int) -> c_int {
    // SAFETY: the caller's, as in `on_result_11`.
    let result = unsafe { result.as_ref() };
    let base = result.map(|result| &result.base);
    let rows = base.map_or([NO_ROWS; 2], |base| [base.base.last_hidden_layer, base.logits]);
    // SAFETY: the caller's.
    unsafe { take_in(userdata, said, base.map(|base| &base.base), rows, result.map(|result| result.perf), true) }
}

/// # Safety
///
/// The text of `result` is null or ends with a NUL; `rows` are null or have as many floats as they say.
unsafe fn take_in(
    userdata: *mut c_void,
    said: c_int,
    result: Option<&Result11>,
    [hidden, logits]: [Rows; 2],
    perf: Option<PerfStat>,
    answers: bool,
) -> c_int {
    let taken = catch_unwind(|| {
        let handle = Handle::from_raw(userdata as usize as u64);
        let Some(sink) = find(handle) else { return answer::CONTINUE };
        // SAFETY: the caller's. One byte more than fits tells that the text does not.
        let text = result.map_or(&[][..], |result| unsafe { text_of(result.text, sink.max_text() + 1) });
        let token = result.map_or(-1, |result| result.token_id);
        let perf = perf.filter(|_| said == state::FINISH || said == state::ERROR);
        let answer = sink.take_in(&Event { state: said, token, text, hidden, logits, perf, answers }, copy);
        if said == state::FINISH || said == state::ERROR {
            remove_ended(handle, &sink);
        }
        answer
    });
    // A panic must not unwind into the runtime.
    taken.unwrap_or(answer::CONTINUE)
}

/// The text at `text`, and at most `most` bytes of it.
///
/// # Safety
///
/// `text` is null or a string that ends with a NUL, good while the callback runs.
unsafe fn text_of<'a>(text: *const c_char, most: usize) -> &'a [u8] {
    if text.is_null() {
        return &[];
    }
    // SAFETY: the caller's. `strnlen` reads up to the NUL, and the slice ends before it. The callback has not returned
    // while the slice is used: `take_in` copies it.
    unsafe { std::slice::from_raw_parts(text.cast(), libc::strnlen(text, most)) }
}

/// Copies rows that fit `target`.
fn copy(rows: &Rows, target: &Target) {
    let floats = rows.count.unsigned_abs() as usize * rows.width.unsigned_abs() as usize;
    // SAFETY: the runtime says that `data` has these floats for this call. The sink has checked that they fit the
    // target, that the session's memory is pinned and still there, and holds its lock, for which the end of the session
    // waits. The target is no memory of the runtime's. Where a forced end of the pool comes meanwhile, the addresses
    // have private zero pages, which take the bytes. JavaScript may read floats that are half written.
    unsafe { ptr::copy(rows.data, target.address as *mut f32, floats) };
}
