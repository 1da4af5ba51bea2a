//! Whether an output can be written, as far as that is known before the build.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use wbuild_engine::check_files_folder;
use wbuild_image::check_layout_folder;
use wbuild_load::{Machine, choose_engine, choose_store};

use super::{ImageOutput, ImagePlace, Output};
use crate::commands::{Failure, WriteError};

/// The file or folder that an output is, unless it is standard output or no file at all.
fn path(output: &Output) -> Option<&Path> {
    let path = match output {
        Output::Image(ImageOutput { place, .. }) => match place {
            ImagePlace::Layout(path, _) | ImagePlace::Archive(_, path) => path,
            ImagePlace::Docker { .. } | ImagePlace::Store | ImagePlace::Registry(_) => return None,
        },
        Output::Files(path, ..) | Output::Tar(path, _) => path,
        Output::Nothing => return None,
    };
    Some(path)
}

/// Whether an output is an archive on standard output.
pub(super) fn is_standard_output(output: &Output) -> bool {
    path(output).is_some_and(|path| path.as_os_str() == "-")
}

/// Refuses two outputs in one place.
pub(super) fn check_apart(outputs: &[Output]) -> Result<(), Failure> {
    for (index, output) in outputs.iter().enumerate() {
        let Some(place) = path(output) else { continue };
        if outputs[..index].iter().any(|other| path(other) == Some(place)) {
            let place = match is_standard_output(output) {
                true => "standard output".to_owned(),
                false => format!("`{}`", place.display()),
            };
            return Err(Failure::usage(format!("two outputs go to {place}"), "give each a place of its own"));
        }
    }
    Ok(())
}

/// Whether an output can be written. Makes nothing.
pub(super) fn check(output: &Output, variable: &dyn Fn(&str) -> Option<String>) -> Result<(), Failure> {
    if let Output::Image(ImageOutput { place, .. }) = output {
        let machine = Machine { variable };
        match place {
            ImagePlace::Docker { context } => {
                choose_engine(context.as_deref(), &machine).map_err(Failure::new)?;
            }
            ImagePlace::Store => {
                choose_store(&machine).map_err(Failure::new)?;
            }
            ImagePlace::Layout(..) | ImagePlace::Archive(..) | ImagePlace::Registry(_) => {}
        }
    }
    let Some(place) = path(output).filter(|_| !is_standard_output(output)) else { return Ok(()) };
    match output {
        Output::Image(ImageOutput { place: ImagePlace::Layout(..), .. }) => {
            check_folder(place, place)?;
            check_layout_folder(place).map_err(Failure::new)
        }
        Output::Files(..) => {
            check_files_folder(place).map_err(Failure::new)?;
            check_folder(place, place)
        }
        _ => check_file(place),
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
