//! UTF-8 that arrives in pieces.
#![forbid(unsafe_code)]

/// Decodes UTF-8 whose characters may be split over pieces. Bytes that are not UTF-8 become U+FFFD.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The beginning of a character: at most three bytes.
    rest: Vec<u8>,
}

impl Decoder {
    /// Appends the characters that `piece` completes.
    pub(super) fn decode(&mut self, piece: &[u8], text: &mut String) {
        if self.rest.is_empty() {
            if let Ok(whole) = std::str::from_utf8(piece) {
                text.push_str(whole);
                return;
            }
        }
        self.rest.extend_from_slice(piece);
        let bytes = std::mem::take(&mut self.rest);
        let mut left = bytes.as_slice();
        while !left.is_empty() {
            let error = match std::str::from_utf8(left) {
                Ok(valid) => {
                    text.push_str(valid);
                    return;
                }
                Err(error) => error,
            };
            let (valid, after) = left.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            let Some(wrong) = error.error_len() else {
                self.rest.extend_from_slice(after);
                return;
            };
            text.push(char::REPLACEMENT_CHARACTER);
            left = after.get(wrong..).unwrap_or_default();
        }
    }

    /// Ends the text: the beginning of a character that was left becomes U+FFFD.
    pub(super) fn finish(&mut self, text: &mut String) {
        if !self.rest.is_empty() {
            self.rest.clear();
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(pieces: &[&[u8]]) -> (Vec<String>, String) {
        let mut decoder = Decoder::default();
        let texts = pieces
            .iter()
            .map(|piece| {
                let mut text = String::new();
                decoder.decode(piece, &mut text);
                text
            })
            .collect();
        let mut last = String::new();
        decoder.finish(&mut last);
        (texts, last)
    }

    #[test]
    fn every_split_of_a_text_gives_the_text() {
        let text = "a é 漢字 😀 z";
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let bytes = text.as_bytes();
                let (texts, last) = decode(&[&bytes[..first], &bytes[first..second], &bytes[second..]]);
                assert_eq!((texts.concat().as_str(), last.as_str()), (text, ""));
            }
        }
    }

    #[test]
    fn bytes_that_are_no_utf8_are_replaced_as_the_standard_library_does() {
        for bytes in [&b"a\xffb"[..], b"\xc3(", b"\xe6\xbc", b"\xf0\x9f\x98a", b"\x80\x80"] {
            let (texts, last) = decode(&[bytes]);
            assert_eq!(texts.concat() + &last, String::from_utf8_lossy(bytes));
        }
    }
}
