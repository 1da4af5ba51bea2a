//! Starts an image in the sandbox: its process with its user, environment and working directory, and its probe as the
//! config says.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use wbuild_executor::{
    CancelToken, Entry, ExecError, Finished, Forward, Network, Privileges, Program, Root, Running, Status,
    Step, User,
};
use wbuild_graph::{DeltaId, ImageRef, Snapshot};
use wbuild_oci::{Execution, Healthcheck};
use wbuild_report::LogStream;
use wbuild_snapshot::Mtimes;
use wbuild_store::Draft;

use crate::error::EngineError;
use crate::step::{DEFAULT_PATH, io_error};
use crate::worker::Engine;

/// Docker's defaults where the config says nothing.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES: u64 = 3;

/// Between two probes while the image starts, where the config sets no `start-interval`. Docker waits five seconds, or the
/// whole interval before its version 25; somebody who waits for the answer wants it sooner.
const START_INTERVAL: Duration = Duration::from_secs(1);

/// Which network the process sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerNetwork {
    /// A network of its own, of which ports are forwarded from 127.0.0.1: `(host port, port inside)`; host port 0 is
    /// any free one.
    Private(Vec<(u16, u16)>),
    /// The host's. `HOSTNAME` is set to 127.0.0.1, so that what binds to it is not reachable from outside (decision 16).
    Host,
    /// Only a loopback of its own.
    None,
}

/// How to start an image.
#[derive(Clone, Debug)]
pub struct ContainerOptions {
    /// Instead of the image's own command.
    pub command: Vec<String>,
    /// Set after the image's own.
    pub env: BTreeMap<String, String>,
    /// Which network.
    pub network: ContainerNetwork,
}

/// A process of an image that runs. Killed with all its children when dropped.
#[derive(Debug)]
pub struct Container {
    running: Running,
    entry: Entry,
    addresses: Vec<SocketAddrV4>,
    program: Program,
    probe: Option<Probe>,
    /// What it changes in its root is thrown away.
    _draft: Draft,
}

/// The process of a [`Container`], for whoever sends it signals while another waits for its end.
#[derive(Clone, Debug)]
pub struct ContainerProcess(Entry);

impl ContainerProcess {
    /// Sends a signal to the image's process alone, not to its children; `false` if it runs no more.
    ///
    /// # Errors
    /// When there is no such signal, or it cannot be sent.
    pub fn signal(&self, signal: i32) -> Result<bool, EngineError> {
        self.0.signal(signal).map_err(EngineError::Exec)
    }
}

/// The probe of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    argv: Vec<String>,
    interval: Duration,
    start_interval: Duration,
    start_period: Duration,
    timeout: Duration,
    retries: u64,
}

/// What came of waiting for health.
#[derive(Debug)]
pub enum Health {
    /// The probe succeeded.
    Healthy {
        /// Since the start.
        after: Duration,
    },
    /// It failed as often in a row as the config allows.
    Unhealthy {
        /// How often.
        failures: u64,
        /// What the last probe said.
        output: String,
    },
    /// The process ended first.
    Ended(Status),
}

impl Probe {
    /// The probe of a config; `None` where it has none or says `NONE`.
    pub fn of(check: &Healthcheck, shell: &[String]) -> Option<Self> {
        let argv = match check.test.split_first()? {
            (kind, argv) if kind == "CMD" && !argv.is_empty() => argv.to_vec(),
            (kind, [text]) if kind == "CMD-SHELL" => {
                let shell = if shell.is_empty() { &["/bin/sh".to_owned(), "-c".to_owned()] } else { shell };
                shell.iter().cloned().chain([text.clone()]).collect()
            }
            _ => return None,
        };
        let or =
            |nanos: u64, default: Duration| if nanos == 0 { default } else { Duration::from_nanos(nanos) };
        Some(Self {
            argv,
            interval: or(check.interval, INTERVAL),
            start_interval: or(check.start_interval, START_INTERVAL),
            start_period: Duration::from_nanos(check.start_period),
            timeout: or(check.timeout, TIMEOUT),
            retries: if check.retries == 0 { RETRIES } else { check.retries },
        })
    }
}

