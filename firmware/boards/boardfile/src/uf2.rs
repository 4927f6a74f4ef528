//! A program as a UF2 file, which a board in its boot loader takes as a drive takes a file (format:
//! github.com/microsoft/uf2).

use std::collections::BTreeMap;
use std::error::Error;

/// Bytes of a flash page, which is what one block brings.
const PAGE: u32 = 256;
/// Bytes of a block.
const BLOCK: usize = 512;
/// First, second and last word of a block; the flag that says that it names a family.
const MAGIC: [u32; 2] = [0x0a32_4655, 0x9e5d_5157];
const MAGIC_END: u32 = 0x0ab1_6f30;
const FAMILY: u32 = 0x2000;

fn word(bytes: &[u8], at: usize) -> Result<u32, &'static str> {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok());
    word.map(u32::from_le_bytes).ok_or("the program's file is cut")
}

fn half(bytes: &[u8], at: usize) -> Result<usize, &'static str> {
    Ok((word(bytes, at)? & 0xffff) as usize)
}

/// What of a program (ELF of 32 bits, little-endian) goes into the flash, by pages; the rest of a page is blank.
fn pages(elf: &[u8]) -> Result<BTreeMap<u32, [u8; PAGE as usize]>, Box<dyn Error>> {
    if !elf.starts_with(b"\x7fELF\x01\x01") {
        return Err("the program is no ELF file of 32 bits".into());
    }
    let (table, entry, count) = (word(elf, 28)? as usize, half(elf, 42)?, half(elf, 44)?);
    let mut pages = BTreeMap::new();
    for at in (0..count).map(|n| table + n * entry) {
        /// The kind of piece that is loaded.
        const LOAD: u32 = 1;
        let (from, to, bytes) = (word(elf, at + 4)? as usize, word(elf, at + 12)?, word(elf, at + 16)?);
        if word(elf, at)? != LOAD {
            continue;
        }
        let piece = elf.get(from..from + bytes as usize).ok_or("the program's file is cut")?;
        for (address, byte) in (to..).zip(piece) {
            let page = pages.entry(address / PAGE * PAGE).or_insert([0xff; PAGE as usize]);
            page[(address % PAGE) as usize] = *byte;
        }
    }
    Ok(pages)
}

/// The UF2 file of a program for a family of chips.
///
/// # Errors
/// When the program is no ELF file, or has nothing to load.
pub fn uf2(elf: &[u8], family: u32) -> Result<Vec<u8>, Box<dyn Error>> {
    let pages = pages(elf)?;
    if pages.is_empty() {
        return Err("the program has nothing to load".into());
    }
    let mut file = Vec::with_capacity(pages.len() * BLOCK);
    for (n, (address, page)) in (0u32..).zip(&pages) {
        let [first, second] = MAGIC;
        for word in [first, second, FAMILY, *address, PAGE, n, pages.len() as u32, family] {
            file.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(page);
        file.resize((n as usize + 1) * BLOCK - 4, 0);
        file.extend_from_slice(&MAGIC_END.to_le_bytes());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An ELF file that loads these bytes at these addresses, and has a piece that is not loaded.
    fn elf(pieces: &[(u32, &[u8])]) -> Vec<u8> {
        let mut file = vec![0; 52];
        file[..6].copy_from_slice(b"\x7fELF\x01\x01");
        file[28] = 52;
        file[42] = 32;
        file[44] = pieces.len() as u8 + 1;
        let mut from = 52 + 32 * (pieces.len() as u32 + 1);
        let head = |kind: u32, from: u32, to: u32, bytes: u32| [kind, from, !0, to, bytes, bytes, 0, 0];
        let mut heads = vec![head(2, 0, 0, 4)];
        for (to, bytes) in pieces {
            heads.push(head(1, from, *to, bytes.len() as u32));
            from += bytes.len() as u32;
        }
        file.extend(heads.into_iter().flatten().flat_map(u32::to_le_bytes));
        file.extend(pieces.iter().flat_map(|(_, bytes)| bytes.iter().copied()));
        file
    }

    #[test]
    fn each_page_that_a_program_has_bytes_in_is_a_block() {
        let file = uf2(&elf(&[(0x1000_0100, &[1, 2]), (0x1001_00ff, &[3, 4])]), 0xe48b_ff56).unwrap();
        assert_eq!(file.len(), 3 * BLOCK);
        for (n, address) in (0u32..).zip([0x1000_0100, 0x1001_0000, 0x1001_0100]) {
            let block = &file[n as usize * BLOCK..][..BLOCK];
            let words: Vec<u32> = (0..8).map(|at| word(block, 4 * at).unwrap()).collect();
            assert_eq!(words, [0x0a32_4655, 0x9e5d_5157, 0x2000, address, 256, n, 3, 0xe48b_ff56]);
            assert_eq!(word(block, 508).unwrap(), 0x0ab1_6f30);
        }
        assert_eq!(file[32..35], [1, 2, 0xff]);
        assert_eq!(file[BLOCK + 32 + 254..][..2], [0xff, 3], "it begins at the end of a page");
        assert_eq!(file[2 * BLOCK + 32..][..2], [4, 0xff], "and ends in the next");
        assert_eq!(file[32 + 256..508], [0; 220], "behind a page there is nothing");
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(uf2(b"MZ", 0).is_err());
        assert!(uf2(&elf(&[]), 0).is_err());
        let whole = elf(&[(0x1000_0000, &[1, 2, 3, 4])]);
        for cut in 0..whole.len() {
            assert!(uf2(&whole[..cut], 0).is_err(), "{cut}");
        }
    }
}
