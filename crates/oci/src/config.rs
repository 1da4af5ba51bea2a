use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{DiffId, Platform};

/// An image's configuration document (OCI image-spec, config.md), with Docker's extra fields and everything
/// unknown kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// RFC 3339 time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Set by MAINTAINER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// GOARCH.
    #[serde(default)]
    pub architecture: String,
    /// GOOS.
    #[serde(default)]
    pub os: String,
    /// `v7` and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// What to run, as whom, where.
    #[serde(default)]
    pub config: Execution,
    /// The layers by diff id, lowest first.
    #[serde(default)]
    pub rootfs: RootFs,
    /// One row an instruction; those with `empty_layer` have no layer of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub history: Vec<HistoryEntry>,
    /// Everything else, kept.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

impl ImageConfig {
    /// The platform the image is for.
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            variant: self.variant.clone(),
            rest: BTreeMap::new(),
        }
    }
}

/// The execution parameters (`config` of config.md). Field names are Go's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Execution {
    /// `user[:group]`, names or numbers.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub user: String,
    /// `port/protocol`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub exposed_ports: BTreeMap<String, Value>,
    /// `NAME=value`, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// Fixed front part of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Default arguments or command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Docker: the probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Docker, Windows: whether `Cmd` is already escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args_escaped: Option<bool>,
    /// Paths that hold data of the container.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub volumes: BTreeMap<String, Value>,
    /// Absolute path.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_empty")]
    pub working_dir: String,
    /// Docker: triggers for child images.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub on_build: Vec<String>,
    /// Arbitrary.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `SIGTERM` or a number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Docker: the shell of shell-form instructions.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub shell: Vec<String>,
    /// Everything else, kept.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

impl Execution {
    /// The value of an environment variable; the last one wins, as in a process.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.env.iter().rev().find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))
    }

    /// Sets a variable in place, or appends it.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let pair = format!("{name}={value}");
        let same =
            |existing: &&mut String| existing.strip_prefix(name).is_some_and(|rest| rest.starts_with('='));
        match self.env.iter_mut().find(same) {
            Some(existing) => *existing = pair,
            None => self.env.push(pair),
        }
    }
}

/// Docker's probe. Durations are nanoseconds; zero means the engine's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["CMD", …]`, `["CMD-SHELL", "…"]` or `["NONE"]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_empty")]
    pub test: Vec<String>,
    /// Between two probes.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: u64,
    /// Of one probe.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: u64,
    /// After the start, while failures do not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: u64,
    /// Between two probes during the start period.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: u64,
    /// Failures in a row until unhealthy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: u64,
}

/// The layers of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// Lowest first.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub diff_ids: Vec<DiffId>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".to_owned(), diff_ids: Vec::new() }
    }
}

/// One row of the history.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// RFC 3339 time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Set by MAINTAINER.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Which builder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the row has no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    /// Everything else, kept.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Docker writes `null` for empty lists and maps.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::to_canonical_json;

    #[test]
    fn dockers_fields_and_unknown_ones_survive_a_round_trip() {
        let text = r#"{"architecture":"amd64","config":{"Cmd":["node"],"Env":["A=1"],"Healthcheck":{"Interval":30000000000,"Retries":3,"Test":["CMD","x"]},"Labels":{"b":"2","a":"1"},"OnBuild":["RUN x"],"Shell":["/bin/sh","-c"],"X-Unknown":{"y":[1]}},"docker_version":"1","history":[{"comment":"c","created_by":"RUN","empty_layer":true}],"os":"linux","rootfs":{"diff_ids":[],"type":"layers"},"zz":1}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        let value: Value = serde_json::from_str(text).unwrap();
        assert_eq!(to_canonical_json(&config).unwrap(), to_canonical_json(&value).unwrap());
    }

    #[test]
    fn nulls_of_docker_are_empty() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Volumes":null,"Labels":null,"OnBuild":null,"ExposedPorts":null},"rootfs":{"type":"layers","diff_ids":null},"history":null}"#;
        let config: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(config.config, Execution::default());
    }

    #[test]
    fn environment_is_set_in_place() {
        let mut execution =
            Execution { env: vec!["PATH=/bin".into(), "PATHS=x".into()], ..Execution::default() };
        execution.set_env("PATH", "/usr/bin");
        execution.set_env("NEW", "1");
        assert_eq!(execution.env, ["PATH=/usr/bin", "PATHS=x", "NEW=1"]);
        assert_eq!((execution.env("PATH"), execution.env("PAT")), (Some("/usr/bin"), None));
    }

    #[test]
    fn oci_spec_reads_what_is_written() {
        let config = ImageConfig {
            architecture: "amd64".into(),
            os: "linux".into(),
            config: Execution { user: "1001".into(), env: vec!["A=1".into()], ..Execution::default() },
            rootfs: RootFs { diff_ids: vec![DiffId(crate::Digest::of(b"x"))], ..RootFs::default() },
            ..ImageConfig::default()
        };
        let bytes = to_canonical_json(&config).unwrap();
        let read = oci_spec::image::ImageConfiguration::from_reader(bytes.as_slice()).unwrap();
        assert_eq!(read.rootfs().diff_ids(), &[crate::Digest::of(b"x").to_string()]);
        assert_eq!(read.config().as_ref().unwrap().user().as_deref(), Some("1001"));
    }
}
