//! Where results go: `--output`, `--load`, `--push`, and a look at the places before anything is built.

mod annotations;
mod csv;
mod deliver;
mod early;
mod places;
mod push;
mod ready;
mod spec;

use std::io::IsTerminal;
use std::path::PathBuf;

use wbuild_engine::Existing;
use wbuild_image::{Annotations, ArchiveFormat, MediaTypes, Others};
use wbuild_layer::Compression;
use wbuild_oci::{Platform, Reference};

use super::{Failure, Session};
use crate::args::OutputArgs;

pub(crate) use deliver::{Delivered, Delivery, DeliveryError, finish, plain_export};
pub(crate) use early::EarlyPush;
pub(crate) use places::check_file;
pub(crate) use push::{Clients, followed_blob, moving};
pub(crate) use ready::Ready;

/// What a bare path means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bare {
    /// Docker's short form of `type=local`.
    Files,
    /// An OCI layout, or a tar of one where it is called `.tar`: `wbuild image` makes images.
    Image,
}

/// One thing to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// An image.
    Image(ImageOutput),
    /// The files of the root file system in a folder.
    Files(PathBuf, Existing, FilesForm),
    /// The files of the root file system in a tar file; `-` is standard output.
    Tar(PathBuf, FilesForm),
    /// Nothing: the result stays in the store.
    Nothing,
}

/// What files that are written are to be like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FilesForm {
    /// Seconds since the epoch, where this output has its own.
    pub(crate) created: Option<i64>,
    /// In a folder that is named for the platform.
    pub(crate) split: bool,
    /// What names of documents beside them begin with.
    pub(crate) attestation_prefix: String,
}

/// An image to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageOutput {
    /// Where it goes.
    pub(crate) place: ImagePlace,
    /// Names of its own, beside those of all.
    pub(crate) names: Vec<Reference>,
    /// What it is to be like.
    pub(crate) form: Form,
}

impl ImageOutput {
    /// An image like any other.
    pub(crate) fn new(place: ImagePlace) -> Self {
        Self { place, names: Vec::new(), form: Form::default() }
    }
}

/// Where an image goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImagePlace {
    /// An OCI layout in a folder, blobs linked from the store.
    Layout(PathBuf, Others),
    /// A tar file; `-` is standard output.
    Archive(ArchiveFormat, PathBuf),
    /// The docker or podman of this machine, or the one of a context of docker's.
    Docker {
        /// Which context.
        context: Option<String>,
    },
    /// The image store of this machine: containerd's or containers-storage.
    Store,
    /// The registry that its names say.
    Registry(Push),
}

/// How an image is pushed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Push {
    /// Under no tag.
    pub(crate) by_digest: bool,
    /// Over plain HTTP, or without looking at certificates.
    pub(crate) insecure: bool,
}

/// What an image is to be like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    /// How layers are compressed.
    pub(crate) compression: Compression,
    /// Those of the base image, too.
    pub(crate) force_compression: bool,
    /// Whose media types it has.
    pub(crate) media_types: MediaTypes,
    /// Seconds since the epoch, where this output has its own.
    pub(crate) created: Option<i64>,
    /// Files get the time of the image even where they would keep theirs.
    pub(crate) rewrite_timestamps: bool,
    /// What is noted on it.
    pub(crate) annotations: Annotations,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            compression: Compression::DEFAULT,
            force_compression: false,
            media_types: MediaTypes::Oci,
            created: None,
            rewrite_timestamps: false,
            annotations: Annotations::default(),
        }
    }
}

/// Everything that is to be written.
#[derive(Debug)]
pub(crate) struct Outputs {
    pub(crate) list: Vec<Output>,
    /// Names of every image.
    pub(crate) tags: Vec<Reference>,
    /// What is noted on an image that goes nowhere.
    form: Form,
}

impl Outputs {
    /// Reads the flags. `in_index` says whether images get an index around them, which can be annotated then.
    pub(crate) fn parse(
        args: &OutputArgs,
        bare: Bare,
        platform: &Platform,
        in_index: bool,
    ) -> Result<Self, Failure> {
        let tags = super::request::tags(&args.tags)?;
        let list = args.outputs.iter().map(|text| spec::parse(text, bare, platform));
        let mut list = list.collect::<Result<Vec<_>, _>>()?;
        // As buildx does: the flags change an output that is there, or are one themselves.
        let image = |place| Output::Image(ImageOutput::new(place));
        if args.push {
            let mut pushed = false;
            for output in &mut list {
                if let Output::Image(ImageOutput { place: place @ ImagePlace::Store, .. }) = output {
                    *place = ImagePlace::Registry(Push::default());
                }
                pushed |= matches!(output, Output::Image(ImageOutput { place: ImagePlace::Registry(_), .. }));
            }
            if !pushed {
                list.push(image(ImagePlace::Registry(Push::default())));
            }
        }
        let by_digest = |output: &Output| {
            matches!(
                output,
                Output::Image(ImageOutput { place: ImagePlace::Registry(Push { by_digest: true, .. }), .. })
            )
        };
        if list.iter().any(by_digest) {
            args.tags.iter().try_for_each(|tag| spec::untagged(tag))?;
        }
        let loads = |output: &Output| {
            matches!(output, Output::Image(ImageOutput { place: ImagePlace::Docker { .. }, .. }))
        };
        if args.load && !list.iter().any(loads) {
            list.push(image(ImagePlace::Docker { context: None }));
        }
        let mut form = Form::default();
        let images = list.iter_mut().filter_map(|output| match output {
            Output::Image(image) => Some(&mut image.form),
            _ => None,
        });
        for form in images.chain([&mut form]) {
            for text in &args.annotations {
                annotations::flag(text, platform, &mut form.annotations)?;
            }
            // Docker's own types know neither; BuildKit takes the OCI's then, too.
            if !form.annotations.is_empty() || matches!(form.compression, Compression::Estargz { .. }) {
                form.media_types = MediaTypes::Oci;
            }
            if form.annotations.want_index() && !in_index {
                return Err(Failure::usage(
                    "there is no index to annotate: an image of one platform is a manifest",
                    "annotate the manifest: --annotation manifest:KEY=VALUE; --attest-index makes an index",
                ));
            }
        }
        let outputs = Self { list, tags, form };
        places::check_apart(&outputs.list)?;
        outputs.check_names()?;
        if outputs.on_standard_output() && std::io::stdout().is_terminal() {
            return Err(Failure::usage(
                "an archive cannot be shown on a terminal",
                "redirect standard output, or name a file with dest=",
            ));
        }
        Ok(outputs)
    }

