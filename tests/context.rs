//! One test's world: a folder of its own with a copy of a workspace, a state directory and a home, and the built binary.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

use regex::Regex;
use serde_json::Value;
use tempfile::TempDir;

/// The user and group whom tests run as when root is too much.
const NOBODY: u32 = 65534;

/// Folders of a checkout that are no part of a fixture.
const NOT_COPIED: [&str; 5] = ["node_modules", ".next", ".turbo", ".wbuild", "generated"];

/// What a build may need of the machine to reach a registry.
const NETWORK_VARIABLES: [&str; 8] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "NODE_EXTRA_CA_CERTS",
];

/// One test's world.
pub(crate) struct TestContext {
    folder: TempDir,
    env: BTreeMap<String, String>,
    user: Option<u32>,
}

/// How a run of the binary ended. Its `Display` is what snapshots show: digests, times and this machine's paths are
/// replaced.
pub(crate) struct Output {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    shown: String,
}

/// A build, as its events tell.
pub(crate) struct Build {
    pub(crate) output: Output,
    pub(crate) events: Vec<Value>,
}

impl TestContext {
    /// With an empty folder for a workspace.
    pub(crate) fn empty() -> Self {
        let folder = TempDir::with_prefix("wbuild-test-").unwrap();
        // A plain user gets in, too; what is inside is nobody else's business, but this is only a test.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let context = Self { folder, env: BTreeMap::new(), user: None };
        for name in ["site", "home", "tmp"] {
            fs::create_dir(context.folder.path().join(name)).unwrap();
        }
        context
    }

    /// With the workspace of shell scripts, `tests/small`.
    pub(crate) fn small() -> Self {
        Self::empty().with_copy("tests/small")
    }

    /// With the example, `tests/monorepo`.
    pub(crate) fn example() -> Self {
        Self::empty().with_copy("tests/monorepo")
    }

