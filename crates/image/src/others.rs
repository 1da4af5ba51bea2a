//! The other images of a folder that an image is written into: what its index says of them, and which blobs they need.

use std::collections::BTreeSet;

use serde_json::{Map, Value};
use wbuild_oci::{Descriptor, Digest, Document, DocumentError, Index, media, to_canonical_json};

use crate::assemble::DocumentBlob;
use crate::export::{ANNOTATION_NAME, ANNOTATION_REFERRERS, ANNOTATION_TAG, Export, ExportError, Listed};

/// What becomes of other images that a layout holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// They stay, with their blobs. An entry gives way to one of the same name or tag, a nameless one to a nameless one.
    Keep,
    /// They go: the folder holds this image afterwards and nothing else.
    Replace,
}

/// `index.json` as it was found. Entries are kept as they stand: they may say things that no type here knows.
#[derive(Debug, Default)]
pub(crate) struct Found {
    fields: Map<String, Value>,
    entries: Vec<Value>,
    /// What refers to the images of the entries, as far as wbuild has noted it.
    referrers: Vec<Descriptor>,
}

/// Reads a document of the folder.
pub(crate) type ReadDocument<'a> = &'a dyn Fn(&Descriptor) -> Result<Vec<u8>, ExportError>;

impl Found {
    /// Reads an index. One that cannot be read names nothing.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let Ok(Value::Object(mut fields)) = serde_json::from_slice(bytes) else { return Self::default() };
        match fields.remove("manifests") {
            Some(Value::Array(entries)) => Self { fields, entries, referrers: Vec::new() },
            _ => Self::default(),
        }
    }

    /// Takes out what `export` stands in for, and what refers to nothing that is left.
    pub(crate) fn retain_others_than(&mut self, export: &Export, read: ReadDocument<'_>) -> Place {
        let digest_of = |entry: &Value| entry.get("digest")?.as_str()?.parse::<Digest>().ok();
        let staying = self.entries.iter().filter(|entry| !gives_way(entry, export));
        let left: BTreeSet<Digest> = staying.filter_map(digest_of).collect();
        let goes = |entry: &Value| {
            let about = annotation(entry, ANNOTATION_TAG).and_then(subject_of_fallback_tag);
            gives_way(entry, export) || about.is_some_and(|about| !left.contains(&about))
        };
        let first = self.entries.iter().position(|entry| gives_way(entry, export));
        let before = &self.entries[..first.unwrap_or(self.entries.len())];
        let place = Place(before.iter().filter(|entry| !goes(entry)).count());
        self.entries.retain(|entry| !goes(entry));
        let list = self.fields.get("annotations").and_then(|found| found.get(ANNOTATION_REFERRERS)?.as_str());
        if let Some(digest) = list.and_then(|digest| digest.parse().ok()) {
            let own = |referrer: &Descriptor| subject(referrer, read).is_some_and(|one| left.contains(&one));
            // What cannot be read any more is lost with what it listed.
            let listed = read(&Descriptor::new(media::INDEX, digest, 0)).ok();
            if let Some(Ok(Document::Index(index))) = listed.map(|bytes| Document::parse(&bytes)) {
                self.referrers = index.manifests.into_iter().filter(own).collect();
            }
        }
        place
    }

    /// The index with the entries of `export` at their place, and the list of all referrers, which it names.
    pub(crate) fn with(
        &self,
        export: &Export,
        place: Place,
    ) -> Result<(Vec<u8>, Option<DocumentBlob>), ExportError> {
        let mut entries = self.entries.clone();
        let own =
            export.entries(Listed::WithNames).iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>();
        entries.splice(place.0..place.0, own.map_err(ExportError::Json)?);
        let mut fields = self.fields.clone();
        fields.insert("schemaVersion".to_owned(), 2.into());
        fields.entry("mediaType").or_insert_with(|| media::INDEX.into());
        fields.insert("manifests".to_owned(), entries.into());
        let list = self.list(export)?;
        let mut annotations = match fields.remove("annotations") {
            Some(Value::Object(annotations)) => annotations,
            _ => Map::new(),
        };
        annotations.remove(ANNOTATION_REFERRERS);
        if let Some(list) = &list {
            let digest = list.descriptor.digest.to_string();
            annotations.insert(ANNOTATION_REFERRERS.to_owned(), digest.into());
        }
        if !annotations.is_empty() {
            fields.insert("annotations".to_owned(), Value::Object(annotations));
        }
        let index = to_canonical_json(&Value::Object(fields)).map_err(ExportError::Json)?;
        Ok((index, list))
    }

    /// What refers to an image of the folder, whichever.
    fn list(&self, export: &Export) -> Result<Option<DocumentBlob>, ExportError> {
        let own = export.referrers().iter().map(|referrer| &referrer.manifest.descriptor);
        let mut all: Vec<Descriptor> = Vec::new();
        for referrer in self.referrers.iter().chain(own) {
            if all.iter().all(|known| known.digest != referrer.digest) {
                all.push(referrer.clone());
            }
        }
        if all.is_empty() {
            return Ok(None);
        }
        let bytes = to_canonical_json(&Index::new(all)).map_err(ExportError::Json)?;
        Ok(Some(DocumentBlob::new(media::INDEX, bytes)))
    }

    /// The names of all blobs that the entries need. `None` when one of them cannot be followed: then nobody knows.
    pub(crate) fn blobs(&self, read: ReadDocument<'_>) -> Option<BTreeSet<String>> {
        let mut needed = BTreeSet::new();
        let mut open = self.referrers.clone();
        for entry in &self.entries {
            open.push(serde_json::from_value::<Descriptor>(entry.clone()).ok()?);
        }
        while let Some(descriptor) = open.pop() {
            if !needed.insert(descriptor.digest.hex()) {
                continue;
            }
            let document = Document::parse(&read(&descriptor).ok()?);
            let (children, rest) = match document {
                Ok(Document::Index(index)) => (index.manifests, index.rest),
                Ok(Document::Manifest(manifest)) => {
                    let blobs = manifest.layers.iter().chain([&manifest.config]);
                    needed.extend(blobs.map(|blob| blob.digest.hex()));
                    (Vec::new(), manifest.rest)
                }
                // A blob that stands in the index by itself.
                Err(DocumentError::Unknown | DocumentError::Json(_)) if !is_document(&descriptor) => continue,
                Err(_) => return None,
            };
            open.extend(children);
            // Whom a signature or attestation is about, if it is here.
            if let Some(subject) = rest.get("subject") {
                let subject: Descriptor = serde_json::from_value(subject.clone()).ok()?;
                needed.insert(subject.digest.hex());
            }
        }
        Some(needed)
    }
}