impl Engine {
    /// Starts the image that `reference` was given a place for.
    ///
    /// # Errors
    /// When it is not at hand, has no command, or cannot be started.
    pub fn start_container(
        &self,
        reference: &str,
        options: &ContainerOptions,
    ) -> Result<Container, EngineError> {
        let image = self.images.open(reference, &self.platform)?;
        let config = &image.image.config.config;
        let deltas = image.image.layers.iter().map(|layer| DeltaId::Layer(layer.diff_id)).collect();
        let snapshot = Snapshot { deltas };
        let argv = command_of(config, &options.command);
        if argv.is_empty() {
            return Err(EngineError::NoCommand { reference: reference.to_owned() });
        }
        let user = self.user_of(&snapshot, &config.user)?;
        let lowers = self.lowers(&snapshot, Mtimes::Tree)?;
        let draft = self.store.draft()?;
        let mut env: BTreeMap<String, String> = BTreeMap::new();
        env.insert("PATH".to_owned(), DEFAULT_PATH.to_owned());
        env.insert("HOME".to_owned(), user.home.clone());
        env.insert("HOSTNAME".to_owned(), "wbuild".to_owned());
        for pair in &config.env {
            if let Some((name, value)) = pair.split_once('=') {
                env.insert(name.to_owned(), value.to_owned());
            }
        }
        if options.network == ContainerNetwork::Host {
            env.insert("HOSTNAME".to_owned(), Ipv4Addr::LOCALHOST.to_string());
        }
        env.extend(options.env.clone());
        let program = Program {
            argv: argv.iter().map(OsString::from).collect(),
            env: env.into_iter().map(|(name, value)| (name.into(), value.into())).collect(),
            cwd: if config.working_dir.is_empty() { "/".into() } else { config.working_dir.clone().into() },
            user: User { uid: user.uid, gid: user.gid, groups: user.groups.clone() },
        };
        let root = Root::Overlay { lowers, upper: draft.fs(), scratch: draft.work() };
        let mut step = Step::new(root, program.argv.clone());
        step.env.clone_from(&program.env);
        step.cwd.clone_from(&program.cwd);
        step.user = program.user.clone();
        step.privileges = Privileges { no_new_privileges: true, ..Privileges::default() };
        step.network = match &options.network {
            ContainerNetwork::Host => Network::Host,
            ContainerNetwork::None => Network::None,
            ContainerNetwork::Private(ports) => Network::Private {
                forward: ports
                    .iter()
                    .map(|(host, guest)| Forward {
                        host: SocketAddrV4::new(Ipv4Addr::LOCALHOST, *host),
                        guest: *guest,
                    })
                    .collect(),
            },
        };
        let mut running = self.isolation()?.start(&step).map_err(EngineError::Exec)?;
        let addresses = running.addresses().map_err(EngineError::Exec)?.to_vec();
        let entry = running.entry().map_err(EngineError::Exec)?;
        let probe = config.healthcheck.as_ref().and_then(|check| Probe::of(check, &config.shell));
        Ok(Container { running, entry, addresses, program, probe, _draft: draft })
    }

    /// The ports that the image exposes over TCP.
    ///
    /// # Errors
    /// When the image is not at hand.
    pub fn exposed_ports(&self, reference: &str) -> Result<Vec<u16>, EngineError> {
        let config = self.image_config(&ImageRef::new(reference))?;
        let tcp = |port: &String| match port.split_once('/') {
            Some((number, "tcp")) => number.parse().ok(),
            None => port.parse().ok(),
            _ => None,
        };
        Ok(config.config.exposed_ports.keys().filter_map(tcp).collect())
    }
}

/// ENTRYPOINT and CMD as container engines put them together: a command given replaces CMD.
fn command_of(config: &Execution, given: &[String]) -> Vec<String> {
    let entrypoint = config.entrypoint.clone().unwrap_or_default();
    let rest = if given.is_empty() { config.cmd.clone().unwrap_or_default() } else { given.to_vec() };
    entrypoint.into_iter().chain(rest).collect()
}

impl Container {
    /// Where its ports are on the host, in the order of the request.
    pub fn addresses(&self) -> &[SocketAddrV4] {
        &self.addresses
    }

