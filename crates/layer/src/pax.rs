//! PAX records, `LENGTH KEY=VALUE\n` (POSIX pax, "pax Extended Header"): written shortest, read strictly.

use std::collections::BTreeMap;

use wbuild_tree::{Time, Xattrs};

/// Prefix of the keys that hold extended attributes; star's, and used by everybody.
pub(crate) const XATTR: &[u8] = b"SCHILY.xattr.";

/// Larger extended headers, and larger GNU long names, are refused; Go's limit.
pub(crate) const MAX_EXTENDED: u64 = 1 << 20;

/// Appends one record.
pub(crate) fn append(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    // The length counts its own digits: adding them can make one more.
    let mut length = rest + rest.to_string().len();
    length = rest + length.to_string().len();
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// Seconds with a fraction, without trailing zeros. The fraction counts away from zero, so `-1.5` is half a second
/// before the second before the epoch.
pub(crate) fn format_time(time: Time) -> String {
    let (seconds, nanos) = match (time.seconds, time.nanos) {
        (seconds, nanos) if seconds < 0 && nanos > 0 => (seconds + 1, 1_000_000_000 - nanos),
        whole => whole,
    };
    if nanos == 0 {
        return seconds.to_string();
    }
    let sign = if time.seconds < 0 { "-" } else { "" };
    let fraction = format!("{nanos:09}");
    format!("{sign}{}.{}", seconds.unsigned_abs(), fraction.trim_end_matches('0'))
}

/// What the extended header of one entry says; `None` and empty for what it does not mention.
#[derive(Debug, Default)]
pub(crate) struct Extended {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) mtime: Option<Time>,
    pub(crate) xattrs: Xattrs,
}

/// Reads the records of one entry's extended header.
///
/// Refused is all that another reader could take differently: lengths that do not fit, signs, doubled keys, empty or
/// NUL-ridden paths, sparse files.
pub(crate) fn parse(bytes: &[u8]) -> Result<Extended, &'static str> {
    let mut extended = Extended::default();
    for (key, value) in records(bytes)? {
        match key {
            b"path" => extended.path = Some(path(value)?),
            b"linkpath" => extended.link = Some(path(value)?),
            b"size" => extended.size = Some(number(value).ok_or("a PAX `size` is not a number")?),
            b"uid" => extended.uid = Some(id(value)?),
            b"gid" => extended.gid = Some(id(value)?),
            b"mtime" => extended.mtime = Some(parse_time(value).ok_or("a PAX `mtime` is not a time")?),
            b"SCHILY.realsize" => return Err("it is a sparse file, which is not supported"),
            key if key.starts_with(b"GNU.sparse.") => {
                return Err("it is a sparse file, which is not supported");
            }
            key => {
                if let Some(name) = key.strip_prefix(XATTR) {
                    if name.is_empty() || name.contains(&0) {
                        return Err("an extended attribute has no usable name");
                    }
                    extended.xattrs.insert(name, value);
                }
            }
        }
    }
    Ok(extended)
}

/// Checks a global header. Only comments are harmless (`git archive` writes one): everything else is honoured by some
/// readers and ignored by others.
pub(crate) fn check_global(bytes: &[u8]) -> Result<(), &'static str> {
    match records(bytes)?.keys().all(|key| *key == b"comment") {
        true => Ok(()),
        false => Err("a global PAX header sets more than a comment"),
    }
}

fn records(mut bytes: &[u8]) -> Result<BTreeMap<&[u8], &[u8]>, &'static str> {
    const MALFORMED: &str = "a PAX record is malformed";
    let mut records = BTreeMap::new();
    while !bytes.is_empty() {
        let space = bytes.iter().take(10).position(|b| *b == b' ').ok_or(MALFORMED)?;
        let length =
            number(&bytes[..space]).and_then(|length| usize::try_from(length).ok()).ok_or(MALFORMED)?;
        if bytes[0] == b'0' || length <= space + 1 || length > bytes.len() {
            return Err(MALFORMED);
        }
        let (record, rest) = bytes.split_at(length);
        let record = record[space + 1..].strip_suffix(b"\n").ok_or(MALFORMED)?;
        let equals = record.iter().position(|b| *b == b'=').ok_or(MALFORMED)?;
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        if key.is_empty() || key.contains(&0) {
            return Err(MALFORMED);
        }
        if records.insert(key, value).is_some() {
            return Err("a PAX key occurs twice");
        }
        bytes = rest;
    }
    Ok(records)
}

