use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::error::GitError;
use super::remote::GitRemote;
use crate::http::{Authorization, Proxies, RetryPolicy, Tries};
use crate::runtime::block_on;
use crate::wait::{Clock, Waiting};
use crate::watch::{Retry, Watch};

/// As much as a command may print: the references of the largest repositories are some tens of megabytes.
const MAX_OUTPUT: u64 = 256 << 20;

/// As much of its complaints as is kept.
const MAX_COMPLAINT: usize = 16 << 10;

/// Lines of it that an error shows.
const SHOWN_LINES: usize = 6;

/// The only configuration that git gets, besides what is asked of it here. Nothing of a repository's is ever run, no
/// password is asked for, and only these protocols are used: a submodule can name no folder of this machine.
const CONFIG: &str = "\
[core]
\thooksPath = /dev/null
\tfsmonitor = false
\taskPass =
\tautocrlf = false
\tlogAllRefUpdates = false
[init]
\tdefaultBranch = main
\ttemplateDir =
[safe]
\tdirectory = *
[protocol]
\tallow = never
[protocol \"https\"]
\tallow = always
[protocol \"http\"]
\tallow = always
[protocol \"ssh\"]
\tallow = always
[protocol \"git\"]
\tallow = always
[http]
\tlowSpeedLimit = 1000
\tlowSpeedTime = 60
[credential]
\thelper =
[gc]
\tauto = 0
[maintenance]
\tauto = false
[pack]
\tthreads = 1
[advice]
\tdetachedHead = false
";

/// How git is run.
#[derive(Clone)]
pub struct GitOptions {
    /// A folder of this process alone, for git's home and what is temporary.
    pub scratch: PathBuf,
    /// `PATH`, where git and ssh are looked for.
    pub path: Option<OsString>,
    /// The file with the certificate authorities to trust; git's own if there is none.
    pub roots: Option<PathBuf>,
    /// Through which proxies.
    pub proxies: Proxies,
    /// The socket of an SSH agent.
    pub ssh_agent: Option<PathBuf>,
    /// How often what is tried.
    pub retry: RetryPolicy,
    /// How time passes.
    pub waiting: Arc<dyn Waiting>,
}

impl GitOptions {
    /// With nothing but a place for temporary files and a `PATH`.
    pub fn new(scratch: PathBuf, path: Option<OsString>) -> Self {
        Self {
            scratch,
            path,
            roots: None,
            proxies: Proxies::default(),
            ssh_agent: None,
            retry: RetryPolicy::default(),
            waiting: Arc::new(Clock),
        }
    }
}

impl fmt::Debug for GitOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GitOptions").field("scratch", &self.scratch).finish_non_exhaustive()
    }
}

/// The machine's `git`, with an environment that holds only what it needs.
#[derive(Debug)]
pub struct Git {
    pub(crate) options: GitOptions,
}

/// One call of git.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// For errors: an infinitive.
    pub(crate) doing: &'static str,
    pub(crate) remote: &'a GitRemote,
    pub(crate) folder: &'a Path,
    pub(crate) arguments: Vec<OsString>,
    /// Whether it talks to the remote: it gets credentials, and is tried again.
    pub(crate) network: bool,
    /// Whether folders of this machine can be fetched from.
    pub(crate) local: bool,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        doing: &'static str,
        remote: &'a GitRemote,
        folder: &'a Path,
        arguments: &[&str],
    ) -> Self {
        let arguments = arguments.iter().map(OsString::from).collect();
        Self { doing, remote, folder, arguments, network: false, local: false }
    }

    pub(crate) fn over_network(mut self) -> Self {
        self.network = true;
        self.local = self.remote.is_local();
        self
    }

    pub(crate) fn reading_folders(mut self) -> Self {
        self.local = true;
        self
    }
}

impl Git {
    /// Prepares to run git.
    ///
    /// # Errors
    /// When the scratch folder cannot be written.
    pub fn new(options: GitOptions) -> Result<Self, GitError> {
        let config = options.scratch.join(".gitconfig");
        let made = fs::create_dir_all(&options.scratch).and_then(|()| fs::write(&config, CONFIG));
        made.map_err(|source| GitError::Io { action: "write", path: config, source })?;
        Ok(Self { options })
    }

    /// Runs git and gives what it printed.
    pub(crate) fn run(
        &self,
        call: &Call<'_>,
        authorization: Option<&Authorization>,
        watch: &Watch<'_>,
    ) -> Result<String, GitError> {
        let mut tries = Tries::new(self.options.retry);
        loop {
            let error = match block_on(self.once(call, authorization, watch)) {
                Ok(output) => return Ok(output),
                Err(error) => error,
            };
            let GitError::Failed { said, .. } = &error else { return Err(error) };
            if !call.network || !is_passing(said) {
                return Err(error);
            }
            let Some(wait) = tries.failed_at(0, None, self.options.waiting.jitter()) else {
                return Err(error);
            };
            (watch.retrying)(&Retry {
                subject: call.remote.to_string(),
                why: said.clone(),
                after: Some(wait),
            });
            self.options.waiting.wait(wait, watch.stop);
        }
    }