    /// Its process.
    pub fn process(&self) -> ContainerProcess {
        ContainerProcess(self.entry.clone())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it is cancelled or could not be set up.
    pub fn wait(
        self,
        output: &mut dyn FnMut(LogStream, &[u8]),
        cancel: &CancelToken,
    ) -> Result<Finished, EngineError> {
        self.running.wait(output, cancel).map_err(ended)
    }

    /// Runs the probe as the config says until it succeeds or has failed too often, and ends the process then. An image
    /// without a probe is an error.
    ///
    /// # Errors
    /// When there is no probe, or the process could not be set up or was cancelled.
    pub fn until_healthy(
        self,
        output: &mut (dyn FnMut(LogStream, &[u8]) + Send),
        cancel: &CancelToken,
    ) -> Result<Health, EngineError> {
        let probe = self.probe.clone().ok_or(EngineError::NoProbe)?;
        let stop = CancelToken::new()
            .map_err(io_error("create a token for", std::path::Path::new("the container")))?;
        let (entry, program, running) = (self.entry, self.program, self.running);
        let (over, ended_early) = channel();
        std::thread::scope(|scope| {
            let (waiting, stopping) = (stop.clone(), stop.clone());
            let process = scope.spawn(move || {
                let finished = running.wait(output, &waiting);
                // Nobody listens any more once the health is known.
                let _ = over.send(finished.as_ref().ok().map(|finished| finished.status.clone()));
                finished
            });
            let health = probe_until(&probe, &entry, &program, &ended_early, cancel);
            stopping.cancel();
            let finished = process.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            match (health, finished) {
                (Ok(Some(health)), _) => Ok(health),
                (Ok(None), Ok(finished)) => Ok(Health::Ended(finished.status)),
                (Ok(None), Err(error)) | (Err(error), _) => Err(ended(error)),
            }
        })
    }
}

fn ended(error: ExecError) -> EngineError {
    match error {
        ExecError::Cancelled => EngineError::Cancelled,
        other => EngineError::Exec(other),
    }
}

/// `None` when the process ended first.
fn probe_until(
    probe: &Probe,
    entry: &Entry,
    program: &Program,
    over: &Receiver<Option<Status>>,
    cancel: &CancelToken,
) -> Result<Option<Health>, ExecError> {
    let started = Instant::now();
    let mut failures = 0;
    loop {
        let mut said = Vec::new();
        let run = Program { argv: probe.argv.iter().map(OsString::from).collect(), ..program.clone() };
        if probe_once(entry, &run, probe.timeout, cancel, &mut said)? {
            return Ok(Some(Health::Healthy { after: started.elapsed() }));
        }
        let starting = started.elapsed() < probe.start_period;
        // Failures while it starts do not count (config.md of Docker's image specification).
        failures += u64::from(!starting);
        if failures >= probe.retries {
            let output = String::from_utf8_lossy(&said).trim().to_owned();
            return Ok(Some(Health::Unhealthy { failures, output }));
        }
        let pause = if starting { probe.start_interval } else { probe.interval };
        let until = Instant::now() + pause;
        loop {
            if cancel.is_cancelled() {
                return Err(ExecError::Cancelled);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            // Short enough that ctrl-C is answered at once, as people see it.
            match over.recv_timeout(left.min(Duration::from_millis(50))) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
    }
}

/// One probe; one that takes too long has failed.
fn probe_once(
    entry: &Entry,
    program: &Program,
    timeout: Duration,
    cancel: &CancelToken,
    said: &mut Vec<u8>,
) -> Result<bool, ExecError> {
    let stop = match CancelToken::new() {
        Ok(stop) => stop,
        Err(_) => return Ok(false),
    };
    let Ok(running) = entry.start(program) else { return Ok(false) };
    let (done, waiting) = channel::<()>();
    let timer = stop.clone();
    let outer = cancel.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let until = Instant::now() + timeout;
            while Instant::now() < until && !outer.is_cancelled() {
                match waiting.recv_timeout(Duration::from_millis(50)) {
                    Err(RecvTimeoutError::Timeout) => {}
                    _ => return,
                }
            }
            timer.cancel();
        });
        let finished =
            running.wait(&mut |_, bytes| said.extend_from_slice(&bytes[..bytes.len().min(4096)]), &stop);
        drop(done);
        match finished {
            Ok(finished) => Ok(finished.status.success()),
            Err(_) if cancel.is_cancelled() => Err(ExecError::Cancelled),
            // Killed by its timeout, or the process it probes is gone.
            Err(_) => Ok(false),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn probes_as_the_config_says() {
        let check = Healthcheck {
            test: words("CMD node probe.js"),
            interval: 30_000_000_000,
            timeout: 3_000_000_000,
            start_period: 40_000_000_000,
            ..Healthcheck::default()
        };
        let probe = Probe::of(&check, &[]).unwrap();
        assert_eq!(
            (probe.argv, probe.timeout, probe.retries),
            (words("node probe.js"), Duration::from_secs(3), 3)
        );
        let shell = Healthcheck {
            test: vec!["CMD-SHELL".into(), "wget x || exit 1".into()],
            ..Healthcheck::default()
        };
        assert_eq!(Probe::of(&shell, &[]).unwrap().argv, ["/bin/sh", "-c", "wget x || exit 1"]);
        let none = Healthcheck { test: words("NONE"), ..Healthcheck::default() };
        assert_eq!(Probe::of(&none, &[]), None);
    }

    #[test]
    fn a_given_command_replaces_only_cmd() {
        let config = Execution {
            entrypoint: Some(words("docker-entrypoint.sh")),
            cmd: Some(words("node server.js")),
            ..Execution::default()
        };
        assert_eq!(command_of(&config, &[]), words("docker-entrypoint.sh node server.js"));
        assert_eq!(command_of(&config, &words("id -u")), words("docker-entrypoint.sh id -u"));
    }
}
