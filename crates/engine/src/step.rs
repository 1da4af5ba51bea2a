//! Runs an `Exec` vertex: turns it into an executor's step, keeps its log, and files what it wrote.

use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use wbuild_executor as executor;
use wbuild_executor::{
    Access, CancelToken, CapabilitySet, Content, Finished, Host, Limit, Mount, Privileges, Resource, Root,
    Source, Status, Step, User,
};
use wbuild_graph::{Capture, Exec, FailureHint, MountKind, NetworkMode, PrivilegeSet, StepLimits};
use wbuild_report::{Event, EventSink, LogStream, VertexId};
use wbuild_solver::RunContext;
use wbuild_store::{Area, Draft};
use wbuild_tree::EntryPath;

use crate::caches::{CacheInUse, Seed, digest_of};
use crate::error::{EngineError, StepFailure};
use crate::secrets::Secrets;
use crate::trust::BUNDLE_TARGET;
use crate::users::ResolvedUser;
use crate::worker::Engine;

/// Bytes that are left on a disk which is as good as full.
const NEARLY_FULL: u64 = 1 << 20;

/// Lines that an error repeats.
const LAST_LINES: usize = 20;

/// How much of a failed step's log is searched for names of files, in bytes from its end.
const SEARCHED: u64 = 256 << 10;

/// Files that a step mentioned and was not given: so many are named.
const MENTIONED: usize = 5;

/// What BuildKit gives a step whose image sets no PATH.
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Stands in an environment value for the first twenty hex digits of the step's key: an id that changes exactly when
/// the step's inputs do.
const INPUT_DIGEST: &str = "{input-digest}";

/// What a step left behind.
pub(crate) struct Ran {
    /// Its changes, in the draft of a delta.
    pub(crate) draft: Draft,
    /// How it went.
    pub(crate) finished: Finished,
}

