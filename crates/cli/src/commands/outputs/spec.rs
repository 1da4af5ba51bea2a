//! One `--output`: buildx's comma-separated record.

use std::path::PathBuf;

use wbuild_engine::Existing;
use wbuild_image::{Annotations, ArchiveFormat, MediaTypes, Others, is_archive_name};
use wbuild_layer::Compression;
use wbuild_oci::{Platform, Reference};
use wbuild_report::nearest;

use super::{Bare, FilesForm, Form, ImageOutput, ImagePlace, Output, Push, annotations, csv};
use crate::commands::Failure;
use crate::commands::timestamp::seconds;

const EXAMPLES: &str =
    "for example type=oci,dest=image.tar or type=oci,dest=FOLDER,tar=false or type=local,dest=FOLDER";

const TYPES: [&str; 7] = ["oci", "docker", "local", "tar", "registry", "image", "cacheonly"];

/// What every image can be asked to be. Some change nothing here, and are there for scripts that were written for buildx:
/// all layers are in the store, nothing is unpacked, and everything that is written has its times set anyway.
const IMAGE_KEYS: [&str; 16] = [
    "name",
    "compression",
    "compression-level",
    "force-compression",
    "oci-mediatypes",
    "source-date-epoch",
    "rewrite-timestamp",
    "prefer-nondist-layers",
    "oci-artifact",
    "dangling-name-prefix",
    // Spelt like this in BuildKit.
    "danging-name-empty-only",
    "attestation-inline",
    "name-canonical",
    "store",
    "unpack",
    "annotation.KEY",
];

const FILES_KEYS: [&str; 4] = ["dest", "platform-split", "attestation-prefix", "source-date-epoch"];

fn usage(message: String) -> Failure {
    Failure::usage(message, EXAMPLES)
}

/// Reads one.
pub(super) fn parse(text: &str, bare: Bare, platform: &Platform) -> Result<Output, Failure> {
    if text.is_empty() {
        return Err(usage("--output names nothing".to_owned()));
    }
    let fields = csv::fields(text).map_err(|error| usage(format!("`--output {text}`: {error}")))?;
    // As buildx tells the short form: no key, and nothing that had to be quoted.
    if let [only] = &fields[..]
        && only == text
        && !text.starts_with("type=")
    {
        return match text.split_once('=') {
            Some((key, _)) if is_key(key) => Err(usage(format!("`--output {text}` has no type"))),
            _ => Ok(short(text, bare)),
        };
    }
    let mut spec = Spec::default();
    for field in &fields {
        let (key, value) = field
            .split_once('=')
            .ok_or_else(|| usage(format!("`{field}` in --output is not of the form KEY=VALUE")))?;
        spec.take(key.trim(), value, platform)?;
    }
    spec.finish(text)
}

/// Whether somebody meant a key, and not a file with an equals sign in its name.
fn is_key(text: &str) -> bool {
    [&IMAGE_KEYS[..], &FILES_KEYS, &["type", "tar", "mode", "push", "push-by-digest", "output"]]
        .concat()
        .contains(&text)
}

fn short(text: &str, bare: Bare) -> Output {
    let image = |place| Output::Image(ImageOutput::new(place));
    match bare {
        Bare::Files if text == "-" => Output::Tar("-".into(), FilesForm::default()),
        Bare::Files => Output::Files(text.into(), Existing::Keep, FilesForm::default()),
        Bare::Image if text == "-" || is_archive_name(text.as_ref()) => {
            image(ImagePlace::Archive(ArchiveFormat::Oci, text.into()))
        }
        Bare::Image => image(ImagePlace::Layout(text.into(), Others::Keep)),
    }
}

/// The fields of one output, as far as they are read.
#[derive(Debug, Default)]
struct Spec {
    kind: Option<String>,
    dest: Option<PathBuf>,
    /// In order, with values as written.
    keys: Vec<(String, String)>,
    annotations: Annotations,
    annotated: bool,
}

impl Spec {
    fn take(&mut self, key: &str, value: &str, platform: &Platform) -> Result<(), Failure> {
        match key.to_ascii_lowercase().as_str() {
            "type" => self.kind = Some(value.to_owned()),
            "dest" | "output" => self.dest = Some(value.into()).filter(|_| !value.is_empty()),
            _ if annotations::field(key, value, platform, &mut self.annotations)? => self.annotated = true,
            lower => self.keys.push((lower.to_owned(), value.to_owned())),
        }
        Ok(())
    }

