//! `--output`, and what is said about it afterwards.

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use wbuild_engine::{BuiltImage, EngineError, Existing, FilesOutput};
use wbuild_graph::Snapshot;
use wbuild_image::{
    ArchiveFormat, ExportError, check_layout_folder, write_archive, write_archive_file, write_layout,
};
use wbuild_tree::EntryPath;

use wbuild_solver::Solution;

use super::Job;
use crate::args::BuildArgs;
use crate::commands::attest::Findings;
use crate::commands::output::check_file;
use crate::commands::result::describe;
use crate::commands::{Failure, WriteError, print};
use crate::progress::ProgressMode;
use crate::render::size;

/// What is to be written.
#[derive(Debug)]
pub(super) struct Outputs {
    list: Vec<Output>,
}

/// One thing to write.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Output {
    /// An OCI layout in a folder, blobs linked from the store.
    Layout(PathBuf),
    /// An image in a tar file.
    Archive(ArchiveFormat, PathBuf),
    /// The files of the root file system in a folder.
    Files(PathBuf, Existing),
    /// The files of the root file system in a tar file.
    Tar(PathBuf),
    /// Nothing: the result stays in the store.
    Nothing,
}

/// Why an output could not be written.
#[derive(Debug)]
pub(super) enum OutputError {
    Engine(EngineError),
    Export(ExportError),
}

impl OutputError {
    /// Whether making something again helps. An archive that was begun on standard output cannot be begun again.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self, Self::Engine(error) if error.is_lost())
    }

    pub(super) fn failure(self) -> Failure {
        match self {
            Self::Engine(error) => error.into(),
            Self::Export(error) => Failure::new(error),
        }
    }
}

impl From<EngineError> for OutputError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl OutputError {
    /// A layer that turned out to be damaged is one that has to be made again.
    fn of_blobs(built: &BuiltImage, error: ExportError) -> Self {
        match error {
            ExportError::Blob { .. } => Self::Engine(built.not_written(error)),
            other => Self::Export(other),
        }
    }
}

impl From<ExportError> for OutputError {
    fn from(error: ExportError) -> Self {
        Self::Export(error)
    }
}

impl Outputs {
    pub(super) fn parse(args: &BuildArgs) -> Result<Self, Failure> {
        let list: Vec<Output> = args.outputs.iter().map(|text| output(text)).collect::<Result<_, _>>()?;
        let outputs = Self { list };
        if outputs.on_stdout() && std::io::stdout().is_terminal() {
            return Err(Failure::usage(
                "an archive cannot be shown on a terminal",
                "redirect standard output, or name a file with dest=",
            ));
        }
        outputs.check()?;
        Ok(outputs)
    }

    /// Whether standard output gets an archive, and so nothing else.
    fn on_stdout(&self) -> bool {
        let dash = |output: &Output| matches!(output, Output::Archive(_, path) | Output::Tar(path) if path.as_os_str() == "-");
        self.list.iter().any(dash)
    }

