//! Turborepo's configuration and task graph, as turbo 2 reads them.

mod config;
mod definition;
mod env_files;
mod environment;
mod gitignore;
mod graph;
mod inputs;

use std::fmt;

use crate::RelPath;

pub use config::{TaskConfig, TurboConfig, TurboConfigs};
pub use definition::TaskDefinition;
pub use env_files::EnvFiles;
pub use environment::EnvNames;
pub use gitignore::GitIgnores;
pub use graph::{GlobalInputs, Task, TaskGraph};
pub use inputs::{Inputs, Outputs};

/// The name that turbo gives to the root package.
pub(crate) const ROOT_NAME: &str = "//";

/// Which task of which package.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The package's directory.
    pub dir: RelPath,
    /// What turbo calls the package: its name, or `//` for the root.
    pub package: String,
    /// The task's name, which is that of the script.
    pub task: String,
}

/// `@repo/ui#build`, `//#content`: as in turbo.json.
impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.package, self.task)
    }
}
