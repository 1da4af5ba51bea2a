//! Reading everything that is stored (`wbuild cache verify`): what is damaged goes, and so does what leads to it, so that the
//! next build makes it again.

use std::collections::{BTreeMap, BTreeSet};

use wbuild_graph::{DeltaId, FieldValue, Key, Preimage};
use wbuild_oci::{DiffId, Digest};
use wbuild_snapshot::{
    CheckReply, CheckRequest, Disk, Made, Mtimes, Owners, check, disk_face, face_name, forget_tree_face,
    tree_face,
};
use wbuild_solver::Record;
use wbuild_store::{DeltaFolder, DeltaName, Inodes, RecordMeta, Ref};
use wbuild_tree::{ContentDigest, TreeDigest};

use crate::error::EngineError;
use crate::faces::{Extent, is_denied};
use crate::handlers;
use crate::worker::{DAMAGED_RECORD, Engine};

/// Why a record is set aside.
const DAMAGED_FILES: &str = "its files were damaged";

/// What came of a check of everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// How many blobs, trees, records and deltas were looked at.
    pub checked: u64,
    /// What was damaged and has been dropped, with what is known of the damage.
    pub damaged: Vec<(Ref, String)>,
    /// Keys whose record was damaged and has been removed.
    pub records: Vec<Digest>,
    /// What is not damaged itself and was dropped, because it consists of what is gone.
    pub incomplete: Vec<Ref>,
    /// The names of the steps that run again, because what they left is gone.
    pub set_aside: Vec<String>,
}

impl Verified {
    /// How many things were damaged.
    pub fn damaged(&self) -> usize {
        self.damaged.len() + self.records.len()
    }
}