    fn finish(mut self, text: &str) -> Result<Output, Failure> {
        let kind = self.kind.take().ok_or_else(|| usage(format!("`--output {text}` has no type")))?;
        let files: &[&str] = &FILES_KEYS;
        match kind.as_str() {
            "oci" | "docker" => {
                self.allow(&kind, &[&IMAGE_KEYS, &["dest", "tar", "context"]])?;
                let tar = self.boolean("tar")?.unwrap_or(true);
                let place = match (kind.as_str(), tar) {
                    (_, false) => ImagePlace::Layout(self.folder(&kind)?, Others::Keep),
                    ("docker", true) if self.dest.is_none() => {
                        ImagePlace::Docker { context: self.value("context").map(str::to_owned) }
                    }
                    ("docker", true) => ImagePlace::Archive(ArchiveFormat::Docker, self.or_standard_output()),
                    (_, true) => ImagePlace::Archive(ArchiveFormat::Oci, self.or_standard_output()),
                };
                self.image(place)
            }
            "image" | "registry" => {
                self.allow(&kind, &[&IMAGE_KEYS, &["push", "push-by-digest", "registry.insecure"]])?;
                if self.dest.is_some() {
                    return Err(usage(format!("`dest` means nothing to type={kind}, which has a name")));
                }
                let push = self.boolean("push")?.unwrap_or(kind == "registry");
                let place = match push {
                    true => ImagePlace::Registry(Push {
                        by_digest: self.boolean("push-by-digest")?.unwrap_or(false),
                        insecure: self.boolean("registry.insecure")?.unwrap_or(false),
                    }),
                    false => ImagePlace::Store,
                };
                self.image(place)
            }
            "local" => {
                self.allow(&kind, &[files, &["mode"]])?;
                let existing = match self.value("mode") {
                    None | Some("" | "copy") => Existing::Keep,
                    Some("delete") => Existing::Delete,
                    Some(other) => {
                        return Err(Failure::usage(
                            format!("`mode={other}` in --output is neither `copy` nor `delete`"),
                            "mode=delete removes from the folder what the result does not have",
                        ));
                    }
                };
                Ok(Output::Files(self.folder(&kind)?, existing, self.files()?))
            }
            "tar" => {
                self.allow(&kind, &[files])?;
                Ok(Output::Tar(self.or_standard_output(), self.files()?))
            }
            "cacheonly" => {
                self.allow(&kind, &[])?;
                Ok(Output::Nothing)
            }
            other => {
                let hint = match nearest(other, TYPES).first() {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the types are {}", TYPES.join(", ")),
                };
                Err(Failure::usage(format!("`{other}` is no type of --output"), hint))
            }
        }
    }

    /// Refuses keys that the type does not have.
    fn allow(&self, kind: &str, known: &[&[&str]]) -> Result<(), Failure> {
        let known = known.concat();
        let mut keys = self.keys.iter().map(|(key, _)| key.as_str());
        let stray = self.annotated && !known.contains(&"annotation.KEY");
        let unknown = keys.find(|key| !known.contains(key)).or(stray.then_some("annotation"));
        let Some(key) = unknown else { return Ok(()) };
        let hint = match nearest(key, known.iter().copied()).first() {
            Some(near) => format!("did you mean `{near}`?"),
            None if known.is_empty() => format!("type={kind} has no keys"),
            None => format!("type={kind} has {}", known.join(", ")),
        };
        Err(Failure::usage(format!("`{key}` means nothing to type={kind} in --output"), hint))
    }