impl Engine {
    /// Runs a step on `lowers` (the topmost first) as `user`, and succeeds when the step does.
    pub(crate) fn run_step(
        &self,
        context: &RunContext<'_>,
        exec: &Exec,
        lowers: Vec<PathBuf>,
        user: &ResolvedUser,
        binds: &BTreeMap<usize, Vec<PathBuf>>,
        seeds: &BTreeMap<usize, Seed>,
    ) -> Result<Ran, EngineError> {
        let isolation = self.isolation()?;
        let draft = self.store.draft()?;
        let mut caches: Vec<CacheInUse<'_>> = Vec::new();
        let mut mounts: Vec<Mount> = Vec::new();
        for (index, mount) in exec.mounts.iter().enumerate() {
            let target = absolute(&mount.target);
            let kind = match &mount.kind {
                MountKind::Bind { source, writable, .. } => executor::MountKind::Bind {
                    source: Source::layers(binds.get(&index).cloned().unwrap_or_default(), absolute(source)),
                    access: if *writable { Access::Discarded } else { Access::ReadOnly },
                },
                MountKind::Cache(cache) => {
                    let seed = seeds.get(&index);
                    let fill = |id: &_, kept: &_| self.fill_mount(id, kept);
                    let taken = CacheInUse::take(cache, seed, &self.store, &fill)?;
                    self.shared.used_mount(&digest_of(cache, seed), &cache.never_publish);
                    let mut source = Source::host(taken.folder.clone());
                    source.inside = cache.inside.to_path_buf();
                    caches.push(taken);
                    let access = if cache.read_only { Access::ReadOnly } else { Access::ReadWrite };
                    executor::MountKind::Bind { source, access }
                }
                MountKind::Tmpfs { size } => {
                    executor::MountKind::Tmpfs { size: *size, mode: 0o1777, owner: User::default() }
                }
                MountKind::Secret { id, mode, uid, gid, required, .. } => match self.secrets.get(id) {
                    Some(value) => file_mount(value, u32::from(*mode), User::new(*uid, *gid)),
                    None if *required => return Err(EngineError::NoSecret { id: id.clone() }),
                    None => continue,
                },
                MountKind::Ssh { id, required, .. } => match self.agents.get(id) {
                    Some(socket) => executor::MountKind::Bind {
                        source: Source::host(socket.clone()),
                        access: Access::ReadWrite,
                    },
                    None if *required => return Err(EngineError::NoAgent { id: id.clone() }),
                    None => continue,
                },
                MountKind::Script { contents, mode } => {
                    file_mount(contents, u32::from(*mode), User::default())
                }
                MountKind::Scratchpad { contents, mode } => {
                    file_mount(&expand(contents, &self.secrets), u32::from(*mode), User::default())
                }
            };
            mounts.push(Mount { target, kind });
        }
        if let Some(bundle) = self.trust.bundle() {
            mounts.push(Mount {
                target: BUNDLE_TARGET.into(),
                kind: file_mount(bundle, 0o444, User::default()),
            });
        }
        if exec.capture == Capture::All {
            keep_mount_points(&lowers, draft.fs())?;
        }
        let mut step = Step::new(
            Root::Overlay { lowers, upper: draft.fs(), scratch: draft.work() },
            exec.argv.iter().map(OsString::from),
        );
        step.mounts = mounts;
        step.env = self.environment(exec, context, user)?;
        step.cwd = absolute(&exec.cwd);
        step.user = User { uid: user.uid, gid: user.gid, groups: user.groups.clone() };
        step.network = match exec.network {
            NetworkMode::Default | NetworkMode::Host => executor::Network::Host,
            NetworkMode::None => executor::Network::None,
        };
        step.privileges = Privileges {
            no_new_privileges: exec.privileges == PrivilegeSet::Task,
            capabilities: match exec.privileges {
                PrivilegeSet::Run => CapabilitySet::DOCKER,
                // Installs and tasks make no devices, and raw sockets could listen to the host's network, which they share.
                PrivilegeSet::Task => CapabilitySet::BUILDAH,
                PrivilegeSet::Insecure => CapabilitySet::ALL,
            },
        };
        if let Some(hostname) = &exec.hostname {
            step.hostname.clone_from(hostname);
        }
        step.add_hosts =
            exec.hosts.iter().map(|(name, address)| Host { name: name.clone(), address: *address }).collect();
        step.limits = limits(&exec.limits)?;
        step.shm_size = exec.limits.shm_size;
        let token = CancelToken::new().map_err(io_error("create a token for", Path::new("the step")))?;
        let killer = token.clone();
        let _stopped = context.cancellation.subscribe(move || killer.cancel());
        let mut log = StepLog::create(self, context.id, &context.vertex.name, context.events)?;
        let ran = isolation.run(&step, &mut |stream, bytes| log.write(stream, bytes), &token);
        let log = log.finish();
        let finished = match ran {
            Ok(finished) => finished,
            Err(_) if context.cancellation.is_cancelled() => return Err(EngineError::Cancelled),
            Err(error) => return Err(EngineError::Exec(error)),
        };
        if !finished.status.success() {
            // What ended by itself a moment before it would have been stopped, has failed.
            if context.cancellation.is_cancelled() && matches!(finished.status, Status::Signalled(_)) {
                return Err(EngineError::Cancelled);
            }
            let mut hints = likely_causes(&exec.on_failure, &log);
            hints.extend(self.warnings_so_far());
            hints.extend(self.full_disk());
            return Err(EngineError::Step(Box::new(StepFailure {
                command: shown(&exec.argv),
                status: finished.status,
                last_lines: log.last_lines,
                log: log.path,
                hints,
            })));
        }
        for cache in caches {
            cache.publish()?;
        }
        Ok(Ran { draft, finished })
    }
}

impl Engine {
    /// The variables of a step's process.
    fn environment(
        &self,
        exec: &Exec,
        context: &RunContext<'_>,
        user: &ResolvedUser,
    ) -> Result<Vec<(OsString, OsString)>, EngineError> {
        let mut variables: BTreeMap<String, OsString> = BTreeMap::new();
        variables.insert("PATH".to_owned(), DEFAULT_PATH.into());
        variables.insert("HOME".to_owned(), user.home.clone().into());
        for (name, value) in self.trust.variables() {
            variables.insert(name, value.into());
        }
        variables.extend(self.turbo_variables(exec));
        let input_digest = &context.key.to_string()[..20];
        for variable in &exec.env {
            let value = variable.value.replace(INPUT_DIGEST, input_digest);
            variables.insert(variable.name.clone(), value.into());
        }
        for secret in &exec.secret_env {
            match self.secrets.get(&secret.id) {
                Some(value) => {
                    use std::os::unix::ffi::OsStringExt;
                    variables.insert(secret.name.clone(), OsString::from_vec(value.to_vec()));
                }
                None if secret.required => return Err(EngineError::NoSecret { id: secret.id.clone() }),
                // Set all the same, as in BuildKit.
                None => {
                    variables.insert(secret.name.clone(), OsString::new());
                }
            }
        }
        Ok(variables.into_iter().map(|(name, value)| (OsString::from(name), value)).collect())
    }

