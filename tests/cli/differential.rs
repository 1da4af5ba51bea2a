//! The project's own Dockerfiles (`tests/dockerfiles`), built by the built binary and by `docker build`: what comes out is
//! the same, file by file, field by field, row of history by row.
//!
//! Docker is Debian's 20.10 with BuildKit on, in a daemon of the test's own: the Dockerfiles keep to what its frontend
//! knows, which is older than the dialect (no heredocs, no `--link`).

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use serde_json::Value;
use tar::EntryType;

use crate::context::{TestContext, bases};
use crate::docker::Docker;

const DOCKERFILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/dockerfiles");
const BASE: &str = "alpine:3.23";
/// What a case's `parent.Dockerfile` becomes, for its `Dockerfile` to begin with.
const PARENT: &str = "parent:1";

/// A difference that is meant.
struct Allowed {
    case: &'static str,
    why: Why,
    /// How the lines begin that only one of the two has.
    lines: &'static [&'static str],
}

/// Why there is a difference.
enum Why {
    /// Docker 20.10 has BuildKit of 2020; the one that the dialect follows does the same as wbuild. No row of
    /// `buildspec/dialect.md`: that is about the newer one, whose answers `crates/dockerfile/tests/conformance.rs` checks.
    Since(&'static str),
}

/// Every difference that is meant, in all cases. None has a row in `buildspec/dialect.md` so far; one that gets there
/// is to name it here.
const ALLOWED: &[Allowed] = &[
    Allowed {
        case: "add",
        why: Why::Since("ADD --chown gives what it unpacks to that user"),
        lines: &["docker /owned/", "wbuild /owned/", "docker /owned:", "wbuild /owned:"],
    },
    Allowed {
        case: "add",
        why: Why::Since("the history shows --chown and --chmod"),
        lines: &["docker history 06 created_by", "wbuild history 06 created_by"],
    },
    Allowed {
        case: "config",
        why: Why::Since("the history shows HEALTHCHECK as a struct with fields"),
        lines: &[
            "docker history 05 created_by = \"HEALTHCHECK",
            "wbuild history 05 created_by = \"HEALTHCHECK",
            "docker history 07 created_by = \"HEALTHCHECK",
            "wbuild history 07 created_by = \"HEALTHCHECK",
        ],
    },
    Allowed {
        case: "copy",
        why: Why::Since("--chmod counts for the folders that COPY makes, too"),
        lines: &["docker /moded:", "wbuild /moded:"],
    },
    Allowed {
        case: "copy",
        why: Why::Since("WORKDIR cleans its path before it makes the folder"),
        lines: &["docker /relative/place:"],
    },
    Allowed {
        case: "copy",
        why: Why::Since("the history shows --chown and --chmod"),
        lines: &[
            "docker history 12 created_by",
            "wbuild history 12 created_by",
            "docker history 13 created_by",
            "wbuild history 13 created_by",
            "docker history 14 created_by",
            "wbuild history 14 created_by",
        ],
    },
    Allowed {
        case: "mounts",
        why: Why::Since("mount points leave no empty folders in the layer"),
        lines: &["docker /cache:", "docker /input:", "docker /mnt/tools:", "docker /scratch:"],
    },
    Allowed {
        case: "scopes",
        why: Why::Since("the history shows the value of an ARG that repeats one from before the first stage"),
        lines: &[
            "docker history 03 created_by = \"ARG",
            "wbuild history 03 created_by = \"ARG",
            "docker history 04 created_by = \"ARG",
            "wbuild history 04 created_by = \"ARG",
        ],
    },
    Allowed {
        case: "scopes",
        why: Why::Since("a stage has the ARGs of the stage that it begins with"),
        lines: &[
            "docker history 09 created_by = \"RUN |1 LOCAL",
            "wbuild history 09 created_by = \"RUN |3 VERSION",
            "docker history 15 created_by = \"RUN |2 LOCAL",
            "wbuild history 15 created_by = \"RUN |4 VERSION",
            "docker history 18 created_by = \"RUN |4 LOCAL",
            "wbuild history 18 created_by = \"RUN |6 VERSION",
        ],
    },
    Allowed {
        case: "scopes",
        why: Why::Since("the history shows EXPOSE as a list"),
        lines: &["docker history 23 created_by = \"EXPOSE", "wbuild history 23 created_by = \"EXPOSE"],
    },
    Allowed {
        case: "stages",
        why: Why::Since("the history shows --chown and --chmod"),
        lines: &["docker history 07 created_by", "wbuild history 07 created_by"],
    },
    Allowed {
        case: "users",
        why: Why::Since("the history shows --chown and --chmod"),
        lines: &[
            "docker history 04 created_by",
            "wbuild history 04 created_by",
            "docker history 05 created_by",
            "wbuild history 05 created_by",
            "docker history 06 created_by",
            "wbuild history 06 created_by",
        ],
    },
];

/// What a case needs beside its files.
fn arguments(case: &str) -> &'static [&'static str] {
    match case {
        "scopes" => &["--build-arg", "GIVEN=given"],
        _ => &[],
    }
}

