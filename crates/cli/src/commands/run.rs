//! `wbuild run`: an image in the sandbox; with `--until-healthy` the smoke test for CI without a container engine.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use signal_hook::consts::{SIGALRM, SIGCONT, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use wbuild_engine::{
    ContainerNetwork, ContainerOptions, ContainerProcess, Engine, EngineError, Health, ImageLocation, Options,
};
use wbuild_executor::{CancelToken, Status};
use wbuild_image::{LayoutError, OciLayout, Select, unpack_archive};
use wbuild_report::{Hint, LogStream};

use super::{Failure, Session, WriteError};
use crate::args::RunArgs;
use crate::render::{duration, escape_line};

pub(crate) fn run(args: &RunArgs, session: &Session) -> Result<ExitCode, Failure> {
    let plain = || session.plain_options(args.home.home.as_ref());
    // An archive stays unpacked, in a session of its own, for as long as the container runs.
    let archive = Path::new(&args.image);
    let unpacked = match is_archive(archive) {
        true => {
            let session = Engine::open(plain()?, &session.variable)?;
            let draft = session.store().draft().map_err(Failure::new)?;
            unpack_archive(archive, &draft.fs()).map_err(Failure::new)?;
            Some((session, draft))
        }
        false => None,
    };
    let (layout, select) = match &unpacked {
        Some((_, draft)) => (draft.fs(), Select::Only),
        None => location(&args.image)?,
    };
    let location = ImageLocation::Layout { layout: layout.clone(), select };
    // Errors name it as it was typed.
    let images = BTreeMap::from([(args.image.clone(), location)]);
    let engine = Engine::open(Options { images, ..plain()? }, &session.variable)?;
    let options = ContainerOptions {
        command: args.command.clone(),
        env: environment(args, session),
        network: network(args, || {
            // What is no image at all is said without the advice that the engine has for base images.
            OciLayout::open(&layout).map_err(Failure::new)?;
            engine.exposed_ports(&args.image).map_err(of_image)
        })?,
    };
    OciLayout::open(&layout).map_err(Failure::new)?;
    let cancel =
        CancelToken::new().map_err(|source| Failure::new(WriteError { path: "a token".into(), source }))?;
    let token = cancel.clone();
    let _subscription = session.cancellation.subscribe(move || token.cancel());
    let container = engine.start_container(&args.image, &options).map_err(of_image)?;
    if let ContainerNetwork::Private(ports) = &options.network {
        // Taken in the moment between the look and the start.
        let moved = container.addresses().iter().zip(ports).find(|(got, (wanted, _))| got.port() != *wanted);
        if let Some((_, (wanted, guest))) =
            moved.filter(|(_, (wanted, _))| !args.publish.is_empty() && *wanted != 0)
        {
            return Err(Failure::new(PortTaken { host: *wanted, guest: *guest }));
        }
        for (address, (_, guest)) in container.addresses().iter().zip(ports) {
            say(&format!("port {guest} is http://{address}"));
        }
    }
    if !args.until_healthy {
        let process = Process { process: container.process(), cancel: cancel.clone() };
        let grace = Duration::from_secs(args.stop_timeout.into());
        session
            .interrupts
            .answer(&ALSO_PASSED_ON, process.passing_on(grace))
            .map_err(|source| Failure::new(WriteError { path: "a signal handler".into(), source }))?;
        let mut copy = |stream, bytes: &[u8]| pass_on(stream, bytes);
        let finished = container.wait(&mut copy, &cancel)?;
        return Ok(exit_code(&finished.status));
    }
    // Results go to standard output, and the log of a process that is only probed is none.
    let mut log = |_, bytes: &[u8]| pass_on(LogStream::Stderr, bytes);
    match container.until_healthy(&mut log, &cancel)? {
        Health::Healthy { after } => {
            say(&format!("healthy after {}", duration(after)));
            Ok(ExitCode::SUCCESS)
        }
        Health::Unhealthy { failures, output } => {
            let said = if output.is_empty() {
                String::new()
            } else {
                format!("; the last one said: {}", escape_line(&output))
            };
            say(&format!("unhealthy: {failures} probes failed in a row{said}"));
            Ok(ExitCode::FAILURE)
        }
        Health::Ended(status) => {
            say(&format!("the process ended before it was healthy: {status}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// Beside SIGINT, SIGTERM and SIGHUP. `docker run` passes everything on; SIGWINCH is left out, since a window that changes
/// its size would stop an Apache.
const ALSO_PASSED_ON: [i32; 5] = [SIGQUIT, SIGUSR1, SIGUSR2, SIGALRM, SIGCONT];

/// The image's process, for those who want it to end.
#[derive(Clone)]
struct Process {
    process: ContainerProcess,
    cancel: CancelToken,
}

impl Process {
    /// What to do with a signal: pass it on as it is, whatever the image's STOPSIGNAL, as `docker run` does. Unlike there
    /// the process is killed when it is still there `grace` after SIGTERM, or at the second ctrl-C.
    fn passing_on(self, grace: Duration) -> impl FnMut(i32) + Send + 'static {
        let (mut interrupted, mut terminated) = (false, false);
        move |signal| match signal {
            SIGINT if std::mem::replace(&mut interrupted, true) => self.kill(),
            SIGTERM if !std::mem::replace(&mut terminated, true) => {
                self.send(SIGTERM);
                let late = self.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(grace);
                    late.kill();
                });
            }
            other => self.send(other),
        }
    }

    fn send(&self, signal: i32) {
        // Whoever is gone needs no signal; where none can be sent, ending it is better than not answering.
        if self.process.signal(signal).is_err() && matches!(signal, SIGINT | SIGTERM) {
            self.cancel.cancel();
        }
    }

    /// With all its children, which end with it.
    fn kill(&self) {
        if !matches!(self.process.signal(SIGKILL), Ok(true)) {
            self.cancel.cancel();
        }
    }
}

/// `DIR[:TAG]` of an OCI layout.
fn location(text: &str) -> Result<(PathBuf, Select), Failure> {
    let text = text.strip_prefix("oci:").or_else(|| text.strip_prefix("oci-layout://")).unwrap_or(text);
    if Path::new(text).join("index.json").exists() {
        return Ok((text.into(), Select::Only));
    }
    match ImageLocation::parse(&format!("oci-layout://{text}")) {
        Ok(ImageLocation::Layout { layout, select }) => Ok((layout, select)),
        Ok(ImageLocation::Registry(_)) | Err(_) => Err(Failure::usage(
            format!("`{}` is not of the form DIR[:TAG|@DIGEST]", text.escape_debug()),
            "name the folder of an OCI layout, such as .wbuild/image/web, or a tar of one",
        )),
    }
}

fn environment(args: &RunArgs, session: &Session) -> BTreeMap<String, String> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => Some((text.clone(), (session.variable)(text)?)),
    };
    args.env.iter().filter_map(pair).collect()
}

