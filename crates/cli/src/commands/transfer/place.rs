use std::path::{Path, PathBuf};

use wbuild_image::{ArchiveFormat, Select, is_archive_name};
use wbuild_oci::Reference;

use crate::commands::Failure;

/// Where an image is, or goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// A registry.
    Registry(Reference),
    /// The folder of an OCI layout.
    Layout { folder: PathBuf, tag: Option<String> },
    /// A tar of one.
    Archive { file: PathBuf, format: ArchiveFormat, tag: Option<String> },
}

impl Place {
    /// As skopeo has them: `docker://NAME`, `oci:DIR[:TAG]`, `oci-archive:FILE[:TAG]`, `docker-archive:FILE[:NAME]`, and as
    /// buildx has it: `oci-layout://DIR[:TAG]`; anything else is the name of an image in a registry.
    pub(super) fn parse(text: &str) -> Result<Self, Failure> {
        let (kind, rest) = text.split_once(':').unwrap_or(("", text));
        let (kind, rest) = match rest.strip_prefix("//") {
            Some(rest) if kind == "oci-layout" => ("oci", rest),
            _ => (kind, rest),
        };
        if !matches!(kind, "oci" | "oci-archive" | "docker-archive") {
            check_transport(kind, rest, text)?;
            return match mistaken(text) {
                Some(meant) => Err(Failure::usage(
                    format!(
                        "`{}` is a path, and would be taken for the name of an image",
                        text.escape_debug()
                    ),
                    format!("write {meant}, or docker://NAME for an image of that name"),
                )),
                None => Ok(Self::Registry(name(text)?)),
            };
        }
        let (path, tag) = path_and_tag(rest);
        if path.as_os_str().is_empty() {
            return Err(Failure::usage(format!("`{text}` names no path"), "for example oci:out/web:v1"));
        }
        Ok(match kind {
            "oci" => Self::Layout { folder: path, tag },
            "oci-archive" => Self::Archive { file: path, format: ArchiveFormat::Oci, tag },
            _ => Self::Archive { file: path, format: ArchiveFormat::Docker, tag },
        })
    }

    /// What lies on this machine: a folder, or a file, with or without a tag; or written as [`parse`](Self::parse) has it.
    pub(super) fn local(text: &str) -> Result<Self, Failure> {
        let of = |path: PathBuf, tag| match path.is_file() {
            true => Self::Archive { file: path, format: ArchiveFormat::Oci, tag },
            false => Self::Layout { folder: path, tag },
        };
        if Path::new(text).exists() {
            return Ok(of(text.into(), None));
        }
        match Self::parse(text) {
            Ok(place @ (Self::Layout { .. } | Self::Archive { .. })) => return Ok(place),
            Ok(Self::Registry(_)) | Err(_) => {}
        }
        let (path, tag) = path_and_tag(text);
        if path.exists() {
            return Ok(of(path, tag));
        }
        Err(Failure::usage(
            format!("`{}` is neither a folder nor a file", text.escape_debug()),
            "name the folder of an OCI layout, such as .wbuild/image/web, or a tar of one",
        ))
    }

    /// Where `wbuild pull -o` writes.
    pub(super) fn output(path: &Path) -> Self {
        match is_archive_name(path) {
            true => Self::Archive { file: path.to_owned(), format: ArchiveFormat::Oci, tag: None },
            false => Self::Layout { folder: path.to_owned(), tag: None },
        }
    }
}

/// How images are written for `wbuild copy`.
pub(super) const TRANSPORTS: &str = "in a registry: NAME or docker://NAME; on this machine: oci:DIR[:TAG], oci-archive:FILE[:TAG] or \
                                     docker-archive:FILE[:NAME]";

/// Transports of others, and what people write for those that there are.
const OTHER_TRANSPORTS: [&str; 14] = [
    "atomic",
    "containerd",
    "containers-storage",
    "dir",
    "docker-daemon",
    "docker-tar",
    "file",
    "oci-dir",
    "oci-layout",
    "oci-tar",
    "ostree",
    "podman",
    "sif",
    "tarball",
];

