//! `--sbom`, `--provenance`, `--attest`, `--attest-index`: what is to be said about a result, and where that goes.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use wbuild_attest::{
    About, Dependency, Inventory, Mode, PROVENANCE_TYPE, SbomFormat, Subject, docker_purl, npm::Locked,
    statement,
};
use wbuild_engine::{BuiltImage, Carrier, Engine, EngineError, ProvenanceOptions, timestamp};
use wbuild_frontend::{Definition, Target};
use wbuild_graph::Snapshot;
use wbuild_image::{Attachment, OutputFile};
use wbuild_oci::{Digest, Reference, to_canonical_json};
use wbuild_solver::Solution;

use super::Failure;
use super::outputs::check_file;
use crate::args::AttestArgs;
use crate::version::SHORT as VERSION;

/// What a build of an application of a workspace is called in provenance.
pub(crate) const IMAGE_BUILD: &str = "urn:wbuild:build:image:v1";

/// What a build of a Dockerfile is called in provenance.
pub(crate) const DOCKERFILE_BUILD: &str = "urn:wbuild:build:dockerfile:v1";

/// BuildKit's name of the file beside files of an output.
const PROVENANCE_FILE: &str = "provenance.json";

/// What was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Requests {
    list: Vec<Request>,
    /// As `docker buildx` has it, and not as referrers.
    in_index: bool,
}

/// One document.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Request {
    kind: Kind,
    /// A file instead of the image.
    dest: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Sbom(SbomFormat),
    Provenance { mode: Mode, builder: Option<String> },
}

impl Requests {
    /// Reads the flags.
    pub(crate) fn parse(args: &AttestArgs) -> Result<Self, Failure> {
        let mut list = Vec::new();
        let flags = [("--sbom", &args.sbom), ("--provenance", &args.provenance)];
        for (flag, texts) in flags {
            for text in texts {
                list.extend(request(flag, &flag[2..], text)?);
            }
        }
        for text in &args.attest {
            let (kinds, rest): (Vec<&str>, Vec<&str>) =
                text.split(',').partition(|part| part.starts_with("type="));
            let [kind] = kinds[..] else {
                return Err(Failure::usage(
                    format!("`--attest {text}` does not say of which type"),
                    "for example --attest type=sbom or --attest type=provenance,mode=max",
                ));
            };
            let kind = &kind["type=".len()..];
            if !matches!(kind, "sbom" | "provenance") {
                return Err(Failure::usage(
                    format!("`--attest` knows no type `{kind}`"),
                    "the types are sbom and provenance",
                ));
            }
            list.extend(request("--attest", kind, &rest.join(","))?);
        }
        for (index, one) in list.iter().enumerate() {
            if list[..index].iter().any(|other| one.collides(other)) {
                return Err(match &one.dest {
                    Some(dest) => Failure::usage(
                        format!("two documents go to `{}`", dest.display()),
                        "give each a place of its own",
                    ),
                    None => Failure::usage(
                        format!("{} of the image is asked for twice", one.kind.in_words()),
                        "ask once, or write one of them to a file: dest=FILE",
                    ),
                });
            }
        }
        Ok(Self { list, in_index: args.attest_index })
    }

    /// Whether nothing was asked for.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether anything is to travel with an image, or to lie beside files.
    pub(crate) fn travel(&self) -> bool {
        self.list.iter().any(|request| request.dest.is_none())
    }

    /// Whether an image gets an index around it.
    pub(crate) fn make_index(&self) -> bool {
        self.in_index && self.travel()
    }

    /// Finds out before the build what could not be written after it.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        self.list.iter().filter_map(|request| request.dest.as_deref()).try_for_each(check_file)
    }
}

impl Request {
    fn collides(&self, other: &Self) -> bool {
        match (&self.dest, &other.dest) {
            (Some(one), Some(other)) => one == other,
            (None, None) => self.kind.in_words() == other.kind.in_words(),
            _ => false,
        }
    }
}