/// `exposed` are the ports of the image, which is only looked at when the arguments make sense.
fn network(
    args: &RunArgs,
    exposed: impl FnOnce() -> Result<Vec<u16>, Failure>,
) -> Result<ContainerNetwork, Failure> {
    match args.network.as_str() {
        "host" => return Ok(ContainerNetwork::Host),
        "none" => return Ok(ContainerNetwork::None),
        "private" => {}
        other => {
            return Err(Failure::usage(
                format!("`{other}` is no network"),
                "--network private, host or none",
            ));
        }
    }
    if args.publish.is_empty() {
        let ports = exposed()?;
        return Ok(ContainerNetwork::Private(ports.into_iter().map(|port| (port, port)).collect()));
    }
    let parse = |text: &String| {
        let (host, guest) = text.rsplit_once(':').unwrap_or((text, text));
        match (host.parse(), guest.parse()) {
            (Ok(host), Ok(guest)) => Ok((host, guest)),
            _ => Err(Failure::usage(
                format!("`--publish {text}` is not of the form [HOST:]PORT"),
                "-p 8080:3000",
            )),
        }
    };
    let ports = args.publish.iter().map(parse).collect::<Result<Vec<(u16, u16)>, _>>()?;
    for &(host, guest) in &ports {
        // A port that was asked for is that one or none; only one that nobody named may move.
        let listened = TcpListener::bind((Ipv4Addr::LOCALHOST, host));
        if listened.is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse) {
            return Err(Failure::new(PortTaken { host, guest }));
        }
    }
    Ok(ContainerNetwork::Private(ports))
}

/// What the engine says of base images is about the image itself here.
fn of_image(error: EngineError) -> Failure {
    match error {
        EngineError::BaseLayer { blob, source } => Failure::new(DamagedImage::Layer { blob, source }),
        EngineError::Layout(error) if error.hints().is_empty() => {
            Failure::new(DamagedImage::Document(Box::new(error)))
        }
        other => other.into(),
    }
}

/// The image cannot be used.
#[derive(Debug, thiserror::Error)]
enum DamagedImage {
    #[error("cannot unpack `{}`, a layer of the image", blob.display())]
    Layer { blob: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error(transparent)]
    Document(Box<LayoutError>),
}

impl Hint for DamagedImage {
    fn hints(&self) -> Vec<String> {
        vec![
            "the image is damaged or incomplete: build it again, or copy it again from where it came"
                .to_owned(),
        ]
    }
}

/// A port of this machine that was asked for is in use.
#[derive(Debug, thiserror::Error)]
#[error("port {host} of 127.0.0.1 is taken")]
struct PortTaken {
    host: u16,
    guest: u16,
}

impl Hint for PortTaken {
    fn hints(&self) -> Vec<String> {
        vec![format!("`--publish 0:{}` takes any free port and says which", self.guest)]
    }
}

fn is_archive(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.is_file())
}

fn pass_on(stream: LogStream, bytes: &[u8]) {
    // Whoever reads may have gone; the process goes on.
    let _ = match stream {
        LogStream::Stdout => std::io::stdout().write_all(bytes).and_then(|()| std::io::stdout().flush()),
        LogStream::Stderr => std::io::stderr().write_all(bytes),
    };
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn exit_code(status: &Status) -> ExitCode {
    ExitCode::from(u8::try_from(status.code()).unwrap_or(u8::MAX))
}
