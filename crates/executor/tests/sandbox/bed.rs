use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use wbuild_executor::{
    Access, CancelToken, ExecError, Finished, Handler, Isolation, Machine, Mount, MountKind, Root, Source,
    Step,
};
use wbuild_report::LogStream;

/// Functions that run inside the namespace of the steps.
pub(crate) const HANDLERS: &[(&str, Handler)] = &[
    ("read", read),
    ("remove", remove),
    ("echo", echo),
    ("fail", |_, _| Err("it was not to be".to_owned())),
    ("flood", flood),
    ("hang", |_, _| {
        loop {
            std::thread::sleep(Duration::from_secs(60));
        }
    }),
];

fn path_of(request: &mut dyn Read) -> Result<PathBuf, String> {
    let mut path = String::new();
    request.read_to_string(&mut path).map_err(|error| error.to_string())?;
    Ok(path.into())
}

fn read(request: &mut dyn Read, reply: &mut dyn Write) -> Result<(), String> {
    let path = path_of(request)?;
    let bytes = fs::read(&path).map_err(|error| format!("cannot read `{}`: {error}", path.display()))?;
    reply.write_all(&bytes).map_err(|error| error.to_string())
}

fn remove(request: &mut dyn Read, _reply: &mut dyn Write) -> Result<(), String> {
    fs::remove_dir_all(path_of(request)?).map_err(|error| error.to_string())
}

fn echo(request: &mut dyn Read, reply: &mut dyn Write) -> Result<(), String> {
    std::io::copy(request, reply).map(drop).map_err(|error| error.to_string())
}

fn flood(_request: &mut dyn Read, reply: &mut dyn Write) -> Result<(), String> {
    for _ in 0..64 {
        reply.write_all(&[b'x'; 1 << 20]).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// Programs to run in a root, and a place for roots.
pub(crate) struct Bed {
    pub(crate) top: PathBuf,
    pub(crate) isolation: Isolation,
    pub(crate) machine: Machine,
    pub(crate) base: PathBuf,
    /// Directories of the host to bind where there is no static busybox to copy.
    host: Vec<PathBuf>,
    count: AtomicU32,
}

/// What a step did.
pub(crate) struct Ran {
    pub(crate) finished: Finished,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) upper: PathBuf,
}

impl Ran {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!(
            self.finished.status.success(),
            "{}\nout: {}\nerr: {}",
            self.finished.status,
            self.out,
            self.err
        );
        self
    }
}

impl Bed {
    pub(crate) fn new() -> Result<Self, String> {
        let top = tempfile::Builder::new()
            .prefix("wbuild-executor-")
            .tempdir()
            .map_err(|error| error.to_string())?;
        let top = top.keep();
        let machine = Machine::probe(&top).unwrap();
        let isolation = machine.isolation().map_err(|error| {
            fs::remove_dir_all(&top).unwrap();
            error.to_string()
        })?;
        let base = top.join("base");
        for directory in ["bin", "etc", "tmp", "root", "home/user", "var/empty"] {
            fs::create_dir_all(base.join(directory)).map_err(|error| error.to_string())?;
        }
        fs::set_permissions(base.join("tmp"), fs::Permissions::from_mode(0o1777))
            .map_err(|error| error.to_string())?;
        fs::write(
            base.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nuser:x:1001:1001::/home/user:/bin/sh\n",
        )
        .map_err(|error| error.to_string())?;
        fs::write(base.join("etc/group"), "root:x:0:\nuser:x:1001:\n").map_err(|error| error.to_string())?;
        let host = match busybox() {
            Some(busybox) => {
                fs::copy(&busybox, base.join("bin/busybox")).map_err(|error| error.to_string())?;
                let list =
                    Command::new(&busybox).arg("--list").output().map_err(|error| error.to_string())?;
                for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox")
                {
                    std::os::unix::fs::symlink("busybox", base.join("bin").join(applet))
                        .map_err(|error| error.to_string())?;
                }
                Vec::new()
            }
            None => host_programs(),
        };
        println!("{isolation:?}, {}", if host.is_empty() { "busybox" } else { "programs of the host" });
        Ok(Self { top, isolation, machine, base, host, count: AtomicU32::new(0) })
    }

    pub(crate) fn has_busybox(&self) -> bool {
        self.host.is_empty()
    }

