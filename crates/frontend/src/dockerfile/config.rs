//! What instructions do to the image's configuration (BuildKit's `dispatch…` functions).

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use wbuild_dockerfile::{Healthcheck, Step};
use wbuild_oci::{Execution, Healthcheck as Probe, ImageConfig, Platform};

/// The shell of shell-form instructions where nothing else is said.
const SHELL: [&str; 2] = ["/bin/sh", "-c"];

/// Of `FROM scratch`.
pub(super) fn empty(platform: &Platform) -> ImageConfig {
    ImageConfig {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone(),
        config: Execution { working_dir: "/".to_owned(), ..Execution::default() },
        ..ImageConfig::default()
    }
}

/// The shell in force.
pub(super) fn shell(config: &ImageConfig) -> Vec<String> {
    match config.config.shell.as_slice() {
        [] => SHELL.map(str::to_owned).to_vec(),
        words => words.to_vec(),
    }
}

/// Applies an instruction. `cmd_set` says whether the stage has a CMD of its own so far.
pub(super) fn apply(config: &mut ImageConfig, step: &Step, cmd_set: &mut bool) {
    let shell = shell(config);
    let execution = &mut config.config;
    match step {
        Step::Cmd(command) => {
            // An empty list is no command.
            execution.cmd = Some(command.argv(&shell)).filter(|argv| !argv.is_empty());
            execution.args_escaped = Some(true);
            *cmd_set = true;
        }
        Step::Entrypoint(command) => {
            execution.entrypoint = Some(command.argv(&shell)).filter(|argv| !argv.is_empty());
            // A CMD that was made for another entry point would be its arguments.
            if !*cmd_set {
                execution.cmd = None;
            }
        }
        Step::Label(labels) => execution.labels.extend(labels.iter().cloned()),
        Step::Expose(ports) => {
            execution.exposed_ports.extend(ports.iter().map(|port| (port.to_string(), json!({}))));
        }
        Step::Healthcheck(check) => execution.healthcheck = Some(probe(check)),
        Step::Maintainer(name) => config.author = Some(name.clone()),
        Step::Onbuild(trigger) => execution.on_build.push(trigger.clone()),
        Step::Shell(words) => execution.shell.clone_from(words),
        Step::StopSignal(signal) => execution.stop_signal = Some(signal.clone()),
        Step::User(user) => execution.user.clone_from(user),
        Step::Volume(paths) => {
            execution.volumes.extend(paths.iter().map(|path| (path.clone(), json!({}))));
        }
        Step::Workdir(path) => execution.working_dir.clone_from(path),
        // The scope of the stage keeps ENV.
        Step::Env(_) | Step::Add(_) | Step::Copy(_) | Step::Arg(_) | Step::Run(_) => {}
    }
}

fn probe(check: &Healthcheck) -> Probe {
    let nanos = |time: &Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    match check {
        Healthcheck::None => Probe { test: vec!["NONE".to_owned()], ..Probe::default() },
        Healthcheck::Check { command, interval, timeout, start_period, start_interval, retries } => Probe {
            test: command.probe(),
            interval: nanos(interval),
            timeout: nanos(timeout),
            start_period: nanos(start_period),
            start_interval: nanos(start_interval),
            retries: u64::from(*retries),
        },
    }
}

/// The variables of an image, for the scope of a stage.
pub(super) fn env(config: &ImageConfig) -> Vec<(String, String)> {
    let mut values: Vec<(String, String)> = Vec::new();
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    for pair in &config.config.env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match places.get(name) {
            Some(place) => value.clone_into(&mut values[*place].1),
            None => {
                places.insert(name.to_owned(), values.len());
                values.push((name.to_owned(), value.to_owned()));
            }
        }
    }
    values
}
