//! Writing what was asked for, and what is said about it afterwards.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use wbuild_attest::Mode;
use wbuild_engine::{BuiltImage, Dress, Engine, EngineError, ExportOptions, FilesOutput, OutputError};
use wbuild_frontend::Target;
use wbuild_graph::Snapshot;
use wbuild_image::{ArchiveFormat, Export, ExportError, write_archive, write_archive_file, write_layout};
use wbuild_layer::{Compression, Recipe, Times};
use wbuild_load::{LoadError, Loaded, Loading, Machine, choose_engine, choose_store, load, store};
use wbuild_oci::Reference;
use wbuild_registry::Repository;
use wbuild_report::Warning;
use wbuild_solver::{Cancellation, Solution};
use wbuild_tree::{EntryPath, Name};

use super::early::SentEarly;
use super::push::{Clients, push};
use super::{FilesForm, Form, ImageOutput, ImagePlace, Output, Outputs};
use crate::args::OutputArgs;
use crate::commands::attest::{Attestor, Findings};
use crate::commands::{Failure, WriteError, print};
use crate::progress::{Progress, ProgressMode};
use crate::render::{escape_line, size};

/// What wbuild writes into a checkout lies here, and is no part of it.
const OWN: &str = ".wbuild";

/// What outputs are made of.
pub(crate) struct Delivery<'a> {
    /// The session.
    pub(crate) engine: &'a Engine,
    /// What was built.
    pub(crate) target: &'a Target,
    /// How images are made unless an output says otherwise.
    pub(crate) export: &'a ExportOptions,
    /// What is to be written.
    pub(crate) outputs: &'a Outputs,
    /// The flags.
    pub(crate) args: &'a OutputArgs,
    /// What is to be said about it.
    pub(crate) attestor: &'a Attestor<'a>,
    /// The checkout that may get a folder of wbuild's own.
    pub(crate) checkout: Option<&'a Path>,
    /// Environment variables, by which other engines and credentials are found.
    pub(crate) variable: &'a dyn Fn(&str) -> Option<String>,
    /// What ends a push.
    pub(crate) cancellation: &'a Cancellation,
    /// Layers that were pushed while the target was solved.
    pub(crate) sent_early: Arc<SentEarly>,
    /// Who asks registries.
    pub(crate) clients: Clients,
}

/// Why an output could not be written.
#[derive(Debug)]
pub(crate) enum DeliveryError {
    Engine(EngineError),
    Export(ExportError),
    Load(LoadError),
}

impl DeliveryError {
    /// Whether making something again helps. An archive that was begun on standard output cannot be begun again.
    pub(crate) fn is_lost(&self) -> bool {
        matches!(self, Self::Engine(error) if error.is_lost())
    }

    pub(crate) fn failure(self) -> Failure {
        match self {
            Self::Engine(error) => error.into(),
            Self::Export(error) => Failure::new(error),
            Self::Load(error) => Failure::new(error),
        }
    }

    /// A layer that turned out to be damaged is one that has to be made again.
    fn of_blobs(built: &BuiltImage, error: ExportError) -> Self {
        match error {
            ExportError::Blob { .. } => Self::Engine(built.not_written(error)),
            other => Self::Export(other),
        }
    }
}

impl From<EngineError> for DeliveryError {
    fn from(error: EngineError) -> Self {
        Self::Engine(error)
    }
}

impl From<LoadError> for DeliveryError {
    fn from(error: LoadError) -> Self {
        Self::Load(error)
    }
}

impl From<ExportError> for DeliveryError {
    fn from(error: ExportError) -> Self {
        Self::Export(error)
    }
}

/// What was written.
#[derive(Debug, Default)]
pub(crate) struct Delivered {
    /// The first image, which names are about.
    image: Option<(BuiltImage, Vec<Reference>)>,
    /// How it came to be, for the file of metadata.
    provenance: Option<Value>,
    /// A line for each output.
    lines: Vec<String>,
    /// Devices that only root can make.
    skipped: Vec<EntryPath>,
}

