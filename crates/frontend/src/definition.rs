use std::collections::BTreeMap;

use wbuild_graph::{Graph, ImageRef};
use wbuild_oci::ImageConfig;
use wbuild_report::{Diagnostic, Hint, VertexId, nearest};

/// What a frontend hands over: a graph, and what can be made of it.
#[derive(Clone, Debug)]
pub struct Definition {
    /// All operations of all targets.
    pub graph: Graph,
    /// By name; `base`, `deps`, `builder`, `runner`, and `dev` when the spec has one.
    pub targets: BTreeMap<String, Target>,
    /// Targets that cannot be made of this application, each with the reasons.
    pub prevented: BTreeMap<String, Vec<Diagnostic>>,
    /// The one to build when none is named.
    pub default_target: String,
    /// What is probably not as its author believes.
    pub warnings: Vec<Diagnostic>,
}

impl Definition {
    /// The target with a name.
    ///
    /// # Errors
    /// When there is none, or none can be made of this application.
    pub fn target(&self, name: &str) -> Result<&Target, NoTarget> {
        if let Some(reasons) = self.prevented.get(name) {
            return Err(NoTarget::Prevented(reasons.clone()));
        }
        self.targets.get(name).ok_or_else(|| {
            let all = self.targets.keys().cloned().collect();
            NoTarget::Unknown(UnknownTarget { given: name.to_owned(), all })
        })
    }
}

/// Why there is no such target.
#[derive(Clone, Debug, thiserror::Error)]
pub enum NoTarget {
    /// Nobody knows the name.
    #[error(transparent)]
    Unknown(UnknownTarget),
    /// It cannot be made of this application.
    #[error("the target cannot be made of this application")]
    Prevented(Vec<Diagnostic>),
}

impl Hint for NoTarget {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Unknown(error) => error.hints(),
            Self::Prevented(reasons) => reasons.iter().flat_map(Hint::hints).collect(),
        }
    }
}

/// No target has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no target `{}`", given.escape_debug())]
pub struct UnknownTarget {
    /// What was asked for.
    pub given: String,
    /// What there is.
    pub all: Vec<String>,
}

impl Hint for UnknownTarget {
    fn hints(&self) -> Vec<String> {
        let near = nearest(&self.given, self.all.iter().map(String::as_str));
        let mut hints: Vec<String> =
            near.first().map(|near| format!("did you mean `{near}`?")).into_iter().collect();
        hints.push(format!("the targets are `{}`", self.all.join("`, `")));
        hints
    }
}

/// Something that becomes an image.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its root file system.
    pub vertex: VertexId,
    /// The image it stands on, as written: its layers and history come first. `None` is `scratch`.
    pub base_image: Option<ImageRef>,
    /// Platform and execution parameters, those of the base image already merged in. Without layers, history and time.
    pub config: ImageConfig,
    /// Comment of the rows: who made them.
    pub comment: &'static str,
    /// The rows above the base image's, in stack order. The rows with a delta are as many as the deltas that the
    /// vertex has above the base image.
    pub history: Vec<HistoryRow>,
}

/// One row of an image's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// What made it.
    pub created_by: String,
    /// Whether the next delta belongs to it, and what becomes of an empty one.
    pub delta: RowDelta,
}

/// What a row of the history has to do with a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowDelta {
    /// Nothing: the row is an `empty_layer`.
    None,
    /// The next delta is its layer; if that is empty, the row becomes an `empty_layer`.
    IfAny,
    /// What the next delta changes is its layer, even if that is nothing: RUN, COPY, ADD and WORKDIR of a Dockerfile
    /// (BuildKit).
    Always,
    /// The next delta is its layer as it is, whatever lies below: `COPY --link`.
    Whole,
}

impl HistoryRow {
    /// A row with a layer, whatever is in it.
    pub(crate) fn layer(created_by: impl Into<String>) -> Self {
        Self { created_by: created_by.into(), delta: RowDelta::Always }
    }

    /// A row with a layer that does not depend on those below.
    pub(crate) fn whole(created_by: impl Into<String>) -> Self {
        Self { created_by: created_by.into(), delta: RowDelta::Whole }
    }

    /// A row with a delta.
    pub(crate) fn delta(created_by: impl Into<String>) -> Self {
        Self { created_by: created_by.into(), delta: RowDelta::IfAny }
    }

    /// A row that only says something about the configuration.
    pub(crate) fn metadata(created_by: impl Into<String>) -> Self {
        Self { created_by: created_by.into(), delta: RowDelta::None }
    }
}
