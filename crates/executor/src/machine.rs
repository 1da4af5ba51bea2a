use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, StatxFlags, Uid, XattrFlags};
use rustix::io::Errno;
use serde::Serialize;
use wbuild_report::Hint;

use crate::cancel::CancelToken;
use crate::error::ExecError;
use crate::failure::{Cause, Doing, Failure};
use crate::foreign;
use crate::identity::{Caller, Identity};
use crate::isolation::Isolation;
use crate::sandbox::system::Procfs;
use crate::status::{NotStarted, Status};
use crate::step::{Root, Step};
use crate::sys;

/// What a machine allows, found out by trying.
#[derive(Clone, Debug, Serialize)]
pub struct Machine {
    /// The release of the kernel.
    pub kernel: String,
    /// The user id of this process.
    pub uid: u32,
    /// The version of the landlock interface. From 6 on a step in the host's network cannot reach abstract sockets.
    pub landlock: Option<u32>,
    /// Whether `/etc/subuid` has ids for this user. Not used yet: see [`Identity::SingleId`].
    pub subordinate_ids: bool,
    /// What was tried, in the order of preference. The last one is the one that worked, if one did.
    pub attempts: Vec<Attempt>,
}

/// One way of isolation that was tried.
#[derive(Clone, Debug, Serialize)]
pub struct Attempt {
    /// The way.
    pub isolation: Isolation,
    /// Why it does not work; `None` if it does.
    pub refusal: Option<Refusal>,
}

/// Why a way of isolation does not work here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// What failed, and the kernel's answer.
    pub reason: String,
    /// What would make it work.
    pub remedy: String,
}

/// This machine isolates no step in any of the ways there are.
#[derive(Debug, thiserror::Error)]
pub struct NoIsolation {
    /// Each way, and what is in its way.
    pub attempts: Vec<Attempt>,
}

impl fmt::Display for NoIsolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("this machine cannot run build steps in isolation")?;
        for attempt in &self.attempts {
            if let Some(refusal) = &attempt.refusal {
                write!(f, "; {}: {}", name(attempt.isolation), refusal.reason)?;
            }
        }
        Ok(())
    }
}

impl Hint for NoIsolation {
    fn hints(&self) -> Vec<String> {
        let mut hints: Vec<String> =
            self.attempts.iter().filter_map(|one| Some(one.refusal.clone()?.remedy)).collect();
        hints.dedup();
        hints
    }
}

fn name(isolation: Isolation) -> &'static str {
    match isolation.identity() {
        Identity::Root => "as root",
        Identity::SingleId => "in a user namespace",
    }
}