impl Delivery<'_> {
    /// What was asked for and goes nowhere.
    pub(crate) fn unattested(&self) -> Option<Warning> {
        let takes_none = |output: &Output| match output {
            Output::Image(image) => match image.place {
                ImagePlace::Archive(ArchiveFormat::Docker, _) => Some("a docker archive"),
                ImagePlace::Docker { .. } | ImagePlace::Store => Some("the image store of a machine"),
                ImagePlace::Archive(ArchiveFormat::Oci, _)
                | ImagePlace::Layout(..)
                | ImagePlace::Registry(_) => None,
            },
            Output::Files(..) | Output::Tar(..) => None,
            Output::Nothing => Some("the cache"),
        };
        let list = &self.outputs.list;
        let without = if list.is_empty() { Some("the cache") } else { list.iter().find_map(takes_none) };
        let without = without.filter(|_| self.attestor.requests.travel())?;
        Some(Warning {
            message: format!("{without} takes no SBOM and no provenance: they are not in it"),
            hints: vec!["`dest=FILE` in --sbom or --provenance writes them into a file".to_owned()],
        })
    }

    /// Writes all outputs of a solved target.
    pub(crate) fn write(&self, solution: &Solution, snapshot: &Snapshot) -> Result<Delivered, DeliveryError> {
        let attested = !self.attestor.requests.is_empty();
        let findings = attested.then(|| self.attestor.look(solution, snapshot)).transpose()?;
        let mut images = Images { delivery: self, snapshot, findings: findings.as_ref(), built: Vec::new() };
        let mut delivered = Delivered::default();
        let mut first = None;
        for output in &self.outputs.list {
            match output {
                Output::Image(image) => {
                    let at = images.of(&image.form)?;
                    let built = &images.built[at].1;
                    let names = self.outputs.names_of(image);
                    delivered.lines.push(self.image(image, built, names.clone())?);
                    first.get_or_insert((at, names));
                }
                Output::Files(path, existing, form) => {
                    let files = FilesOutput::Folder { path, existing: *existing };
                    let dressing = self.dressing(form, findings.as_ref(), snapshot)?;
                    let written = self.engine.write_files(snapshot, &dressing.dress(), &files)?;
                    delivered.skipped.extend(written.skipped);
                    delivered.lines.push(format!("files {}", path.display()));
                }
                Output::Tar(path, form) => {
                    let dressing = self.dressing(form, findings.as_ref(), snapshot)?;
                    let dress = dressing.dress();
                    if path.as_os_str() == "-" {
                        self.engine.write_tar(snapshot, &dress, &mut std::io::stdout().lock())?;
                    } else {
                        self.engine.write_files(snapshot, &dress, &FilesOutput::Tar(path))?;
                    }
                    delivered.lines.push(format!("files {}", path.display()));
                }
                Output::Nothing => {}
            }
        }
        // Somebody may ask what it is without wanting it anywhere.
        let described = self.args.iidfile.is_some() || self.args.metadata_file.is_some();
        if first.is_none() && (described || self.outputs.list.is_empty()) {
            first = Some((images.of(&self.outputs.form)?, self.outputs.tags.clone()));
        }
        let Images { mut built, .. } = images;
        delivered.image = first.map(|(at, names)| (built.swap_remove(at).1, names));
        if self.args.metadata_file.is_some() {
            delivered.provenance =
                self.provenance(solution, delivered.image.as_ref().map(|(built, _)| built))?;
        }
        if let Some(findings) = &findings {
            self.attestor.write(findings, delivered.image.as_ref().map(|(built, _)| built))?;
        }
        Ok(delivered)
    }

    /// What the file of metadata says about how the image came to be: what travels with it, else as much as
    /// `BUILDX_METADATA_PROVENANCE` says, which is little unless it says more.
    fn provenance(
        &self,
        solution: &Solution,
        built: Option<&BuiltImage>,
    ) -> Result<Option<Value>, EngineError> {
        if let Some(provenance) = built.and_then(BuiltImage::provenance) {
            return Ok(Some(provenance));
        }
        let mode = match (self.variable)("BUILDX_METADATA_PROVENANCE").as_deref() {
            Some("disabled" | "0" | "f" | "F" | "false" | "FALSE" | "False") => return Ok(None),
            Some("max") => Mode::Max,
            _ => Mode::Min,
        };
        self.attestor.predicate(solution, mode).map(Some)
    }

    /// Writes an image to one place, and tells in a line what that was.
    fn image(
        &self,
        image: &ImageOutput,
        built: &BuiltImage,
        names: Vec<Reference>,
    ) -> Result<String, DeliveryError> {
        // `docker load` and the stores of this machine take images and nothing else.
        let export = match &image.place {
            ImagePlace::Archive(ArchiveFormat::Docker, _) | ImagePlace::Docker { .. } | ImagePlace::Store => {
                built.plain_export(names)
            }
            _ => built.export(names).map_err(EngineError::from)?,
        };
        // A registry, and who has a store of its own, may have them.
        if matches!(image.place, ImagePlace::Layout(..) | ImagePlace::Archive(..)) {
            built.bring_base()?;
        }
        let path = match &image.place {
            ImagePlace::Layout(folder, others) => {
                self.ignore_own(folder)?;
                write_layout(folder, &export, built, *others)
                    .map_err(|error| DeliveryError::of_blobs(built, error))?;
                folder
            }
            ImagePlace::Archive(format, path) if path.as_os_str() == "-" => {
                write_archive(&export, *format, built, std::io::stdout().lock())?;
                path
            }
            ImagePlace::Archive(format, path) => {
                write_archive_file(&export, *format, built, path)
                    .map_err(|error| DeliveryError::of_blobs(built, error))?;
                path
            }
            ImagePlace::Docker { context } => {
                let machine = Machine { variable: self.variable };
                let engine = choose_engine(context.as_deref(), &machine)?;
                return self.hand_over(built, &export, &|loading| load(&engine, loading));
            }
            ImagePlace::Store => {
                let found = choose_store(&Machine { variable: self.variable })?;
                return self.hand_over(built, &export, &|loading| store(&found, loading));
            }
            ImagePlace::Registry(how) => {
                return push(self, built, &export, *how, &self.pushed_before(image));
            }
        };
        Ok(format!("image {} ({} in {} layers)", path.display(), size(built.size()), built.layers.len()))
    }

    /// Gives an image to another engine of this machine.
    fn hand_over(
        &self,
        built: &BuiltImage,
        export: &Export,
        give: &dyn Fn(&Loading<'_>) -> Result<Loaded, LoadError>,
    ) -> Result<String, DeliveryError> {
        let draft = self.engine.store().draft().map_err(EngineError::from)?;
        let scratch = &draft.fs();
        let given = give(&Loading { image: &built.image, export, blobs: built, scratch });
        let Loaded { engine, sent } = given.map_err(|error| match error {
            LoadError::Export(error) => DeliveryError::of_blobs(built, error),
            other => DeliveryError::Load(other),
        })?;
        let what = match &export.names[..] {
            [] => built.image.config.descriptor.digest.to_string(),
            names => names.iter().map(Reference::familiar).collect::<Vec<_>>().join(", "),
        };
        let all = size(built.size());
        Ok(match sent {
            Some(sent) => format!("loaded {what} into {engine} ({} of {all} sent)", size(sent)),
            None => format!("loaded {what} into {engine}, which took what it did not have of {all}"),
        })
    }

    /// What files of this form are given.
    fn dressing(
        &self,
        form: &FilesForm,
        findings: Option<&Findings>,
        snapshot: &Snapshot,
    ) -> Result<Dressing, EngineError> {
        let platform = self.target.config.platform().to_string();
        let name = |text: String| Name::new(text).map_err(OutputError::from);
        let documents = match findings {
            Some(findings) => self.attestor.beside(findings, snapshot)?,
            None => Vec::new(),
        };
        let documents = documents
            .into_iter()
            .map(|(file, bytes)| Ok((name(format!("{}{file}", form.attestation_prefix))?, bytes)))
            .collect::<Result<_, EngineError>>()?;
        Ok(Dressing {
            times: form.created.map_or(self.export.recipe.times, Times::Fixed),
            folder: form.split.then(|| name(platform.replace('/', "_"))).transpose()?,
            documents,
        })
    }

    /// A folder of wbuild's own in a checkout is nothing to be committed.
    fn ignore_own(&self, folder: &Path) -> Result<(), EngineError> {
        let Some(own) = self.checkout.map(|root| root.join(OWN)).filter(|own| folder.starts_with(own)) else {
            return Ok(());
        };
        let ignore = own.join(".gitignore");
        let wrong = |source| EngineError::Io { action: "write", path: ignore.clone(), source };
        std::fs::create_dir_all(folder).map_err(wrong)?;
        if !ignore.exists() {
            std::fs::write(&ignore, "*\n").map_err(wrong)?;
        }
        Ok(())
    }

    /// Where an earlier output has pushed to.
    fn pushed_before(&self, image: &ImageOutput) -> Vec<Repository> {
        let images = self.outputs.list.iter().filter_map(|output| match output {
            Output::Image(image) => Some(image),
            _ => None,
        });
        let before = images.take_while(|other| !std::ptr::eq(*other, image));
        let pushed = before.filter(|other| matches!(other.place, ImagePlace::Registry(_)));
        pushed.flat_map(|other| self.outputs.names_of(other)).map(|name| Repository::of(&name)).collect()
    }

    /// How an image of this form is made.
    pub(super) fn options(&self, form: &Form) -> ExportOptions {
        let created = form.created.unwrap_or(self.export.created);
        let times = match self.export.recipe.times {
            Times::Keep if !form.rewrite_timestamps => Times::Keep,
            _ => Times::Fixed(created),
        };
        ExportOptions {
            recipe: Recipe { compression: form.compression, times },
            created,
            annotations: form.annotations.clone(),
            media_types: form.media_types,
            force_compression: form.force_compression,
            ..self.export.clone()
        }
    }
}

