//! Files that may be archives. What a file is called does not count, only what is in it: docker's `ADD`.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

use crate::archive::{Archive, Limits, is_header};
use crate::blob::{CHUNK, ZSTD_WINDOW_LOG_MAX, read_ahead};
use crate::header::BLOCK;

/// What an xz stream may make its reader keep, in KiB; `xz -9` asks for 64 MiB, and what asks for more is no archive.
const XZ_MEMORY: u32 = 256 << 10;

/// Reads a file as a tar archive, plain or compressed with gzip, bzip2, xz or zstd. `None` when it is none: it is empty, is
/// something else, or its beginning cannot be decompressed. Damage behind the beginning is for `body` to find.
///
/// # Errors
/// When the file cannot be read.
pub fn read_archive<T>(
    file: impl Read + Send,
    limits: Limits,
    body: impl FnOnce(&mut Archive<&mut dyn Read>) -> T,
) -> io::Result<Option<T>> {
    let failed = Arc::new(AtomicBool::new(false));
    let watched = Watched { inner: file, failed: Arc::clone(&failed) };
    let mut beginning = [0; BLOCK];
    let begun = decoder(BufReader::with_capacity(CHUNK, watched)).and_then(|mut decoder| {
        decoder.read_exact(&mut beginning)?;
        Ok(decoder)
    });
    let decoder = match begun {
        Ok(decoder) if is_header(&beginning) => decoder,
        // What is damaged is no archive; what cannot be read may be one.
        Err(error) if failed.load(Ordering::Relaxed) => return Err(error),
        _ => return Ok(None),
    };
    let (result, reader) = read_ahead(io::Cursor::new(beginning).chain(decoder), |mut tar| {
        body(&mut Archive::<&mut dyn Read>::new(&mut tar, limits).whatever_follows())
    });
    reader?;
    Ok(Some(result))
}

fn decoder<'a, R: Read + Send + 'a>(mut raw: BufReader<R>) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match raw.fill_buf()? {
        [0x1f, 0x8b, 0x08, ..] => Box::new(MultiGzDecoder::new(raw)),
        [b'B', b'Z', b'h', ..] => Box::new(MultiBzDecoder::new(raw)),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Box::new(XzReader::new_mem_limit(raw, true, XZ_MEMORY)),
        // A frame, or a frame to be skipped.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            let mut decoder = zstd::Decoder::with_buffer(raw)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
        _ => Box::new(raw),
    })
}

/// Remembers whether it could not be read.
struct Watched<R> {
    inner: R,
    failed: Arc<AtomicBool>,
}

