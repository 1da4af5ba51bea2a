use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::error::LoadError;
use crate::http::Address;

/// What an engine is looked for with.
#[derive(Clone, Copy)]
pub struct Machine<'a> {
    /// Environment variables.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
}

impl std::fmt::Debug for Machine<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine").finish_non_exhaustive()
    }
}

/// Whom an image is loaded into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Whoever answers docker's API there.
    Api(Address),
    /// `docker load`, which knows contexts, certificates and SSH.
    DockerProgram {
        /// One of docker's contexts.
        context: Option<String>,
    },
    /// podman, on this machine.
    Podman,
}

/// The image stores that are no docker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// containerd's, through `ctr`.
    Containerd {
        /// Its socket.
        address: String,
        /// Which of its namespaces.
        namespace: String,
    },
    /// containers-storage, through skopeo.
    Skopeo,
    /// The same, through podman.
    Podman,
}

/// Where docker listens unless it says otherwise.
const DOCKER_SOCKET: &str = "/var/run/docker.sock";

/// Where containerd does.
const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

impl Machine<'_> {
    fn set(&self, name: &str) -> Option<String> {
        (self.variable)(name).filter(|value| !value.is_empty())
    }

    /// Whether a program is in PATH.
    fn has(&self, program: &str) -> bool {
        use std::os::unix::fs::PermissionsExt;
        let path = self.set("PATH").unwrap_or_default();
        std::env::split_paths(OsStr::from_bytes(path.as_bytes())).any(|folder| {
            let found = std::fs::metadata(folder.join(program));
            found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
    }

    /// The context that docker's configuration file names, unless it is the usual one.
    fn current_context(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Config {
            current_context: Option<String>,
        }
        let folder = self.set("DOCKER_CONFIG").map(PathBuf::from);
        let folder = folder.or_else(|| Some(Path::new(&self.set("HOME")?).join(".docker")))?;
        // What cannot be read here is docker's to complain about.
        let bytes = std::fs::read(folder.join("config.json")).ok()?;
        let config: Config = serde_json::from_slice(&bytes).ok()?;
        config.current_context.filter(|name| !name.is_empty() && name != "default")
    }

    fn runtime_socket(&self, name: &str) -> Option<PathBuf> {
        Some(Path::new(&self.set("XDG_RUNTIME_DIR")?).join(name))
    }
}

/// Finds docker or podman: `DOCKER_HOST`, a context of docker's, `CONTAINER_HOST`, docker's socket, podman, podman's socket.
///
/// # Errors
/// When there is none; which were looked for.
pub fn choose_engine(context: Option<&str>, machine: &Machine<'_>) -> Result<Engine, LoadError> {
    let by_program = |context: Option<String>| match machine.has("docker") {
        true => Ok(Engine::DockerProgram { context }),
        false => Err(LoadError::NoDockerProgram { context }),
    };
    if let Some(context) = context {
        return by_program(Some(context.to_owned()));
    }
    if let Some(host) = machine.set("DOCKER_HOST") {
        let secured = machine.set("DOCKER_TLS_VERIFY").is_some() || machine.set("DOCKER_TLS").is_some();
        return match Address::parse(&host).filter(|address| !secured || address.is_socket()) {
            Some(address) => Ok(Engine::Api(address)),
            None => by_program(None),
        };
    }
    if let Some(context) = machine.set("DOCKER_CONTEXT").or_else(|| machine.current_context())
        && context != "default"
    {
        return by_program(Some(context));
    }
    if let Some(address) = machine.set("CONTAINER_HOST").as_deref().and_then(Address::parse) {
        return Ok(Engine::Api(address));
    }
    let mut refused = None;
    let docker = [Some(PathBuf::from(DOCKER_SOCKET)), machine.runtime_socket("docker.sock")];
    for socket in docker.into_iter().flatten() {
        match UnixStream::connect(&socket) {
            Ok(_) => return Ok(Engine::Api(Address::Socket(socket))),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => refused = Some(socket),
            Err(_) => {}
        }
    }
    if machine.has("podman") {
        return Ok(Engine::Podman);
    }
    let podman = [machine.runtime_socket("podman/podman.sock"), Some("/run/podman/podman.sock".into())];
    for socket in podman.into_iter().flatten() {
        if UnixStream::connect(&socket).is_ok() {
            return Ok(Engine::Api(Address::Socket(socket)));
        }
    }
    Err(LoadError::NoEngine { refused })
}

/// Finds containerd, else containers-storage.
///
/// # Errors
/// When there is none; which were looked for.
pub fn choose_store(machine: &Machine<'_>) -> Result<Store, LoadError> {
    let address = machine.set("CONTAINERD_ADDRESS").unwrap_or_else(|| CONTAINERD_SOCKET.to_owned());
    let listens = UnixStream::connect(address.trim_start_matches("unix://")).is_ok();
    match (listens, machine.has("ctr"), machine.has("skopeo"), machine.has("podman")) {
        (true, true, ..) => {
            let namespace = machine.set("CONTAINERD_NAMESPACE").unwrap_or_else(|| "default".to_owned());
            Ok(Store::Containerd { address, namespace })
        }
        (_, _, true, _) => Ok(Store::Skopeo),
        (_, _, _, true) => Ok(Store::Podman),
        (true, false, ..) => Err(LoadError::NoCtr { address }),
        _ => Err(LoadError::NoStore { address }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engine(variables: &[(&str, &str)], context: Option<&str>) -> Result<Engine, LoadError> {
        let variable = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        choose_engine(context, &Machine { variable: &variable })
    }

    #[test]
    fn docker_is_found_as_docker_finds_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str().unwrap();
        let docker = folder.path().join("docker");
        let missing = engine(&[("PATH", path), ("DOCKER_HOST", "ssh://far")], None);
        assert!(matches!(missing, Err(LoadError::NoDockerProgram { .. })));
        std::fs::write(&docker, "").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&docker, mode).unwrap();
        let socket = Engine::Api(Address::Socket("/x".into()));
        let program = |context: Option<&str>| Engine::DockerProgram { context: context.map(str::to_owned) };
        let table = [
            (vec![("DOCKER_HOST", "unix:///x")], None, socket.clone()),
            (vec![("DOCKER_HOST", "unix:///x"), ("DOCKER_TLS_VERIFY", "1")], None, socket.clone()),
            (vec![("DOCKER_HOST", "tcp://a:1"), ("DOCKER_TLS_VERIFY", "1")], None, program(None)),
            (vec![("DOCKER_HOST", "tcp://a:1")], None, Engine::Api(Address::Host("a:1".to_owned()))),
            (vec![("DOCKER_HOST", "ssh://far")], None, program(None)),
            (vec![("DOCKER_HOST", "unix:///x")], Some("far"), program(Some("far"))),
            (vec![("DOCKER_CONTEXT", "far")], None, program(Some("far"))),
            (vec![("CONTAINER_HOST", "unix:///x")], None, socket),
        ];
        for (mut variables, context, expected) in table {
            variables.extend([("PATH", path), ("HOME", path)]);
            assert_eq!(engine(&variables, context).unwrap(), expected, "{variables:?}");
        }
        std::fs::create_dir(folder.path().join(".docker")).unwrap();
        std::fs::write(folder.path().join(".docker/config.json"), r#"{"currentContext":"own"}"#).unwrap();
        assert_eq!(engine(&[("PATH", path), ("HOME", path)], None).unwrap(), program(Some("own")));
    }

    #[test]
    fn without_tools_they_are_named() {
        let variable = |name: &str| (name == "CONTAINERD_ADDRESS").then(|| "/nowhere".to_owned());
        let error = choose_store(&Machine { variable: &variable }).unwrap_err();
        assert!(matches!(error, LoadError::NoStore { .. }), "{error}");
    }
}
