//! The directory of a zip archive whose entries are stored as they are, as `torch.save` writes them (APPNOTE.TXT 4.3, with
//! the 64-bit fields of 4.5.3).

use std::collections::HashMap;

use super::bytes::{FileBytes, number};
use crate::{Error, Result};

/// Where an entry's bytes lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub offset: u64,
    pub length: u64,
}

const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
const ENTRY: &[u8] = b"PK\x01\x02";
const LOCAL: &[u8] = b"PK\x03\x04";
/// The end record's length without its comment, and the longest comment.
const END_LENGTH: u64 = 22;
const LONGEST_COMMENT: u64 = 0xffff;

/// Where the directory lies, from the record at the end.
fn directory(file: &mut FileBytes) -> Result<Span> {
    let tail_at = file.length().saturating_sub(END_LENGTH + LONGEST_COMMENT);
    let tail = file.read(tail_at, file.length() - tail_at)?;
    let cut = |file: &FileBytes| file.broken("is a zip archive without an end");
    let end = tail.windows(END.len()).rposition(|part| part == END).ok_or_else(|| cut(file))?;
    let field = |at: usize| number(&tail, end + at, 4);
    let (Some(length), Some(offset)) = (field(12), field(16)) else { return Err(cut(file)) };
    let locator = (tail_at + end as u64).checked_sub(20);
    if let Some(at) = locator
        && let locator = file.read(at, 20)?
        && locator.starts_with(LOCATOR_64)
    {
        let at = number(&locator, 8, 8).unwrap_or(u64::MAX);
        let record = file.read(at, 56)?;
        return match (record.starts_with(END_64), number(&record, 40, 8), number(&record, 48, 8)) {
            (true, Some(length), Some(offset)) => Ok(Span { offset, length }),
            _ => Err(cut(file)),
        };
    }
    Ok(Span { offset, length })
}

/// Names and places of all entries.
pub(super) fn entries(file: &mut FileBytes) -> Result<HashMap<String, Span>> {
    let place = directory(file)?;
    let directory = file.read(place.offset, place.length)?;
    let mut found = HashMap::new();
    let mut at = 0;
    while at < directory.len() {
        let Some((name, span, next)) = entry(&directory, at) else {
            return Err(file.broken("has a broken zip directory"));
        };
        let packed = number(&directory, at + 10, 2) != Some(0);
        if packed && span.length > 0 {
            let advice = "load it with PyTorch and save it again with torch.save";
            return Err(Error::data(file.path(), format!("its entry {name} is compressed; {advice}")));
        }
        // The local header repeats the name and may have another extra field, so it says where the bytes begin.
        let header = file.read(span.offset, 30)?;
        let lengths = number(&header, 26, 2).zip(number(&header, 28, 2));
        let Some((name_length, extra)) = lengths.filter(|_| header.starts_with(LOCAL)) else {
            return Err(file.broken("has a broken zip entry"));
        };
        let offset = span.offset + 30 + name_length + extra;
        if offset.checked_add(span.length).is_none_or(|end| end > file.length()) {
            return Err(file.broken("ends too early"));
        }
        found.insert(name, Span { offset, length: span.length });
        at = next;
    }
    Ok(found)
}

/// The entry at `at`: its name, its local header's offset with the length of its bytes, and where the next one is.
fn entry(directory: &[u8], at: usize) -> Option<(String, Span, usize)> {
    let rest = directory.get(at..)?;
    if !rest.starts_with(ENTRY) {
        return None;
    }
    let field = |at: usize, size: usize| number(rest, at, size);
    let (mut length, mut offset) = (field(24, 4)?, field(42, 4)?);
    let [name, extra, comment] = [field(28, 2)?, field(30, 2)?, field(32, 2)?].map(|count| count as usize);
    let text = String::from_utf8_lossy(rest.get(46..46 + name)?).into_owned();
    // Fields of 32 bits that are full stand in the extra field: the length, the packed length, the offset.
    let mut wide = rest.get(46 + name..46 + name + extra)?;
    while let (Some(kind), Some(size)) = (number(wide, 0, 2), number(wide, 2, 2)) {
        let body = wide.get(4..4 + size as usize)?;
        if kind == 1 {
            let mut at = 0;
            let mut next = || {
                at += 8;
                number(body, at - 8, 8)
            };
            if length == 0xffff_ffff {
                length = next()?;
            }
            if field(20, 4)? == 0xffff_ffff {
                next()?;
            }
            if offset == 0xffff_ffff {
                offset = next()?;
            }
        }
        wide = &wide[4 + size as usize..];
    }
    Some((text, Span { offset, length }, at + 46 + name + extra + comment))
}