#[test]
fn the_same_as_docker_build() {
    if bases().is_none() {
        return;
    }
    let context = TestContext::empty();
    let Some(docker) = Docker::start(&context.folder().join("docker")) else { return };
    let copied = Command::new("cp").arg("-r").arg(format!("{DOCKERFILES}/.")).arg(context.site()).status();
    assert!(copied.unwrap().success());
    archives(&context.path("add"));
    let mut cases: Vec<String> = fs::read_dir(DOCKERFILES)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    cases.sort();

    // The base reaches docker as an image of one line, which tests the archive that `docker load` reads besides.
    fs::create_dir(context.path("base")).unwrap();
    context.write("base/Dockerfile", &format!("FROM {BASE}\n"));
    let archive = context.folder().join("base.tar");
    wbuild(&context, "base", "Dockerfile", &["-t", BASE], &format!("type=docker,dest={}", archive.display()));
    docker.run(&["load", "--quiet", "--input", archive.to_str().unwrap()]);

    let (ours, theirs) = std::thread::scope(|scope| {
        let ours = scope.spawn(|| cases.iter().map(|case| ours(&context, case)).collect::<Vec<_>>());
        let theirs = cases.iter().map(|case| docker.image(&context, case)).collect::<Vec<_>>();
        (ours.join().unwrap(), theirs)
    });
    let mut report = String::new();
    let mut used = BTreeSet::new();
    for (case, (ours, theirs)) in cases.iter().zip(ours.iter().zip(&theirs)) {
        let only = |mark, own: &BTreeSet<String>, other: &BTreeSet<String>| {
            own.difference(other).map(|line| format!("{mark} {line}")).collect::<Vec<_>>()
        };
        let (ours, theirs) = (ours.lines(), theirs.lines());
        let mut differences = only("docker", &theirs, &ours);
        differences.extend(only("wbuild", &ours, &theirs));
        differences.retain(|line| {
            let meant = ALLOWED.iter().enumerate().find(|(_, allowed)| {
                allowed.case == case && allowed.lines.iter().any(|start| line.starts_with(start))
            });
            used.extend(meant.map(|(index, _)| index));
            meant.is_none()
        });
        if !differences.is_empty() {
            let _ = writeln!(report, "## {case}\n{}\n", differences.join("\n"));
        }
    }
    for (index, allowed) in ALLOWED.iter().enumerate() {
        if !used.contains(&index) {
            let Why::Since(change) = allowed.why;
            let _ = writeln!(report, "## {}\nnothing differs any more for: {change}\n", allowed.case);
        }
    }
    assert!(report.is_empty(), "{report}");
}

/// Builds a case with the binary.
fn ours(context: &TestContext, case: &str) -> Image {
    let mut args = arguments(case).to_vec();
    let parent;
    if context.path(case).join("parent.Dockerfile").exists() {
        let layout = context.folder().join(format!("{case}-parent"));
        let output = format!("type=oci,tar=false,dest={}", layout.display());
        wbuild(context, case, "parent.Dockerfile", &["-t", PARENT], &output);
        parent = format!("{PARENT}=oci-layout://{}", layout.display());
        args.extend(["--build-context", &parent]);
    }
    let archive = context.folder().join(format!("{case}-wbuild.tar"));
    wbuild(context, case, "Dockerfile", &args, &format!("type=docker,dest={}", archive.display()));
    Image::read(&archive)
}

fn wbuild(context: &TestContext, case: &str, file: &str, args: &[&str], output: &str) {
    let file = format!("{case}/{file}");
    let mut all: Vec<String> =
        ["build", "--network", "none", "--progress", "plain", "-o", output, "-f", &file]
            .map(str::to_owned)
            .to_vec();
    all.extend(context.base_images());
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    all.push(case.to_owned());
    let built = context.run(&all);
    assert_eq!(built.code, 0, "{case}: {built}");
}

impl Docker {
    fn build(&self, context: &TestContext, case: &str, file: &str, tag: &str) {
        let folder = context.path(case);
        let file = folder.join(file);
        let mut args = vec!["build", "--network", "none", "--progress", "plain", "--tag", tag];
        args.extend(["--file", file.to_str().unwrap()]);
        args.extend(arguments(case));
        args.push(folder.to_str().unwrap());
        self.run(&args);
    }