    fn with_copy(self, fixture: &str) -> Self {
        copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join(fixture), &self.site());
        self
    }

    /// Lets the binary reach the network as this machine does.
    pub(crate) fn online(mut self) -> Self {
        let given =
            NETWORK_VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?)));
        self.env.extend(given);
        self
    }

    /// Sets a variable for the binary.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs the binary as a user without privileges; `None`, with a printed reason, where that cannot be.
    pub(crate) fn by_plain_user(mut self) -> Option<Self> {
        if !rustix::process::getuid().is_root() {
            return Some(self);
        }
        let probe = as_user(NOBODY, Command::new("true").get_program()).stderr(Stdio::null()).status();
        if !probe.is_ok_and(|status| status.success()) {
            skip("setpriv cannot become a plain user here");
            return None;
        }
        // Not by this process: while another test starts a child, that one would hold the file open for writing, and
        // it could not be run.
        let copied = Command::new("cp")
            .arg(env!("CARGO_BIN_EXE_wbuild"))
            .arg(self.folder.path().join("wbuild"))
            .status();
        assert!(copied.unwrap().success());
        self.user = Some(NOBODY);
        self.give_to_user(self.folder.path());
        Some(self)
    }

    /// Makes what root wrote into the test's folder belong to its user.
    fn give_to_user(&self, path: &Path) {
        let Some(user) = self.user else { return };
        std::os::unix::fs::lchown(path, Some(user), Some(user)).unwrap();
        if fs::symlink_metadata(path).unwrap().is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                self.give_to_user(&entry.unwrap().path());
            }
        }
    }

    /// The folder of the test itself, around the workspace.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The workspace root.
    pub(crate) fn site(&self) -> PathBuf {
        self.folder.path().join("site")
    }

    /// The state directory.
    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.site().join(relative)
    }

    pub(crate) fn read(&self, relative: &str) -> String {
        fs::read_to_string(self.path(relative)).unwrap()
    }

    pub(crate) fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        self.give_to_user(&path);
    }

    pub(crate) fn remove(&self, relative: &str) {
        fs::remove_file(self.path(relative)).unwrap();
    }

    /// Replaces the one place where `from` stands in a file.
    pub(crate) fn edit(&self, relative: &str, from: &str, to: &str) {
        let text = self.read(relative);
        assert_eq!(text.matches(from).count(), 1, "`{from}` does not stand once in {relative}");
        self.write(relative, &text.replace(from, to));
    }

    pub(crate) fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = match self.user {
            Some(user) => as_user(user, self.folder.path().join("wbuild").as_os_str()),
            None => Command::new(env!("CARGO_BIN_EXE_wbuild")),
        };
        command.args(args).current_dir(self.site()).env_clear().stdin(Stdio::null());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("HOME", self.folder.path().join("home")).env("TMPDIR", self.folder.path().join("tmp"));
        // No test depends on a registry that is not its own.
        command.env("WBUILD_OFFLINE", "1");
        command.env("WBUILD_HOME", self.state()).envs(&self.env);
        command
    }

    pub(crate) fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Output {
        let output = self.command(args).output().unwrap();
        self.output(output.status, &output.stdout, &output.stderr)
    }

    /// Runs what must be refused: the workspace is as before, and the state directory answers a second time in the same
    /// way.
    pub(crate) fn refused<S: AsRef<OsStr>>(&self, args: &[S]) -> String {
        let before = listing(&self.site());
        let first = self.run(args);
        assert_ne!(first.code, 0, "{first}");
        assert_eq!(listing(&self.site()), before, "the workspace changed:\n{first}");
        let second = self.run(args);
        assert_eq!(first.to_string(), second.to_string(), "the second answer is another one");
        first.to_string()
    }

    /// `wbuild image` with the machine's base images, told as JSON.
    pub(crate) fn build(&self, args: &[&str]) -> Build {
        let child = self.start_build(args);
        self.finish_build(child)
    }

    pub(crate) fn start_build(&self, args: &[&str]) -> Child {
        let mut all: Vec<String> = ["image", "--progress", "json"].map(str::to_owned).to_vec();
        all.extend(self.base_images());
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        self.command(&all).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub(crate) fn finish_build(&self, child: Child) -> Build {
        let output = child.wait_with_output().unwrap();
        let output = self.output(output.status, &output.stdout, &output.stderr);
        let events = output.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Build { output, events }
    }

    /// Starts a build and waits until one of its steps says `text`. What it said until then, and what it will say:
    pub(crate) fn build_until(&self, args: &[&str], text: &str) -> Started {
        let mut child = self.start_build(args);
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut said = String::new();
        while !said.lines().last().is_some_and(|line| line.contains(text)) {
            let read = stderr.read_line(&mut said).unwrap();
            assert!(read > 0, "it ended without `{text}`:\n{said}");
        }
        Started { child, stderr, said }
    }

    /// `--build-context` for each base image. A plain user cannot look into root's cache: then they are copied.
    pub(crate) fn base_images(&self) -> Vec<String> {
        let mut args = Vec::new();
        for (name, place) in bases().into_iter().flatten() {
            let mut place = place.clone();
            if self.user.is_some() {
                let own = self.folder.path().join("bases").join(name.replace([':', '/'], "-"));
                if !own.exists() {
                    copy(Path::new(place.trim_start_matches("oci-layout://")), &own);
                    self.give_to_user(&self.folder.path().join("bases"));
                }
                place = format!("oci-layout://{}", own.display());
            }
            args.extend(["--build-context".to_owned(), format!("{name}={place}")]);
        }
        args
    }

    /// Everything in the workspace: modes and bytes.
    pub(crate) fn listing(&self) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
        listing(&self.site())
    }

    /// Changes a byte of every blob, in place.
    pub(crate) fn damage_blobs(&self) {
        walk(&self.state().join("blobs"), &mut |path, meta| {
            if !meta.is_file() || meta.len() == 0 {
                return;
            }
            let mut bytes = fs::read(path).unwrap();
            bytes[0] ^= 1;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
            fs::write(path, bytes).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(meta.mode() & 0o7777)).unwrap();
        });
    }

    /// The texts of all files of this name in cache mounts.
    pub(crate) fn cached(&self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.state().join("mounts"), &mut |path, meta| {
            if meta.is_file() && path.file_name().is_some_and(|found| found == name) {
                found.push(fs::read_to_string(path).unwrap());
            }
        });
        found
    }

    pub(crate) fn output(&self, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Output {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(stdout), text(stderr));
        let code = status.code().unwrap_or(-1);
        let mut shown = match status.code() {
            Some(code) => format!("exit {code}\n"),
            None => format!("{status}\n"),
        };
        for (name, text) in [("stdout", &stdout), ("stderr", &stderr)] {
            if !text.is_empty() {
                shown.push_str(&format!("-- {name}\n{}", self.filtered(text)));
            }
        }
        Output { code, stdout, stderr, shown: shown.trim_end().to_owned() }
    }

    fn filtered(&self, text: &str) -> String {
        let folder = self.folder.path().display().to_string();
        let mut text = text.replace(&folder, "[TEST]");
        for (_, place) in bases().into_iter().flatten() {
            text = text.replace(place.trim_start_matches("oci-layout://"), "[BASE]");
        }
        for (pattern, replacement) in filters() {
            text = pattern.replace_all(&text, *replacement).into_owned();
        }
        text
    }

    /// Every file below the state directory and the workspace whose bytes, as they are or unpacked, contain `needle`.
    pub(crate) fn traces(&self, needle: &str) -> Vec<String> {
        let mut found = Vec::new();
        for folder in [self.state(), self.path(".wbuild")] {
            walk(&folder, &mut |path, meta| {
                if !meta.is_file() {
                    return;
                }
                let mut bytes = fs::read(path).unwrap();
                if bytes.starts_with(&[0x1f, 0x8b]) {
                    let mut unpacked = Vec::new();
                    flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut unpacked).unwrap();
                    bytes.extend(unpacked);
                }
                let name = path.strip_prefix(self.folder.path()).unwrap().to_string_lossy().into_owned();
                if name.contains(needle)
                    || bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
                {
                    found.push(name);
                }
            });
        }
        found
    }
}

