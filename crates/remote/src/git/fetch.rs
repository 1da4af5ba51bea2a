use std::fs;
use std::io;
use std::path::Path;

use super::error::GitError;
use super::program::{Call, Git};
use super::refs::{find, patterns};
use super::remote::{CommitId, GitRemote, Reference};
use crate::http::Authorization;
use crate::watch::Watch;

/// More files than these in its folder of packs make every git command slow. A fetch adds three.
const MAX_PACK_FILES: usize = 200;

/// What a reference is right now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The commit.
    pub commit: CommitId,
    /// The full name that has it, if it was looked up by name.
    pub name: Option<String>,
}

impl Git {
    /// Asks the repository what a reference is; a commit is itself, without asking. `checksum` is the commit that it must
    /// be, or the beginning of its name.
    ///
    /// # Errors
    /// When git or the repository says no, or it is another commit.
    pub fn resolve(
        &self,
        remote: &GitRemote,
        reference: &Reference,
        checksum: Option<&str>,
        authorization: Option<&Authorization>,
        watch: &Watch<'_>,
    ) -> Result<Resolved, GitError> {
        let name = match reference {
            Reference::Commit(commit) => {
                check(remote, reference, checksum, commit)?;
                return Ok(Resolved { commit: commit.clone(), name: None });
            }
            Reference::Default => None,
            Reference::Name(name) => Some(name.as_str()),
        };
        let wanted = patterns(name);
        let mut arguments = vec!["ls-remote", "--quiet", "--", remote.address()];
        arguments.extend(wanted.iter().map(String::as_str));
        let call = Call::new("ask", remote, &self.options.scratch, &arguments).over_network();
        let output = self.run(&call, authorization, watch)?;
        let found = find(&output, name).ok_or_else(|| GitError::NoReference {
            remote: remote.to_string(),
            reference: in_words(reference),
        })?;
        check(remote, reference, checksum, &found.commit)?;
        Ok(Resolved { commit: found.commit, name: Some(found.name) })
    }

    /// Sees to it that the bare repository in `folder` has a commit: by its name and without history where the server
    /// allows that, by the reference otherwise, and as a last resort by fetching everything. The caller holds a lock.
    pub(crate) fn fetch(
        &self,
        remote: &GitRemote,
        wanted: &Resolved,
        folder: &Path,
        authorization: Option<&Authorization>,
        watch: &Watch<'_>,
    ) -> Result<(), GitError> {
        self.make_bare(remote, &wanted.commit, folder, watch)?;
        if self.has(remote, &wanted.commit, folder, watch) {
            return Ok(());
        }
        // Each fetch adds one. Starting over is cheaper than putting them together, and rare.
        let packs = fs::read_dir(folder.join("objects/pack")).map_or(0, Iterator::count);
        if packs > MAX_PACK_FILES {
            empty(folder)?;
            self.make_bare(remote, &wanted.commit, folder, watch)?;
        }
        // Left behind by a process that was killed: nobody else is here.
        for lock in ["shallow.lock", "packed-refs.lock", "config.lock"] {
            let path = folder.join(lock);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(GitError::Io { action: "remove", path, source });
                }
                _ => {}
            }
        }
        let commit = wanted.commit.as_str();
        let kept = format!("refs/wbuild/{commit}");
        let mut ways = vec![(true, vec![format!("+{commit}:{kept}")])];
        if let Some(name) = &wanted.name {
            ways.push((true, vec![format!("+{name}:{kept}")]));
            ways.push((false, vec![format!("+{name}:{kept}")]));
        }
        ways.push((
            false,
            vec![
                "+refs/heads/*:refs/wbuild/heads/*".to_owned(),
                "+refs/tags/*:refs/wbuild/tags/*".to_owned(),
            ],
        ));
        let mut last = None;
        for (shallow, refspecs) in ways {
            let mut arguments = vec!["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--force"];
            if shallow {
                arguments.push("--depth=1");
            } else if folder.join("shallow").exists() {
                arguments.push("--unshallow");
            }
            arguments.extend(["--", remote.address()]);
            arguments.extend(refspecs.iter().map(String::as_str));
            let call = Call::new("fetch", remote, folder, &arguments).over_network();
            match self.run(&call, authorization, watch) {
                Ok(_) if self.has(remote, &wanted.commit, folder, watch) => return Ok(()),
                Ok(_) => {}
                Err(error @ GitError::Failed { .. }) if is_about_the_way(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| GitError::NoReference {
            remote: remote.to_string(),
            reference: commit.to_owned(),
        }))
    }

    /// A bare repository, unless there is one.
    fn make_bare(
        &self,
        remote: &GitRemote,
        commit: &CommitId,
        folder: &Path,
        watch: &Watch<'_>,
    ) -> Result<(), GitError> {
        if folder.join("HEAD").exists() && folder.join("objects").exists() {
            return Ok(());
        }
        fs::create_dir_all(folder).map_err(|source| GitError::Io {
            action: "create",
            path: folder.to_owned(),
            source,
        })?;
        let arguments = ["init", "--quiet", "--bare", commit.object_format(), "."];
        self.run(&Call::new("prepare a copy of", remote, folder, &arguments), None, watch)?;
        Ok(())
    }

    /// Whether a commit and all that it consists of are there.
    fn has(&self, remote: &GitRemote, commit: &CommitId, folder: &Path, watch: &Watch<'_>) -> bool {
        let object = format!("{commit}^{{tree}}");
        let call = Call::new("look into", remote, folder, &["cat-file", "-e", &object]);
        self.run(&call, None, watch).is_ok()
    }

    /// When a commit was made, in seconds since the epoch.
    pub(crate) fn commit_time(
        &self,
        remote: &GitRemote,
        commit: &CommitId,
        folder: &Path,
        watch: &Watch<'_>,
    ) -> Result<i64, GitError> {
        let call = Call::new("look into", remote, folder, &["cat-file", "commit", commit.as_str()]);
        let text = self.run(&call, None, watch)?;
        let line =
            text.lines().take_while(|line| !line.is_empty()).find_map(|line| line.strip_prefix("committer "));
        // NAME <MAIL> SECONDS ZONE
        let seconds = line.and_then(|line| line.rsplit(' ').nth(1)?.parse().ok());
        seconds.ok_or_else(|| GitError::Failed {
            doing: "look into",
            remote: remote.to_string(),
            said: format!("the commit {commit} has no time"),
        })
    }
}