fn path(value: &[u8]) -> Result<Vec<u8>, &'static str> {
    match value.is_empty() || value.contains(&0) {
        true => Err("a PAX path is empty or contains NUL"),
        false => Ok(value.to_vec()),
    }
}

fn id(value: &[u8]) -> Result<u32, &'static str> {
    number(value).and_then(|id| u32::try_from(id).ok()).ok_or("a PAX `uid` or `gid` is not an id")
}

/// Digits only: Rust's own parser takes a plus sign.
fn number(value: &[u8]) -> Option<u64> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(value).ok()?.parse().ok()).flatten()
}

/// Seconds, perhaps negative, perhaps with a fraction; digits below nanoseconds are cut off.
fn parse_time(value: &[u8]) -> Option<Time> {
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(value) => (true, value),
        None => (false, value),
    };
    let (whole, fraction) = match value.iter().position(|b| *b == b'.') {
        Some(dot) => (&value[..dot], &value[dot + 1..]),
        None => (value, &[][..]),
    };
    let seconds = i64::try_from(number(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let mut nanos = 0;
    for place in 0..9 {
        nanos = nanos * 10 + fraction.get(place).map_or(0, |digit| u32::from(digit - b'0'));
    }
    Some(match (negative, nanos) {
        (false, nanos) => Time { seconds, nanos },
        (true, 0) => Time { seconds: -seconds, nanos: 0 },
        (true, nanos) => Time { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_count_themselves() {
        for size in 0..1200 {
            let mut out = Vec::new();
            append(&mut out, b"path", &vec![b'x'; size]);
            let length: usize =
                std::str::from_utf8(out.split(|b| *b == b' ').next().unwrap()).unwrap().parse().unwrap();
            assert_eq!(length, out.len());
            if size > 0 {
                assert_eq!(parse(&out).unwrap().path.unwrap().len(), size);
            }
        }
    }

    #[test]
    fn times_come_back() {
        for (seconds, nanos, text) in [
            (0, 0, "0"),
            (1, 500_000_000, "1.5"),
            (-1, 0, "-1"),
            (-2, 500_000_000, "-1.5"),
            (-1, 999_999_999, "-0.000000001"),
            (0, 1, "0.000000001"),
            (i64::MIN + 1, 0, "-9223372036854775807"),
        ] {
            let time = Time { seconds, nanos };
            assert_eq!(format_time(time), text);
            assert_eq!(parse_time(text.as_bytes()), Some(time), "{text}");
        }
        for text in ["", "-", "+1", "1e3", ".5", "1.-5", "--1", "1.5.5", " 1"] {
            assert_eq!(parse_time(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_time(b"1.1234567899"), Some(Time { seconds: 1, nanos: 123_456_789 }));
    }

    #[test]
    fn doubtful_records_are_refused() {
        let table: [&[u8]; 16] = [
            b"11 path=ab",     // no newline where the length ends
            b"9 path=ab\n",    // too short
            b"99 path=ab\n",   // too long
            b"+11 path=ab\n",  // signed
            b"011 path=ab\n",  // leading zero
            b"0 \n",           // empty
            b"5 =x\n\n",       // no key
            b"8 path\n\n",     // no value
            b"11 path=a\0\n",  // NUL in a path
            b"9 path=\n",      // empty path
            b"11 size=-1\n",   // negative
            b"11 size=+1\n",   // signed
            b"11 uid=4e3\n\n", // not a number
            b"x",              // nothing at all
            b"10 size=1\n10 size=2\n",
            b"22 GNU.sparse.major=1\n",
        ];
        for bytes in table {
            assert!(parse(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
        assert!(check_global(b"16 comment=abcd\n").is_ok());
        assert!(check_global(b"10 size=1\n").is_err());
    }
}
