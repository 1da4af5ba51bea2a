use std::io::{self, Read, Write};

use crate::blob::{BlobReader, Expected, read_ahead};
use crate::member::{Codec, MemberWriter};
use crate::recipe::{Compression, Recipe};
use crate::write::{Layer, WriteError};

/// How much is taken over at a time.
const STEP: u64 = 256 << 10;

/// Compresses the tar of a layer's blob in another way. The tar stays as it is to the byte, and so does its digest. eStargz
/// cannot be made like this: it has files of its own in the tar.
///
/// # Errors
/// When the blob cannot be read, is not what was expected, or `out` fails. What was written to `out` by then is garbage.
pub fn recode(
    blob: impl Read + Send,
    expected: &Expected,
    recipe: &Recipe,
    out: impl Write,
) -> Result<Layer, WriteError> {
    let compression = recipe.compression;
    let codec = match compression {
        Compression::Estargz { .. } => None,
        _ => Codec::new(recipe),
    };
    let codec = codec.ok_or(WriteError::Level { compression })?;
    let reader = BlobReader::new(blob).map_err(WriteError::Blob)?;
    let (written, reader) = read_ahead(reader, |tar| {
        rayon::in_place_scope(|scope| {
            let mut members = MemberWriter::new(scope, codec, None, out);
            // One long entry, as far as cuts go: nothing is known of what is in it.
            members.begin(u64::MAX).map_err(WriteError::Output)?;
            let mut buffer = vec![0; STEP as usize];
            loop {
                match tar.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(read) => members.put(&buffer[..read]).map_err(WriteError::Output)?,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(WriteError::Blob(error)),
                }
            }
            members.finish().map_err(WriteError::Output)
        })
    });
    let written = written?;
    let facts = reader.and_then(BlobReader::finish).map_err(WriteError::Blob)?;
    let wrong = |what, expected: String, actual: String| {
        let text = format!("its {what} is {actual}, and not {expected}");
        WriteError::Blob(io::Error::new(io::ErrorKind::InvalidData, text))
    };
    if let Some(digest) = expected.digest.filter(|digest| *digest != facts.digest) {
        return Err(wrong("digest", digest.to_string(), facts.digest.to_string()));
    }
    if let Some(diff_id) = expected.diff_id.filter(|diff_id| *diff_id != facts.diff_id) {
        return Err(wrong("diff id", diff_id.0.to_string(), facts.diff_id.0.to_string()));
    }
    Ok(Layer::new(&written, compression))
}
