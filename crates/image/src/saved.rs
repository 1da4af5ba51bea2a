//! Images as `docker save` wrote them before Docker 25, and as skopeo's `docker-archive:` still does: a `manifest.json` that
//! names configs and uncompressed tars of layers, wherever in the archive they lie. They become an OCI layout.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use wbuild_layer::{Expected, Layer, Recipe, WriteError, recode};
use wbuild_oci::{
    Descriptor, Digest, ImageConfig, Index, MAX_DOCUMENT_BYTES, Manifest, Reference, media, to_canonical_json,
};

use crate::export::{ANNOTATION_NAME, ANNOTATION_TAG, INDEX_FILE, LAYOUT_FILE, LAYOUT_VERSION};
use crate::unpack::UnpackError;

/// The index of such an archive.
const MANIFESTS: &str = "manifest.json";

/// Links from one layer to an equal one, as old Dockers have them, do not go on for longer than this.
const MAX_LINKS: usize = 8;

/// What an archive holds beside a layout, by its name in there: nobody knows what matters before its end.
#[derive(Debug)]
pub(crate) struct Saved {
    archive: PathBuf,
    folder: PathBuf,
    entries: BTreeMap<String, Entry>,
    files: u64,
}

#[derive(Debug)]
enum Entry {
    File(PathBuf),
    Link(String),
}

/// An image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

impl Saved {
    /// For what comes out of `archive`; `folder` is made when something does.
    pub(crate) fn new(archive: &Path, folder: PathBuf) -> Self {
        Self { archive: archive.to_owned(), folder, entries: BTreeMap::new(), files: 0 }
    }

    /// Where the file of this name is to be written: no path of the archive decides about that.
    pub(crate) fn file(&mut self, name: String) -> Result<PathBuf, UnpackError> {
        let write = |source| UnpackError::Write { path: self.folder.clone(), source };
        fs::create_dir_all(&self.folder).map_err(write)?;
        let path = self.folder.join(self.files.to_string());
        self.files += 1;
        self.entries.insert(name, Entry::File(path.clone()));
        Ok(path)
    }

    /// A link of this name, to what lies in the archive.
    pub(crate) fn link(&mut self, name: String, target: String) {
        self.entries.insert(name, Entry::Link(target));
    }

    /// Writes the layout, if this is an archive of images; layers are compressed as wbuild's own are.
    pub(crate) fn into_layout(self, layout: &Path) -> Result<(), UnpackError> {
        if !self.entries.contains_key(MANIFESTS) {
            return Err(UnpackError::NoLayout { path: self.archive });
        }
        let images: Vec<SavedImage> = serde_json::from_slice(&self.document(MANIFESTS)?)
            .map_err(|source| self.malformed(MANIFESTS, source))?;
        let mut index = Vec::new();
        let mut layers = BTreeMap::new();
        for image in images {
            index.extend(self.image(layout, image, &mut layers)?);
        }
        let index = canonical(&Index::new(index))?;
        for (name, bytes) in [(INDEX_FILE, &*index), (LAYOUT_FILE, LAYOUT_VERSION)] {
            let path = layout.join(name);
            fs::write(&path, bytes).map_err(|source| UnpackError::Write { path, source })?;
        }
        fs::remove_dir_all(&self.folder).map_err(|source| UnpackError::Write { path: self.folder, source })
    }

