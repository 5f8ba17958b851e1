//! Checks of single values, from which the others are made.

use std::ops::RangeInclusive;

use super::problem::{Found, Problem};
use super::{MAX_OFFSET, MAX_PID, USER_END};
use crate::bytes::ByteString;
use crate::pages::PAGE_SIZE;

/// A number within its range.
pub(super) fn within<T>(what: &'static str, value: T, range: RangeInclusive<T>) -> Found
where
    T: Copy + PartialOrd + Into<i128>,
{
    if range.contains(&value) {
        return Ok(());
    }
    Err(Problem::Range {
        what,
        value: value.into(),
        min: (*range.start()).into(),
        max: (*range.end()).into(),
    })
}

/// A number of things.
pub(super) fn count(what: &'static str, count: usize, range: RangeInclusive<usize>) -> Found {
    if range.contains(&count) {
        return Ok(());
    }
    let (min, max) = (*range.start(), *range.end());
    Err(Problem::Count {
        what,
        count,
        min,
        max,
    })
}

/// An id that is its place in its table.
pub(super) fn id(id: u32, place: usize) -> Found {
    match id as usize == place {
        true => Ok(()),
        false => Err(Problem::Id { id, place }),
    }
}

/// An id that is in a table of this length.
pub(super) fn refers(what: &'static str, id: u32, length: usize) -> Found {
    match (id as usize) < length {
        true => Ok(()),
        false => Err(Problem::Dangling { what, id }),
    }
}

/// One of the values that exist.
pub(super) fn one_of<T: Copy + PartialEq + Into<i128>>(
    what: &'static str,
    value: T,
    known: &[T],
) -> Found {
    match known.contains(&value) {
        true => Ok(()),
        false => Err(Problem::Unknown {
            what,
            value: value.into() as u64,
        }),
    }
}

/// No bits but these.
pub(super) fn bits(what: &'static str, value: u64, known: u64) -> Found {
    match value & !known {
        0 => Ok(()),
        value => Err(Problem::Unknown { what, value }),
    }
}

/// On a page's border, or a huge page's.
pub(super) fn aligned(what: &'static str, value: u64, grid: u64) -> Found {
    match value.is_multiple_of(grid) {
        true => Ok(()),
        false => Err(Problem::Aligned { what, value, grid }),
    }
}

/// A page size of the machine: 4 KiB to 16 GiB (2 MiB and 1 GiB on x86_64).
pub(super) fn huge_page_size(value: u64) -> Found {
    if value.is_power_of_two() && (PAGE_SIZE..=1 << 34).contains(&value) {
        return Ok(());
    }
    let what = "huge page size";
    Err(Problem::Unknown { what, value })
}

/// An address of userspace, or none.
pub(super) fn address(what: &'static str, value: u64) -> Found {
    within(what, value, 0..=USER_END)
}

/// A size or offset of a file, or anything the kernel keeps in a signed 64-bit
/// number (nanoseconds).
pub(super) fn offset(what: &'static str, value: u64) -> Found {
    within(what, value, 0..=MAX_OFFSET)
}

/// A pid.
pub(super) fn pid(what: &'static str, value: u32) -> Found {
    within(what, value, 1..=MAX_PID)
}

/// Pids in nested namespaces.
pub(super) fn ns_pids(what: &'static str, values: &[u32]) -> Found {
    count(what, values.len(), 0..=32)?;
    values.iter().try_for_each(|value| pid(what, *value))
}

/// A signal's number.
pub(super) fn signal(value: u32) -> Found {
    within("signal", value, 1..=64)
}

/// User or group ids: all ones means "no change" to the kernel, and is nobody's.
pub(super) fn owners(ids: &[u32]) -> Found {
    ids.iter()
        .try_for_each(|id| within("user or group id", *id, 0..=u32::MAX - 1))
}

/// An absolute path.
pub(super) fn path(what: &'static str, path: &ByteString) -> Found {
    let bytes = &path.0;
    match bytes.first() == Some(&b'/') && bytes.len() < 4096 && !bytes.contains(&0) {
        true => Ok(()),
        false => Err(Problem::Path { what }),
    }
}

/// A string of the kernel's: of bounded length, without a zero byte.
pub(super) fn text(what: &'static str, text: &ByteString, max: usize) -> Found {
    match text.0.len() <= max && !text.0.contains(&0) {
        true => Ok(()),
        false => Err(Problem::Text { what, max }),
    }
}
