//! Finding the answer in what came off the line.
//!
//! Pure functions over the bytes so far. The answer is recognised by content (address, function,
//! length, CRC), not by silence: USB adapters and polled UARTs tear frames apart and glue them
//! together, so a gap proves nothing. Leading noise, an echo nobody announced or the late answer
//! of another slave are therefore passed over, and the right frame behind them is still found.

use super::{ModbusError, Request, crc::crc16};

/// Most bytes kept of one attempt: the longest frame of the serial line guide §2.5.1.
pub const RESPONSE_LEN_MAX: usize = 256;

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scan {
    /// No answer yet.
    Incomplete,
    /// No answer yet, but a frame that had its shape and a wrong CRC.
    Damaged {
        /// What the bytes add up to.
        expected: u16,
        /// What the frame says.
        got: u16,
    },
    /// The answer's registers, or coils, lie at `start..end`; empty for a write.
    Answer {
        /// First byte of the data.
        start: usize,
        /// Behind its last byte.
        end: usize,
    },
    /// The slave refused with this code.
    Exception(u8),
}

/// Looks for the answer to `request` in `bytes`.
pub fn scan(request: &Request, bytes: &[u8]) -> Scan {
    let head = request.answer_head();
    let refusal = [request.address(), request.function() | 0x80];
    let mut found = Scan::Incomplete;
    for (at, _) in bytes.iter().enumerate() {
        let Some(rest) = bytes.get(at..) else { break };
        let (len, exception) = if rest.starts_with(&head) {
            (request.answer_len(), false)
        } else if rest.starts_with(&refusal) {
            (5, true)
        } else {
            continue;
        };
        let Some(frame) = rest.get(..len) else {
            continue;
        };
        match check(frame) {
            Ok(()) if exception => return Scan::Exception(frame.get(2).copied().unwrap_or(0)),
            Ok(()) if request.is_read() => {
                return Scan::Answer { start: at + 3, end: at + len - 2 };
            }
            Ok(()) => return Scan::Answer { start: at, end: at },
            Err((expected, got)) => {
                if found == Scan::Incomplete {
                    found = Scan::Damaged { expected, got };
                }
            }
        }
    }
    found
}

/// Says what was wrong with bytes in which the deadline found no answer.
pub fn classify(request: &Request, bytes: &[u8]) -> ModbusError {
    let (Some(&address), last) = (bytes.first(), bytes.len()) else {
        return ModbusError::Timeout;
    };
    match scan(request, bytes) {
        Scan::Damaged { expected, got } => return ModbusError::Crc { expected, got },
        Scan::Exception(code) => return ModbusError::Exception(code),
        Scan::Answer { .. } | Scan::Incomplete => {}
    }
    if last >= 4 && check(bytes).is_ok() {
        let function = bytes.get(1).copied().unwrap_or(0);
        if address != request.address() {
            return ModbusError::WrongAddress(address);
        }
        if function & 0x7F != request.function() {
            return ModbusError::WrongFunction(function);
        }
        return ModbusError::WrongContent;
    }
    let head = request.answer_head();
    if bytes.starts_with(&head) || head.starts_with(bytes) {
        // No buffer here is longer than RESPONSE_LEN_MAX; 255 then reads as "255 or more".
        return ModbusError::Short(u8::try_from(last).unwrap_or(u8::MAX));
    }
    ModbusError::Framing
}