    /// An image's entries of the index, one for each of its names.
    fn image(
        &self,
        layout: &Path,
        image: SavedImage,
        known: &mut BTreeMap<PathBuf, Layer>,
    ) -> Result<Vec<Descriptor>, UnpackError> {
        let config_bytes = self.document(&image.config)?;
        let config: ImageConfig =
            serde_json::from_slice(&config_bytes).map_err(|source| self.malformed(&image.config, source))?;
        let files = image.layers.unwrap_or_default();
        if files.len() != config.rootfs.diff_ids.len() {
            let why = format!("has {} diff ids for {} layers", config.rootfs.diff_ids.len(), files.len());
            return Err(self.malformed(&image.config, io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        let mut layers = Vec::new();
        for (name, diff_id) in files.iter().zip(&config.rootfs.diff_ids) {
            let file = self.resolve(name)?;
            let layer = match known.get(file) {
                Some(layer) if layer.diff_id == *diff_id => layer.clone(),
                _ => {
                    let expected = Expected { digest: None, diff_id: Some(*diff_id) };
                    let layer = self.layer(layout, name, file, &expected)?;
                    known.insert(file.to_owned(), layer.clone());
                    layer
                }
            };
            layers.push(Descriptor::new(layer.media_type, layer.digest, layer.size));
        }
        let config_blob = blob(layout, media::CONFIG, &config_bytes)?;
        let manifest = canonical(&Manifest::new(config_blob, layers))?;
        let mut root = blob(layout, media::MANIFEST, &manifest)?;
        root.platform = Some(config.platform());
        let names = image.repo_tags.unwrap_or_default();
        let named = names.iter().filter_map(|name| name.parse::<Reference>().ok()).map(|name| {
            let mut entry = root.clone();
            entry.annotations.insert(ANNOTATION_NAME.to_owned(), name.to_string());
            entry.annotations.extend(name.tag.map(|tag| (ANNOTATION_TAG.to_owned(), tag)));
            entry
        });
        let named: Vec<Descriptor> = named.collect();
        Ok(if named.is_empty() { vec![root] } else { named })
    }

    fn layer(
        &self,
        layout: &Path,
        name: &str,
        file: &Path,
        expected: &Expected,
    ) -> Result<Layer, UnpackError> {
        let draft = self.folder.join("layer");
        let write = |source| UnpackError::Write { path: draft.clone(), source };
        let from = File::open(file).map_err(|source| UnpackError::Read { path: file.to_owned(), source })?;
        let mut out = io::BufWriter::with_capacity(256 << 10, File::create(&draft).map_err(write)?);
        let layer = recode(from, expected, &Recipe::default(), &mut out).map_err(|error| {
            let why = match error {
                WriteError::Blob(source) => source,
                error => io::Error::other(error),
            };
            self.malformed(name, why)
        })?;
        out.flush().map_err(write)?;
        let path = blob_path(layout, &layer.digest);
        fs::rename(&draft, &path).map_err(|source| UnpackError::Write { path, source })?;
        Ok(layer)
    }

    /// The file that a name of `manifest.json` means.
    fn resolve(&self, name: &str) -> Result<&Path, UnpackError> {
        let mut at = clean(name);
        for _ in 0..=MAX_LINKS {
            match at.as_deref().and_then(|at| self.entries.get(at)) {
                Some(Entry::File(path)) => return Ok(path),
                Some(Entry::Link(target)) => at = clean(target),
                None => break,
            }
        }
        let why = format!("`{}` is named in {MANIFESTS} and is not there", name.escape_debug());
        Err(UnpackError::Read {
            path: self.archive.clone(),
            source: io::Error::new(io::ErrorKind::NotFound, why),
        })
    }

    fn document(&self, name: &str) -> Result<Vec<u8>, UnpackError> {
        let path = self.resolve(name)?;
        let read = |source| UnpackError::Read { path: self.archive.clone(), source };
        if fs::metadata(path).map_err(read)?.len() > MAX_DOCUMENT_BYTES {
            let why = format!("`{}` has more than {MAX_DOCUMENT_BYTES} bytes", name.escape_debug());
            return Err(read(io::Error::new(io::ErrorKind::InvalidData, why)));
        }
        fs::read(path).map_err(read)
    }

    fn malformed(&self, name: &str, source: impl Into<io::Error>) -> UnpackError {
        let why = format!("`{}`: {}", name.escape_debug(), source.into());
        UnpackError::Read {
            path: self.archive.clone(),
            source: io::Error::new(io::ErrorKind::InvalidData, why),
        }
    }
}

/// A path inside the archive, without `.` and `..`; none when it leaves it.
pub(crate) fn clean(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

fn canonical<T: serde::Serialize>(document: &T) -> Result<Vec<u8>, UnpackError> {
    to_canonical_json(document).map_err(UnpackError::Json)
}

fn blob_path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

fn blob(layout: &Path, media_type: &str, bytes: &[u8]) -> Result<Descriptor, UnpackError> {
    let digest = Digest::of(bytes);
    let path = blob_path(layout, &digest);
    fs::write(&path, bytes).map_err(|source| UnpackError::Write { path, source })?;
    Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OciLayout, Select, collect_image, unpack_archive};
    use wbuild_oci::Platform;

    /// A tar of files and links (`name -> target`), as `docker save` has them.
    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            if let Some((name, target)) = name.split_once(" -> ") {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, name, target).unwrap();
            } else {
                header.set_size(bytes.len() as u64);
                tar.append_data(&mut header, name, *bytes).unwrap();
            }
        }
        tar.into_inner().unwrap()
    }

