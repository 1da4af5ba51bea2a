//! A docker daemon of a test's own.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::context::skip;

/// A client, and a daemon that ends with the test.
pub(crate) struct Docker {
    client: &'static str,
    pub(crate) host: String,
    daemon: Child,
}

impl Docker {
    /// `None`, with a printed reason, where it cannot be.
    pub(crate) fn start(folder: &Path) -> Option<Self> {
        if !rustix::process::getuid().is_root() {
            skip("dockerd needs root");
            return None;
        }
        // A distribution's own comes first: a `docker` earlier in PATH may be no client of a daemon.
        let client = if Path::new("/usr/bin/docker").exists() { "/usr/bin/docker" } else { "docker" };
        fs::create_dir_all(folder).unwrap();
        let host = format!("unix://{}", folder.join("socket").display());
        let mut command = Command::new("dockerd");
        command.arg("--data-root").arg(folder.join("data")).arg("--exec-root").arg(folder.join("exec"));
        command.arg("--pidfile").arg(folder.join("pid")).args(["--host", &host]);
        // Nothing of the host's network is touched.
        command.args(["--bridge=none", "--iptables=false"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut daemon = match command.spawn() {
            Ok(daemon) => daemon,
            Err(error) => {
                skip(&format!("there is no dockerd (Debian: docker.io): {error}"));
                return None;
            }
        };
        let mut log = BufReader::new(daemon.stderr.take().unwrap());
        let docker = Self { client, host, daemon };
        let mut last = String::new();
        while !last.contains("API listen on") {
            let mut line = String::new();
            if log.read_line(&mut line).unwrap() == 0 {
                skip(&format!("dockerd does not start: {}", last.trim()));
                return None;
            }
            last = line;
        }
        // Somebody has to read what it says, or it would wait one day.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Some(docker)
    }

    pub(crate) fn run(&self, args: &[&str]) {
        let mut command = Command::new(self.client);
        command.args(["--host", &self.host]).args(args).env("DOCKER_BUILDKIT", "1").stdin(Stdio::null());
        let output = command.output().unwrap();
        assert!(output.status.success(), "docker {args:?}\n{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It ends its own containerd, and unmounts what it mounted.
        let pid = rustix::process::Pid::from_child(&self.daemon);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.daemon.wait();
    }
}
