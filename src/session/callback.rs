//! The functions that librkllmrt calls, with results or for embeddings. The only place that follows its pointers.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::panic::catch_unwind;
use std::ptr;

use super::embedding::{widen, Conversion, EmbeddingTable};
use super::result::{Event, Target};
use super::table::{find, remove_ended};
use crate::abi::rkllm::{answer, state, PerfStat, Result11, Result120, Result121, Rows};
use crate::error::{Error, ErrorCode, Result};
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

/// Returns the address of the embedding callback.
pub fn embed_address() -> usize {
    on_embed as *const () as usize
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

/// `LLMGetEmbedCallback` of 1.3: writes the rows of `count` tokens, and returns 0. Else it returns -1, and the results
/// of the run end with the reason.
///
/// # Safety
///
/// `tokens` is null or has `count` tokens, and `embed` is null or has room for `bytes`, for the call.
pub unsafe extern "C" fn on_embed(
    userdata: *mut c_void,
    tokens: *const i32,
    count: u64,
    embed: *mut c_void,
    bytes: u64,
) -> c_int {
    let answered = catch_unwind(|| {
        let sink = find(Handle::from_raw(userdata as usize as u64))?;
        let table = sink.table()?;
        // SAFETY: the caller's.
        match unsafe { look_up(&table, tokens, count, embed.cast(), bytes) } {
            Ok(()) => Some(0),
            Err(error) => {
                sink.fail_run(error);
                None
            }
        }
    });
    // A panic must not unwind into the runtime. A session that has ended answers nothing.
    answered.ok().flatten().unwrap_or(-1)
}

/// # Safety
///
/// As for [`on_embed`].
unsafe fn look_up(table: &EmbeddingTable, tokens: *const i32, count: u64, to: *mut u8, bytes: u64) -> Result<()> {
    let conversion = table.conversion(count, bytes)?;
    if count > 0 && (tokens.is_null() || to.is_null()) {
        return Err(Error::new(
            ErrorCode::OutOfRange,
            "the runtime wants rows without tokens, or without room for them",
        ));
    }
    for at in 0..count as usize {
        // SAFETY: the caller's: there are `count` tokens. Each is read once.
        let token = unsafe { tokens.add(at).read_unaligned() };
        let (row, row_bytes) = table.row(token)?;
        // SAFETY: the row lies in the mapping, which lives as long as the table. `conversion` has checked that `bytes`
        // are `count` rows of `row_bytes`, or of twice as many when they widen. The file may change under the copy:
        // the bytes are copied, and no reference is made.
        unsafe {
            match conversion {
                Conversion::Copy => ptr::copy_nonoverlapping(row, to.add(at * row_bytes), row_bytes),
                Conversion::Widen => {
                    let (halves, floats) = (row.cast::<u16>(), to.add(at * 2 * row_bytes).cast::<f32>());
                    for column in 0..table.width() {
                        floats.add(column).write_unaligned(widen(halves.add(column).read_unaligned()));
                    }
                }
            }
        }
    }
    Ok(())
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
    use super::super::embedding::{Element, TableRequest};
    use super::super::result::Pin;
    use super::super::sink::{Sink, MIN_RING};
    use super::super::table::{abandon, open};
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
        let handle = open(Sink::new(MIN_RING, [Some(target), None], Box::new(pin), None).unwrap());
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
    /// Writes a table of four rows of three numbers, `row + column / 4`, and one byte before it.
    fn table_of(element: Element) -> EmbeddingTable {
        let path = std::env::temp_dir().join(format!("rkllm-callback-{}-{element}", std::process::id()));
        let value = |at: u16| f32::from(at / 3) + f32::from(at % 3) / 4.0;
        // 0x3c00 is 1: a number below 4 with two bits behind the point has these halves.
        let half = |value: f32| match value {
            0.0 => 0,
            _ => ((value.to_bits() >> 13) - (112 << 10)) as u16,
        };
        let numbers = (0..12).flat_map(|at| match element {
            Element::Float16 => half(value(at)).to_ne_bytes().to_vec(),
            Element::Float32 => value(at).to_ne_bytes().to_vec(),
        });
        std::fs::write(&path, std::iter::once(0xff).chain(numbers).collect::<Vec<_>>()).unwrap();
        let request = TableRequest { path: path.clone(), element, width: 3, rows: None, offset: 1 };
        let table = EmbeddingTable::open(&request).unwrap();
        std::fs::remove_file(path).unwrap();
        table
    }

    #[test]
    fn embeddings_are_the_rows_of_the_tokens_and_a_wrong_token_ends_the_run_with_the_reason() {
        for element in [Element::Float16, Element::Float32] {
            let pin = || Ok(Pin::new(|_, _| true, || {}));
            let handle = open(Sink::new(MIN_RING, [None, None], Box::new(pin), Some(table_of(element))).unwrap());
            let sink = find(handle).unwrap();
            let userdata = handle.get() as usize as *mut c_void;
            let mut rows = [9.0_f32; 7];
            let mut embed = |tokens: &[i32], bytes| {
                let (from, count, to) = (tokens.as_ptr(), tokens.len() as u64, rows.as_mut_ptr());
                // SAFETY: there are `count` tokens, and the calls below ask for at most 24 bytes of the 28.
                unsafe { on_embed(userdata, from, count, to.cast(), bytes) }
            };
            assert_eq!(embed(&[3, 1], 24), 0);
            assert!(!sink.is_running(), "an answer is no result of a run");
            for (tokens, bytes) in [(&[3, 4][..], 24), (&[-1], 12), (&[0], 11), (&[0, 1], 12 + 1)] {
                assert_eq!(embed(tokens, bytes), -1);
                assert!(sink.is_running());
                // SAFETY: null is allowed.
                unsafe { on_result_121(ptr::null(), userdata, state::ERROR) };
                sink.attach(false).unwrap();
                assert_eq!(sink.take(10).failure.unwrap().code(), ErrorCode::OutOfRange);
                assert!(!sink.is_running());
            }
            assert_eq!(rows, [3.0, 3.25, 3.5, 1.0, 1.25, 1.5, 9.0]);
            // SAFETY: null is allowed.
            assert_eq!(unsafe { on_embed(userdata, ptr::null(), 1, ptr::null_mut(), 12) }, -1);
            abandon(handle);
            // SAFETY: null is allowed.
            assert_eq!(unsafe { on_embed(userdata, ptr::null(), 0, ptr::null_mut(), 0) }, -1, "the session has ended");
        }
    }
}