/// Where the entries of an image stand in an index.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place(usize);

fn is_document(descriptor: &Descriptor) -> bool {
    [media::MANIFEST, media::INDEX, media::DOCKER_MANIFEST, media::DOCKER_INDEX]
        .contains(&descriptor.media_type.as_str())
}

fn annotation<'a>(entry: &'a Value, key: &str) -> Option<&'a str> {
    entry.get("annotations")?.get(key)?.as_str()
}

/// Whom a list of referrers is about, by its tag.
fn subject_of_fallback_tag(tag: &str) -> Option<Digest> {
    format!("sha256:{}", tag.strip_prefix("sha256-")?).parse().ok()
}

/// Whom an artifact is about.
fn subject(referrer: &Descriptor, read: ReadDocument<'_>) -> Option<Digest> {
    match Document::parse(&read(referrer).ok()?).ok()? {
        Document::Manifest(manifest) => manifest.rest.get("subject")?.get("digest")?.as_str()?.parse().ok(),
        Document::Index(_) => None,
    }
}

/// As containerd's and skopeo's layouts do: a name or a tag is there once.
fn gives_way(entry: &Value, export: &Export) -> bool {
    let (name, tag) = (annotation(entry, ANNOTATION_NAME), annotation(entry, ANNOTATION_TAG));
    // The list of what refers to this very image is written anew, too.
    if tag.and_then(subject_of_fallback_tag) == Some(export.root.digest) && !export.names.is_empty() {
        return true;
    }
    if export.names.is_empty() {
        return name.is_none() && tag.is_none();
    }
    export
        .names
        .iter()
        .any(|own| name == Some(own.to_string().as_str()) || (tag.is_some() && tag == own.tag.as_deref()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wbuild_oci::{Manifest, Reference};

    use super::*;
    use crate::assemble::Image;

    fn export(names: &[&str]) -> Export {
        let document = |text: &str| DocumentBlob {
            descriptor: Descriptor::new(media::MANIFEST, Digest::of(text.as_bytes()), text.len() as u64),
            bytes: text.as_bytes().to_vec(),
        };
        let image = Image { config: document("config"), manifest: document("new"), layers: Vec::new() };
        Export::image(&image, names.iter().map(|name| name.parse::<Reference>().unwrap()).collect())
    }

    fn unread(_: &Descriptor) -> Result<Vec<u8>, ExportError> {
        Err(ExportError::Archive(std::io::ErrorKind::NotFound.into()))
    }

    fn entry(text: &str, annotations: impl Into<Value>) -> Value {
        let digest = Digest::of(text.as_bytes());
        json!({ "mediaType": media::MANIFEST, "digest": digest, "size": 1, "annotations": annotations.into() })
    }

    fn found(entries: &[Value]) -> Found {
        let index = json!({ "schemaVersion": 2, "manifests": entries, "annotations": { "kept": "yes" } });
        Found::parse(index.to_string().as_bytes())
    }

    #[test]
    fn same_names_and_tags_give_way() {
        let name = |name: &str| json!({ ANNOTATION_NAME: name });
        let tag = |tag: &str| json!({ ANNOTATION_TAG: tag });
        let table = [
            (&["app:1"][..], vec![name("docker.io/library/app:1")], 1),
            (&["app:1"], vec![tag("1")], 1),
            (&["app:1"], vec![name("docker.io/library/app:2"), tag("2"), json!({})], 0),
            (&["app:1", "app:2"], vec![tag("1"), tag("2"), tag("3")], 2),
            (&[], vec![json!({}), tag("1"), name("docker.io/library/app:1")], 1),
        ];
        for (names, annotations, gone) in table {
            let entries: Vec<Value> =
                annotations.into_iter().enumerate().map(|(at, a)| entry(&at.to_string(), a)).collect();
            let mut found = found(&entries);
            let place = found.retain_others_than(&export(names), &unread);
            assert_eq!(found.entries.len(), entries.len() - gone, "{names:?}");
            let index: Value = serde_json::from_slice(&found.with(&export(names), place).unwrap().0).unwrap();
            assert_eq!(index["annotations"]["kept"], "yes");
            let wanted = entries.len() - gone + names.len().max(1);
            assert_eq!(index["manifests"].as_array().unwrap().len(), wanted, "{names:?}");
        }
    }

    #[test]
    fn an_image_stays_where_it_was() {
        let tagged = |text: &str| entry(text, json!({ ANNOTATION_TAG: text }));
        let mut found = found(&["0", "1", "2"].map(tagged));
        let export = export(&["app:1"]);
        let place = found.retain_others_than(&export, &unread);
        let once = found.with(&export, place).unwrap().0;
        let mut again = Found::parse(&once);
        let place = again.retain_others_than(&export, &unread);
        assert_eq!(again.with(&export, place).unwrap().0, once);
        let index: Value = serde_json::from_slice(&once).unwrap();
        assert_eq!(index["manifests"][1]["digest"], json!(Digest::of(b"new")));
    }

    #[test]
    fn what_cannot_be_followed_makes_the_rest_unknown() {
        let config = Descriptor::new(media::CONFIG, Digest::of(b"c"), 1);
        let layer = Descriptor::new(media::LAYER_GZIP, Digest::of(b"l"), 1);
        let manifest = to_canonical_json(&Manifest::new(config, vec![layer])).unwrap();
        let one = found(&[entry("m", json!({}))]);
        let needed = one.blobs(&|_| Ok(manifest.clone())).unwrap();
        assert_eq!(needed, [b"m", b"c", b"l"].map(|bytes| Digest::of(bytes).hex()).into());
        assert_eq!(one.blobs(&|_| Ok(b"{}".to_vec())), None);
        assert_eq!(one.blobs(&unread), None);
        // A digest of another algorithm stays in the index, but nobody knows what it needs.
        let mut foreign = entry("m", json!({ ANNOTATION_TAG: "x" }));
        foreign["digest"] = format!("sha512:{}", "a".repeat(128)).into();
        let mut two = found(&[foreign.clone()]);
        assert_eq!(two.blobs(&|_| Ok(manifest.clone())), None);
        let place = two.retain_others_than(&export(&[]), &unread);
        let index: Value = serde_json::from_slice(&two.with(&export(&[]), place).unwrap().0).unwrap();
        assert_eq!(index["manifests"][0], foreign);
    }
}