    /// The last value of a key: that counts.
    fn value(&self, key: &str) -> Option<&str> {
        self.keys.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// A value that is true or false, as Go writes them; nothing behind the equals sign is true.
    fn boolean(&self, key: &str) -> Result<Option<bool>, Failure> {
        match self.value(key) {
            None => Ok(None),
            Some("" | "1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(Some(true)),
            Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(Some(false)),
            Some(other) => Err(usage(format!("`{key}={other}` in --output is neither `true` nor `false`"))),
        }
    }

    fn folder(&self, kind: &str) -> Result<PathBuf, Failure> {
        match &self.dest {
            None => {
                let tar = if kind == "local" { "" } else { ",tar=false" };
                Err(Failure::usage(
                    format!("--output type={kind} needs a dest"),
                    format!("for example type={kind},dest=FOLDER{tar}"),
                ))
            }
            Some(dest) if dest.as_os_str() == "-" => {
                Err(usage("a folder cannot go to standard output".to_owned()))
            }
            Some(dest) => Ok(dest.clone()),
        }
    }

    /// Without a place an archive goes to standard output, as for docker.
    fn or_standard_output(&self) -> PathBuf {
        self.dest.clone().unwrap_or_else(|| "-".into())
    }

    fn created(&self) -> Result<Option<i64>, Failure> {
        match self.value("source-date-epoch") {
            None => Ok(None),
            Some("") => Ok(Some(1)),
            Some(text) => seconds(text, "`source-date-epoch` in --output").map(Some),
        }
    }

    fn files(&self) -> Result<FilesForm, Failure> {
        let attestation_prefix = self.value("attestation-prefix").unwrap_or_default().to_owned();
        if attestation_prefix.contains(['/', '\0']) {
            return Err(Failure::usage(
                format!("`attestation-prefix={attestation_prefix}` in --output is no part of a file's name"),
                "documents lie beside the files, not below or above them",
            ));
        }
        let split = self.boolean("platform-split")?.unwrap_or(false);
        Ok(FilesForm { created: self.created()?, split, attestation_prefix })
    }

    fn image(self, place: ImagePlace) -> Result<Output, Failure> {
        let names = self.value("name").unwrap_or_default().split(',').filter(|name| !name.is_empty());
        if matches!(place, ImagePlace::Registry(Push { by_digest: true, .. })) {
            names.clone().try_for_each(untagged)?;
        }
        let names = names.map(|name| {
            name.parse::<Reference>()
                .map_err(|error| Failure::usage(error.to_string(), "name=[HOST/]REPOSITORY[:TAG]"))
        });
        let names = names.collect::<Result<_, _>>()?;
        for harmless in [
            "prefer-nondist-layers",
            "oci-artifact",
            "name-canonical",
            "danging-name-empty-only",
            "attestation-inline",
            "store",
            "unpack",
        ] {
            self.boolean(harmless)?;
        }
        let media_types = match self.boolean("oci-mediatypes")? {
            Some(false) => MediaTypes::Docker,
            _ => MediaTypes::Oci,
        };
        let created = self.created()?;
        let form = Form {
            compression: self.compression()?,
            force_compression: self.boolean("force-compression")?.unwrap_or(false),
            media_types,
            created,
            rewrite_timestamps: self.boolean("rewrite-timestamp")?.unwrap_or(false),
            annotations: self.annotations,
        };
        Ok(Output::Image(ImageOutput { place, names, form }))
    }

    fn compression(&self) -> Result<Compression, Failure> {
        let level = match self.value("compression-level") {
            None => None,
            Some(text) => Some(text.parse::<u8>().map_err(|_| level_usage(text))?),
        };
        let kind = self.value("compression").unwrap_or("gzip");
        let known = ["gzip", "zstd", "estargz", "uncompressed"];
        let (compression, most) = match kind {
            "gzip" => (Compression::Gzip { level: level.unwrap_or(6) }, 12),
            "estargz" => (Compression::Estargz { level: level.unwrap_or(6) }, 12),
            // Zero is zstd's own default, which is three.
            "zstd" => (Compression::Zstd { level: level.filter(|level| *level > 0).unwrap_or(3) }, 22),
            "uncompressed" => (Compression::None, u8::MAX),
            other => {
                let hint = match nearest(other, known).first() {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("there are {}", known.join(", ")),
                };
                return Err(Failure::usage(format!("`compression={other}` is not known"), hint));
            }
        };
        match level {
            Some(level) if level > most => Err(level_usage(&level.to_string())),
            _ => Ok(compression),
        }
    }
}

/// Refuses a name that has a tag, as BuildKit does where an image gets none.
pub(super) fn untagged(name: &str) -> Result<(), Failure> {
    let last = name.rsplit('/').next().unwrap_or_default();
    match last.split_once([':', '@']) {
        None => Ok(()),
        Some(_) => Err(Failure::usage(
            format!("can't push tagged ref {name} by digest"),
            "with push-by-digest an image gets no tag: name the repository alone",
        )),
    }
}

fn level_usage(text: &str) -> Failure {
    Failure::usage(
        format!("`compression-level={text}` is no level"),
        "gzip and estargz have 0 to 12 (6 unless said), zstd 1 to 22 (3)",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Output, Failure> {
        parse(text, Bare::Files, &Platform::linux("amd64"))
    }

    fn image(text: &str) -> ImageOutput {
        match read(text) {
            Ok(Output::Image(image)) => image,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn places_as_buildx_reads_them() {
        let archive = |format, path: &str| ImagePlace::Archive(format, path.into());
        let table = [
            ("type=oci,dest=a.tar", archive(ArchiveFormat::Oci, "a.tar")),
            ("type=oci", archive(ArchiveFormat::Oci, "-")),
            ("type=oci,dest=a,tar=false", ImagePlace::Layout("a".into(), Others::Keep)),
            ("type=docker,dest=a", archive(ArchiveFormat::Docker, "a")),
            ("type=docker,dest=-", archive(ArchiveFormat::Docker, "-")),
            ("type=docker", ImagePlace::Docker { context: None }),
            ("type=docker,context=far", ImagePlace::Docker { context: Some("far".into()) }),
            ("type=image", ImagePlace::Store),
            ("type=image,push=true", ImagePlace::Registry(Push::default())),
            ("type=registry", ImagePlace::Registry(Push::default())),
            (
                "type=registry,push-by-digest=true,registry.insecure=1",
                ImagePlace::Registry(Push { by_digest: true, insecure: true }),
            ),
        ];
        for (text, place) in table {
            assert_eq!(image(text).place, place, "{text}");
        }
        let files = |path: &str, existing| Output::Files(path.into(), existing, FilesForm::default());
        assert_eq!(read("out").ok(), Some(files("out", Existing::Keep)));
        assert_eq!(read("-").ok(), Some(Output::Tar("-".into(), FilesForm::default())));
        assert_eq!(read("a=b").ok(), Some(files("a=b", Existing::Keep)));
        assert_eq!(read("type=tar").ok(), Some(Output::Tar("-".into(), FilesForm::default())));
        assert_eq!(read("type=cacheonly").ok(), Some(Output::Nothing));
        let delete = read("type=local,dest=o,mode=delete").ok();
        assert_eq!(delete, Some(files("o", Existing::Delete)));
        let form = FilesForm { created: Some(7), split: true, attestation_prefix: "x-".to_owned() };
        let dressed = "type=tar,dest=o,platform-split=true,attestation-prefix=x-,source-date-epoch=7";
        assert_eq!(read(dressed).ok(), Some(Output::Tar("o".into(), form)));
        let bare = |text: &str| parse(text, Bare::Image, &Platform::linux("amd64")).ok();
        let expect = |place| Some(Output::Image(ImageOutput::new(place)));
        assert_eq!(bare("out"), expect(ImagePlace::Layout("out".into(), Others::Keep)));
        assert_eq!(bare("out/web.tar"), expect(archive(ArchiveFormat::Oci, "out/web.tar")));
    }

    #[test]
    fn forms() {
        let found = image(
            r#"type=image,"name=a,b:2",compression=zstd,compression-level=9,force-compression=true,OCI-mediatypes=false,annotation.x=Y"#,
        );
        assert_eq!(found.names.iter().map(Reference::familiar).collect::<Vec<_>>(), ["a:latest", "b:2"]);
        let form = found.form;
        assert_eq!(form.compression, Compression::Zstd { level: 9 });
        assert!(form.force_compression && form.media_types == MediaTypes::Docker);
        let compression = |text: &str| image(&format!("type=oci,{text}")).form.compression;
        assert_eq!(compression("compression-level=1"), Compression::Gzip { level: 1 });
        assert_eq!(compression("compression=estargz"), Compression::Estargz { level: 6 });
        assert_eq!(compression("compression=zstd,compression-level=0"), Compression::ZSTD);
        assert_eq!(compression("compression=uncompressed"), Compression::None);
        assert_eq!(image("type=oci,source-date-epoch=7").form.created, Some(7));
    }

    #[test]
    fn mistakes() {
        let table = [
            ("", "names nothing", "for example"),
            ("dest=x", "has no type", "for example"),
            ("dest=x,tar=false", "has no type", "for example"),
            ("type=local", "needs a dest", "for example type=local,dest=FOLDER"),
            ("type=oci,tar=false", "needs a dest", "type=oci,dest=FOLDER,tar=false"),
            ("type=floppy,dest=x", "no type of --output", "the types are oci"),
            ("type=locall,dest=x", "no type of --output", "did you mean `local`?"),
            ("type=oci,dest=x,compresion=zstd", "means nothing to type=oci", "did you mean `compression`?"),
            ("type=local,dest=x,compression=zstd", "means nothing to type=local", "type=local has dest"),
            ("type=local,dest=x,annotation.a=b", "means nothing to type=local", "type=local has dest"),
            ("type=oci,dest=x,compression=gzpi", "not known", "did you mean `gzip`?"),
            ("type=oci,dest=x,compression-level=13", "no level", "0 to 12"),
            ("type=oci,dest=x,compression-level=fast", "no level", "0 to 12"),
            ("type=oci,dest=x,tar=maybe", "neither `true` nor `false`", "for example"),
            ("type=local,dst=x", "means nothing to type=local", "did you mean `dest`?"),
            ("type=local,dest=x,attestation-prefix=a/b", "no part of a file's name", "beside the files"),
            (
                "type=registry,name=h:5000/a:1,push-by-digest=true",
                "can't push tagged ref h:5000/a:1",
                "no tag",
            ),
            ("type=oci,dest", "not of the form KEY=VALUE", "for example"),
            (r#"type=oci,name="a,b""#, "quote", "for example"),
            ("type=image,dest=x", "`dest` means nothing", "for example"),
            ("type=image,name=A", "not a repository name", "name="),
        ];
        for (text, message, hint) in table {
            match read(text) {
                Err(Failure::Usage { message: said, hints }) => {
                    assert!(said.contains(message), "{text}: {said}");
                    assert!(hints[0].contains(hint), "{text}: {hints:?}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
