use std::io;
use std::path::PathBuf;

use wbuild_report::Hint;

/// Why a repository cannot be used. Remotes in it have no passwords.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// There is no git.
    #[error("the program `git` is not installed, and `{remote}` cannot be fetched without it")]
    NotInstalled {
        /// What was to be fetched.
        remote: String,
    },
    /// Git cannot be started.
    #[error("cannot run `git`")]
    Start(#[source] io::Error),
    /// Git says no.
    #[error("cannot {doing} `{remote}`: {said}")]
    Failed {
        /// What it was to do.
        doing: &'static str,
        /// Of which repository.
        remote: String,
        /// The last lines of what it said.
        said: String,
    },
    /// There is no such branch or tag.
    #[error("`{remote}` has no branch or tag `{reference}`")]
    NoReference {
        /// Where.
        remote: String,
        /// Which.
        reference: String,
    },
    /// The commit is another one than expected.
    #[error("`{reference}` of `{remote}` is the commit {found}, but {expected} is expected")]
    Checksum {
        /// Where.
        remote: String,
        /// What was looked up.
        reference: String,
        /// What it must be, or begin with.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The directory is not in it.
    #[error("`{remote}` has no directory `{directory}` at commit {commit}")]
    NoDirectory {
        /// Where.
        remote: String,
        /// Which.
        directory: String,
        /// At which commit.
        commit: String,
    },
    /// The operating system refused.
    #[error("cannot {action} `{}`", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Somebody said stop.
    #[error("stopped")]
    Stopped,
}

impl Hint for GitError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::NotInstalled { .. } => {
                vec!["install git, or fetch the repository beforehand and give its folder".to_owned()]
            }
            Self::Failed { said, .. } if asks_for_password(said) => vec![
                "if the repository is private, give a token: --secret id=GIT_AUTH_TOKEN,env=NAME".to_owned(),
            ],
            Self::Failed { said, .. } if said.contains("Host key verification failed") => {
                vec!["add the host to ~/.ssh/known_hosts: connect to it once by hand".to_owned()]
            }
            Self::Failed { said, .. } if said.contains("Permission denied (publickey") => {
                vec!["give an SSH agent that has the key: --ssh default".to_owned()]
            }
            Self::Failed { said, .. } if said.contains("returned error: 30") => {
                vec![
                    "the repository has moved: write its new address; credentials do not follow redirects"
                        .to_owned(),
                ]
            }
            Self::Checksum { found, .. } => {
                vec![format!("if it was meant to move, write the commit {found} into the description")]
            }
            _ => Vec::new(),
        }
    }
}

fn asks_for_password(said: &str) -> bool {
    [
        "could not read Username",
        "could not read Password",
        "Authentication failed",
        "returned error: 401",
        "returned error: 403",
    ]
    .iter()
    .any(|sign| said.contains(sign))
}