/// A build that runs.
pub(crate) struct Started {
    pub(crate) child: Child,
    stderr: BufReader<std::process::ChildStderr>,
    said: String,
}

impl Started {
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn finish(mut self, context: &TestContext) -> Build {
        self.stderr.read_to_string(&mut self.said).unwrap();
        let mut stdout = Vec::new();
        self.child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
        let status = self.child.wait().unwrap();
        let output = context.output(status, &stdout, self.said.as_bytes());
        let events = output.stderr.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Build { output, events }
    }
}

/// A test that panics leaves no build behind.
impl Drop for Started {
    fn drop(&mut self) {
        // Most have ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl Build {
    /// The steps that came to this outcome (`built`, `reused`, `failed`, `cancelled`), by name and in order of the graph,
    /// without those that nobody wants to look at.
    pub(crate) fn steps(&self, outcome: &str) -> Vec<&str> {
        let of = |event: &&Value| event["event"] == "declared" && event["minor"] == false;
        let finished = |vertex: &Value| {
            self.events.iter().any(|event| {
                event["event"] == "finished" && event["vertex"] == *vertex && event["outcome"] == outcome
            })
        };
        let steps = self.events.iter().filter(of).filter(|event| finished(&event["vertex"]));
        steps.filter_map(|event| event["name"].as_str()).collect()
    }

    /// How it failed, as a person would have read it.
    pub(crate) fn error(&self) -> String {
        let shown = self.output.to_string();
        let mut lines: Vec<String> = Vec::new();
        for line in shown.lines() {
            match serde_json::from_str::<Value>(line) {
                Ok(event) if event["event"] == "error" => {
                    lines.extend(event["text"].as_str().unwrap().lines().map(str::to_owned));
                }
                Ok(event) if event["event"].is_string() => {}
                _ => lines.push(line.to_owned()),
            }
        }
        lines.join("\n")
    }

    /// Without the one about base images that a build does not use: tests give all there are.
    pub(crate) fn warnings(&self) -> Vec<&str> {
        let warned = self.events.iter().filter(|event| event["event"] == "warned");
        let messages = warned.filter_map(|event| event["message"].as_str());
        messages.filter(|message| !message.starts_with("--build-context")).collect()
    }

    /// What was said beside warnings.
    pub(crate) fn notes(&self) -> Vec<&str> {
        let notes = self.events.iter().filter(|event| event["event"] == "note");
        notes.filter_map(|event| event["text"].as_str()).collect()
    }

    /// The same without what says which image was written.
    pub(crate) fn other_notes(&self) -> Vec<&str> {
        self.notes().into_iter().filter(|text| !text.starts_with("image ")).collect()
    }

    /// What the steps wrote.
    pub(crate) fn log(&self) -> String {
        let logs = self.events.iter().filter(|event| event["event"] == "log");
        logs.filter_map(|event| event["text"].as_str()).collect()
    }

    /// The digest of the manifest, of a build that must have succeeded.
    pub(crate) fn digest(&self) -> &str {
        assert_eq!(self.output.code, 0, "{}\n{}", self.output, self.log());
        self.output.stdout.trim_end()
    }
}

/// Says why a test does not test.
#[expect(clippy::print_stderr, reason = "what cannot be tested here is said (CONTRIBUTING.md)")]
pub(crate) fn skip(reason: &str) {
    eprintln!("skipped: {reason}");
}

/// The base images of this machine, `NAME` and `oci-layout://PATH`, made when they are not there; `None`, with a printed
/// reason, where they cannot be.
pub(crate) fn bases() -> Option<&'static Vec<(String, String)>> {
    static BASES: OnceLock<Result<Vec<(String, String)>, String>> = OnceLock::new();
    let made = BASES.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/base-image");
        let output = Command::new(script).output().map_err(|error| error.to_string())?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let pairs = lines.lines().filter_map(|line| line.split_once('\t'));
        Ok(pairs.map(|(name, place)| (name.to_owned(), place.to_owned())).collect())
    });
    match made {
        Ok(bases) => Some(bases),
        Err(reason) => {
            skip(&format!("scripts/base-image made no base images: {reason}"));
            None
        }
    }
}