    async fn once(
        &self,
        call: &Call<'_>,
        authorization: Option<&Authorization>,
        watch: &Watch<'_>,
    ) -> Result<String, GitError> {
        let mut command = Command::new("git");
        command
            .args(&call.arguments)
            .current_dir(call.folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Its helpers are ended with it.
            .process_group(0)
            .kill_on_drop(true);
        self.environment(&mut command, call, authorization);
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => GitError::NotInstalled { remote: call.remote.to_string() },
            _ => GitError::Start(error),
        })?;
        let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (output, complaint) = tokio::join!(read_all(stdout), read_end(stderr));
            let status = child.wait().await;
            (output, complaint, status)
        };
        let ended = tokio::select! {
            ended = work => Some(ended),
            () = watch.stop.stopped() => None,
        };
        let Some((output, complaint, status)) = ended else {
            if let Some(group) = group {
                // It may be gone already.
                let _ = kill_process_group(group, Signal::KILL);
            }
            return Err(GitError::Stopped);
        };
        let failed =
            |said: String| GitError::Failed { doing: call.doing, remote: call.remote.to_string(), said };
        let status = status.map_err(GitError::Start)?;
        if !status.success() {
            let said = last_lines(&complaint);
            return Err(failed(if said.is_empty() { format!("git ended with {status}") } else { said }));
        }
        let output = output.map_err(|error| failed(error.to_string()))?;
        String::from_utf8(output).map_err(|_| failed("git printed something that is no text".to_owned()))
    }

    fn environment(&self, command: &mut Command, call: &Call<'_>, authorization: Option<&Authorization>) {
        let options = &self.options;
        command.env_clear();
        if let Some(path) = &options.path {
            command.env("PATH", path);
        }
        let config = options.scratch.join(".gitconfig");
        let fixed: [(&str, &OsStr); 9] = [
            ("HOME", options.scratch.as_os_str()),
            ("XDG_CONFIG_HOME", options.scratch.as_os_str()),
            ("GIT_CONFIG_GLOBAL", config.as_os_str()),
            ("GIT_CONFIG_NOSYSTEM", OsStr::new("1")),
            ("GIT_ATTR_NOSYSTEM", OsStr::new("1")),
            ("GIT_TERMINAL_PROMPT", OsStr::new("0")),
            ("SSH_ASKPASS_REQUIRE", OsStr::new("never")),
            // Keys and known hosts are the user's own: ssh finds them without HOME.
            ("GIT_SSH_COMMAND", OsStr::new("ssh -o BatchMode=yes")),
            ("LC_ALL", OsStr::new("C")),
        ];
        command.envs(fixed);
        if let Some(roots) = &options.roots {
            command.env("GIT_SSL_CAINFO", roots);
        }
        command.envs(options.proxies.variables());
        if let Some(agent) = &options.ssh_agent {
            command.env("SSH_AUTH_SOCK", agent);
        }
        // In the environment and not on the command line, which all users of the machine can read.
        let mut settings: Vec<(String, String)> = Vec::new();
        if call.local {
            settings.push(("protocol.file.allow".to_owned(), "always".to_owned()));
        }
        if call.network
            && let Some(url) = call.remote.http_url()
            && let Some(value) = call
                .remote
                .authorization()
                .or(authorization)
                .and_then(|authorization| authorization.for_url(&url)?.to_str().ok())
        {
            let scope =
                format!("{}://{}/", if url.is_https() { "https" } else { "http" }, url.origin().host());
            settings.push((format!("http.{scope}.extraHeader"), format!("Authorization: {value}")));
            // Git would send them to wherever it is redirected.
            settings.push(("http.followRedirects".to_owned(), "false".to_owned()));
        }
        command.env("GIT_CONFIG_COUNT", settings.len().to_string());
        for (index, (key, value)) in settings.iter().enumerate() {
            command.env(format!("GIT_CONFIG_KEY_{index}"), key);
            command.env(format!("GIT_CONFIG_VALUE_{index}"), value);
        }
    }
}

async fn read_all(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let Some(mut stream) = stream else { return Ok(Vec::new()) };
    let mut bytes = Vec::new();
    (&mut stream).take(MAX_OUTPUT + 1).read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > MAX_OUTPUT {
        return Err(io::Error::other(format!("git printed more than {MAX_OUTPUT} bytes")));
    }
    Ok(bytes)
}

/// The end of a stream, all of which is read.
async fn read_end(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut stream) = stream else { return Vec::new() };
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..read]);
        if kept.len() > 2 * MAX_COMPLAINT {
            kept.drain(..kept.len() - MAX_COMPLAINT);
        }
    }
    kept
}

/// The last lines that say something, in one line without control characters. What the remote says comes first, and is
/// no reason.
fn last_lines(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<String> = text
        .split(['\n', '\r'])
        .map(|line| line.chars().filter(|c| !c.is_control()).collect::<String>().trim().to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    let said: Vec<&str> = lines
        .iter()
        .filter(|line| line.starts_with("fatal:") || line.starts_with("error:"))
        .map(String::as_str)
        .collect();
    let said = if said.is_empty() { lines.iter().map(String::as_str).collect() } else { said };
    said[said.len().saturating_sub(SHOWN_LINES)..].join("; ")
}

/// Whether it may go better the next time. Git says it only in words.
fn is_passing(said: &str) -> bool {
    const SIGNS: [&str; 14] = [
        "returned error: 408",
        "returned error: 429",
        "returned error: 5",
        "Connection reset",
        "Connection timed out",
        "Connection refused",
        "Recv failure",
        "early EOF",
        "unexpected disconnect",
        "RPC failed",
        "hung up unexpectedly",
        "Operation too slow",
        "Temporary failure in name resolution",
        "transfer closed with",
    ];
    SIGNS.iter().any(|sign| said.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_short_and_printable() {
        let said = b"remote: Counting\rremote: \x1b[31mdone\nwarning: x\nfatal: not here\nerror: \x07bell\n";
        assert_eq!(last_lines(said), "fatal: not here; error: bell");
        assert_eq!(last_lines(b"only\nwords\n"), "only; words");
        assert!(is_passing("fatal: unable to access 'x': The requested URL returned error: 503"));
        assert!(!is_passing("fatal: unable to access 'x': The requested URL returned error: 404"));
    }
}