impl<R: Read> Read for Watched<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buffer).inspect_err(|error| {
            if error.kind() != io::ErrorKind::Interrupted {
                self.failed.store(true, Ordering::Relaxed);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::archive::{ArchiveError, ArchiveKind};

    fn tar(content: &[u8]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, "a", content).unwrap();
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn bzip2(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// An xz stream of one block whose LZMA2 chunks are not compressed, made by hand: the tests need no encoder.
    fn xz(bytes: &[u8]) -> Vec<u8> {
        let crc = |bytes: &[u8]| {
            let mut crc = flate2::Crc::new();
            crc.update(bytes);
            crc.sum().to_le_bytes()
        };
        let number = |mut value: u64| {
            let mut out = Vec::new();
            while value > 0x7f {
                out.push(value as u8 | 0x80);
                value >>= 7;
            }
            out.push(value as u8);
            out
        };
        let flags = [0, 0];
        let mut out = [b"\xfd7zXZ\0", &flags[..], &crc(&flags)].concat();
        let header = [2, 0, 0x21, 1, 0x16, 0, 0, 0];
        let mut block = [&header[..], &crc(&header)].concat();
        for (number, chunk) in bytes.chunks(1 << 16).enumerate() {
            block.push(if number == 0 { 1 } else { 2 });
            block.extend_from_slice(&(chunk.len() as u16).wrapping_sub(1).to_be_bytes());
            block.extend_from_slice(chunk);
        }
        block.push(0);
        let unpadded = block.len() as u64;
        block.resize(block.len().next_multiple_of(4), 0);
        out.extend_from_slice(&block);
        let mut index = [vec![0, 1], number(unpadded), number(bytes.len() as u64)].concat();
        index.resize(index.len().next_multiple_of(4), 0);
        let checked = crc(&index);
        index.extend_from_slice(&checked);
        out.extend_from_slice(&index);
        let backward = (index.len() as u32 / 4 - 1).to_le_bytes();
        let footer = [&backward[..], &flags].concat();
        [&out[..], &crc(&footer), &footer, b"YZ"].concat()
    }

    /// The names in an archive, or why it cannot be read.
    fn names(bytes: &[u8]) -> Option<Result<Vec<Vec<u8>>, ArchiveError>> {
        read_archive(bytes, Limits::default(), |archive| {
            let mut names = Vec::new();
            while let Some(entry) = archive.next_entry()? {
                assert!(matches!(entry.kind, ArchiveKind::File { .. }));
                names.push(entry.path);
            }
            Ok(names)
        })
        .unwrap()
    }

    /// I30.
    #[test]
    fn archives_are_known_by_what_is_in_them() {
        let tar = tar(b"abc");
        for packed in [tar.clone(), gzip(&tar), bzip2(&tar), xz(&tar), zstd::encode_all(&tar[..], 1).unwrap()]
        {
            assert_eq!(names(&packed).unwrap().unwrap(), [b"a"]);
        }
        let text = b"not a tar, and long enough to be one ".repeat(40);
        let zeros = vec![0; 2048];
        for bytes in [b"".to_vec(), b"x".to_vec(), tar[..500].to_vec(), text.clone(), zeros] {
            assert!(names(&bytes).is_none());
            assert!(names(&gzip(&bytes)).is_none() && names(&bzip2(&bytes)).is_none());
            assert!(names(&xz(&bytes)).is_none());
            assert!(names(&zstd::encode_all(&bytes[..], 1).unwrap()).is_none());
        }
        assert!(names(b"\x1f\x8b\x08 damaged").is_none());
        assert!(names(b"BZh9 damaged").is_none());
        assert!(names(b"\xfd7zXZ\0 damaged").is_none());
    }

    #[test]
    fn damage_behind_the_beginning_is_an_error() {
        let tar = tar(&(0..1_u32 << 19).flat_map(|n| n.wrapping_mul(n).to_le_bytes()).collect::<Vec<u8>>());
        for packed in [gzip(&tar), bzip2(&tar), xz(&tar), zstd::encode_all(&tar[..], 1).unwrap()] {
            assert_eq!(names(&packed).unwrap().unwrap(), [b"a"]);
            assert!(names(&packed[..packed.len() / 10 * 9]).unwrap().is_err());
        }
        assert!(names(&tar[..tar.len() / 2]).unwrap().is_err());
    }

    /// Concatenated archives, signatures: as tar and docker build, only what comes before the end is there.
    #[test]
    fn whatever_follows_the_end_is_passed_over() {
        let tar = tar(b"abc");
        let twice = [gzip(&tar), gzip(&tar)].concat();
        let signed = [gzip(&tar), b"signature".to_vec()].concat();
        let trailed = [tar.clone(), b"trailing".to_vec()].concat();
        let cut = gzip(&tar);
        for packed in [&twice[..], &signed, &trailed, &cut[..cut.len() - 1]] {
            assert_eq!(names(packed).unwrap().unwrap(), [b"a"]);
        }
    }

    #[test]
    fn what_cannot_be_read_may_be_an_archive() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the disk"))
            }
        }
        let error = read_archive(Failing, Limits::default(), |_| ()).unwrap_err();
        assert_eq!(error.to_string(), "the disk");
        let half = gzip(&tar(b"abc"));
        let error = read_archive(half[..20].chain(Failing), Limits::default(), |_| ()).unwrap_err();
        assert_eq!(error.to_string(), "the disk");
    }
}