    /// Builds a case.
    fn image(&self, context: &TestContext, case: &str) -> Image {
        if context.path(case).join("parent.Dockerfile").exists() {
            self.build(context, case, "parent.Dockerfile", PARENT);
        }
        let tag = format!("case/{case}:1");
        self.build(context, case, "Dockerfile", &tag);
        let archive = context.folder().join(format!("{case}-docker.tar"));
        self.run(&["save", "--output", archive.to_str().unwrap(), &tag]);
        Image::read(&archive)
    }
}

/// An image out of the archive that `docker load` reads and `docker save` writes.
struct Image {
    config: Value,
    files: BTreeMap<String, Node>,
}

/// What is at a path.
#[derive(Clone)]
struct Node {
    /// The same for all names of one file.
    inode: usize,
    /// Everything about it that is compared.
    shown: String,
    folder: bool,
}

impl Image {
    fn read(archive: &Path) -> Self {
        let mut members = BTreeMap::new();
        for entry in tar::Archive::new(File::open(archive).unwrap()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            // A layer that several images have is there once; the other names are links.
            let target = entry.link_name().unwrap().map(|target| beside(&name, &target));
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            members.insert(name, (bytes, target));
        }
        let member = |name: &str| {
            let mut found = &members[name];
            while let Some(target) = &found.1 {
                found = &members[target];
            }
            &found.0
        };
        let manifest: Value = serde_json::from_slice(member("manifest.json")).unwrap();
        let config = serde_json::from_slice(member(manifest[0]["Config"].as_str().unwrap())).unwrap();
        let mut image = Self { config, files: BTreeMap::new() };
        let mut inodes = 0;
        for layer in manifest[0]["Layers"].as_array().unwrap() {
            let layer = member(layer.as_str().unwrap());
            if layer.starts_with(&[0x1f, 0x8b]) {
                let mut bytes = Vec::new();
                MultiGzDecoder::new(&layer[..]).read_to_end(&mut bytes).unwrap();
                image.apply(&bytes, &mut inodes);
            } else {
                image.apply(layer, &mut inodes);
            }
        }
        image
    }

    /// Lays a layer over what is there.
    fn apply(&mut self, layer: &[u8], inodes: &mut usize) {
        // What it takes away it takes from the layers below it, wherever it says so.
        for entry in tar::Archive::new(layer).entries().unwrap() {
            let path = name_of(&entry.unwrap().path_bytes());
            let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
            let Some(name) = name.strip_prefix(".wh.") else { continue };
            let gone = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
            if name == ".wh..opq" {
                self.remove_below(folder);
            } else {
                self.files.remove(&gone);
                self.remove_below(&gone);
            }
        }
        for entry in tar::Archive::new(layer).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = name_of(&entry.path_bytes());
            if path.is_empty() || path.rsplit('/').next().is_some_and(|name| name.starts_with(".wh.")) {
                continue;
            }
            let header = entry.header().clone();
            let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
            let node = match header.entry_type() {
                EntryType::Link => self.files[&name_of(link.unwrap().as_bytes())].clone(),
                kind => {
                    *inodes += 1;
                    let (mode, uid, gid) = (
                        header.mode().unwrap() & 0o7777,
                        entry_id(&mut entry, "uid"),
                        entry_id(&mut entry, "gid"),
                    );
                    let xattrs = xattrs(&mut entry);
                    let mut bytes = Vec::new();
                    entry.read_to_end(&mut bytes).unwrap();
                    let is = match kind {
                        EntryType::Symlink => format!("link to {}", link.unwrap()),
                        EntryType::Directory => "folder".to_owned(),
                        EntryType::Regular => contents(&bytes),
                        other => format!("{other:?}").to_lowercase(),
                    };
                    let mode =
                        if kind == EntryType::Symlink { String::new() } else { format!("{mode:04o} ") };
                    Node {
                        inode: *inodes,
                        shown: format!("{mode}{uid}:{gid}{xattrs} {is}"),
                        folder: kind == EntryType::Directory,
                    }
                }
            };
            if !node.folder {
                self.remove_below(&path);
            }
            self.files.insert(path, node);
        }
    }

    fn remove_below(&mut self, folder: &str) {
        let start = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        self.files.retain(|path, _| !path.starts_with(&start));
    }

    /// One line for everything that is compared.
    fn lines(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        for field in ["architecture", "os", "variant", "author", "config"] {
            fields(&mut lines, field, &self.config[field]);
        }
        let history = self.config["history"].as_array().unwrap();
        for (index, row) in history.iter().enumerate() {
            for field in ["created_by", "empty_layer", "author", "comment"] {
                fields(&mut lines, &format!("history {index:02} {field}"), &row[field]);
            }
        }
        let mut names: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
        for (path, node) in &self.files {
            names.entry(node.inode).or_default().push(path);
        }
        for (path, node) in &self.files {
            let first = names[&node.inode][0];
            let same = if names[&node.inode].len() > 1 {
                format!(", the same file as /{first}")
            } else {
                String::new()
            };
            lines.insert(format!("/{path}: {}{same}", node.shown));
        }
        lines
    }
}