impl Kind {
    fn in_words(&self) -> String {
        match self {
            Self::Sbom(format) => format!("an SBOM in the format {format}"),
            Self::Provenance { .. } => "provenance".to_owned(),
        }
    }

    fn predicate_type(&self) -> &'static str {
        match self {
            Self::Sbom(format) => format.predicate_type(),
            Self::Provenance { .. } => PROVENANCE_TYPE,
        }
    }

    fn file_name(&self) -> &'static str {
        match self {
            Self::Sbom(format) => format.file_name(),
            Self::Provenance { .. } => PROVENANCE_FILE,
        }
    }
}

/// The value of one flag: `true`, `false`, or `key=value,…`. Nothing for what is switched off.
fn request(flag: &str, kind: &str, text: &str) -> Result<Option<Request>, Failure> {
    let (mut format, mut mode, mut builder, mut dest) = (SbomFormat::Spdx, Mode::Min, None, None);
    let mut wanted = true;
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        match (kind, key, value) {
            (_, "true", "") | (_, "disabled", "false") => {}
            (_, "false", "") | (_, "disabled", "true" | "") => wanted = false,
            (_, "dest", path) if !path.is_empty() => dest = Some(PathBuf::from(path)),
            ("sbom", "format", "spdx") => format = SbomFormat::Spdx,
            ("sbom", "format", "cyclonedx") => format = SbomFormat::CycloneDx,
            ("sbom", "generator", _) => {
                return Err(Failure::usage(
                    format!("`{flag}` starts no generator: wbuild reads the packages of an image itself"),
                    "leave `generator` out",
                ));
            }
            ("provenance", "mode", "min") => mode = Mode::Min,
            ("provenance", "mode", "max") => mode = Mode::Max,
            ("provenance", "version", "v1") => {}
            ("provenance", "version", other) => {
                return Err(Failure::usage(
                    format!("`{flag}` knows no version `{other}` of provenance"),
                    "SLSA provenance is written as version v1",
                ));
            }
            ("provenance", "builder-id", id) if !id.is_empty() => builder = Some(id.to_owned()),
            _ => {
                let keys = match kind {
                    "sbom" => "true, false, format=spdx, format=cyclonedx and dest=FILE",
                    _ => "true, false, mode=min, mode=max, version=v1, builder-id=URI and dest=FILE",
                };
                return Err(Failure::usage(
                    format!("`{part}` means nothing in {flag}"),
                    format!("there are {keys}"),
                ));
            }
        }
    }
    let kind = match kind {
        "sbom" => Kind::Sbom(format),
        _ => Kind::Provenance { mode, builder },
    };
    Ok(wanted.then_some(Request { kind, dest }))
}

/// What is known of a build besides its graph.
#[derive(Debug, Default)]
pub(crate) struct BuildFacts {
    /// What an image without a tag is called.
    pub(crate) name: String,
    /// `created` of the image, in seconds since the epoch.
    pub(crate) created: i64,
    /// What the lockfile of the build names.
    pub(crate) locked: Vec<Locked>,
    /// Which kind of build it is.
    pub(crate) build_type: &'static str,
    /// What was asked for.
    pub(crate) parameters: Map<String, Value>,
    /// Build arguments.
    pub(crate) build_args: BTreeMap<String, String>,
    /// What else was typed.
    pub(crate) typed: Map<String, Value>,
    /// What was taken from outside besides the sources of the graph.
    pub(crate) dependencies: Vec<Dependency>,
}

/// Writes what was asked for.
#[derive(Debug)]
pub(crate) struct Attestor<'a> {
    pub(crate) requests: &'a Requests,
    pub(crate) engine: &'a Engine,
    pub(crate) definition: &'a Definition,
    pub(crate) target: &'a Target,
    pub(crate) tags: &'a [Reference],
    pub(crate) facts: BuildFacts,
}

/// What was found out about a result, whatever image is made of it.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    inventory: Inventory,
    provenance: [Value; 2],
}