/// Whether what stands before the colon can be the name of a repository, or the host of one.
fn check_transport(kind: &str, rest: &str, text: &str) -> Result<(), Failure> {
    let lower = kind.to_ascii_lowercase();
    let ours = matches!(lower.as_str(), "docker" | "oci" | "oci-archive" | "docker-archive");
    let store = matches!(kind, "containers-storage" | "docker-daemon" | "containerd" | "podman");
    if OTHER_TRANSPORTS.contains(&lower.as_str()) || ours && kind != lower {
        let mut hints = vec![TRANSPORTS.to_owned()];
        if store {
            hints.push(format!(
                "`docker save -o FILE NAME` and `podman save -o FILE NAME` write a docker-archive:FILE of what `{kind}` has"
            ));
        }
        let message = format!("`{}:` is no place that images are copied from or to", kind.escape_debug());
        return Err(Failure::Usage { message, hints });
    }
    // `docker:24` is an image.
    if kind == "docker" && !rest.starts_with("//") && rest.contains('/') {
        let meant = format!("write docker://{}", rest.trim_start_matches('/'));
        return Err(Failure::usage(format!("`{}` is no name of an image", text.escape_debug()), meant));
    }
    Ok(())
}

/// What was likely meant by the path of a layout or an archive that stands where a name is expected.
fn mistaken(text: &str) -> Option<String> {
    let path = Path::new(text);
    let has_form = ["/", "./", "../", "~/"].iter().any(|start| text.starts_with(start))
        || text.ends_with('/')
        || matches!(text, "." | "..");
    if is_archive_name(path) && (has_form || path.is_file() || !text.contains(['/', ':'])) {
        return Some(format!("oci-archive:{text}"));
    }
    (has_form || path.join("oci-layout").is_file()).then(|| format!("oci:{text}"))
}

/// The name of an image of a registry; skopeo's `docker://` may stand before it.
pub(super) fn name(text: &str) -> Result<Reference, Failure> {
    for scheme in ["https://", "http://"] {
        if let Some(rest) = text.strip_prefix(scheme) {
            return Err(Failure::usage(
                format!("`{}` is a URL, and images are named without `{scheme}`", text.escape_debug()),
                format!("write {rest}; registries that speak plain http are named in registries.toml"),
            ));
        }
    }
    text.strip_prefix("docker://").unwrap_or(text).parse::<Reference>().map_err(|error| {
        Failure::usage(error.to_string(), "names are of the form [HOST/]REPOSITORY[:TAG|@DIGEST]")
    })
}

/// What a tag of a layout selects.
pub(super) fn select(tag: Option<&str>) -> Select {
    tag.map_or(Select::Only, |tag| Select::Tag(tag.to_owned()))
}

/// A colon in the last component begins a tag; a path that exists as it is has none.
fn path_and_tag(text: &str) -> (PathBuf, Option<String>) {
    if Path::new(text).exists() {
        return (text.into(), None);
    }
    match text.split_once(':') {
        Some((path, tag)) if !tag.is_empty() => (path.into(), Some(tag.to_owned())),
        _ => (text.trim_end_matches(':').into(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let parse = |text: &str| Place::parse(text).unwrap();
        for (text, full) in [
            ("node:22", "docker.io/library/node:22"),
            ("docker://localhost:5000/x", "localhost:5000/x:latest"),
            ("localhost:5000/x:y", "localhost:5000/x:y"),
        ] {
            let Place::Registry(name) = parse(text) else { panic!("{text}") };
            assert_eq!(name.to_string(), full);
        }
        let layout = |folder: &str, tag: Option<&str>| Place::Layout {
            folder: folder.into(),
            tag: tag.map(str::to_owned),
        };
        assert_eq!(parse("oci:a/b"), layout("a/b", None));
        assert_eq!(parse("oci:a/b:v1"), layout("a/b", Some("v1")));
        assert_eq!(parse("oci:a/b:example.org/x:v1"), layout("a/b", Some("example.org/x:v1")));
        assert_eq!(parse("oci-layout://a/b:v1"), layout("a/b", Some("v1")));
        assert!(matches!(parse("docker:24-dind"), Place::Registry(_)));
        for text in [
            "oci:",
            "Node",
            "",
            "docker://",
            "oci-archive:",
            "oci-layout:a",
            "docker:/x",
            "docker:a/b",
            "OCI:a",
            "containers-storage:a",
            "dir:a",
            "https://h/x",
            "./a",
            "/a",
            "a/",
            "out.tar",
        ] {
            assert!(Place::parse(text).is_err(), "{text}");
        }
        assert!(Place::local("missing/path").is_err());
    }

    #[test]
    fn paths_are_not_taken_for_names() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("oci-layout"), "{}").unwrap();
        std::fs::write(folder.path().join("web.tar"), "").unwrap();
        let said = |path: &Path| format!("{:?}", Place::parse(path.to_str().unwrap()).unwrap_err());
        assert!(said(folder.path()).contains("write oci:/"));
        assert!(said(&folder.path().join("web.tar")).contains("write oci-archive:/"));
    }
}
