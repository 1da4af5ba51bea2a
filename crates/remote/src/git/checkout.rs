use std::fs;
use std::path::{Component, Path, PathBuf};

use super::error::GitError;
use super::fetch::{Resolved, empty, is_about_damage, is_about_the_way};
use super::program::{Call, Git};
use super::remote::GitRemote;
use super::tidy::tidy;
use crate::http::Authorization;
use crate::watch::Watch;

/// What is to be checked out.
#[derive(Clone, Debug)]
pub struct Checkout<'a> {
    /// From where.
    pub remote: &'a GitRemote,
    /// Which commit, found with [`Git::resolve`].
    pub resolved: &'a Resolved,
    /// Only this directory; empty is all. Every part of it is a directory in the repository, never a link.
    pub subdirectory: &'a str,
    /// Whether `.git` stays; only with the whole repository, as in BuildKit.
    pub keep_git_dir: bool,
    /// Whether submodules are fetched too.
    pub submodules: bool,
    /// Whether everything gets the time of the commit.
    pub commit_times: bool,
}

impl Git {
    /// Fetches a commit into the bare repository in `bare` (made if there is none), and checks it out into `target`,
    /// which does not exist yet. Gives the directory that was asked for, in or at `target`, and the commit's time in
    /// seconds since the epoch. Modes are 0755 and 0644, whatever the umask.
    ///
    /// The caller sees to it that nobody else uses either folder meanwhile.
    ///
    /// # Errors
    /// When git or the repository says no, or a folder cannot be written.
    pub fn check_out(
        &self,
        checkout: &Checkout<'_>,
        bare: &Path,
        target: &Path,
        authorization: Option<&Authorization>,
        watch: &Watch<'_>,
    ) -> Result<(PathBuf, i64), GitError> {
        match self.try_check_out(checkout, bare, target, authorization, watch) {
            Err(error) if is_about_damage(&error) => {
                // The repository is only a cache: a new one costs one fetch.
                empty(bare)?;
                if target.exists() {
                    fs::remove_dir_all(target).map_err(failed("remove", target))?;
                }
                self.try_check_out(checkout, bare, target, authorization, watch)
            }
            other => other,
        }
    }

    fn try_check_out(
        &self,
        checkout: &Checkout<'_>,
        bare: &Path,
        target: &Path,
        authorization: Option<&Authorization>,
        watch: &Watch<'_>,
    ) -> Result<(PathBuf, i64), GitError> {
        let Checkout { remote, resolved, .. } = *checkout;
        let commit = &resolved.commit;
        self.fetch(remote, resolved, bare, authorization, watch)?;
        let time = self.commit_time(remote, commit, bare, watch)?;
        let keep_git_dir = checkout.keep_git_dir && checkout.subdirectory.is_empty();
        fs::create_dir_all(target).map_err(failed("create", target))?;
        self.local(checkout, target, &["init", "--quiet", commit.object_format(), "."], watch)?;
        if keep_git_dir {
            self.copy_commit(checkout, bare, target, watch)?;
        } else {
            borrow_objects(bare, target)?;
        }
        self.local(
            checkout,
            target,
            &["checkout", "--quiet", "--force", "--detach", commit.as_str(), "--"],
            watch,
        )?;
        // What relative addresses of submodules are relative to.
        self.local(checkout, target, &["remote", "add", "origin", remote.address()], watch)?;
        if checkout.submodules && target.join(".gitmodules").exists() {
            self.submodules(checkout, target, authorization, watch)?;
        }
        if keep_git_dir {
            // Without what the file system said of each file: that is different each time.
            self.local(checkout, target, &["read-tree", "HEAD"], watch)?;
        }
        let root = subdirectory(checkout, target)?;
        tidy(target, keep_git_dir, checkout.commit_times.then_some(time))?;
        Ok((root, time))
    }

    fn submodules(
        &self,
        checkout: &Checkout<'_>,
        target: &Path,
        authorization: Option<&Authorization>,
        watch: &Watch<'_>,
    ) -> Result<(), GitError> {
        let update = |depth: &[&str]| {
            let arguments = [&["submodule", "--quiet", "update", "--init", "--recursive"], depth].concat();
            let call = Call::new("fetch the submodules of", checkout.remote, target, &arguments);
            // Folders of this machine are for who names them, and it is the repository that names submodules.
            self.run(&Call { local: false, ..call.over_network() }, authorization, watch)
        };
        match update(&["--depth=1"]) {
            Err(error) if is_about_the_way(&error) => update(&[]).map(|_| ()),
            other => other.map(|_| ()),
        }
    }

    fn local(
        &self,
        checkout: &Checkout<'_>,
        folder: &Path,
        arguments: &[&str],
        watch: &Watch<'_>,
    ) -> Result<(), GitError> {
        let call = Call::new("check out", checkout.remote, folder, arguments);
        self.run(&call, None, watch).map(|_| ())
    }

    /// Gives the new repository the commit as its own. By git's protocol, which copies objects and nothing else.
    fn copy_commit(
        &self,
        checkout: &Checkout<'_>,
        bare: &Path,
        target: &Path,
        watch: &Watch<'_>,
    ) -> Result<(), GitError> {
        let from = format!("file://{}", bare.display());
        let commit = checkout.resolved.commit.as_str();
        let name = checkout.resolved.name.as_ref().filter(|name| name.starts_with("refs/"));
        let refspec = name.map_or_else(|| commit.to_owned(), |name| format!("{commit}:{name}"));
        let quiet = ["fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--update-head-ok"];
        let arguments = [&quiet[..], &["--depth=1", "--", &from, &refspec]].concat();
        let call = Call::new("check out", checkout.remote, target, &arguments).reading_folders();
        self.run(&call, None, watch).map(|_| ())
    }
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(std::io::Error) -> GitError + 'a {
    move |source| GitError::Io { action, path: path.to_owned(), source }
}

/// Lets the repository in `target` use the objects of `bare`: it is gone before those are.
fn borrow_objects(bare: &Path, target: &Path) -> Result<(), GitError> {
    let info = target.join(".git/objects/info");
    fs::create_dir_all(&info).map_err(failed("create", &info))?;
    let path = info.join("alternates");
    let line = [bare.join("objects").into_os_string().as_encoded_bytes(), b"\n"].concat();
    fs::write(&path, line).map_err(failed("write", &path))?;
    let shallow = bare.join("shallow");
    if shallow.exists() {
        fs::copy(&shallow, target.join(".git/shallow")).map_err(failed("copy", &shallow))?;
    }
    Ok(())
}

/// The directory that was asked for. Git has just made it, and nobody else can have put a link there since; links of the
/// repository itself are refused.
fn subdirectory(checkout: &Checkout<'_>, target: &Path) -> Result<PathBuf, GitError> {
    let mut here = target.to_owned();
    let missing = || GitError::NoDirectory {
        remote: checkout.remote.to_string(),
        directory: checkout.subdirectory.to_owned(),
        commit: checkout.resolved.commit.to_string(),
    };
    for part in Path::new(checkout.subdirectory).components() {
        match part {
            Component::Normal(name) if name != ".git" => here.push(name),
            Component::CurDir | Component::RootDir => continue,
            _ => return Err(missing()),
        }
        if !fs::symlink_metadata(&here).is_ok_and(|meta| meta.is_dir()) {
            return Err(missing());
        }
    }
    Ok(here)
}