/// The layout of a base image.
pub(crate) fn base_layout(name: &str) -> PathBuf {
    let bases = bases().expect("asked only after `bases`");
    let (_, place) = bases.iter().find(|(found, _)| found == name).expect("scripts/base-image makes it");
    place.trim_start_matches("oci-layout://").into()
}

/// Processes whose arguments contain `needle`.
pub(crate) fn processes(needle: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap() {
        let Ok(pid) = entry.unwrap().file_name().to_string_lossy().parse() else { continue };
        // It may end while it is looked at.
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if arguments.windows(needle.len()).any(|window| window == needle.as_bytes()) {
            found.push(pid);
        }
    }
    found
}

/// A program as a plain user, who this one may be already.
pub(crate) fn as_nobody(program: &str) -> Command {
    if rustix::process::getuid().is_root() {
        as_user(NOBODY, program.as_ref())
    } else {
        Command::new(program)
    }
}

fn as_user(user: u32, program: &OsStr) -> Command {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
    command.arg("--").arg(program);
    command
}

fn filters() -> &'static [(Regex, &'static str)] {
    static FILTERS: OnceLock<Vec<(Regex, &'static str)>> = OnceLock::new();
    FILTERS.get_or_init(|| {
        [
            (r"\b[0-9a-f]{64}\b", "[DIGEST]"),
            (r"\b(after|in|DONE) (< )?\d+(\.\d+)? ?(ms|s|min)\b", "$1 [TIME]"),
            (r"\b\d+(\.\d+)? (B|kB|MB|GB)\b", "[SIZE]"),
            (r"logs/\d+-\d+-\d+/", "logs/[BUILD]/"),
            (r"#(\d+) \d+\.\d{3} ", "#$1 [TIME] "),
        ]
        .map(|(pattern, replacement)| (Regex::new(pattern).unwrap(), replacement))
        .into()
    })
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    for path in paths {
        let meta = fs::symlink_metadata(&path).unwrap();
        visit(&path, &meta);
        if meta.is_dir() {
            walk(&path, visit);
        }
    }
}

/// Everything below a folder: modes and bytes.
fn listing(folder: &Path) -> BTreeMap<PathBuf, (u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    walk(folder, &mut |path, meta| {
        let bytes = if meta.is_symlink() {
            fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
        } else if meta.is_file() {
            // What nobody may read is known by its mode.
            fs::read(path).unwrap_or_default()
        } else {
            Vec::new()
        };
        found.insert(path.to_owned(), (meta.mode(), bytes));
    });
    found
}

/// Copies a fixture as git has it: what an install or a build by hand left in it stays behind.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if NOT_COPIED.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), &target).unwrap();
        } else {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}
