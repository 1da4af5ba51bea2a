//! Reads an OCI layout the way any other tool would: documents and tars.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde_json::Value;

/// The one image of an OCI layout.
pub(crate) struct Layout {
    folder: PathBuf,
    manifest: Value,
}

impl Layout {
    pub(crate) fn open(folder: &Path) -> Self {
        let index: Value = serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
        let mut layout = Self { folder: folder.to_owned(), manifest: index["manifests"][0].clone() };
        layout.manifest = layout.json(&layout.manifest);
        layout
    }

    fn blob(&self, descriptor: &Value) -> Vec<u8> {
        let hex = descriptor["digest"].as_str().unwrap().trim_start_matches("sha256:");
        let bytes = fs::read(self.folder.join("blobs/sha256").join(hex)).unwrap();
        assert_eq!(bytes.len() as u64, descriptor["size"].as_u64().unwrap());
        bytes
    }

    fn json(&self, descriptor: &Value) -> Value {
        serde_json::from_slice(&self.blob(descriptor)).unwrap()
    }

    pub(crate) fn config(&self) -> Value {
        self.json(&self.manifest["config"])
    }

    /// The digests of the layers, the lowest first.
    pub(crate) fn layers(&self) -> Vec<String> {
        let layers = self.manifest["layers"].as_array().unwrap();
        layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
    }

    /// The size of all files of all layers, unpacked.
    pub(crate) fn size(&self) -> u64 {
        let mut size = 0;
        self.each(&mut |_, header, _| size += header.size().unwrap());
        size
    }

    fn each(&self, visit: &mut dyn FnMut(&str, &tar::Header, &mut dyn Read)) {
        for layer in self.manifest["layers"].as_array().unwrap() {
            let blob = self.blob(layer);
            let mut archive = tar::Archive::new(MultiGzDecoder::new(&blob[..]));
            for entry in archive.entries().unwrap() {
                let mut entry = entry.unwrap();
                let path = entry.path().unwrap().to_string_lossy().into_owned();
                let header = entry.header().clone();
                visit(path.trim_start_matches("./").trim_end_matches('/'), &header, &mut entry);
            }
        }
    }

    /// All entries of all layers, as `mode uid:gid type`. Of whiteouts, which no base image of the tests has, nothing is
    /// known here.
    pub(crate) fn files(&self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        self.each(&mut |path, header, _| {
            let kind = format!("{:?}", header.entry_type()).to_lowercase();
            let (mode, uid, gid) = (header.mode().unwrap(), header.uid().unwrap(), header.gid().unwrap());
            found.insert(path.to_owned(), format!("{mode:04o} {uid}:{gid} {kind}"));
        });
        found
    }

    /// The text of a file: of the topmost layer that has it.
    pub(crate) fn text(&self, path: &str) -> String {
        let mut text = None;
        self.each(&mut |name, _, contents| {
            if name == path {
                let mut bytes = Vec::new();
                contents.read_to_end(&mut bytes).unwrap();
                text = Some(String::from_utf8_lossy(&bytes).into_owned());
            }
        });
        text.unwrap_or_else(|| panic!("the image has no {path}"))
    }

    /// The header of every entry, layer by layer.
    pub(crate) fn headers(&self, visit: &mut dyn FnMut(&str, &tar::Header)) {
        self.each(&mut |path, header, _| visit(path, header));
    }

    /// The texts of all files whose path fits.
    pub(crate) fn texts(&self, fits: &dyn Fn(&str) -> bool) -> String {
        let mut all = Vec::new();
        self.each(&mut |name, _, contents| {
            if fits(name) {
                contents.read_to_end(&mut all).unwrap();
            }
        });
        String::from_utf8_lossy(&all).into_owned()
    }
}