/// `Err((expected, got))` when the last two bytes are not the CRC of those before.
fn check(frame: &[u8]) -> Result<(), (u16, u16)> {
    let Some((body, &[low, high])) = frame.split_last_chunk::<2>() else {
        return Err((0, 0));
    };
    let (expected, got) = (crc16(body), u16::from_le_bytes([low, high]));
    if expected == got { Ok(()) } else { Err((expected, got)) }
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::super::{ReadFunction::Holding, coil};
    use super::*;

    const SOIL: [u8; 13] = [0x01, 0x03, 0x08, 0x02, 0x92, 0xFF, 0x9B, 0x03, 0xE8, 0x00, 0x38, 0x57, 0xB6];

    fn ask(count: u8) -> Request {
        Request::read(1, Holding, 0, count).unwrap()
    }

    /// The bytes with the CRC that belongs to them.
    fn sealed(body: &[u8]) -> Vec<u8> {
        let mut frame = body.to_vec();
        frame.extend(crc16(body).to_le_bytes());
        frame
    }

    #[test]
    fn the_answer_is_found_whole_behind_noise_echo_and_before_noise() {
        let request = ask(4);
        assert_eq!(scan(&request, &SOIL), Scan::Answer { start: 3, end: 11 });
        for noise in [&[0x00][..], &[0xFF, 0x01], &[1, 3, 8], request.bytes()] {
            let stream = [noise, &SOIL, &[0x55]].concat();
            let at = noise.len();
            assert_eq!(scan(&request, &stream), Scan::Answer { start: at + 3, end: at + 11 }, "behind {noise:02X?}");
        }
    }

    #[test]
    fn no_prefix_of_an_answer_is_an_answer() {
        for cut in 0..SOIL.len() {
            let bytes = &SOIL[..cut];
            assert_eq!(scan(&ask(4), bytes), Scan::Incomplete);
            let wanted = match cut {
                0 => ModbusError::Timeout,
                _ => ModbusError::Short(cut as u8),
            };
            assert_eq!(classify(&ask(4), bytes), wanted);
        }
    }

    #[test]
    fn no_bit_flip_of_an_answer_is_an_answer() {
        for bit in 0..SOIL.len() * 8 {
            let mut bytes = SOIL;
            bytes[bit / 8] ^= 1 << (bit % 8);
            let found = scan(&ask(4), &bytes);
            assert!(matches!(found, Scan::Incomplete | Scan::Damaged { .. }), "bit {bit} gave {found:?}");
            assert_ne!(classify(&ask(4), &bytes), ModbusError::Timeout);
        }
    }

    #[test]
    fn the_frame_misprinted_in_a_public_readme_is_a_crc_error_that_names_the_right_one() {
        let printed = [
            0x01, 0x03, 0x0E, 0x01, 0xE6, 0x01, 0x55, 0x05, 0xDC, 0x01, 0x34, 0x00, 0x20, 0x00, 0x25, 0x00, 0x30, 0x04,
            0x08,
        ];
        assert_eq!(
            classify(&ask(7), &printed),
            ModbusError::Crc { expected: u16::from_le_bytes([0x89, 0xBF]), got: u16::from_le_bytes([0x04, 0x08]) }
        );
    }

    #[test]
    fn a_refusal_is_read_with_its_code() {
        let frame = [0x01, 0x83, 0x02, 0xC0, 0xF1];
        assert_eq!(scan(&ask(4), &frame), Scan::Exception(2));
    }

    #[test]
    fn whole_frames_that_answer_something_else_are_told_apart() {
        let other_slave = sealed(&[2, 3, 8, 0, 1, 0, 2, 0, 3, 0, 4]);
        assert_eq!(classify(&ask(4), &other_slave), ModbusError::WrongAddress(2));
        let other_function = sealed(&[1, 4, 8, 0, 1, 0, 2, 0, 3, 0, 4]);
        assert_eq!(classify(&ask(4), &other_function), ModbusError::WrongFunction(4));
        let other_length = sealed(&[1, 3, 6, 0, 1, 0, 2, 0, 3]);
        assert_eq!(classify(&ask(4), &other_length), ModbusError::WrongContent);
        assert_eq!(classify(&ask(4), &[0x55; 40]), ModbusError::Framing);
    }

    #[test]
    fn a_write_is_confirmed_only_by_its_own_register_and_value() {
        let request = Request::write_single(1, 0x1020, 30).unwrap();
        assert!(matches!(
            scan(&request, request.bytes()),
            Scan::Answer { start, end } if start == end
        ));
        let other_value = sealed(&[1, 6, 0x10, 0x20, 0, 31]);
        assert_eq!(scan(&request, &other_value), Scan::Incomplete);
        assert_eq!(classify(&request, &other_value), ModbusError::WrongContent);
    }

    #[test]
    fn coils_are_read_as_the_protocols_example_has_them() {
        // Application protocol §6.1: outputs 20 to 38.
        let request = Request::read_coils(17, 0x13, 19).unwrap();
        let answer = sealed(&[17, 1, 3, 0xCD, 0x6B, 0x05]);
        let Scan::Answer { start, end } = scan(&request, &answer) else { panic!() };
        let coils: Vec<_> = (0..19).map(|n| coil(&answer[start..end], n).unwrap()).collect();
        let wanted = "1011001111010110101";
        assert_eq!(coils, wanted.chars().map(|bit| bit == '1').collect::<Vec<_>>());
        assert_eq!(coil(&answer[start..end], 24), None);
        for cut in 0..answer.len() {
            assert_eq!(scan(&request, &answer[..cut]), Scan::Incomplete, "cut at {cut}");
        }
    }

    #[test]
    fn a_written_coil_is_confirmed_only_by_its_own_address_and_state() {
        let one = Request::write_coil(1, 3, true).unwrap();
        let many = Request::write_coils(1, 0, 8, 0x81).unwrap();
        let confirmed = sealed(&[1, 15, 0, 0, 0, 8]);
        for (request, answer) in [(&one, one.bytes()), (&many, &confirmed)] {
            assert!(matches!(scan(request, answer), Scan::Answer { start, end } if start == end));
            for cut in 0..answer.len() {
                assert_eq!(scan(request, &answer[..cut]), Scan::Incomplete, "cut at {cut}");
            }
            for bit in 0..answer.len() * 8 {
                let mut flipped = answer.to_vec();
                flipped[bit / 8] ^= 1 << (bit % 8);
                let found = scan(request, &flipped);
                assert!(matches!(found, Scan::Incomplete | Scan::Damaged { .. }), "bit {bit} gave {found:?}");
            }
        }
        for other in [Request::write_coil(1, 3, false), Request::write_coil(1, 2, true)] {
            let other = other.unwrap();
            assert_eq!(classify(&one, other.bytes()), ModbusError::WrongContent);
        }
        assert_eq!(classify(&many, &sealed(&[1, 15, 0, 0, 0, 7])), ModbusError::WrongContent);
        assert_eq!(scan(&many, many.bytes()), Scan::Damaged { expected: 0x0D54, got: 0x8101 }, "its echo is none");
        assert_eq!(scan(&one, &sealed(&[1, 0x85, 2])), Scan::Exception(2));
        assert_eq!(scan(&many, &sealed(&[1, 0x8F, 4])), Scan::Exception(4));
    }

    #[test]
    fn no_bit_flip_of_read_coils_is_an_answer() {
        let request = Request::read_coils(1, 0, 8).unwrap();
        let answer = sealed(&[1, 1, 1, 0x41]);
        assert_eq!(answer[4..], [0x91, 0xB8], "as printed in a board's description");
        assert_eq!(scan(&request, &answer), Scan::Answer { start: 3, end: 4 });
        for bit in 0..answer.len() * 8 {
            let mut flipped = answer.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = scan(&request, &flipped);
            assert!(matches!(found, Scan::Incomplete | Scan::Damaged { .. }), "bit {bit} gave {found:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_at_all_are_survived_where_coils_are_asked(
            bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600), count in 1u8..=32,
        ) {
            let request = Request::read_coils(1, 0, count).unwrap();
            if let Scan::Answer { start, end } = scan(&request, &bytes) {
                proptest::prop_assert_eq!(end - start, usize::from(count.div_ceil(8)));
                proptest::prop_assert!(bytes.get(start..end).is_some());
            }
            let _ = classify(&request, &bytes);
        }

        #[test]
        fn any_bytes_at_all_are_survived(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..600), count in 1u8..=125) {
            let request = ask(count);
            if let Scan::Answer { start, end } = scan(&request, &bytes) {
                proptest::prop_assert_eq!(end - start, usize::from(count) * 2);
                proptest::prop_assert!(bytes.get(start..end).is_some());
            }
            let _ = classify(&request, &bytes);
        }
    }
}
