//! Durable cursors: how far a consumer has come. One small file each, replaced whole: written
//! beside, synced, renamed over, folder synced. A crash leaves the old one or the new one.

use std::io;
use std::path::{Path, PathBuf};

use crate::files::Files;

const MAGIC: [u8; 4] = *b"TYCU";
const LENGTH: usize = 4 + 8 + 8 + 1 + 4;

/// A cursor as kept on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// First index not yet consumed.
    pub(crate) next: u64,
    /// Whether the consumer keeps segments from being removed.
    pub(crate) attached: bool,
}

pub(crate) fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.cursor"))
}

/// The consumer a file name belongs to.
pub(crate) fn parse_name(file: &str) -> Option<&str> {
    file.strip_suffix(".cursor")
}

pub(crate) fn write(files: &dyn Files, folder: &Path, name: &str, spool: u64, cursor: Cursor) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(LENGTH);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&spool.to_le_bytes());
    bytes.extend_from_slice(&cursor.next.to_le_bytes());
    bytes.push(u8::from(cursor.attached));
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    let beside = folder.join(format!("{name}.cursor.new"));
    match files.remove(&beside) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = files.create(&beside)?;
    file.write_at(0, &bytes)?;
    file.sync()?;
    files.rename(&beside, &path(folder, name))?;
    files.sync_dir(folder)
}

/// The cursor of a consumer and the log it belongs to; `None` if there is none or it is damaged.
pub(crate) fn read(files: &dyn Files, folder: &Path, name: &str) -> io::Result<Option<(u64, Cursor)>> {
    let file = match files.open(&path(folder, name), false) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let mut bytes = [0; LENGTH];
    let read = file.read_at(0, &mut bytes)?;
    let (body, crc) = bytes.split_at(LENGTH - 4);
    if read != LENGTH || body[..4] != MAGIC || crc32c::crc32c(body).to_le_bytes() != crc {
        return Ok(None);
    }
    let number = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&body[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    Ok(Some((number(4), Cursor { next: number(12), attached: body[20] == 1 })))
}
