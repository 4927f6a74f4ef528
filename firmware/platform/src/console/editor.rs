//! A line that is being typed.

use core::fmt::Write;

use heapless::Vec;

/// Characters of a line.
const LINE_MAX: usize = 128;

/// What a byte makes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Typed {
    /// Nothing yet.
    More,
    /// It is whole.
    Line,
    /// It was too long, and is forgotten.
    TooLong,
}

/// The line.
pub(super) struct Editor {
    line: Vec<u8, LINE_MAX>,
    too_long: bool,
}

impl Editor {
    pub(super) const fn new() -> Self {
        Self { line: Vec::new(), too_long: false }
    }

    /// Takes a byte; writes the echo, if there is to be one, into `out`.
    pub(super) fn take(&mut self, byte: u8, echo: bool, out: &mut impl Write) -> Typed {
        let (typed, shown) = match byte {
            b'\n' => {
                let too_long = core::mem::take(&mut self.too_long);
                (if too_long { Typed::TooLong } else { Typed::Line }, "\r\n")
            }
            0x08 | 0x7f => (Typed::More, if self.line.pop().is_some() { "\x08 \x08" } else { "" }),
            b' '..=b'~' => {
                if self.line.push(byte).is_err() {
                    self.too_long = true;
                    self.line.clear();
                }
                if echo {
                    let _cut = out.write_char(char::from(byte));
                }
                (Typed::More, "")
            }
            _ => (Typed::More, ""),
        };
        if typed == Typed::TooLong {
            self.line.clear();
        }
        if echo {
            let _cut = out.write_str(shown);
        }
        typed
    }

    /// What is there, without space around.
    pub(super) fn line(&self) -> &str {
        // Only ASCII is taken.
        core::str::from_utf8(&self.line).unwrap_or_default().trim()
    }

    pub(super) fn clear(&mut self) {
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::string::String;

    use super::*;

    fn typed(bytes: &[u8]) -> (std::vec::Vec<(Typed, String)>, String) {
        let (mut editor, mut out) = (Editor::new(), String::new());
        let mut lines = std::vec::Vec::new();
        for byte in bytes {
            let typed = editor.take(*byte, true, &mut out);
            if typed != Typed::More {
                lines.push((typed, editor.line().into()));
                editor.clear();
            }
        }
        (lines, out)
    }

    #[test]
    fn a_line_is_what_was_typed_with_either_ending_and_without_what_was_rubbed_out() {
        let (lines, out) = typed(b"statusx\x7f\r\n\x08 help \n\n");
        let words: std::vec::Vec<_> = lines.iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(words, ["status", "help", ""]);
        assert_eq!(out, "statusx\x08 \x08\r\n help \r\n\r\n");
    }

    #[test]
    fn a_line_too_long_is_thrown_away_whole_and_the_next_one_counts() {
        let long = [b'a'; 3 * LINE_MAX];
        let (lines, _) = typed(&[&long[..], b"\nhelp\n"].concat());
        assert_eq!(lines[0].0, Typed::TooLong);
        assert_eq!(lines[0].1, "");
        assert_eq!(lines[1], (Typed::Line, "help".into()));
        assert_eq!(typed(&[&long[..LINE_MAX], b"\n"].concat()).0[0].0, Typed::Line);
    }

    #[test]
    fn bytes_of_no_text_are_passed_over() {
        let (lines, _) = typed(b"\x00\xff\x1b[Ahe\xe4lp\n");
        assert_eq!(lines[0].1, "[Ahelp");
    }
}