/// Why a machine could not be probed: not an answer about the machine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The place for the trial could not be made.
    #[error("cannot use `{}` as the state directory", .path.display())]
    State {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No helper process could be started.
    #[error(transparent)]
    Exec(#[from] ExecError),
}

impl Hint for ProbeError {}

impl Machine {
    /// Finds out what this machine allows by running, in each way, a step that has no program. Takes a few
    /// milliseconds; changes nothing but a directory in `state` that is removed again.
    ///
    /// # Errors
    /// If nothing could be tried. That nothing works is no error: see [`Machine::isolation`].
    pub fn probe(state: &Path) -> Result<Self, ProbeError> {
        let caller = Caller::current();
        let mut machine = Self {
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            uid: caller.uid,
            landlock: sys::landlock_abi().ok(),
            subordinate_ids: has_subordinate_ids(caller.uid),
            attempts: Vec::new(),
        };
        let identities = [Identity::Root, Identity::SingleId];
        for identity in
            identities.into_iter().filter(|identity| *identity != Identity::Root || caller.uid == 0)
        {
            for procfs in [Procfs::Fresh, Procfs::Surrounding] {
                let isolation = Isolation::Overlay { identity, procfs };
                let failure = attempt(isolation, state)?;
                let only_proc = failure.as_ref().is_some_and(|failure| failure.doing == Doing::Proc);
                let refusal = failure.map(|failure| refusal(&failure, state));
                let works = refusal.is_none();
                machine.attempts.push(Attempt { isolation, refusal });
                if works {
                    return Ok(machine);
                }
                if !only_proc {
                    break;
                }
            }
        }
        Ok(machine)
    }

    /// Whether this machine runs programs of an architecture, by Go's name: its own, or one that an emulator is there
    /// for. Yes where that cannot be told beforehand. Changes nothing but a directory in `state` that is removed again.
    ///
    /// # Errors
    /// If nothing could be tried.
    pub fn runs(architecture: &str, state: &Path) -> Result<bool, ProbeError> {
        let wrong = |source| ProbeError::State { path: state.to_path_buf(), source };
        let trial = Trial::new(state).map_err(wrong)?;
        foreign::runs(architecture, &trial.upper).map_err(wrong)
    }

    /// The way of isolation to use.
    ///
    /// # Errors
    /// With all reasons, if there is none.
    pub fn isolation(&self) -> Result<Isolation, NoIsolation> {
        self.attempts
            .iter()
            .find(|attempt| attempt.refusal.is_none())
            .map(|attempt| attempt.isolation)
            .ok_or_else(|| NoIsolation { attempts: self.attempts.clone() })
    }
}

/// Sets up a sandbox in `state` and lets it look for a program that is not there.
fn attempt(isolation: Isolation, state: &Path) -> Result<Option<Failure>, ProbeError> {
    let trial =
        Trial::new(state).map_err(|source| ProbeError::State { path: state.to_path_buf(), source })?;
    if let Err(errno) = rustix::fs::setxattr(&trial.upper, "user.overlay.wbuild", b"y", XattrFlags::empty()) {
        return Ok(Some(Failure::new(Doing::Overlay, Some(state), errno)));
    }
    if isolation.identity() == Identity::Root
        && let Err(errno) = give_away(&trial.upper)
    {
        return Ok(Some(Failure::new(Doing::Identity, None, errno)));
    }
    if isolation.identity() == Identity::SingleId && !has_birth_times(&trial.upper) {
        return Ok(Some(Failure::new(Doing::Ownership, Some(state), Errno::NOTSUP)));
    }
    let root =
        Root::Overlay { lowers: Vec::new(), upper: trial.upper.clone(), scratch: trial.scratch.clone() };
    let step = Step::new(root, ["/program"]);
    let cancel = CancelToken::new().map_err(ExecError::Helper)?;
    match isolation.run(&step, &mut |_, _| (), &cancel) {
        Ok(finished) => match finished.status {
            Status::NotStarted(NotStarted::NotFound { .. }) => Ok(None),
            _ => Ok(Some(Failure::new(Doing::Fork, None, Errno::CHILD))),
        },
        Err(ExecError::Setup(failure)) => Ok(Some(failure)),
        Err(error) => Err(error.into()),
    }
}

/// Whether root here is one who can give files to anybody: not in a user namespace that has but a few ids.
fn give_away(directory: &Path) -> Result<(), Errno> {
    const NOBODY: u32 = 65_534;
    let file = directory.join(".given");
    fs::write(&file, "").map_err(|error| Cause::from(error).errno())?;
    let result = rustix::fs::chown(&file, Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY)));
    // The whole trial is removed in any case.
    let _ = fs::remove_file(&file);
    result
}

/// Whether files have the time at which they were made, by which their owners are remembered.
fn has_birth_times(directory: &Path) -> bool {
    rustix::fs::statx(rustix::fs::CWD, directory, AtFlags::empty(), StatxFlags::BTIME)
        .is_ok_and(|stat| stat.stx_mask & StatxFlags::BTIME.bits() != 0)
}

/// Directories of a trial, removed when done.
struct Trial {
    top: PathBuf,
    upper: PathBuf,
    scratch: PathBuf,
}