impl Engine {
    /// Reads every blob, tree, record and disk face, and drops what is damaged: with it the records that lead to it.
    /// Safe beside builds, and takes as long as reading the state directory takes.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn verify(&self) -> Result<Verified, EngineError> {
        let contents = self.store.verify()?;
        let why = |what| (what, "its bytes have another digest".to_owned());
        let mut verified = Verified {
            checked: contents.checked,
            damaged: contents.damaged.into_iter().map(why).collect(),
            records: contents.records,
            incomplete: contents.incomplete.into_iter().map(Ref::Tree).collect(),
            set_aside: Vec::new(),
        };
        for key in &verified.records {
            // So that the next build can say why it has none.
            let record = Record::of_nothing(DAMAGED_RECORD);
            self.store.put_record(key, &RecordMeta::default(), &record.to_bytes())?;
        }
        let mut pool = Inodes::Unlinked;
        for name in self.store.delta_names()? {
            verified.checked += 1;
            let found = self.look_at(&name)?;
            if found == Finding::Right {
                continue;
            }
            self.store.drop_delta(&name)?;
            if matches!(Face::of(&name), Some(Face::Tree { .. })) {
                pool = Inodes::All;
            }
            match found {
                Finding::Damaged(why) => verified.damaged.push((Ref::Delta(name), why)),
                _ => verified.incomplete.push(Ref::Delta(name)),
            }
        }
        // Files of trees share inodes with it: the next face of a damaged one would be damaged, too.
        self.store.forget_pool(pool)?;
        self.verify_records(&mut verified)?;
        Ok(verified)
    }

    /// Whether a disk face is what it should be.
    fn look_at(&self, name: &DeltaName) -> Result<Finding, EngineError> {
        let Some(folder) = self.store.delta(name)? else {
            return Ok(Finding::Damaged("it is not complete".to_owned()));
        };
        if !self.looks_as_published(&folder)? {
            return Ok(Finding::Damaged("somebody wrote to its files".to_owned()));
        }
        let Some(face) = Face::of(name) else { return Ok(Finding::Right) };
        let expectation = match self.expectation(face, &folder) {
            Err(error) if error.is_lost() => {
                return Ok(Finding::Damaged("what was noted of its owners is gone".to_owned()));
            }
            other => other?,
        };
        let Some((tree, made)) = expectation else {
            return Ok(match face {
                // What it should be, nobody but the step has ever said.
                Face::Step(_) => Finding::Right,
                // The others are made again from what they were made from.
                Face::Tree { .. } | Face::Layer { .. } => Finding::Unknown,
            });
        };
        let request = CheckRequest { dir: folder.fs(), store: self.store.path().to_owned(), tree, made };
        Ok(match self.check(&request)?.difference {
            None => Finding::Right,
            Some(path) => Finding::Damaged(format!("`{path}` is not what it was")),
        })
    }

    /// What a disk face should be, if that is known.
    fn expectation(
        &self,
        face: Face,
        folder: &DeltaFolder,
    ) -> Result<Option<(TreeDigest, Made)>, EngineError> {
        let delta = face.delta();
        let Some(known) = tree_face(&self.store, &delta)? else { return Ok(None) };
        if !self.is_whole(known.tree, Extent::Listing)? {
            if !matches!(delta, DeltaId::Tree { .. }) {
                forget_tree_face(&self.store, &delta)?;
            }
            return Ok(None);
        }
        let made = match face {
            Face::Step(_) => {
                if !self.is_whole(known.tree, Extent::Contents)? {
                    // Its files have them, and then the face is made again.
                    forget_tree_face(&self.store, &delta)?;
                }
                let overrides = self.kept_owners(&delta, folder)?;
                Made::TreeFromFiles { owners: self.owner_source()?, overrides }
            }
            Face::Tree { owners, .. } | Face::Layer { owners, .. } => {
                Made::FilesFromTree { owners, implied: known.implied }
            }
        };
        Ok(Some((known.tree, made)))
    }

    fn check(&self, request: &CheckRequest) -> Result<CheckReply, EngineError> {
        let ask = || self.ask(handlers::CHECK, request, "read what a step wrote");
        // Owners of a step's files are those of its user namespace.
        if matches!(request.made, Made::TreeFromFiles { .. }) {
            return ask();
        }
        match check(request) {
            Err(error) if is_denied(&error) => ask(),
            other => Ok(other?),
        }
    }

    /// Sets aside the records of steps whose own result is gone, and removes what else refers to something that is.
    fn verify_records(&self, verified: &mut Verified) -> Result<(), EngineError> {
        let mut lost: BTreeMap<DeltaId, bool> = BTreeMap::new();
        let mut forgotten: BTreeSet<TreeDigest> = BTreeSet::new();
        for key in self.store.record_keys()? {
            let Some(stored) = self.store.peek_record(&key)? else { continue };
            let Ok(mut record) = Record::from_bytes(&stored.body) else {
                if !self.refers_to_what_is_there(&stored.meta)? {
                    self.store.remove_record(&key)?;
                }
                continue;
            };
            if record.set_aside.is_some() {
                continue;
            }
            let mut is_lost = false;
            for delta in &record.snapshot.deltas {
                let gone = match lost.get(delta) {
                    Some(gone) => *gone,
                    None => self.is_gone(delta)?,
                };
                lost.insert(*delta, gone);
                if !gone {
                    continue;
                }
                if let DeltaId::Tree { tree, .. } = delta {
                    // Whoever asks whether it is there has to be told that it is not.
                    forgotten.insert(*tree);
                }
                is_lost |= is_own(delta, &record.preimage);
            }
            if is_lost {
                record.set_aside = Some(DAMAGED_FILES.to_owned());
                self.store.replace_record(&Key(key).0, &RecordMeta::default(), &record.to_bytes())?;
                verified.set_aside.push(record.name);
            }
        }
        for tree in forgotten {
            if self.store.has_tree(tree)? {
                self.store.forget_tree(tree)?;
                verified.incomplete.push(Ref::Tree(tree));
            }
        }
        verified.set_aside.sort();
        Ok(())
    }

    fn is_gone(&self, delta: &DeltaId) -> Result<bool, EngineError> {
        Ok(match delta {
            // It comes from the base image.
            DeltaId::Layer(_) => false,
            // All blobs were read before.
            DeltaId::Tree { tree, .. } => !self.is_whole(*tree, Extent::Contents)?,
            DeltaId::Exec(_) => disk_face(&self.store, delta, self.disk(Mtimes::Tree))?.is_none(),
        })
    }

    /// For records that are not of steps: of layers and of tree faces, whose contents may be elsewhere.
    fn refers_to_what_is_there(&self, meta: &RecordMeta) -> Result<bool, EngineError> {
        for one in &meta.refs {
            let there = match one {
                Ref::Blob(digest) => self.store.has_blob(digest)?,
                Ref::Tree(tree) => self.is_whole(*tree, Extent::Listing)?,
                Ref::Delta(name) => self.store.delta(name)?.is_some(),
            };
            if !there {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Whether a step made a delta of its result itself: what it only stands on is in its key.
fn is_own(delta: &DeltaId, preimage: &Preimage) -> bool {
    !preimage.fields.iter().any(|field| match (&field.value, delta) {
        (FieldValue::Tree { tree, .. }, DeltaId::Tree { tree: own, .. }) => tree == own,
        (FieldValue::Digest(digest), delta) => *digest == delta.root_key(),
        _ => false,
    })
}

/// What came of a look at a disk face.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Finding {
    Right,
    Damaged(String),
    /// Nothing is left to compare it with.
    Unknown,
}

/// A disk face, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Face {
    Step(Key),
    Layer { diff_id: DiffId, owners: bool },
    Tree { tree: TreeDigest, owners: bool },
}

impl Face {
    /// `None` for those that are made of others.
    fn of(name: &DeltaName) -> Option<Self> {
        let (kind, rest) = name.as_str().split_once('-')?;
        let digest = Digest::from_hex(rest.get(..64)?).ok()?;
        let mut faces = Vec::new();
        match kind {
            "step" => faces.push((Self::Step(Key(digest)), Mtimes::Tree, Owners::Set)),
            "layer" => faces.extend([Owners::Set, Owners::Note].map(|set| {
                let owners = set == Owners::Set;
                (Self::Layer { diff_id: DiffId(digest), owners }, Mtimes::Tree, set)
            })),
            "tree" => {
                for mtimes in [Mtimes::Tree, Mtimes::FromContent] {
                    faces.extend([Owners::Set, Owners::Note].map(|set| {
                        (Self::Tree { tree: TreeDigest(digest), owners: set == Owners::Set }, mtimes, set)
                    }));
                }
            }
            _ => {}
        }
        // The one of which this is the name.
        faces
            .into_iter()
            .find(|(face, mtimes, owners)| {
                face_name(&face.delta(), Disk { mtimes: *mtimes, owners: *owners }) == *name
            })
            .map(|(face, ..)| face)
    }

    fn delta(self) -> DeltaId {
        match self {
            Self::Step(key) => DeltaId::Exec(key),
            Self::Layer { diff_id, .. } => DeltaId::Layer(diff_id),
            // Its name does not depend on the content digest.
            Self::Tree { tree, .. } => DeltaId::Tree { tree, content: ContentDigest(tree.0) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_a_face_is_read_back() {
        let digest = Digest::of(b"x");
        let deltas = [
            DeltaId::Exec(Key(digest)),
            DeltaId::Layer(DiffId(digest)),
            DeltaId::Tree { tree: TreeDigest(digest), content: ContentDigest(digest) },
        ];
        for delta in deltas {
            for mtimes in [Mtimes::Tree, Mtimes::FromContent] {
                for owners in [Owners::Set, Owners::Note] {
                    let name = face_name(&delta, Disk { mtimes, owners });
                    assert_eq!(Face::of(&name).map(Face::delta), Some(delta), "{name}");
                }
            }
        }
        let other = format!("merged-{}", digest.hex());
        assert_eq!(Face::of(&DeltaName::new(&other).unwrap()), None);
    }

    #[test]
    fn what_a_step_stands_on_is_not_its_own() {
        let tree = |text: &str| DeltaId::Tree {
            tree: TreeDigest(Digest::of(text.as_bytes())),
            content: ContentDigest(Digest::of(text.as_bytes())),
        };
        let (below, own) = (tree("below"), tree("own"));
        let step = DeltaId::Exec(Key(Digest::of(b"step")));
        let mut preimage = Preimage::new("exec", 1);
        let DeltaId::Tree { tree, content } = below else { return };
        preimage.add("root/0", FieldValue::Tree { tree, content });
        preimage.add("root/1", FieldValue::Digest(step.root_key()));
        assert_eq!([below, step, own].map(|delta| is_own(&delta, &preimage)), [false, false, true]);
    }
}