    /// Finds out before the build what could not be written after it.
    fn check(&self) -> Result<(), Failure> {
        for output in &self.list {
            match output {
                Output::Layout(folder) => check_layout_folder(folder).map_err(Failure::new)?,
                Output::Archive(_, path) | Output::Tar(path) if path.as_os_str() != "-" => check_file(path)?,
                Output::Files(path, _) if path.exists() && !path.is_dir() => {
                    let source = std::io::ErrorKind::NotADirectory.into();
                    return Err(Failure::new(WriteError { path: path.clone(), source }));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Whether somebody wants an image and not only files.
    fn want_image(&self, args: &BuildArgs) -> bool {
        let image = |output: &Output| matches!(output, Output::Layout(_) | Output::Archive(..));
        let nothing_else = self.list.is_empty();
        nothing_else || self.list.iter().any(image) || args.iidfile.is_some() || args.metadata_file.is_some()
    }
}

/// `type=…,dest=…`; a bare path is `type=local`, as for docker.
fn output(text: &str) -> Result<Output, Failure> {
    let usage = |message: String| {
        Failure::usage(
            message,
            "for example type=oci,dest=image.tar or type=oci,dest=FOLDER,tar=false or type=local,dest=FOLDER",
        )
    };
    if text.is_empty() {
        return Err(usage("--output names nothing".to_owned()));
    }
    if !text.contains('=') {
        return Ok(if text == "-" {
            Output::Tar("-".into())
        } else {
            Output::Files(PathBuf::from(text), Existing::Keep)
        });
    }
    let (mut kind, mut dest, mut tar, mut existing) = (None, None, true, Existing::Keep);
    for part in text.split(',') {
        match part.split_once('=') {
            Some(("type", value)) => kind = Some(value.to_owned()),
            Some(("dest" | "output", value)) => dest = Some(PathBuf::from(value)),
            Some(("tar", "true" | "false")) => tar = part.ends_with("true"),
            Some(("mode", "copy")) => existing = Existing::Keep,
            Some(("mode", "delete")) => existing = Existing::Delete,
            _ => return Err(usage(format!("`{part}` means nothing in --output"))),
        }
    }
    let kind = kind.unwrap_or_else(|| "local".to_owned());
    let need = |dest: Option<PathBuf>| {
        dest.filter(|dest| !dest.as_os_str().is_empty())
            .ok_or_else(|| usage(format!("--output type={kind} needs a dest")))
    };
    // Without a place an archive goes to standard output, as for docker.
    let or_stdout = |dest: Option<PathBuf>| dest.unwrap_or_else(|| PathBuf::from("-"));
    Ok(match kind.as_str() {
        "oci" if tar => Output::Archive(ArchiveFormat::Oci, or_stdout(dest)),
        "oci" => Output::Layout(need(dest)?),
        "docker" if tar => Output::Archive(ArchiveFormat::Docker, or_stdout(dest)),
        "local" => Output::Files(need(dest)?, existing),
        "tar" => Output::Tar(or_stdout(dest)),
        "cacheonly" => Output::Nothing,
        other => {
            return Err(usage(format!("this version writes no outputs of type `{other}`")));
        }
    })
}

/// Writes all outputs of a solved target; gives the image if one was wanted.
pub(super) fn write(job: &Job<'_>, solution: &Solution, snapshot: &Snapshot) -> Result<Written, OutputError> {
    let mut image = match job.outputs.want_image(job.args) {
        true => Some(job.engine.export(job.target, snapshot, job.export)?),
        false => None,
    };
    let attested = !job.attestor.requests.is_empty();
    let findings = if attested { job.attestor.look(solution, snapshot)? } else { Findings::default() };
    if attested {
        if let Some(built) = &mut image {
            job.attestor.attach(&findings, built)?;
        }
        job.attestor.write(&findings, image.as_ref())?;
    }
    let times = job.export.recipe.times;
    let mut skipped = Vec::new();
    for output in &job.outputs.list {
        match (output, &image) {
            (Output::Layout(folder), Some(built)) => {
                write_layout(folder, &built.export(job.tags.to_vec()).map_err(EngineError::from)?, built)
                    .map_err(|error| OutputError::of_blobs(built, error))?;
            }
            (Output::Archive(format, path), Some(built)) => {
                // `docker load` takes images and nothing else.
                let export = match format {
                    ArchiveFormat::Docker => built.plain_export(job.tags.to_vec()),
                    ArchiveFormat::Oci => built.export(job.tags.to_vec()).map_err(EngineError::from)?,
                };
                if path.as_os_str() == "-" {
                    write_archive(&export, *format, built, std::io::stdout().lock())?;
                } else {
                    write_archive_file(&export, *format, built, path)
                        .map_err(|error| OutputError::of_blobs(built, error))?;
                }
            }
            (Output::Files(folder, existing), _) => {
                let files = FilesOutput::Folder { path: folder, existing: *existing };
                skipped.extend(job.engine.write_files(snapshot, times, &files)?.skipped);
                job.attestor.write_beside(&findings, folder, snapshot)?;
            }
            (Output::Tar(path), _) => {
                if path.as_os_str() == "-" {
                    job.engine.write_tar(snapshot, times, &mut std::io::stdout().lock())?;
                } else {
                    job.engine.write_files(snapshot, times, &FilesOutput::Tar(path))?;
                }
            }
            (Output::Nothing | Output::Layout(_) | Output::Archive(..), _) => {}
        }
    }
    Ok(Written { image, skipped })
}

/// What was written.
pub(super) struct Written {
    image: Option<BuiltImage>,
    /// Devices that only root can make.
    skipped: Vec<EntryPath>,
}

impl Written {
    pub(super) fn report(&self, args: &BuildArgs, outputs: &Outputs) -> Result<(), Failure> {
        // Views for programs hold nothing else.
        let plain: Box<dyn Write> = match args.progress.progress {
            ProgressMode::Json | ProgressMode::Quiet => Box::new(std::io::sink()),
            _ => Box::new(std::io::stderr()),
        };
        let mut err = plain;
        for output in &outputs.list {
            // Only for people: scripts read the digest from standard output.
            let _ = match (output, &self.image) {
                (Output::Layout(path) | Output::Archive(_, path), Some(built)) => {
                    let bytes = size(built.size());
                    writeln!(err, "image {} ({bytes} in {} layers)", path.display(), built.layers.len())
                }
                (Output::Files(path, _) | Output::Tar(path), _) => writeln!(err, "files {}", path.display()),
                _ => Ok(()),
            };
        }
        if outputs.list.is_empty() {
            let _ = writeln!(
                err,
                "no output was asked for: the result stays in the cache; write it with `-o type=oci,dest=FILE.tar`"
            );
        }
        for path in &self.skipped {
            let _ = writeln!(err, "warning: only root can make the device `{path}`, so it is not there");
        }
        let Some(built) = &self.image else { return Ok(()) };
        let digest = built.root.digest;
        describe(built, &args.tags.join(","), args.iidfile.as_deref(), args.metadata_file.as_deref())?;
        if outputs.on_stdout() {
            return Ok(());
        }
        print(&format!("{digest}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_as_buildx_reads_them() {
        let parse = |text: &str| output(text).ok();
        assert_eq!(parse("type=oci,dest=a.tar"), Some(Output::Archive(ArchiveFormat::Oci, "a.tar".into())));
        assert_eq!(parse("type=oci,dest=a,tar=false"), Some(Output::Layout("a".into())));
        assert_eq!(parse("type=docker,dest=a"), Some(Output::Archive(ArchiveFormat::Docker, "a".into())));
        assert_eq!(parse("out"), Some(Output::Files("out".into(), Existing::Keep)));
        assert_eq!(parse("-"), Some(Output::Tar("-".into())));
        assert_eq!(parse("type=cacheonly"), Some(Output::Nothing));
        assert_eq!(parse("type=oci"), Some(Output::Archive(ArchiveFormat::Oci, "-".into())));
        for wrong in ["", "type=local", "type=floppy,dest=x", "type=oci,dest=x,level=9"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
