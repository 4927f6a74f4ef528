//! CRC-16 of Modbus RTU frames.

/// One step per nibble: 32 bytes of table, against 512 for the byte-wise one and 8 shifts a byte
/// for none. Entry `n` is the CRC register after shifting nibble `n` through polynomial A001h.
const NIBBLE: [u16; 16] = [
    0x0000, 0xCC01, 0xD801, 0x1400, 0xF001, 0x3C00, 0x2800, 0xE401, 0xA001, 0x6C00, 0x7800, 0xB401, 0x5000, 0x9C01,
    0x8801, 0x4400,
];

/// CRC-16/MODBUS: polynomial 8005h reflected (A001h), start FFFFh (serial line guide §2.5.1.2).
/// It goes on the line low byte first. This is not the CRC of HJ 212.
#[expect(clippy::indexing_slicing, reason = "a nibble cannot index beyond sixteen entries")]
pub fn crc16(bytes: &[u8]) -> u16 {
    let mut crc = 0xFFFF_u16;
    for &byte in bytes {
        crc ^= u16::from(byte);
        for _ in 0..2 {
            crc = (crc >> 4) ^ NIBBLE[usize::from(crc & 0x0F)];
        }
    }
    crc
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, bit by bit.
    fn bitwise(bytes: &[u8]) -> u16 {
        let mut crc = 0xFFFF_u16;
        for &byte in bytes {
            crc ^= u16::from(byte);
            for _ in 0..8 {
                let carry = crc & 1 == 1;
                crc >>= 1;
                if carry {
                    crc ^= 0xA001;
                }
            }
        }
        crc
    }

    #[test]
    fn the_check_value_of_the_catalogue_holds() {
        assert_eq!(crc16(b"123456789"), 0x4B37);
        assert_eq!(crc16(&[]), 0xFFFF);
    }

    #[test]
    fn the_table_agrees_with_the_definition_for_every_byte() {
        for byte in 0..=255 {
            assert_eq!(crc16(&[0x01, byte]), bitwise(&[0x01, byte]));
        }
    }
}
