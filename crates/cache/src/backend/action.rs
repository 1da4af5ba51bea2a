//! An index as a message that checks of action caches let pass: `ActionResult` of Bazel's remote execution API (v2) with the
//! index as its standard output. Servers may add fields of their own to it, which are passed over.

use crate::error::{CacheError, damaged};

/// `bytes stdout_raw = 5`.
const STDOUT_RAW: u64 = 5;

/// Wire types of protocol buffers.
const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED32: u64 = 5;

/// The message around an index.
pub(crate) fn wrap(index: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(index.len() + 16);
    put_varint(&mut out, STDOUT_RAW << 3 | LENGTH);
    put_varint(&mut out, index.len() as u64);
    out.extend_from_slice(index);
    out
}

/// The index in a message.
///
/// # Errors
/// When it is no such message, or there is none in it.
pub(crate) fn unwrap(message: &[u8]) -> Result<Vec<u8>, CacheError> {
    find(message).map(<[u8]>::to_vec).ok_or_else(|| damaged("the index".to_owned(), "it is in no envelope"))
}

fn find(mut rest: &[u8]) -> Option<&[u8]> {
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        let length = match tag & 7 {
            VARINT => {
                varint(&mut rest)?;
                continue;
            }
            FIXED64 => 8,
            FIXED32 => 4,
            LENGTH => varint(&mut rest)?,
            _ => return None,
        };
        let (field, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
        if tag == STDOUT_RAW << 3 | LENGTH {
            return Some(field);
        }
        rest = after;
    }
    None
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8 & 0x7f) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_wrapped_is_found(index: Vec<u8>, number: u64) {
            let wrapped = wrap(&index);
            prop_assert_eq!(unwrap(&wrapped).unwrap(), index);
            // A server put its own fields around it.
            let mut more = Vec::new();
            put_varint(&mut more, 4 << 3);
            put_varint(&mut more, number);
            put_varint(&mut more, 9 << 3 | LENGTH);
            put_varint(&mut more, 2);
            more.extend_from_slice(b"ab");
            more.extend_from_slice(&wrapped);
            prop_assert_eq!(unwrap(&more).unwrap(), unwrap(&wrapped).unwrap());
        }

        #[test]
        fn anything_is_read_without_a_panic(bytes: Vec<u8>) {
            let _ = unwrap(&bytes);
        }
    }
}