impl Trial {
    fn new(state: &Path) -> io::Result<Self> {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let top = state.join(format!(".probe-{}-{number}", std::process::id()));
        let trial = Self { upper: top.join("upper"), scratch: top.join("scratch"), top };
        fs::create_dir_all(&trial.upper)?;
        fs::create_dir(&trial.scratch)?;
        Ok(trial)
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        // Nothing of value is in it, and what is left of it does no harm.
        let _ = fs::remove_dir_all(&self.top);
    }
}

fn refusal(failure: &Failure, state: &Path) -> Refusal {
    let sysctl = |name: &str| {
        fs::read_to_string(Path::new("/proc/sys").join(name)).ok().map(|value| value.trim().to_owned())
    };
    let is = |name: &str, value: &str| sysctl(name).as_deref() == Some(value);
    let remedy = match (failure.doing, failure.errno) {
        (Doing::UserNamespace, Errno::NOSPC) if is("user/max_user_namespaces", "0") => {
            "allow user namespaces: `sudo sysctl user.max_user_namespaces=28633`".to_owned()
        }
        (Doing::UserNamespace, Errno::NOSPC) => {
            "too many user namespaces, or nested too deeply: see `sysctl user.max_user_namespaces`".to_owned()
        }
        _ if is("kernel/unprivileged_userns_clone", "0") => {
            "allow user namespaces: `sudo sysctl kernel.unprivileged_userns_clone=1`".to_owned()
        }
        (Doing::UserNamespace | Doing::Namespaces, _) if is("kernel/apparmor_restrict_unprivileged_userns", "1") => {
            "AppArmor keeps programs without a profile from using user namespaces: \
             `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`"
                .to_owned()
        }
        (Doing::UserNamespace | Doing::Namespaces, _) => {
            "in a container, the runtime's system call filter forbids namespaces: start it with \
             `--security-opt seccomp=unconfined` (Kubernetes: `seccompProfile: {type: Unconfined}`)"
                .to_owned()
        }
        (Doing::Overlay, Errno::INVAL | Errno::NOTSUP) => format!(
            "overlayfs cannot keep changes on the file system of `{}` (another overlay, or one without `user.*` \
             extended attributes): put the state directory on a volume, an emptyDir or a tmpfs",
            state.display()
        ),
        (Doing::Overlay, Errno::PERM | Errno::NODEV) => {
            "overlayfs in a user namespace needs Linux 5.11 or newer, with overlayfs built in or loaded".to_owned()
        }
        (Doing::Proc, _) => {
            "a new `/proc` is refused where parts of the surrounding one are hidden: start the container with \
             `--security-opt systempaths=unconfined` (Kubernetes: `procMount: Unmasked`)"
                .to_owned()
        }
        (Doing::Identity, _) => "root has too few ids here: it is root of a user namespace".to_owned(),
        (Doing::Ownership, _) => format!(
            "the file system of `{}` does not say when files were made: put the state directory on ext4, xfs, btrfs or \
             a tmpfs",
            state.display()
        ),
        (Doing::Listener, Errno::BUSY) => {
            "the surrounding container runtime already listens to system calls; start it without that".to_owned()
        }
        (_, Errno::NOSYS) => "Linux 5.12 or newer is needed".to_owned(),
        _ => "the surrounding container runtime forbids it; give it fewer restrictions, or more privileges".to_owned(),
    };
    Refusal { reason: format!("{failure}: {}", failure.errno), remedy }
}

fn has_subordinate_ids(uid: u32) -> bool {
    let Ok(ranges) = fs::read_to_string("/etc/subuid") else { return false };
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let number = uid.to_string();
    let name = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == number).then(|| name.to_owned())
    });
    ranges
        .lines()
        .filter_map(|line| line.split(':').next())
        .any(|owner| owner == number || Some(owner) == name.as_deref())
}
