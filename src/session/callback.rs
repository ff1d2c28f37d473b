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
    let said = match said {
        state::LAST_HIDDEN_LAYER => state::NORMAL,
        state::NORMAL..=state::ERROR => said,
        // No known version has another one. An end is the state in which no reader waits for ever.
        _ => state::ERROR,
    };
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
    // target, and holds its lock, for which the end of the session waits. The pin holds the pool's lock, for which a
    // reset or a forced end of the pool waits; without it the bytes would go to the next owner of the slice. The target
    // is no memory of the runtime's. JavaScript may read floats that are half written.
    unsafe { ptr::copy(rows.data, target.address as *mut f32, floats) };
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::result::Pin;
    use super::super::sink::{Sink, MIN_RING};
    use super::super::table::open;
    use super::*;

    #[test]
    fn hidden_states_of_1_1_have_a_state_of_their_own_and_an_unknown_state_ends_the_run() {
        let mut array = [0.0_f32; 4];
        let target = Target { name: "hiddenStates", address: array.as_mut_ptr() as usize, width: 4, rows: 1 };
        let pin = || {
            Ok(Pin::new(
                |_, write| {
                    write();
                    true
                },
                || {},
            ))
        };
        let handle = open(Sink::new(MIN_RING, [Some(target), None], Box::new(pin)).unwrap());
        let sink = find(handle).unwrap();
        let given = [1.0_f32, 2.0, 3.0, 4.0];
        let last_hidden_layer = Rows { data: given.as_ptr(), width: 4, count: 1 };
        let result = Result11 { text: ptr::null(), token_id: 7, last_hidden_layer };
        let userdata = handle.get() as usize as *mut c_void;
        // SAFETY: the result is one of 1.1, whose rows have as many floats as they say; the array takes a row.
        unsafe { on_result_11(&result, userdata, 4) };
        // SAFETY: null is allowed.
        unsafe { on_result_11(ptr::null(), userdata, 99) };
        assert!(!sink.is_running());
        sink.attach(false).unwrap();
        let taken = sink.take(10);
        assert_eq!((taken.rows.len(), taken.rows[0][0], taken.rows[0][2]), (1, 0.0, 1.0));
        assert_eq!(sink.take(10).rows[0][0], f64::from(state::ERROR));
        assert_eq!(array, given);
    }
}
