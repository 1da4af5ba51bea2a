//! What tests of several modules need: a session in a folder of its own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use wbuild_oci::Platform;
use wbuild_testkit::{HttpServer, Reply};
use wbuild_tree::{Entry, EntryPath, Node, Subtree, Visit, walk};

use crate::{Engine, Options, Secrets};

/// Opens a session with secrets given as pairs; with this machine's `PATH` and nothing else of its environment.
pub(crate) fn engine(home: &Path, secrets: &[(&str, &str)]) -> Engine {
    let mut given = Secrets::default();
    for (id, value) in secrets {
        given.add(&format!("id={id},env=VALUE"), &|_| Some((*value).to_owned())).unwrap();
    }
    let options = Options {
        home: home.to_owned(),
        platform: Platform::linux("amd64"),
        images: BTreeMap::new(),
        secrets: given,
        isolation: crate::session::IsolationMode::Auto,
        agents: BTreeMap::new(),
    };
    Engine::open(options, &|name| (name == "PATH").then(|| std::env::var(name).ok()).flatten()).unwrap()
}

/// Every entry of a tree, with the text of files.
pub(crate) fn listing(engine: &Engine, tree: &Subtree) -> Vec<String> {
    let mut found = Vec::new();
    walk(&engine.store, tree, &mut |path: &EntryPath, entry: &Entry| {
        let mode = entry.meta.mode;
        found.push(match &entry.node {
            Node::File { content, .. } => {
                let bytes = engine.store.read_blob(content, 1 << 20).unwrap();
                format!("{path} {mode:o} {}", String::from_utf8_lossy(&bytes))
            }
            Node::Symlink { target } => format!("{path} -> {}", String::from_utf8_lossy(target)),
            Node::Directory { .. } => format!("{path}/ {mode:o}"),
            other => format!("{path} {other:?}"),
        });
        Ok::<_, wbuild_tree::TreeLoadError>(Visit::Into)
    })
    .unwrap();
    found
}

/// A repository that a web server serves as plain files.
pub(crate) struct Repository {
    folder: TempDir,
}

impl Repository {
    /// `None`, said aloud, on a machine without git.
    pub(crate) fn new() -> Option<Self> {
        if Command::new("git").arg("--version").output().is_err() {
            println!("skipped: there is no git on this machine");
            return None;
        }
        let repository = Self { folder: tempfile::tempdir().unwrap() };
        repository.git(&["init", "--quiet", "--initial-branch=main", "."]);
        repository.commit("one");
        Some(repository)
    }

    pub(crate) fn git(&self, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=A", "-c", "user.email=a@example.org"])
            .args(arguments)
            .current_dir(self.folder.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn commit(&self, text: &str) -> String {
        fs::create_dir_all(self.folder.path().join("dir")).unwrap();
        fs::write(self.folder.path().join("dir/f"), text).unwrap();
        self.git(&["add", "-A"]);
        self.git(&["commit", "--quiet", "-m", text]);
        self.git(&["update-server-info"]);
        self.git(&["rev-parse", "HEAD"])
    }

    pub(crate) fn serve(&self) -> HttpServer {
        let folder: PathBuf = self.folder.path().join(".git");
        HttpServer::start(move |seen| {
            let path = seen.path.split('?').next().unwrap_or_default();
            match fs::read(folder.join(path.trim_start_matches("/x.git/"))) {
                Ok(bytes) => Reply::ok(bytes),
                Err(_) => Reply::status(404),
            }
        })
        .unwrap()
    }
}