    /// Said when a step failed: where it writes to may be full, and its own words about that are easily overlooked.
    fn full_disk(&self) -> Option<String> {
        let home = self.store.path();
        let stat = rustix::fs::statvfs(home).ok()?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        (free < NEARLY_FULL).then(|| {
            format!(
                "the disk of the state directory `{}` is full: free space on it, or set `WBUILD_HOME` to another one",
                home.display()
            )
        })
    }
}

/// What the frontend knows that has to do with what the step said.
fn likely_causes(known: &[FailureHint], log: &KeptLog) -> Vec<String> {
    let said = log.end().unwrap_or_else(|_| log.last_lines.join("\n").into_bytes());
    let (always, mentioned): (Vec<_>, Vec<_>) =
        known.iter().filter(|hint| hint.applies_to(&said)).partition(|hint| hint.when_mentioned.is_none());
    let causes = always.into_iter().chain(mentioned.into_iter().take(MENTIONED));
    causes.map(|hint| hint.text.clone()).collect()
}

pub(crate) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> EngineError {
    let path = path.to_owned();
    move |source| EngineError::Io { action, path, source }
}

/// Puts secrets in the place of `${NAME}`; names without a secret stay as they are, and whoever reads the file says so.
fn expand(contents: &[u8], secrets: &Secrets) -> Vec<u8> {
    let mut out = Vec::with_capacity(contents.len());
    let mut rest = contents;
    while let Some(start) = rest.windows(2).position(|pair| pair == b"${") {
        let Some(length) = rest[start..].iter().position(|b| *b == b'}') else { break };
        let name = std::str::from_utf8(&rest[start + 2..start + length]).ok();
        out.extend_from_slice(&rest[..start]);
        match name.and_then(|name| secrets.get(name)) {
            Some(value) => out.extend_from_slice(value.trim_ascii_end()),
            None => out.extend_from_slice(&rest[start..=start + length]),
        }
        rest = &rest[start + length + 1..];
    }
    out.extend_from_slice(rest);
    out
}

/// Whether `name` is a resource that can be limited, by its name in `--ulimit`.
pub fn is_limit(name: &str) -> bool {
    serde_json::from_value::<Resource>(serde_json::Value::String(name.to_owned())).is_ok()
}

/// The limits of a step for the executor.
fn limits(given: &StepLimits) -> Result<Vec<Limit>, EngineError> {
    let limit = |(name, soft, hard): &(String, Option<u64>, Option<u64>)| {
        let resource: Resource = serde_json::from_value(serde_json::Value::String(name.clone()))
            .map_err(|_| EngineError::UnknownLimit { name: name.clone() })?;
        Ok(Limit { resource, soft: *soft, hard: *hard })
    };
    given.ulimits.iter().map(limit).collect()
}

/// Makes `/dev`, `/proc` and `/sys` where the image has none: a RUN leaves them there, as with BuildKit.
fn keep_mount_points(lowers: &[PathBuf], upper: impl AsRef<Path>) -> Result<(), EngineError> {
    for name in ["dev", "proc", "sys"] {
        if lowers.iter().any(|lower| lower.join(name).symlink_metadata().is_ok()) {
            continue;
        }
        let made = upper.as_ref().join(name);
        fs::create_dir(&made)
            .and_then(|()| fs::set_permissions(&made, fs::Permissions::from_mode(0o755)))
            .map_err(io_error("create", &made))?;
    }
    Ok(())
}

fn absolute(path: &EntryPath) -> PathBuf {
    Path::new("/").join(path.to_path_buf())
}

fn file_mount(contents: &[u8], mode: u32, owner: User) -> executor::MountKind {
    executor::MountKind::File { content: Content(contents.to_vec()), mode, owner }
}

