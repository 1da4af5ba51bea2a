//! What a result was made of: sources with what they were found to be, and steps with their keys.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use wbuild_attest::{Dependency, Mode, Provenance, REDACTED, StepKey, docker_purl, without_passwords};
use wbuild_dockerfile::lint::{holds_secret, is_secret_name};
use wbuild_frontend::{Definition, Target};
use wbuild_graph::{DeltaId, Field, FieldValue, Files, GitCheckout, HttpFile, Op, Pattern, Preimage, Source};
use wbuild_oci::{Digest, Reference};
use wbuild_remote::{GitRemote, HttpUrl};
use wbuild_report::VertexId;
use wbuild_solver::{Records, Solution};
use wbuild_tree::{Node, Subtree};

use crate::attest::inventory::plain;
use crate::context_source::ContextPlace;
use crate::error::EngineError;
use crate::remote::RemoteError;
use crate::session::IsolationMode;
use crate::worker::Engine;

/// The digest of a tree: SHA-256 over its entries without times (`cache/keys.md`), so no tool computes it but this one.
const TREE_DIGEST: &str = "wbuildTreeV1";

/// What provenance says besides what the graph says.
#[derive(Clone, Debug)]
pub struct ProvenanceOptions {
    /// How much is told.
    pub mode: Mode,
    /// Which kind of build it was.
    pub build_type: String,
    /// The release of wbuild.
    pub version: String,
    /// What was asked for.
    pub parameters: Map<String, Value>,
    /// Build arguments; told in full provenance only, and without what looks like a secret.
    pub build_args: BTreeMap<String, String>,
    /// What else was typed or written; told in full provenance only.
    pub typed: Map<String, Value>,
    /// What was taken from outside besides the sources of the graph.
    pub dependencies: Vec<Dependency>,
}

impl Engine {
    /// How a solved target came to be.
    ///
    /// # Errors
    /// When a record cannot be read, or a source of this build is not at hand any more.
    pub fn provenance(
        &self,
        definition: &Definition,
        target: &Target,
        solution: &Solution,
        options: &ProvenanceOptions,
    ) -> Result<Provenance, EngineError> {
        let graph = &definition.graph;
        let reachable = graph.reachable(&[target.vertex]);
        let mut dependencies = options.dependencies.clone();
        let mut steps = Vec::new();
        for id in reachable {
            let vertex = graph.vertex(id);
            if let Op::Source(source) = &vertex.op {
                dependencies.extend(self.dependency(source, id, solution)?);
            }
            let Some(key) = solution.get(id).and_then(|solved| solved.key) else { continue };
            let preimage = match options.mode {
                Mode::Max => self.record(&key)?.map(|record| record.preimage).unwrap_or_default(),
                Mode::Min => Preimage::default(),
            };
            steps.push(StepKey {
                name: shown(&vertex.name),
                key: key.to_string(),
                preimage: preimage.fields.iter().map(field).collect(),
            });
        }
        let mut internal = Map::new();
        internal.insert("isolation".to_owned(), self.isolation_in_words().into());
        internal.insert("platform".to_owned(), self.platform.to_string().into());
        let mut typed = options.typed.clone();
        if !options.build_args.is_empty() {
            let args =
                options.build_args.iter().map(|(name, value)| (name.clone(), value_of(name, value).into()));
            typed.insert("buildArgs".to_owned(), Value::Object(args.collect()));
        }
        Ok(Provenance {
            mode: options.mode,
            build_type: options.build_type.clone(),
            builder: None,
            version: options.version.clone(),
            parameters: options.parameters.clone(),
            typed,
            internal,
            dependencies,
            steps,
        })
    }