    fn config(layers: &[&[u8]]) -> Vec<u8> {
        let diff_ids: Vec<String> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let config = serde_json::json!({ "architecture": "amd64", "os": "linux", "config": { "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids } });
        serde_json::to_vec(&config).unwrap()
    }

    fn unpacked(entries: &[(&str, &[u8])]) -> Result<(tempfile::TempDir, PathBuf), String> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.tar");
        fs::write(&file, archive(entries)).unwrap();
        let layout = folder.path().join("out");
        match unpack_archive(&file, &layout) {
            Ok(()) => Ok((folder, layout)),
            Err(error) => {
                let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                Err(format!("{error}: {why}").replace(&*file.to_string_lossy(), "x.tar"))
            }
        }
    }

    #[test]
    fn archives_of_old_dockers_become_layouts() {
        let layer = archive(&[("etc/os-release", b"ID=alpine")]);
        let config = config(&[&layer, &layer]);
        let manifests = br#"[{"Config":"c.json","RepoTags":["app:v1","host:5000/app:v2"],"Layers":["a/layer.tar","b/layer.tar"]}]"#;
        let (_kept, layout) = unpacked(&[
            ("a/VERSION", b"1.0"),
            ("a/layer.tar", &layer),
            ("b/layer.tar -> ../a/layer.tar", b""),
            ("c.json", &config),
            ("manifest.json", manifests),
        ])
        .unwrap();
        let opened = OciLayout::open(&layout).unwrap();
        let platform: Platform = "linux/amd64".parse().unwrap();
        let root = opened.find(&Select::Tag("v2".to_owned()), &platform).unwrap();
        let parts = collect_image(&root, &opened).unwrap();
        assert_eq!(parts.configs[0].bytes, config, "its digest is the image's id");
        assert_eq!(parts.layers.len(), 1, "the layer that is there twice is one blob");
        assert_eq!(parts.layers[0].media_type, media::LAYER_GZIP);
        assert!(!layout.join("saved").exists());
    }

    #[test]
    fn what_is_wrong_with_one_is_said() {
        let layer = archive(&[("x", b"1")]);
        let good = config(&[&layer]);
        let other = config(&[b"other"]);
        let manifests: &[u8] = br#"[{"Config":"c.json","RepoTags":null,"Layers":["l.tar"]}]"#;
        let outside: &[u8] = br#"[{"Config":"../../etc/passwd","Layers":[]}]"#;
        type Entries<'a> = &'a [(&'a str, &'a [u8])];
        let cases: [(Entries<'_>, &str); 6] = [
            (
                &[("c.json", &good), ("manifest.json", manifests)],
                "`l.tar` is named in manifest.json and is not there",
            ),
            (
                &[("c.json", &good), ("l.tar -> l.tar", b""), ("manifest.json", manifests)],
                "`l.tar` is named in",
            ),
            (&[("c.json", &other), ("l.tar", &layer), ("manifest.json", manifests)], "diff id"),
            (&[("c.json", b"{}"), ("l.tar", &layer), ("manifest.json", manifests)], "`c.json`"),
            (&[("manifest.json", outside)], "`../../etc/passwd` is named in manifest.json and is not there"),
            (&[("repositories", b"{}")], "is no archive of an image"),
        ];
        for (entries, expected) in cases {
            let error = unpacked(entries).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_name_that_comes_twice_is_what_came_last() {
        let layer = archive(&[("x", b"1")]);
        let config = config(&[&layer]);
        let manifests: &[u8] = br#"[{"Config":"c.json","Layers":["l.tar"]}]"#;
        let entries: [(&str, &[u8]); 5] = [
            ("c.json", b"{"),
            ("l.tar", b""),
            ("c.json", &config),
            ("l.tar", &layer),
            ("manifest.json", manifests),
        ];
        assert!(unpacked(&entries).is_ok());
    }
}