    /// A new empty directory.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let path = self.top.join(format!("{number}-{name}"));
        fs::create_dir(&path).unwrap();
        path
    }

    /// A root whose lowest layer has the programs.
    pub(crate) fn root(&self, layers: &[&Path]) -> Root {
        let mut lowers: Vec<PathBuf> = layers.iter().map(|path| path.to_path_buf()).collect();
        lowers.push(self.base.clone());
        Root::Overlay { lowers, upper: self.directory("upper"), scratch: self.directory("scratch") }
    }

    /// A step that runs a shell script.
    pub(crate) fn step(&self, script: &str) -> Step {
        self.step_on(&[], script)
    }

    pub(crate) fn step_on(&self, layers: &[&Path], script: &str) -> Step {
        let mut step = Step::new(self.root(layers), ["/bin/sh", "-c", script]);
        step.env = vec![("PATH".into(), "/usr/sbin:/usr/bin:/sbin:/bin".into())];
        step.mounts = self.host.iter().map(bind).collect();
        step
    }

    /// A step that runs a Python script with the host's Python; `None` if it has none.
    pub(crate) fn python(&self, script: &str) -> Option<Step> {
        let python = Path::new("/usr/bin/python3");
        if !python.exists() {
            return None;
        }
        let mut step = self.step("");
        step.argv = vec![python.into(), "-c".into(), script.into()];
        if self.has_busybox() {
            // Its own /bin is in the way of the host's, which Python does not need.
            let wanted = host_programs().into_iter().filter(|path| path != Path::new("/bin"));
            step.mounts = wanted.map(|path| bind(&path)).collect();
        }
        Some(step)
    }

    #[track_caller]
    pub(crate) fn run(&self, step: &Step) -> Ran {
        match self.try_run(step) {
            Ok(ran) => ran,
            Err(error) => panic!("{error}: {:?}", std::error::Error::source(&error)),
        }
    }

    pub(crate) fn try_run(&self, step: &Step) -> Result<Ran, ExecError> {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut output = |stream: LogStream, bytes: &[u8]| match stream {
            LogStream::Stdout => out.extend_from_slice(bytes),
            LogStream::Stderr => err.extend_from_slice(bytes),
        };
        let finished = self.isolation.run(step, &mut output, &CancelToken::new().unwrap())?;
        let upper = match &step.root {
            Root::Overlay { upper, scratch, .. } => {
                assert_eq!(fs::read_dir(scratch).unwrap().count(), 0, "the scratch directory is not emptied");
                upper.clone()
            }
            Root::Directory(path) => path.clone(),
            Root::ReadOnly { .. } => PathBuf::new(),
        };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ran { finished, out: text(out), err: text(err), upper })
    }

    #[track_caller]
    pub(crate) fn sh(&self, script: &str) -> Ran {
        self.run(&self.step(script)).ok()
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let removed = self.isolation.within("remove", self.top.to_str().unwrap().as_bytes());
        assert!(removed.is_ok(), "{removed:?}");
    }
}

fn host_programs() -> Vec<PathBuf> {
    ["/bin", "/usr", "/lib", "/lib64"].map(PathBuf::from).into_iter().filter(|path| path.exists()).collect()
}

fn bind(path: &PathBuf) -> Mount {
    let kind = MountKind::Bind { source: Source::host(path), access: Access::ReadOnly };
    Mount { target: path.clone(), kind }
}

/// A busybox that needs no libraries: ours to copy.
fn busybox() -> Option<PathBuf> {
    if std::env::var_os("WBUILD_TEST_NO_BUSYBOX").is_some() {
        return None;
    }
    let candidates = ["/bin/busybox", "/usr/bin/busybox", "/bin/busybox.static"];
    candidates.into_iter().map(PathBuf::from).find(|path| fs::read(path).is_ok_and(|file| is_static(&file)))
}

/// Whether an ELF file has no program header for an interpreter.
fn is_static(file: &[u8]) -> bool {
    let word = |at: usize, size: usize| {
        let mut bytes = [0; 8];
        bytes[..size].copy_from_slice(&file[at..at + size]);
        usize::try_from(u64::from_le_bytes(bytes)).unwrap()
    };
    let (table, entry, count) = (word(32, 8), word(54, 2), word(56, 2));
    file.starts_with(b"\x7fELF") && (0..count).all(|index| word(table + index * entry, 4) != 3)
}

/// The argument that makes this program start a long step and wait to be killed.
pub(crate) const VICTIM: &str = "--victim";

pub(crate) fn be_the_victim(top: &Path, nap: &str) {
    let isolation = Machine::probe(top).unwrap().isolation().unwrap();
    let base = fs::read_link(top.join("base")).unwrap();
    let script = format!("echo started; sleep {nap} & (setsid sleep {nap} &) ; sleep {nap}");
    let root = Root::Overlay { lowers: vec![base], upper: top.join("upper"), scratch: top.join("scratch") };
    let mut step = Step::new(root, ["/bin/sh", "-c", &script]);
    step.env = vec![("PATH".into(), "/bin:/usr/bin".into())];
    if busybox().is_none() {
        step.mounts = host_programs().iter().map(bind).collect();
    }
    let mut output = |_: LogStream, bytes: &[u8]| std::io::stdout().write_all(bytes).unwrap();
    let _ = isolation.run(&step, &mut output, &CancelToken::new().unwrap());
}