/// What files are given, as long as they are written.
struct Dressing {
    times: Times,
    folder: Option<Name>,
    documents: Vec<(Name, Vec<u8>)>,
}

impl Dressing {
    fn dress(&self) -> Dress<'_> {
        Dress { times: self.times, folder: self.folder.clone(), documents: &self.documents }
    }
}

/// The images of a build, each made once however many outputs want it.
struct Images<'a> {
    delivery: &'a Delivery<'a>,
    snapshot: &'a Snapshot,
    findings: Option<&'a Findings>,
    built: Vec<(ExportOptions, BuiltImage)>,
}

impl Images<'_> {
    /// Where the image of this form is.
    fn of(&mut self, form: &Form) -> Result<usize, EngineError> {
        let options = self.delivery.options(form);
        if let Some(at) = self.built.iter().position(|(known, _)| *known == options) {
            return Ok(at);
        }
        let mut built = self.delivery.engine.export(self.delivery.target, self.snapshot, &options)?;
        if let Some(findings) = self.findings {
            self.delivery.attestor.attach(findings, &mut built)?;
        }
        self.built.push((options, built));
        Ok(self.built.len() - 1)
    }
}

/// Ends the view of a build, says what was written, and gives the digest to standard output: with `--quiet` that of the
/// configuration, which docker calls the image's id.
pub(crate) fn finish(
    done: Result<Delivered, Failure>,
    delivery: &Delivery<'_>,
    progress: Progress,
    mode: ProgressMode,
    quiet: bool,
) -> Result<(), Failure> {
    let described = done.and_then(|delivered| delivered.describe(delivery).map(|()| delivered));
    let delivered = match described {
        Ok(delivered) => delivered,
        Err(failure) => return Err(failure.shown_by(progress, mode)),
    };
    let mut lines = delivered.lines;
    if delivery.outputs.list.is_empty() {
        lines.push(
            "no output was asked for: the result stays in the cache; write it with `-o type=oci,dest=FILE.tar`"
                .to_owned(),
        );
    }
    let skipped = delivered.skipped.iter();
    lines.extend(
        skipped.map(|path| format!("warning: only root can make the device `{path}`, so it is not there")),
    );
    match mode {
        ProgressMode::Quiet => drop(progress.finish()),
        // Every line of the stream is an object, and its end is the last of them.
        ProgressMode::Json => {
            lines.into_iter().for_each(|line| progress.note(line));
            progress.finish();
        }
        _ => {
            progress.finish();
            let mut err = std::io::stderr();
            // Only for people: scripts read the digest. Whoever does not look any more misses nothing.
            lines.iter().for_each(|line| drop(writeln!(err, "{}", escape_line(line))));
        }
    }
    match &delivered.image {
        Some((built, _)) if !delivery.outputs.on_standard_output() => {
            let digest = if quiet { built.image.config.descriptor.digest } else { built.root.digest };
            print(&format!("{digest}\n"))
        }
        _ => Ok(()),
    }
}