/// Every value below a field, with its path. What says nothing (`""`, `false`, `null`, nothing in a list) is left out:
/// docker's own config has every field that it knows.
fn fields(lines: &mut BTreeSet<String>, path: &str, value: &Value) {
    match value {
        Value::Null | Value::Bool(false) => {}
        Value::String(text) if text.is_empty() => {}
        Value::Object(map) => {
            for (key, value) in map {
                // A set, such as the ports: that a key is there says it.
                if value.as_object().is_some_and(serde_json::Map::is_empty) {
                    lines.insert(format!("{path}.{key}"));
                }
                fields(lines, &format!("{path}.{key}"), value);
            }
        }
        Value::Array(list) => {
            for (index, value) in list.iter().enumerate() {
                lines.insert(format!("{path}[{index}] = {value}"));
            }
        }
        value => {
            lines.insert(format!("{path} = {value}"));
        }
    }
}

/// A path of an archive as one of the root: without `./`, without a slash at the end.
fn name_of(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.trim_start_matches("./").trim_matches('/').to_owned()
}

/// Where a symbolic link of the archive points to, itself a name of the archive.
fn beside(name: &str, target: &Path) -> String {
    let mut path = PathBuf::from(name);
    path.pop();
    for part in target.components() {
        match part {
            std::path::Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
    }
    path.to_string_lossy().into_owned()
}

fn entry_id<R: Read>(entry: &mut tar::Entry<'_, R>, which: &str) -> u64 {
    let header = entry.header();
    let plain = if which == "uid" { header.uid() } else { header.gid() }.unwrap();
    pax(entry, which).and_then(|value| String::from_utf8(value).ok()?.parse().ok()).unwrap_or(plain)
}

fn pax<R: Read>(entry: &mut tar::Entry<'_, R>, key: &str) -> Option<Vec<u8>> {
    let mut found = entry.pax_extensions().unwrap()?.map(Result::unwrap);
    found.find(|extension| extension.key() == Ok(key)).map(|extension| extension.value_bytes().to_vec())
}

fn xattrs<R: Read>(entry: &mut tar::Entry<'_, R>) -> String {
    let Some(extensions) = entry.pax_extensions().unwrap() else { return String::new() };
    let extensions = extensions.map(Result::unwrap);
    extensions
        .filter(|extension| extension.key().is_ok_and(|key| key.starts_with("SCHILY.xattr.")))
        .map(|extension| format!(" {}", String::from_utf8_lossy(extension.value_bytes())))
        .collect()
}

/// The contents, as far as they are short; of others, what tells them apart.
fn contents(bytes: &[u8]) -> String {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    match std::str::from_utf8(bytes) {
        Ok(text) if text.len() < 200 => format!("{text:?}"),
        _ => {
            let mut hasher = DefaultHasher::new();
            bytes.hash(&mut hasher);
            format!("{} bytes, {:016x}", bytes.len(), hasher.finish())
        }
    }
}

/// The archives that the case `add` unpacks: git would keep neither owners nor hard links.
fn archives(folder: &Path) {
    let mut archive = tar::Builder::new(Vec::new());
    let mut put = |name: &str, kind: EntryType, mode: u32, owner: u64, contents: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(owner);
        header.set_gid(owner + 1);
        header.set_mtime(1_000_000_000);
        if kind == EntryType::Regular {
            header.set_size(contents.len() as u64);
            archive.append_data(&mut header, name, contents.as_bytes()).unwrap();
        } else if kind == EntryType::Directory {
            header.set_size(0);
            archive.append_data(&mut header, name, std::io::empty()).unwrap();
        } else {
            header.set_size(0);
            archive.append_link(&mut header, name, contents).unwrap();
        }
    };
    put("package/", EntryType::Directory, 0o750, 10, "");
    put("package/run", EntryType::Regular, 0o4755, 0, "#!/bin/sh\n");
    put("package/private", EntryType::Regular, 0o600, 11, "secret\n");
    put("package/again", EntryType::Link, 0o600, 11, "package/private");
    put("package/way", EntryType::Symlink, 0o777, 12, "private");
    put("without/its/folder", EntryType::Regular, 0o644, 13, "deep\n");
    put(&format!("long/{}", "name/".repeat(40)), EntryType::Directory, 0o755, 0, "");
    let bytes = archive.into_inner().unwrap();
    fs::write(folder.join("plain.tar"), &bytes).unwrap();
    let mut packed =
        GzEncoder::new(File::create(folder.join("archive.tar.gz")).unwrap(), Compression::fast());
    std::io::Write::write_all(&mut packed, &bytes).unwrap();
    packed.finish().unwrap();
}