impl Attestor<'_> {
    /// Looks at a solved target, as far as that was asked for.
    pub(crate) fn look(&self, solution: &Solution, snapshot: &Snapshot) -> Result<Findings, EngineError> {
        let mut findings = Findings::default();
        if self.requests.list.iter().any(|request| matches!(request.kind, Kind::Sbom(_))) {
            findings.inventory = self.engine.inventory(self.target, snapshot, &self.facts.locked)?;
        }
        for (mode, place) in [Mode::Min, Mode::Max].into_iter().zip(&mut findings.provenance) {
            let of_mode = |request: &Request| matches!(&request.kind, Kind::Provenance { mode: wanted, .. } if *wanted == mode);
            if !self.requests.list.iter().any(of_mode) {
                continue;
            }
            *place = self.predicate(solution, mode)?;
        }
        Ok(findings)
    }

    /// How a solved target came to be.
    pub(crate) fn predicate(&self, solution: &Solution, mode: Mode) -> Result<Value, EngineError> {
        let facts = &self.facts;
        let options = ProvenanceOptions {
            mode,
            build_type: facts.build_type.to_owned(),
            version: VERSION.to_owned(),
            parameters: facts.parameters.clone(),
            build_args: facts.build_args.clone(),
            typed: facts.typed.clone(),
            dependencies: facts.dependencies.clone(),
        };
        Ok(self.engine.provenance(self.definition, self.target, solution, &options)?.predicate())
    }

    /// Lets what is to travel with images travel with this one.
    pub(crate) fn attach(&self, findings: &Findings, built: &mut BuiltImage) -> Result<(), EngineError> {
        let subjects = self.subjects(built);
        let digest = built.image.manifest.descriptor.digest;
        let travelling = self.requests.list.iter().filter(|request| request.dest.is_none());
        let attachments = travelling
            .map(|Request { kind, .. }| {
                let predicate = self.document(findings, kind, Some(digest));
                let bytes = json(&statement(&subjects, kind.predicate_type(), &predicate))?;
                Ok(Attachment::statement(kind.predicate_type(), bytes))
            })
            .collect::<Result<Vec<_>, EngineError>>()?;
        let carrier = if self.requests.in_index { Carrier::Index } else { Carrier::Referrers };
        built.attach(attachments, carrier)
    }

    /// Writes the files that were asked for. An SBOM is written as it is, for the tools that read them; provenance as a
    /// statement, since it does not say itself of what it is.
    pub(crate) fn write(&self, findings: &Findings, built: Option<&BuiltImage>) -> Result<(), EngineError> {
        let digest = built.map(|built| built.image.manifest.descriptor.digest);
        for Request { kind, dest } in &self.requests.list {
            let Some(dest) = dest else { continue };
            let document = self.document(findings, kind, digest);
            let document = match (kind, built) {
                (Kind::Provenance { .. }, Some(built)) => {
                    statement(&self.subjects(built), kind.predicate_type(), &document)
                }
                _ => document,
            };
            put(dest, &document)?;
        }
        Ok(())
    }

    /// What is to travel with files, as `docker buildx` does it: statements about each of them, by the name of a file.
    pub(crate) fn beside(
        &self,
        findings: &Findings,
        snapshot: &Snapshot,
    ) -> Result<Vec<(&'static str, Vec<u8>)>, EngineError> {
        if !self.requests.travel() {
            return Ok(Vec::new());
        }
        let subjects = self.engine.file_subjects(snapshot)?;
        let travelling = self.requests.list.iter().filter(|request| request.dest.is_none());
        let documents = travelling.map(|Request { kind, .. }| {
            let document = self.document(findings, kind, None);
            let mut bytes = json(&statement(&subjects, kind.predicate_type(), &document))?;
            bytes.push(b'\n');
            Ok((kind.file_name(), bytes))
        });
        documents.collect()
    }

    fn name(&self) -> String {
        self.tags.first().map_or_else(|| self.facts.name.clone(), Reference::familiar)
    }

    fn document(&self, findings: &Findings, kind: &Kind, digest: Option<Digest>) -> Value {
        let about = About {
            name: self.name(),
            digest,
            platform: self.target.config.platform().to_string(),
            created: timestamp(self.facts.created).unwrap_or_default(),
            version: VERSION.to_owned(),
        };
        match kind {
            Kind::Sbom(SbomFormat::Spdx) => findings.inventory.spdx(&about),
            Kind::Sbom(SbomFormat::CycloneDx) => findings.inventory.cyclonedx(&about),
            Kind::Provenance { mode, builder } => {
                let [min, max] = &findings.provenance;
                let mut predicate = if *mode == Mode::Max { max.clone() } else { min.clone() };
                if let Some(builder) = builder {
                    predicate["runDetails"]["builder"]["id"] = builder.as_str().into();
                }
                predicate
            }
        }
    }

    /// The image under each of its names.
    fn subjects(&self, built: &BuiltImage) -> Vec<Subject> {
        let digest = built.image.manifest.descriptor.digest;
        let platform = self.target.config.platform().to_string();
        if self.tags.is_empty() {
            return vec![Subject { name: self.facts.name.clone(), digest }];
        }
        let subject = |tag| Subject { name: docker_purl(tag, Some(&platform)), digest };
        self.tags.iter().map(subject).collect()
    }
}

