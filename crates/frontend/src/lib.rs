//! Reads a build description and lowers it to a graph: the [buildspec](Spec) of an application in a pnpm workspace
//! becomes a [`Definition`] with one [`Target`] a stage.
//!
//! Works in two pure phases: [`needs`] says which facts are wanted, and [`lower`] makes the graph once they are there.
//! Nothing here reads a file, runs anything, or knows the store.

mod definition;
mod dockerfile;
mod input;
mod lower;
mod project;
mod spec;

pub use definition::{Definition, HistoryRow, NoTarget, RowDelta, Target, UnknownTarget};
pub use dockerfile::{
    DockerfileBuild, DockerfileInput, ForeignRun, Lowered, NamedContext, StepOptions, lower_dockerfile,
};
pub use input::{Facts, Input, Needs, needs};
pub use lower::{INPUT_DIGEST, lower, undecided};
pub use project::{
    App, Credentials, ForeignPackage, Install, InstallFile, LifecycleScript, Next, Outputs, Project,
    ProjectSource, Task,
};
pub use spec::{
    BuildSpec, DevSpec, InferFacts, InstallSpec, Layer, NodeVersion, Normalise, Origin, Probe, RunnerSpec,
    SPEC_FILE, SecretSpec, SecretTarget, Spec, User, infer,
};