impl Delivered {
    /// Adds a line for people.
    pub(crate) fn said(&mut self, line: String) {
        self.lines.push(line);
    }

    /// Writes the files that say what was built, as buildx does.
    fn describe(&self, delivery: &Delivery<'_>) -> Result<(), Failure> {
        let put = |path: &Path, text: String| {
            std::fs::write(path, text)
                .map_err(|source| Failure::new(WriteError { path: path.to_owned(), source }))
        };
        if let (Some(path), Some((built, _))) = (&delivery.args.iidfile, &self.image) {
            put(path, built.image.config.descriptor.digest.to_string())?;
        }
        if let Some(path) = &delivery.args.metadata_file {
            put(path, format!("{:#}", Value::Object(self.metadata(delivery))))?;
        }
        Ok(())
    }

    fn metadata(&self, delivery: &Delivery<'_>) -> Map<String, Value> {
        let mut metadata = Map::new();
        // There: builder, node, build.
        let session = format!("wbuild/local/{}", delivery.engine.build_id());
        metadata.insert("buildx.build.ref".to_owned(), session.into());
        if let Some(provenance) = &self.provenance {
            metadata.insert("buildx.build.provenance".to_owned(), provenance.clone());
        }
        let Some((built, names)) = &self.image else { return metadata };
        let fields = [
            ("containerimage.config.digest", json!(built.image.config.descriptor.digest)),
            ("containerimage.descriptor", json!(built.root)),
            ("containerimage.digest", json!(built.root.digest)),
            ("wbuild.layers", json!(built.layers)),
        ];
        metadata.extend(fields.map(|(name, value)| (name.to_owned(), value)));
        if !names.is_empty() {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            metadata.insert("image.name".to_owned(), names.join(",").into());
        }
        metadata
    }
}

/// How images are made that no output says anything about.
pub(crate) fn plain_export(
    times: Times,
    created: i64,
    labels: std::collections::BTreeMap<String, String>,
) -> ExportOptions {
    ExportOptions {
        recipe: Recipe { compression: Compression::DEFAULT, times },
        created,
        labels,
        annotations: wbuild_image::Annotations::default(),
        media_types: wbuild_image::MediaTypes::default(),
        force_compression: false,
    }
}