fn json(document: &Value) -> Result<Vec<u8>, EngineError> {
    to_canonical_json(document).map_err(EngineError::Message)
}

/// Writes a document that appears only when it is complete.
fn put(path: &Path, document: &Value) -> Result<(), EngineError> {
    let failed = |source| EngineError::Io { action: "write", path: path.to_owned(), source };
    let mut bytes = json(document)?;
    bytes.push(b'\n');
    let mut file = OutputFile::create(path).map_err(failed)?;
    file.write_all(&bytes).map_err(failed)?;
    file.commit().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(sbom: &[&str], provenance: &[&str], attest: &[&str]) -> Option<Requests> {
        let all = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let args = AttestArgs {
            sbom: all(sbom),
            provenance: all(provenance),
            attest: all(attest),
            attest_index: false,
        };
        Requests::parse(&args).ok()
    }

    #[test]
    fn flags_as_buildx_reads_them() {
        let provenance = |mode| Kind::Provenance { mode, builder: None };
        let kinds = |requests: Option<Requests>| {
            requests.map(|requests| requests.list.into_iter().map(|request| request.kind).collect::<Vec<_>>())
        };
        assert_eq!(kinds(parse(&["true"], &[], &[])), Some(vec![Kind::Sbom(SbomFormat::Spdx)]));
        assert_eq!(kinds(parse(&["false"], &["false"], &[])), Some(Vec::new()));
        assert_eq!(
            kinds(parse(&["format=cyclonedx"], &["mode=max"], &[])),
            Some(vec![Kind::Sbom(SbomFormat::CycloneDx), provenance(Mode::Max)])
        );
        assert_eq!(
            kinds(parse(&[], &[], &["type=provenance,mode=min,version=v1", "type=sbom,disabled=true"])),
            Some(vec![provenance(Mode::Min)])
        );
        assert!(parse(&["true", "format=cyclonedx"], &[], &[]).is_some());
        for (sbom, provenance, attest) in [
            (&["generator=x"][..], &[][..], &[][..]),
            (&["format=swid"], &[], &[]),
            (&["mode=max"], &[], &[]),
            (&["true", "true"], &[], &[]),
            (&["dest=a", "format=cyclonedx,dest=a"], &[], &[]),
            (&[], &["version=v0.2"], &[]),
            (&[], &["mode=all"], &[]),
            (&[], &[], &["sbom"]),
            (&[], &[], &["type=x"]),
        ] {
            assert_eq!(parse(sbom, provenance, attest), None, "{sbom:?} {provenance:?} {attest:?}");
        }
    }
}