fn check(
    remote: &GitRemote,
    reference: &Reference,
    checksum: Option<&str>,
    commit: &CommitId,
) -> Result<(), GitError> {
    match checksum {
        Some(expected) if !commit.as_str().starts_with(&expected.to_ascii_lowercase()) => {
            Err(GitError::Checksum {
                remote: remote.to_string(),
                reference: in_words(reference),
                expected: expected.to_owned(),
                found: commit.to_string(),
            })
        }
        _ => Ok(()),
    }
}

fn in_words(reference: &Reference) -> String {
    match reference {
        Reference::Default => "HEAD".to_owned(),
        Reference::Name(name) => name.clone(),
        Reference::Commit(commit) => commit.to_string(),
    }
}

/// Whether the server takes no requests of this kind, and another kind may work.
pub(crate) fn is_about_the_way(error: &GitError) -> bool {
    const SIGNS: [&str; 7] = [
        "not our ref",
        "unadvertised object",
        "Server does not allow request",
        "shallow",
        "--depth",
        "couldn't find remote ref",
        "does not support",
    ];
    matches!(error, GitError::Failed { said, .. } if SIGNS.iter().any(|sign| said.contains(sign)))
}

/// Whether the repository that is kept is no longer what it was.
pub(crate) fn is_about_damage(error: &GitError) -> bool {
    const SIGNS: [&str; 10] = [
        "corrupt",
        "bad object",
        "unable to read",
        "unable to parse",
        "inflate",
        "missing",
        "not a git repository",
        "did not send all necessary objects",
        "does not match index",
        "pack has",
    ];
    matches!(error, GitError::Failed { said, .. } if SIGNS.iter().any(|sign| said.contains(sign)))
}

/// Removes everything in a folder.
pub(crate) fn empty(folder: &Path) -> Result<(), GitError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| GitError::Io { action: "remove", path, source }
    };
    for entry in fs::read_dir(folder).map_err(failed(folder))? {
        let entry = entry.map_err(failed(folder))?;
        let path = entry.path();
        let is_directory = entry.file_type().map_err(failed(&path))?.is_dir();
        let removed = if is_directory { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(failed(&path))?;
    }
    Ok(())
}
