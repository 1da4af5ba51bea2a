use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::TempDir;
use wbuild_remote::{
    Authorization, Checkout, CommitId, Git, GitError, GitOptions, GitRemote, HttpUrl, Reference, Resolved,
    Stop, Watch,
};
use wbuild_report::Hint;
use wbuild_testkit::{HttpServer, Reply};

use crate::{Waits, watched};

/// A folder with repositories in it, and one of the cache.
struct World {
    folder: TempDir,
}

impl World {
    /// `None`, said aloud, on a machine without git.
    fn new() -> Option<Self> {
        if Command::new("git").arg("--version").output().is_err() {
            println!("skipped: there is no git on this machine");
            return None;
        }
        Some(Self { folder: tempfile::tempdir().unwrap() })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs git as a person would.
    fn git(&self, folder: &str, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"])
            .args(arguments)
            .current_dir(self.path(folder))
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_COMMITTER_DATE", "1700000000 +0000")
            .env("GIT_AUTHOR_DATE", "1600000000 +0000")
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A repository with two commits, a branch and an annotated tag.
    fn repository(&self, name: &str) -> GitRemote {
        fs::create_dir(self.path(name)).unwrap();
        self.git(name, &["init", "--quiet", "--initial-branch=trunk", "."]);
        fs::write(self.path(name).join("old"), "old").unwrap();
        self.commit(name);
        self.git(name, &["tag", "-a", "-m", "first", "v1"]);
        fs::create_dir_all(self.path(name).join("sub/inner")).unwrap();
        fs::write(self.path(name).join("sub/inner/f"), "f").unwrap();
        fs::write(self.path(name).join("run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(self.path(name).join("run"), fs::Permissions::from_mode(0o755)).unwrap();
        symlink("/etc", self.path(name).join("out")).unwrap();
        self.commit(name);
        GitRemote::folder(&self.path(name)).unwrap()
    }

    fn commit(&self, name: &str) -> String {
        self.git(name, &["add", "-A"]);
        self.git(name, &["commit", "--quiet", "-m", "x"]);
        self.git(name, &["rev-parse", "HEAD"])
    }

    fn options(&self) -> GitOptions {
        let mut options = GitOptions::new(self.path("scratch"), std::env::var_os("PATH"));
        options.waiting = Arc::new(Waits::default());
        options
    }

    fn client(&self) -> Git {
        Git::new(self.options()).unwrap()
    }

    fn resolve(&self, remote: &GitRemote, reference: &str) -> Result<Resolved, GitError> {
        let reference = Reference::parse(reference).unwrap();
        watched(|watch| self.client().resolve(remote, &reference, None, None, watch)).0
    }

    fn check_out(&self, checkout: &Checkout<'_>, target: &str) -> Result<(PathBuf, i64), GitError> {
        let (bare, target) = (self.path("bare"), self.path(target));
        watched(|watch| self.client().check_out(checkout, &bare, &target, None, watch)).0
    }
}

fn plain<'a>(remote: &'a GitRemote, resolved: &'a Resolved) -> Checkout<'a> {
    Checkout { remote, resolved, subdirectory: "", keep_git_dir: false, submodules: true, commit_times: true }
}

/// Everything below a folder: path, mode and size; links with their targets.
fn listing(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let meta = path.symlink_metadata().unwrap();
            let name = path.strip_prefix(root).unwrap().display().to_string();
            if meta.is_symlink() {
                found.push(format!("{name} -> {}", fs::read_link(&path).unwrap().display()));
            } else if meta.is_dir() {
                found.push(format!("{name}/ {:o}", meta.mode() & 0o7777));
                pending.push(path);
            } else {
                found.push(format!("{name} {:o} {}", meta.mode() & 0o7777, meta.len()));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn references_are_branches_tags_and_commits() {
    let Some(world) = World::new() else { return };
    let remote = world.repository("repo");
    let (head, first) =
        (world.git("repo", &["rev-parse", "HEAD"]), world.git("repo", &["rev-parse", "HEAD~"]));
    for (reference, commit, name) in [
        ("", &head, Some("HEAD")),
        ("trunk", &head, Some("refs/heads/trunk")),
        ("refs/heads/trunk", &head, Some("refs/heads/trunk")),
        ("v1", &first, Some("refs/tags/v1")),
        (first.as_str(), &first, None),
    ] {
        let resolved = world.resolve(&remote, reference).unwrap();
        assert_eq!(
            (resolved.commit.as_str(), resolved.name.as_deref()),
            (commit.as_str(), name),
            "{reference}"
        );
    }
    let error = world.resolve(&remote, "nope").unwrap_err();
    assert!(error.to_string().ends_with("has no branch or tag `nope`"), "{error}");
    let wrong =
        watched(|watch| world.client().resolve(&remote, &Reference::Default, Some("abc"), None, watch));
    let error = wrong.0.unwrap_err();
    assert!(error.to_string().ends_with(&format!("is the commit {head}, but abc is expected")), "{error}");
    assert!(error.hints()[0].contains(&head));
    let right = watched(|watch| {
        world.client().resolve(&remote, &Reference::Default, Some(&head[..7].to_uppercase()), None, watch)
    });
    right.0.unwrap();
}

#[test]
fn a_checkout_is_what_the_commit_says() {
    let Some(world) = World::new() else { return };
    let remote = world.repository("repo");
    let resolved = world.resolve(&remote, "trunk").unwrap();
    let (root, time) = world.check_out(&plain(&remote, &resolved), "out").unwrap();
    assert_eq!((root.as_path(), time), (world.path("out").as_path(), 1_700_000_000));
    assert_eq!(
        listing(&root),
        ["old 644 3", "out -> /etc", "run 755 10", "sub/ 755", "sub/inner/ 755", "sub/inner/f 644 1"]
    );
    for path in ["", "out", "sub", "sub/inner/f"] {
        assert_eq!(root.join(path).symlink_metadata().unwrap().mtime(), 1_700_000_000, "{path}");
    }
    // Only the one commit was fetched; an older one comes by its name.
    let first = Resolved {
        commit: CommitId::parse(&world.git("repo", &["rev-parse", "HEAD~"])).unwrap(),
        name: None,
    };
    assert_eq!(world.git("bare", &["rev-list", "--all"]).lines().count(), 1);
    let (root, _) = world.check_out(&plain(&remote, &first), "older").unwrap();
    assert_eq!(listing(&root), ["old 644 3"]);
    // What is there is not asked for again.
    fs::remove_dir_all(world.path("repo")).unwrap();
    world.check_out(&plain(&remote, &resolved), "again").unwrap();
}

#[test]
fn subdirectories_are_directories_of_the_repository() {
    let Some(world) = World::new() else { return };
    let remote = world.repository("repo");
    let resolved = world.resolve(&remote, "").unwrap();
    let of = |subdirectory| Checkout { subdirectory, ..plain(&remote, &resolved) };
    let (root, _) = world.check_out(&of("sub/inner"), "out").unwrap();
    assert_eq!(listing(&root), ["f 644 1"]);
    for (index, bad) in
        ["out", "out/ssl", "old", "none", "../..", "sub/../../x", ".git"].into_iter().enumerate()
    {
        let error = world.check_out(&of(bad), &format!("bad{index}")).unwrap_err();
        assert!(matches!(error, GitError::NoDirectory { .. }), "{bad}: {error}");
    }
}

#[test]
fn the_git_directory_stays_if_it_is_wanted() {
    let Some(world) = World::new() else { return };
    let remote = world.repository("repo");
    let resolved = world.resolve(&remote, "trunk").unwrap();
    let checkout = Checkout { keep_git_dir: true, ..plain(&remote, &resolved) };
    world.check_out(&checkout, "out").unwrap();
    world.check_out(&checkout, "twin").unwrap();
    let git = |name: &str| listing(&world.path(name).join(".git"));
    assert_eq!(git("out"), git("twin"));
    let index = |name: &str| fs::read(world.path(name).join(".git/index")).unwrap();
    assert!(index("out") == index("twin"));
    assert_eq!(world.git("out", &["rev-parse", "HEAD"]), resolved.commit.as_str());
    assert_eq!(world.git("out", &["rev-parse", "refs/heads/trunk"]), resolved.commit.as_str());
    assert_eq!(world.git("out", &["status", "--porcelain"]), "");
    assert_eq!(world.git("out", &["remote", "get-url", "origin"]), remote.address());
    assert!(!world.path("out/.git/hooks").exists());
}

#[test]
fn nothing_of_a_repository_is_run() {
    let Some(world) = World::new() else { return };
    let remote = world.repository("repo");
    let mark = world.path("ran");
    let run = format!("touch {}", mark.display());
    // Of the repository that is fetched from, of what it holds, and of the person's own configuration.
    for setting in ["core.fsmonitor", "filter.x.smudge", "uploadpack.packObjectsHook"] {
        world.git("repo", &["config", setting, &run]);
    }
    fs::write(world.path("repo/.gitattributes"), "* filter=x\n").unwrap();
    fs::write(world.path("repo/.gitconfig"), format!("[core]\n\tfsmonitor = {run}\n")).unwrap();
    for hook in ["post-checkout", "reference-transaction"] {
        let hook = world.path("repo/.git/hooks").join(hook);
        fs::create_dir_all(hook.parent().unwrap()).unwrap();
        fs::write(&hook, format!("#!/bin/sh\n{run}\n")).unwrap();
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).unwrap();
    }
    world.commit("repo");
    let _ = fs::remove_file(&mark);
    let resolved = world.resolve(&remote, "").unwrap();
    world.check_out(&plain(&remote, &resolved), "out").unwrap();
    assert!(!mark.exists());
}

#[test]
fn submodules_name_no_folders_of_this_machine() {
    let Some(world) = World::new() else { return };
    world.repository("secret");
    let remote = world.repository("repo");
    let address = world.path("secret").display().to_string();
    world.git("repo", &["submodule", "--quiet", "add", &address, "stolen"]);
    world.commit("repo");
    let resolved = world.resolve(&remote, "").unwrap();
    let error = world.check_out(&plain(&remote, &resolved), "out").unwrap_err();
    assert!(error.to_string().contains("transport 'file' not allowed"), "{error}");
    let without = Checkout { submodules: false, ..plain(&remote, &resolved) };
    let (root, _) = world.check_out(&without, "without").unwrap();
    assert!(listing(&root).contains(&"stolen/ 755".to_owned()));
}

#[test]
fn a_damaged_cache_is_made_anew() {
    let Some(world) = World::new() else { return };
    let remote = world.repository("repo");
    let resolved = world.resolve(&remote, "").unwrap();
    world.check_out(&plain(&remote, &resolved), "out").unwrap();
    let files = |folder: &str| -> Vec<PathBuf> {
        let inside = |path: PathBuf| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        inside(world.path("bare").join(folder))
            .flat_map(|path| if path.is_dir() { inside(path).collect() } else { vec![path] })
            .collect()
    };
    type Damage = fn(&Path);
    let truncate: Damage = |path| fs::write(path, "").unwrap();
    let flip: Damage = |path| {
        let mut bytes = fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0xff;
        fs::write(path, bytes).unwrap();
    };
    let remove: Damage = |path| fs::remove_file(path).unwrap();
    for (round, (folder, damage)) in
        [("objects", truncate), ("objects", flip), ("objects", remove), ("refs", truncate)]
            .into_iter()
            .enumerate()
    {
        for path in files(folder) {
            if path.is_file() {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
                damage(&path);
            }
        }
        let (root, _) = world.check_out(&plain(&remote, &resolved), &format!("round{round}")).unwrap();
        assert_eq!(fs::read(root.join("sub/inner/f")).unwrap(), b"f");
    }
}

/// Serves bare repositories as plain files, as any web server can.
fn plain_files(folder: PathBuf, password: Option<&'static str>) -> HttpServer {
    HttpServer::start(move |seen| {
        if password.is_some_and(|password| seen.header("authorization") != password) {
            return Reply::status(401).header("WWW-Authenticate", "Basic realm=\"x\"");
        }
        let path = seen.path.split('?').next().unwrap_or_default();
        match fs::read(folder.join(path.trim_start_matches('/'))) {
            Ok(bytes) => Reply::ok(bytes),
            Err(_) => Reply::status(404),
        }
    })
    .unwrap()
}

#[test]
fn web_servers_without_git_serve_too_with_submodules_beside_them() {
    let Some(world) = World::new() else { return };
    world.repository("inner");
    world.git(".", &["clone", "--quiet", "--bare", "inner", "inner.git"]);
    world.repository("outer");
    world.git(
        "outer",
        &["submodule", "--quiet", "add", &world.path("inner").display().to_string(), "deps/inner"],
    );
    world.git("outer", &["config", "-f", ".gitmodules", "submodule.deps/inner.url", "../inner.git"]);
    world.commit("outer");
    world.git(".", &["clone", "--quiet", "--bare", "outer", "outer.git"]);
    for repository in ["inner.git", "outer.git"] {
        world.git(repository, &["update-server-info"]);
    }
    // "user:secret"
    let server = plain_files(world.folder.path().to_owned(), Some("Basic dXNlcjpzZWNyZXQ="));
    let with_password = server.url("/outer.git").replace("http://", "http://user:secret@");
    let remote = GitRemote::parse(&with_password).unwrap();
    let resolved = world.resolve(&remote, "trunk").unwrap();
    let (root, _) = world.check_out(&plain(&remote, &resolved), "out").unwrap();
    let files = listing(&root);
    assert!(files.contains(&"deps/inner/sub/inner/f 644 1".to_owned()), "{files:?}");
    assert!(!files.iter().any(|file| file.contains(".git ") || file.contains(".git/")), "{files:?}");
    let config = fs::read_to_string(world.path("bare/config")).unwrap();
    assert!(!config.contains("secret"), "{config}");

    // The same by a secret that is for this host, and without one.
    let remote = GitRemote::parse(&server.url("/outer.git")).unwrap();
    let token = |origin| Authorization::basic(origin, "user", "secret");
    let ask = |authorization: Option<&Authorization>| {
        watched(|watch| world.client().resolve(&remote, &Reference::Default, None, authorization, watch)).0
    };
    ask(token(remote.http_url().unwrap().origin()).as_ref()).unwrap();
    let elsewhere = HttpUrl::parse("http://other.example/").unwrap().origin();
    for authorization in [None, token(elsewhere)] {
        let error = ask(authorization.as_ref()).unwrap_err();
        assert!(error.hints()[0].contains("GIT_AUTH_TOKEN"), "{error}");
    }
}

#[test]
fn credentials_do_not_follow_a_redirect() {
    let Some(world) = World::new() else { return };
    let thief = HttpServer::start(|_| Reply::status(404)).unwrap();
    let to = thief.url("/x.git/info/refs");
    let server = HttpServer::start(move |_| Reply::status(302).header("Location", to.clone())).unwrap();
    let remote = GitRemote::parse(&server.url("/x.git").replace("http://", "http://user:secret@")).unwrap();
    let error = world.resolve(&remote, "").unwrap_err();
    assert!(!error.to_string().contains("secret"), "{error}");
    assert!(thief.seen().is_empty(), "{:?}", thief.seen());
}

#[test]
fn busy_servers_are_asked_again() {
    let Some(world) = World::new() else { return };
    let server = HttpServer::start(|_| Reply::status(503)).unwrap();
    let remote = GitRemote::parse(&server.url("/x.git")).unwrap();
    let (result, told) =
        watched(|watch| world.client().resolve(&remote, &Reference::Default, None, None, watch));
    assert!(result.unwrap_err().to_string().contains("503"));
    assert_eq!(told.len(), 4);
}

#[test]
fn without_git_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let git = Git::new(GitOptions::new(folder.path().join("scratch"), Some(folder.path().into()))).unwrap();
    let remote = GitRemote::parse("https://user:secret@example.org/a.git").unwrap();
    let (result, _) = watched(|watch| git.resolve(&remote, &Reference::Default, None, None, watch));
    let error = result.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the program `git` is not installed, and `https://example.org/a.git` cannot be fetched without it"
    );
    assert!(error.hints()[0].starts_with("install git"));
}

#[test]
fn stop_ends_git() {
    let Some(world) = World::new() else { return };
    let stop = Stop::new();
    let stopping = stop.clone();
    let server = HttpServer::start(move |_| {
        stopping.stop();
        Reply::status(200).body(wbuild_testkit::Body::Held(vec![0; 100], 10))
    })
    .unwrap();
    let remote = GitRemote::parse(&server.url("/x.git")).unwrap();
    let watch = Watch { stop: &stop, retrying: &|_| () };
    let result = world.client().resolve(&remote, &Reference::Default, None, None, &watch);
    assert!(matches!(result, Err(GitError::Stopped)), "{result:?}");
}