    fn isolation_in_words(&self) -> &'static str {
        match self.isolate {
            IsolationMode::NoRun => "norun",
            IsolationMode::Auto | IsolationMode::Overlay => "overlay",
        }
    }

    fn dependency(
        &self,
        source: &Source,
        id: VertexId,
        solution: &Solution,
    ) -> Result<Option<Dependency>, EngineError> {
        Ok(match source {
            Source::Scratch => None,
            Source::Image(image) => {
                let opened = self.open_image(image)?;
                let platform = opened.image.config.platform().to_string();
                let uri = image.reference.parse::<Reference>().ok();
                Some(Dependency {
                    uri: uri.map(|reference| docker_purl(&reference, Some(&platform))),
                    name: Some(shown(&image.reference)),
                    digest: sha256(&opened.image.descriptor.digest),
                    annotations: BTreeMap::new(),
                })
            }
            Source::Local { context, files } => {
                let Some([DeltaId::Tree { content, .. }]) =
                    solution.get(id).map(|solved| solved.snapshot.deltas.as_slice())
                else {
                    return Ok(None);
                };
                let name = if context.is_empty() { "context" } else { context };
                Some(Dependency {
                    uri: None,
                    name: Some(name.to_owned()),
                    digest: BTreeMap::from([(TREE_DIGEST.to_owned(), content.0.hex())]),
                    annotations: BTreeMap::from([("files".to_owned(), which(files))]),
                })
            }
            Source::Http(file) => self.http_dependency(file, id, solution)?,
            Source::Git(checkout) => Some(self.git_dependency(checkout)?),
        })
    }

    fn http_dependency(
        &self,
        file: &HttpFile,
        id: VertexId,
        solution: &Solution,
    ) -> Result<Option<Dependency>, EngineError> {
        let Some([DeltaId::Tree { tree, .. }]) =
            solution.get(id).map(|solved| solved.snapshot.deltas.as_slice())
        else {
            return Ok(None);
        };
        let trees = self.trees();
        let folder = Subtree::load(&trees, *tree)?.open(&trees)?;
        let Some(Node::File { content, .. }) = folder.entries.values().next().map(|entry| &entry.node) else {
            return Ok(None);
        };
        let url = HttpUrl::parse(&file.url).map_err(|error| RemoteError::Http(error.into()))?;
        Ok(Some(Dependency {
            // As in messages: without user, password and query.
            uri: Some(url.to_string()),
            name: None,
            digest: sha256(content),
            annotations: BTreeMap::new(),
        }))
    }

    /// A context from elsewhere as a dependency: which file or which commit it was. Nothing for folders of this machine and
    /// for standard input, of which only those files count that steps take.
    ///
    /// # Errors
    /// When it cannot be asked for any more.
    pub fn context_dependency(
        &self,
        name: &str,
        place: &ContextPlace,
    ) -> Result<Option<Dependency>, EngineError> {
        let found = match place {
            ContextPlace::Folder(_) | ContextPlace::Stdin => return Ok(None),
            ContextPlace::Git(checkout) => self.git_dependency(checkout)?,
            ContextPlace::Http(url) => Dependency {
                uri: Some(url.to_string()),
                name: None,
                // Asked for once in a build, so this is the answer that it was made from.
                digest: sha256(&self.http_file(url, None, &self.remotes.following())?.digest),
                annotations: BTreeMap::new(),
            },
        };
        Ok(Some(Dependency { name: Some(name.to_owned()), ..found }))
    }

    /// A repository as a dependency. What its reference is was asked when it was fetched, or stands in it.
    fn git_dependency(&self, checkout: &GitCheckout) -> Result<Dependency, EngineError> {
        let remote = GitRemote::parse(&checkout.remote).map_err(RemoteError::from)?;
        let pinned = checkout.checksum.as_deref().filter(|sum| sum.len() >= 40);
        let commit = match pinned {
            Some(commit) => commit.to_ascii_lowercase(),
            None => self.resolve(checkout, &remote, &self.remotes.following())?.commit.as_str().to_owned(),
        };
        let reference = match checkout.reference.as_str() {
            "" => String::new(),
            reference => format!("@{reference}"),
        };
        let mut annotations = BTreeMap::new();
        if !checkout.subdirectory.is_empty() {
            annotations.insert("subdirectory".to_owned(), checkout.subdirectory.clone());
        }
        Ok(Dependency {
            uri: Some(format!("git+{remote}{reference}")),
            name: None,
            digest: BTreeMap::from([("gitCommit".to_owned(), commit)]),
            annotations,
        })
    }
}

fn sha256(digest: &Digest) -> BTreeMap<String, String> {
    BTreeMap::from([("sha256".to_owned(), digest.hex())])
}

/// Which files of a context, as far as that is short.
fn which(files: &Files) -> String {
    const MOST: usize = 10;
    let list = |names: Vec<String>| match names.len() {
        0 => "none".to_owned(),
        count if count > MOST => format!("{}, and {} more", names[..MOST].join(", "), count - MOST),
        _ => names.join(", "),
    };
    match files {
        Files::All => "all".to_owned(),
        Files::Paths(paths) => list(paths.iter().map(plain).collect()),
        Files::Matching { patterns } => list(
            patterns
                .iter()
                .map(|pattern| match pattern {
                    Pattern::Literal(text) | Pattern::Wildcard(text) | Pattern::Parents(text) => text.clone(),
                })
                .collect(),
        ),
    }
}

/// One field of a preimage. A tree is what its content is: its times differ from one checkout to the next, and are in no
/// key.
fn field(Field { name, value }: &Field) -> (String, String) {
    let value = match value {
        FieldValue::Text(text) => match name.strip_prefix("env/") {
            Some(variable) => value_of(variable, text),
            None => shown(text),
        },
        FieldValue::Digest(digest) => digest.to_string(),
        FieldValue::Hidden(_) => REDACTED.to_owned(),
        FieldValue::Tree { content, .. } => format!("tree {}", content.0),
    };
    (name.clone(), value)
}

/// The value of a variable or build argument; not when name or value say that it is a secret.
fn value_of(name: &str, value: &str) -> String {
    if is_secret_name(name) { REDACTED.to_owned() } else { shown(value) }
}

/// Text that somebody wrote; not when it holds something in the form of a secret.
fn shown(text: &str) -> String {
    if holds_secret(text) { REDACTED.to_owned() } else { without_passwords(text).into_owned() }
}
