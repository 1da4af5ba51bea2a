//! The shortcut for "nothing changed": which tree a selection had when all facts were the same.
//!
//! With a hundred thousand files, looking every digest up and encoding every directory again costs a third of the walk.
//! So beside the stat index there is a file of the last few selections: a digest over every name and every fact of the
//! selected entries, and the tree that was made of them. It holds for the tree if and only if every single entry would
//! have been found in the stat index, because it is only written when no selected file was racy.
//!
//! ```text
//! "wbuild-known-trees-1\n"
//! pairs, newest first: fingerprint SHA-256, tree SHA-256
//! SHA-256 over all of the above
//! ```

use std::io::{self, Write};
use std::path::Path;

use rayon::prelude::*;
use wbuild_oci::{Digest, HashingWriter};
use wbuild_tree::{Time, TreeDigest};

use crate::hash::IndexProblem;
use crate::policy::{FileKind, Policy};
use crate::selection::Selection;
use crate::stat_index::{is_racy, state_file};

const MAGIC: &[u8] = b"wbuild-known-trees-1\n";

/// Selections remembered for one context: the sources of a handful of COPY instructions, under two policies.
const MAX_PAIRS: usize = 64;

/// Entries hashed by one task. Part of the fingerprint: changing it forgets all known trees, which costs nothing.
const CHUNK: usize = 4096;

const PAIR: usize = 64;

impl Selection<'_> {
    /// The tree that an earlier [`hash`](Self::hash) with this `index` folder gave, if not a single fact of what is selected
    /// has changed since. Reads one small file, and nothing of the context. The caller may find that the tree itself is
    /// gone from its store; then hashing makes it anew.
    ///
    /// # Errors
    /// When the file is there and cannot be read; hashing is what remains then.
    pub fn known_tree(&self, index: &Path) -> Result<Option<TreeDigest>, IndexProblem> {
        let path = self.known_trees_file(index)?;
        let wanted = self.fingerprint();
        let pairs = read(&path).map_err(|source| IndexProblem { path, source })?;
        Ok(pairs.iter().find(|(fingerprint, _)| *fingerprint == wanted).map(|(_, tree)| *tree))
    }

    /// Remembers the tree made of this selection in a run that began at `started`, unless a file is racy.
    pub(crate) fn remember_tree(
        &self,
        index: &Path,
        started: Time,
        tree: TreeDigest,
    ) -> Result<(), IndexProblem> {
        let mut slots = self.listing.slots.iter().zip(&self.chosen);
        let racy = slots.any(|(slot, chosen)| {
            *chosen && slot.facts.kind == FileKind::File && is_racy(slot.facts.ctime, started)
        });
        if racy {
            return Ok(());
        }
        let path = self.known_trees_file(index)?;
        let new = (self.fingerprint(), tree);
        // A damaged or unreadable file is replaced.
        let mut pairs = read(&path).unwrap_or_default();
        if pairs.contains(&new) {
            return Ok(());
        }
        pairs.retain(|(fingerprint, _)| *fingerprint != new.0);
        pairs.insert(0, new);
        pairs.truncate(MAX_PAIRS);
        write(&path, &pairs).map_err(|source| IndexProblem { path, source })
    }

    fn known_trees_file(&self, index: &Path) -> Result<std::path::PathBuf, IndexProblem> {
        state_file(index, self.listing.root.path(), "trees")
            .map_err(|source| IndexProblem { path: index.to_owned(), source })
    }

    fn fingerprint(&self) -> Digest {
        let listing = self.listing;
        let mut depths: Vec<u32> = Vec::with_capacity(listing.len());
        for at in 0..listing.len() {
            depths.push(listing.parent(at).map_or(0, |parent| depths[parent] + 1));
        }
        let policy = match listing.policy {
            Policy::Dockerfile => b"dockerfile",
            Policy::Workspace => b"workspace ",
        };
        let mut all = MAGIC.to_vec();
        all.extend_from_slice(policy);
        let chunks: Vec<Digest> = (0..listing.len().div_ceil(CHUNK))
            .into_par_iter()
            .map(|chunk| {
                let range = chunk * CHUNK..listing.len().min((chunk + 1) * CHUNK);
                let mut bytes = Vec::with_capacity(CHUNK * 100);
                range.filter(|at| self.chosen[*at]).for_each(|at| self.describe(at, depths[at], &mut bytes));
                Digest::of(&bytes)
            })
            .collect();
        chunks.iter().for_each(|chunk| all.extend_from_slice(chunk.as_bytes()));
        Digest::of(&all)
    }

    /// Everything that a tree or a content digest is made from. In tree order the depth says where an entry belongs.
    fn describe(&self, at: usize, depth: u32, out: &mut Vec<u8>) {
        let slot = &self.listing.slots[at];
        let facts = &slot.facts;
        let framed = |out: &mut Vec<u8>, bytes: &[u8]| {
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        };
        framed(out, self.listing.name(at));
        out.extend_from_slice(&depth.to_le_bytes());
        out.push(facts.kind as u8);
        out.extend_from_slice(&facts.mode.to_le_bytes());
        for number in [facts.size, facts.inode, facts.dev, facts.rdev] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for time in [facts.mtime, facts.ctime] {
            out.extend_from_slice(&time.seconds.to_le_bytes());
            out.extend_from_slice(&time.nanos.to_le_bytes());
        }
        if facts.kind == FileKind::Symlink {
            framed(out, &self.listing.targets[slot.target as usize]);
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<(Digest, TreeDigest)>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    Ok(parse(&bytes).unwrap_or_default())
}

fn parse(bytes: &[u8]) -> Option<Vec<(Digest, TreeDigest)>> {
    let (body, sum) = bytes.split_last_chunk::<32>()?;
    if Digest::of(body) != Digest::from_bytes(*sum) {
        return None;
    }
    let (pairs, rest) = body.strip_prefix(MAGIC)?.as_chunks::<PAIR>();
    let digest = |bytes: &[u8]| bytes.first_chunk().map(|bytes| Digest::from_bytes(*bytes));
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|pair| Some((digest(pair)?, TreeDigest(digest(&pair[32..])?)))).collect()
}

fn write(path: &Path, pairs: &[(Digest, TreeDigest)]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut out = HashingWriter::new(Vec::new());
    out.write_all(MAGIC)?;
    for (fingerprint, tree) in pairs {
        out.write_all(fingerprint.as_bytes())?;
        out.write_all(tree.0.as_bytes())?;
    }
    let (sum, _, mut bytes) = out.finish();
    bytes.extend_from_slice(sum.as_bytes());
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&bytes)?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_come_back_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/x.trees");
        let pairs: Vec<_> = (0..3_u8).map(|n| (Digest::of(&[n]), TreeDigest(Digest::of(&[n, n])))).collect();
        assert_eq!(read(&path).unwrap(), []);
        write(&path, &pairs).unwrap();
        assert_eq!(read(&path).unwrap(), pairs);
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(parse(&bad).is_none() && parse(&good[..at]).is_none(), "{at}");
        }
    }
}