/// The command as a person would write it: the text of a shell form, quoted words otherwise.
pub(crate) fn shown(argv: &[String]) -> String {
    match argv {
        [shell, flag, text] if shell.ends_with("/sh") && flag == "-c" => text.clone(),
        // A script of wbuild's own has a name.
        [shell, flag, _, name] if shell.ends_with("/sh") && flag == "-ec" => name.clone(),
        argv => argv.join(" "),
    }
}

/// A step's output on its way to the log file and the listeners.
struct StepLog<'a> {
    id: VertexId,
    events: &'a EventSink,
    file: File,
    path: PathBuf,
    last: VecDeque<String>,
    partial: Vec<u8>,
}

struct KeptLog {
    path: PathBuf,
    last_lines: Vec<String>,
}

impl KeptLog {
    /// The last part of the log, as far as it is searched.
    fn end(&self) -> std::io::Result<Vec<u8>> {
        let mut file = File::open(&self.path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(SEARCHED)))?;
        let mut bytes = Vec::new();
        file.take(SEARCHED).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl<'a> StepLog<'a> {
    fn create(engine: &Engine, id: VertexId, name: &str, events: &'a EventSink) -> Result<Self, EngineError> {
        let folder = engine.log_folder()?;
        let slug: String = name
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
            .take(60)
            .collect();
        let path = folder.join(format!("{:03}-{}.log", id.0, slug.trim_matches('-')));
        let file = File::create(&path).map_err(io_error("create", &path))?;
        events.send(Event::LogFile { vertex: id, path: path.clone() });
        Ok(Self { id, events, file, path, last: VecDeque::new(), partial: Vec::new() })
    }

    fn write(&mut self, stream: LogStream, bytes: &[u8]) {
        // A full disk must not fail a step that may well succeed; the terminal still gets the output.
        let _ = self.file.write_all(bytes);
        self.events.send(Event::Log { vertex: self.id, stream, bytes: bytes.to_vec() });
        self.partial.extend_from_slice(bytes);
        while let Some(end) = self.partial.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=end).collect();
            self.keep(&line);
        }
        if self.partial.len() > 1 << 16 {
            let line = std::mem::take(&mut self.partial);
            self.keep(&line);
        }
    }

    fn keep(&mut self, line: &[u8]) {
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(String::from_utf8_lossy(line).trim_end().to_owned());
    }

    fn finish(mut self) -> KeptLog {
        if !self.partial.is_empty() {
            let line = std::mem::take(&mut self.partial);
            self.keep(&line);
        }
        KeptLog { path: self.path, last_lines: self.last.into() }
    }
}

/// The folder for the logs of one build, made when the first step runs.
#[derive(Debug, Default)]
pub(crate) struct LogFolder(Mutex<Option<PathBuf>>);

impl Engine {
    fn log_folder(&self) -> Result<PathBuf, EngineError> {
        let mut folder = self.logs.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = &*folder {
            return Ok(folder.clone());
        }
        let area = self.store.area(Area::Logs)?;
        let path = area.join(&self.build_id);
        fs::create_dir_all(&path).map_err(io_error("create", &path))?;
        *folder = Some(path.clone());
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_secrets_are_expanded() {
        let mut secrets = Secrets::default();
        secrets.add("id=TOKEN", &|_| Some("s3cret\n".to_owned())).unwrap();
        let expanded = |text: &str| String::from_utf8(expand(text.as_bytes(), &secrets)).unwrap();
        assert_eq!(expanded("//npm.example/:_authToken=${TOKEN}\n"), "//npm.example/:_authToken=s3cret\n");
        assert_eq!(expanded("a=${HOME} b=${TOKEN"), "a=${HOME} b=${TOKEN");
    }

    #[test]
    fn commands_are_shown_as_they_were_written() {
        let words = |text: &[&str]| text.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!(shown(&words(&["/bin/sh", "-c", "apk add x"])), "apk add x");
        assert_eq!(shown(&words(&["/bin/sh", "-ec", "set\nup\n", "pnpm install"])), "pnpm install");
        assert_eq!(shown(&words(&["pnpm", "run", "build"])), "pnpm run build");
    }
}
