//! Where an image goes: `--output`, and a look at the places before anything is built.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use wbuild_engine::{BuiltImage, EngineError};
use wbuild_image::{
    ArchiveFormat, Export, check_layout_folder, is_archive_name, write_archive_file, write_layout,
};

use super::{Failure, WriteError};

/// What wbuild writes into a checkout lies here, and is no part of it.
const OWN: &str = ".wbuild";

/// Where an image goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// A folder, blobs linked from the store.
    Layout(PathBuf),
    /// A tar of one.
    Archive(PathBuf),
}

impl Output {
    /// `type=oci,dest=PATH[,tar=false]`; a bare path is an archive when it ends in `.tar`, and a folder otherwise (docker's
    /// short form of `local`, here a layout).
    pub(crate) fn parse(text: &str) -> Result<Self, Failure> {
        let usage = |message: String| {
            Failure::usage(
                message,
                "outputs are of the form type=oci,dest=FILE.tar or type=oci,dest=FOLDER,tar=false",
            )
        };
        if text.is_empty() {
            return Err(usage("--output names nothing".to_owned()));
        }
        if text == "-" || text.split(',').any(|part| part == "dest=-") {
            return Err(usage("the image cannot go to standard output, where its digest goes".to_owned()));
        }
        if !text.contains('=') {
            let path = PathBuf::from(text);
            return Ok(if is_archive_name(&path) { Self::Archive(path) } else { Self::Layout(path) });
        }
        let (mut kind, mut dest, mut tar) = (None, None, true);
        for part in text.split(',') {
            match part.split_once('=') {
                Some(("type", value)) => kind = Some(value.to_owned()),
                Some(("dest", value)) => dest = Some(PathBuf::from(value)),
                Some(("tar", value)) => tar = value != "false",
                _ => return Err(usage(format!("`{part}` means nothing in --output"))),
            }
        }
        match (kind.as_deref(), dest) {
            (Some("oci"), Some(dest)) if tar => Ok(Self::Archive(dest)),
            (Some("oci"), Some(dest)) => Ok(Self::Layout(dest)),
            (Some("oci"), None) => Err(usage("--output type=oci needs a dest".to_owned())),
            (kind, _) => Err(usage(format!(
                "this version writes outputs of type oci, not `{}`",
                kind.unwrap_or_default()
            ))),
        }
    }

    /// All of them, which must lie in different places.
    pub(crate) fn parse_all(texts: &[String]) -> Result<Vec<Self>, Failure> {
        let outputs = texts.iter().map(|text| Self::parse(text)).collect::<Result<Vec<_>, _>>()?;
        for (index, output) in outputs.iter().enumerate() {
            if outputs[..index].iter().any(|other| other.path() == output.path()) {
                let message = format!("two outputs go to `{}`", output.path().display());
                return Err(Failure::usage(message, "give each a place of its own"));
            }
        }
        Ok(outputs)
    }

    pub(crate) fn path(&self) -> &Path {
        let (Self::Layout(path) | Self::Archive(path)) = self;
        path
    }

    /// Whether it can be written, as far as that is known before the build. Makes nothing.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self {
            Self::Layout(folder) => {
                check_folder(folder, folder)?;
                check_layout_folder(folder).map_err(Failure::new)
            }
            Self::Archive(path) => check_file(path),
        }
    }

    /// Writes the image. `root` is that of the workspace.
    pub(crate) fn write(&self, export: &Export, built: &BuiltImage, root: &Path) -> Result<(), EngineError> {
        match self {
            Self::Layout(folder) => {
                let own = root.join(OWN);
                if folder.starts_with(&own) {
                    let ignore = own.join(".gitignore");
                    let wrong = |source| EngineError::Io { action: "write", path: ignore.clone(), source };
                    std::fs::create_dir_all(folder).map_err(wrong)?;
                    if !ignore.exists() {
                        std::fs::write(&ignore, "*\n").map_err(wrong)?;
                    }
                }
                write_layout(folder, export, built).map_err(|error| built.not_written(error))?;
            }
            Self::Archive(path) => {
                write_archive_file(export, ArchiveFormat::Oci, built, path)
                    .map_err(|error| built.not_written(error))?;
            }
        }
        Ok(())
    }
}

/// Whether a file can be written here, without touching one that is there.
pub(crate) fn check_file(path: &Path) -> Result<(), Failure> {
    let wrong = |source| Failure::new(WriteError { path: path.to_owned(), source });
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => Err(wrong(io::ErrorKind::IsADirectory.into())),
        // Such as /dev/null: there is nothing to be replaced.
        Ok(found) if !found.is_file() => Ok(()),
        Ok(_) => OpenOptions::new().append(true).open(path).map(drop).map_err(wrong),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            match std::fs::metadata(parent) {
                Ok(found) if !found.is_dir() => Err(wrong(io::ErrorKind::NotADirectory.into())),
                Ok(_) => check_folder(parent, path),
                Err(error) => Err(wrong(error)),
            }
        }
        Err(error) => Err(wrong(error)),
    }
}

/// Whether something can be made in `folder`, or in the nearest one above it that is there. Permissions alone do not say that:
/// for root they always look well. `output` is what a person calls it.
fn check_folder(folder: &Path, output: &Path) -> Result<(), Failure> {
    let wrong = |source| Failure::new(WriteError { path: output.to_owned(), source });
    let here = std::path::absolute(folder).map_err(wrong)?;
    for place in here.ancestors() {
        match std::fs::metadata(place) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(wrong(error)),
            Ok(found) if !found.is_dir() => return Err(wrong(io::ErrorKind::NotADirectory.into())),
            Ok(_) => {
                let probe = place.join(format!(".wbuild-probe-{}", std::process::id()));
                std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe)).map_err(wrong)?;
                return Ok(());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_as_buildx_writes_them() {
        let parse = |text: &str| Output::parse(text).ok();
        assert_eq!(parse("type=oci,dest=a.tar"), Some(Output::Archive("a.tar".into())));
        assert_eq!(parse("type=oci,dest=a,tar=false"), Some(Output::Layout("a".into())));
        assert_eq!(parse("out"), Some(Output::Layout("out".into())));
        assert_eq!(parse("out/web.tar"), Some(Output::Archive("out/web.tar".into())));
        for wrong in
            ["type=oci", "type=docker,dest=x", "type=oci,dest=x,compression=zstd", "-", "type=oci,dest=-"]
        {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
        let all = |texts: [&str; 2]| Output::parse_all(&texts.map(str::to_owned)).is_ok();
        assert!(all(["a", "b"]) && !all(["a", "type=oci,dest=a,tar=false"]));
    }
}