    /// Writes the image to this folder if nothing else was asked for. It is wbuild's own, and holds the last image only.
    pub(crate) fn or_own_folder(&mut self, folder: PathBuf) {
        if self.list.is_empty() {
            let image = ImageOutput::new(ImagePlace::Layout(folder, Others::Replace));
            self.list.push(Output::Image(ImageOutput { form: self.form.clone(), ..image }));
        }
    }

    /// Finds out before the build what could not be written after it. Makes nothing.
    pub(crate) fn check(&self, args: &OutputArgs, session: &Session) -> Result<(), Failure> {
        self.list.iter().try_for_each(|output| places::check(output, &session.variable))?;
        args.iidfile.iter().chain(&args.metadata_file).try_for_each(|path| check_file(path))
    }

    /// A registry has no nameless images.
    fn check_names(&self) -> Result<(), Failure> {
        let nameless = |output: &Output| match output {
            Output::Image(ImageOutput { place: ImagePlace::Registry(_), names, .. }) => {
                names.is_empty() && self.tags.is_empty()
            }
            _ => false,
        };
        match self.list.iter().any(nameless) {
            true => Err(Failure::usage("a tag is needed to push an image", "--tag HOST/REPOSITORY:TAG")),
            false => Ok(()),
        }
    }

    /// Whether standard output gets an archive, and so nothing else.
    pub(crate) fn on_standard_output(&self) -> bool {
        self.list.iter().any(places::is_standard_output)
    }

    /// The names of an image: those of all, and those that only this output has.
    pub(crate) fn names_of(&self, image: &ImageOutput) -> Vec<Reference> {
        let own = image.names.iter().filter(|name| !self.tags.contains(name));
        self.tags.iter().chain(own).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(change: impl FnOnce(&mut OutputArgs)) -> Result<Outputs, Failure> {
        let mut args = OutputArgs::default();
        change(&mut args);
        Outputs::parse(&args, Bare::Files, &Platform::linux("amd64"), false)
    }

    fn places(outputs: Outputs) -> Vec<ImagePlace> {
        let images = outputs.list.into_iter().filter_map(|output| match output {
            Output::Image(image) => Some(image.place),
            _ => None,
        });
        images.collect()
    }

    #[test]
    fn load_and_push_as_buildx_has_them() {
        let push = ImagePlace::Registry(Push::default());
        let load = ImagePlace::Docker { context: None };
        let flags = |outputs: &[&str], load, push| {
            let outputs: Vec<String> = outputs.iter().map(|text| (*text).to_owned()).collect();
            parse(|args| {
                *args =
                    OutputArgs { outputs, load, push, tags: vec!["a".to_owned()], ..OutputArgs::default() };
            })
            .unwrap()
        };
        assert_eq!(places(flags(&[], true, true)), [push.clone(), load.clone()]);
        assert_eq!(places(flags(&["type=docker"], true, false)), std::slice::from_ref(&load));
        let archive = ImagePlace::Archive(ArchiveFormat::Docker, "x".into());
        assert_eq!(places(flags(&["type=docker,dest=x"], true, false)), [archive, load]);
        assert_eq!(places(flags(&["type=image"], false, true)), std::slice::from_ref(&push));
        assert_eq!(places(flags(&["type=registry"], false, true)), [push]);
        assert!(parse(|args| args.push = true).is_err(), "a push without a tag");
        assert!(parse(|args| args.outputs = vec!["type=registry,name=a".to_owned()]).is_ok());
        let by_digest = |tag: &str| {
            let (outputs, tags) =
                (vec!["type=registry,push-by-digest=true".to_owned()], vec![tag.to_owned()]);
            parse(|args| *args = OutputArgs { outputs, tags, ..OutputArgs::default() }).is_ok()
        };
        assert!(by_digest("h:5000/a") && !by_digest("h:5000/a:1"));
    }

    #[test]
    fn annotations_are_for_every_image() {
        let outputs = parse(|args| {
            args.annotations = vec!["a=1".to_owned()];
            args.outputs = vec!["type=oci,dest=x,annotation.b=2".to_owned(), "type=local,dest=y".to_owned()];
        })
        .unwrap();
        let Output::Image(image) = &outputs.list[0] else { panic!("no image") };
        assert_eq!(image.form.annotations.manifest.len(), 2);
        assert_eq!(outputs.form.annotations.manifest.len(), 1);
        assert!(parse(|args| args.annotations = vec!["index:a=1".to_owned()]).is_err());
    }
}
