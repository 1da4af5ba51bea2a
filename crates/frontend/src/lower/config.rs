//! The image configurations of the stages, as `FROM` and the instructions after it would make them.

use std::collections::BTreeMap;

use serde_json::json;
use wbuild_oci::{Execution, Healthcheck, ImageConfig};

use crate::{HistoryRow, Probe, Spec};

const WORKDIR: &str = "/app";

/// Of a stage that stands on the base image.
pub(super) fn of_stage(spec: &Spec, stage: &str, base: &ImageConfig) -> ImageConfig {
    let mut config = from_image(base);
    let execution = &mut config.config;
    execution.working_dir = WORKDIR.to_owned();
    match (stage, &spec.dev) {
        ("builder", _) => set_env(execution, &spec.env),
        ("dev", Some(dev)) => {
            set_env(execution, &dev.env);
            expose(execution, &dev.expose);
            execution.cmd = Some(dev.cmd.clone());
        }
        _ => {}
    }
    config
}

/// Of the image that is shipped.
pub(super) fn of_runner(spec: &Spec, base: &ImageConfig) -> ImageConfig {
    let runner = &spec.runner;
    let mut config = from_image(base);
    let execution = &mut config.config;
    // By number: Kubernetes checks `runAsNonRoot` without looking into the image.
    execution.user = format!("{}:{}", runner.user.uid, runner.user.gid);
    execution.working_dir.clone_from(&runner.workdir);
    set_env(execution, &runner.env);
    expose(execution, &runner.expose);
    if let Some(entrypoint) = &runner.entrypoint {
        execution.entrypoint = Some(entrypoint.clone());
    }
    execution.cmd = Some(runner.cmd.clone());
    if let Some(probe) = &runner.healthcheck {
        execution.healthcheck = Some(healthcheck(probe));
    }
    execution.labels.extend(runner.labels.clone());
    config
}

/// What `FROM` takes over: platform and execution parameters. Triggers end with it; history and layers are added when
/// the image is put together.
pub(crate) fn from_image(base: &ImageConfig) -> ImageConfig {
    let kept = ["os.version", "os.features"];
    ImageConfig {
        architecture: base.architecture.clone(),
        os: base.os.clone(),
        variant: base.variant.clone(),
        config: Execution { on_build: Vec::new(), ..base.config.clone() },
        rest: base
            .rest
            .iter()
            .filter(|(name, _)| kept.contains(&name.as_str()))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect(),
        ..ImageConfig::default()
    }
}

fn set_env(execution: &mut Execution, env: &BTreeMap<String, String>) {
    for (name, value) in env {
        execution.set_env(name, value);
    }
}

fn expose(execution: &mut Execution, ports: &[String]) {
    execution.exposed_ports.extend(ports.iter().map(|port| (port.clone(), json!({}))));
}

fn healthcheck(probe: &Probe) -> Healthcheck {
    let mut test = vec!["CMD".to_owned()];
    test.extend(probe.cmd.clone());
    Healthcheck {
        test,
        interval: probe.interval.unwrap_or_default(),
        timeout: probe.timeout.unwrap_or_default(),
        start_period: probe.start_period.unwrap_or_default(),
        start_interval: probe.start_interval.unwrap_or_default(),
        retries: probe.retries.unwrap_or_default(),
    }
}

/// The rows of the runner that have no delta.
pub(super) fn runner_rows(spec: &Spec) -> Vec<HistoryRow> {
    let runner = &spec.runner;
    let mut rows = vec![format!("WORKDIR {}", runner.workdir)];
    rows.extend(runner.env.iter().map(|(name, value)| format!("ENV {name}={value}")));
    rows.extend(runner.labels.iter().map(|(name, value)| format!("LABEL {name}={value}")));
    rows.push(format!("USER {}:{}", runner.user.uid, runner.user.gid));
    if !runner.expose.is_empty() {
        rows.push(format!("EXPOSE {}", runner.expose.join(" ")));
    }
    if let Some(probe) = &runner.healthcheck {
        rows.push(format!("HEALTHCHECK CMD {}", json!(probe.cmd)));
    }
    if let Some(entrypoint) = &runner.entrypoint {
        rows.push(format!("ENTRYPOINT {}", json!(entrypoint)));
    }
    rows.push(format!("CMD {}", json!(runner.cmd)));
    rows.into_iter().map(HistoryRow::metadata).collect()
}

/// The rows of the stage `dev` that have no delta.
pub(super) fn dev_rows(spec: &Spec) -> Vec<HistoryRow> {
    let Some(dev) = &spec.dev else { return Vec::new() };
    let mut rows: Vec<String> = dev.env.iter().map(|(name, value)| format!("ENV {name}={value}")).collect();
    if !dev.expose.is_empty() {
        rows.push(format!("EXPOSE {}", dev.expose.join(" ")));
    }
    rows.push(format!("CMD {}", json!(dev.cmd)));
    rows.into_iter().map(HistoryRow::metadata).collect()
}
