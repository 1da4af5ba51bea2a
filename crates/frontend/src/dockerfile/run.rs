//! RUN.

use std::sync::Arc;

use wbuild_dockerfile::{Mount as Written, MountKind as Kind, Network, RunStep, Script, Security, Sharing};
use wbuild_graph::{
    Cache, CacheSeed, CacheSharing, Capture, EnvInKey, Environment, Exec, Files, Mount, MountKind,
    NetworkMode, Op, Origin, Pattern, PrivilegeSet, SecretEnv, Source, StepTimes,
};
use wbuild_oci::Platform;
use wbuild_report::{Diagnostic, VertexId};
use wbuild_tree::EntryPath;

use super::ForeignRun;
use super::stage::{At, Lowering, Place, StageState, Taken};

/// As BuildKit has it.
const HOSTNAME: &str = "buildkitsandbox";

/// Where BuildKit puts the sockets of agents.
const AGENT: &str = "run/buildkit/ssh_agent.";

impl Lowering<'_> {
    /// Lowers RUN to the vertex of the new root; `None` when something it needs is missing.
    pub(super) fn run(
        &mut self,
        state: &StageState,
        run: &RunStep,
        shell: &[String],
        at: At<'_>,
    ) -> Option<VertexId> {
        self.note_platform(&state.platform, at);
        let steps = self.input.steps;
        let mut mounts = Vec::new();
        if let Script::File { name, content } = &run.script {
            mounts.push(Mount {
                target: EntryPath::rooted(Script::path(name)).unwrap_or_default(),
                kind: MountKind::Script { contents: content.clone().into_bytes(), mode: 0o755 },
            });
        }
        let network = match run.network {
            Network::Default => steps.network,
            Network::None => NetworkMode::None,
            Network::Host => NetworkMode::Host,
        };
        let granted = |granted: bool, what: &str| {
            (!granted).then(|| {
                Diagnostic::error(&at.instruction.file, format!("this RUN needs the entitlement {what}"))
                    .at(at.instruction.span, "")
                    .hint(format!("allow it with `--allow {what}`, or remove the flag"))
            })
        };
        if run.network == Network::Host {
            self.errors.extend(granted(steps.allow_host_network, "network.host"));
        }
        if run.security == Security::Insecure {
            self.errors.extend(granted(steps.allow_insecure, "security.insecure"));
        }
        for device in &run.devices {
            let message = format!("the device `{}` cannot be given to a step", device.name);
            self.errors.push(
                Diagnostic::error(&at.instruction.file, message)
                    .at(at.instruction.span, "")
                    .hint("remove `--device`: outside the labs channel BuildKit refuses it, too"),
            );
        }
        let mut inputs = vec![state.vertex];
        let mut env = environment(state);
        let mut secret_env = Vec::new();
        let mut agents = 0;
        let mut complete = true;
        for mount in &run.mounts {
            let target = mount.target.as_deref().map(|path| EntryPath::rooted(path).unwrap_or_default());
            let kind = match &mount.kind {
                Kind::Bind => match self.bind(state, mount, at) {
                    Some((vertex, source)) => {
                        inputs.push(vertex);
                        MountKind::Bind { input: inputs.len() - 1, source, writable: !mount.read_only }
                    }
                    None => {
                        complete = false;
                        continue;
                    }
                },
                Kind::Cache { id, sharing, owner } => {
                    let seed = match &mount.from {
                        None => None,
                        Some(_) => match self.bind(state, mount, at) {
                            Some((vertex, source)) => {
                                inputs.push(vertex);
                                Some(CacheSeed { input: inputs.len() - 1, source })
                            }
                            None => {
                                complete = false;
                                continue;
                            }
                        },
                    };
                    let namespace = self.input.settings.build_args.get("BUILDKIT_CACHE_MOUNT_NS");
                    MountKind::Cache(Cache {
                        id: format!("run/{}/{id}", namespace.map_or("", String::as_str)),
                        sharing: match sharing {
                            Sharing::Shared => CacheSharing::Shared,
                            Sharing::Private => CacheSharing::Private,
                            Sharing::Locked => CacheSharing::Locked,
                        },
                        publish_on_success: false,
                        never_publish: Vec::new(),
                        read_only: mount.read_only,
                        uid: owner.uid,
                        gid: owner.gid,
                        mode: bits(owner.mode),
                        seed,
                        // With `from`, the cache begins as that part of it.
                        inside: match mount.from {
                            None => EntryPath::rooted(&mount.source).unwrap_or_default(),
                            Some(_) => EntryPath::default(),
                        },
                    })
                }
                Kind::Tmpfs { size } => MountKind::Tmpfs { size: *size },
                Kind::Secret { id, env, required, owner } => {
                    if let Some(name) = env {
                        secret_env.push(SecretEnv {
                            name: name.clone(),
                            id: id.clone(),
                            required: *required,
                            version: None,
                        });
                    }
                    MountKind::Secret {
                        id: id.clone(),
                        mode: bits(owner.mode),
                        uid: owner.uid,
                        gid: owner.gid,
                        required: *required,
                        version: None,
                    }
                }
                Kind::Ssh { id, required, owner } => {
                    let socket = target
                        .clone()
                        .unwrap_or_else(|| EntryPath::parse(format!("{AGENT}{agents}")).unwrap_or_default());
                    if agents == 0 {
                        env.push(Environment {
                            name: "SSH_AUTH_SOCK".to_owned(),
                            value: socket.to_string(),
                            in_key: EnvInKey::Never,
                        });
                    }
                    agents += 1;
                    let kind = MountKind::Ssh {
                        id: id.clone(),
                        mode: bits(owner.mode),
                        uid: owner.uid,
                        gid: owner.gid,
                        required: *required,
                    };
                    mounts.push(Mount { target: socket, kind });
                    continue;
                }
            };
            if let Some(target) = target {
                mounts.push(Mount { target, kind });
            }
        }
        if let Some(proxies) = self.input.settings.proxies() {
            let values = [
                ("http_proxy", &proxies.http),
                ("https_proxy", &proxies.https),
                ("ftp_proxy", &proxies.ftp),
                ("no_proxy", &proxies.no),
                ("all_proxy", &proxies.all),
            ];
            for (name, value) in values.into_iter().filter(|(_, value)| !value.is_empty()) {
                for name in [name.to_owned(), name.to_uppercase()] {
                    // What the Dockerfile says itself counts more, and is part of the key.
                    if state.scope.env().get(&name).is_none() {
                        env.push(Environment { name, value: value.clone(), in_key: EnvInKey::Never });
                    }
                }
            }
        }
        if !complete {
            return None;
        }
        let exec = Exec {
            argv: run.script.argv(shell),
            env,
            cwd: EntryPath::rooted(state.scope.workdir()).unwrap_or_default(),
            user: state.config.config.user.clone(),
            network,
            privileges: match run.security {
                Security::Sandbox => PrivilegeSet::Run,
                Security::Insecure => PrivilegeSet::Insecure,
            },
            mounts,
            secret_env,
            hostname: Some(self.hostname().to_owned()),
            hosts: steps.hosts.clone(),
            limits: steps.limits.clone(),
            capture: Capture::All,
            times: StepTimes::Kept,
            on_failure: Vec::new(),
        };
        Some(self.step(Op::Exec(Box::new(exec)), inputs, at))
    }

    /// What steps see as the name of their machine: scripts write it into files.
    fn hostname(&self) -> &str {
        let given = self.input.settings.build_args.get("BUILDKIT_SANDBOX_HOSTNAME").map(String::as_str);
        given.filter(|name| !name.is_empty()).unwrap_or(HOSTNAME)
    }

    /// Variants do not count: which of them a processor runs, its architecture does not say.
    fn note_platform(&mut self, platform: &Platform, at: At<'_>) {
        let same = |other: &Platform| other.os == platform.os && other.architecture == platform.architecture;
        if same(&self.input.settings.build_platform) || self.foreign.iter().any(|run| same(&run.platform)) {
            return;
        }
        let origin = Origin { file: Arc::clone(&at.instruction.file), span: at.instruction.span };
        self.foreign.push(ForeignRun { platform: platform.clone(), origin });
    }

    /// The files of a bind mount: a vertex and the path in it.
    fn bind(&mut self, state: &StageState, mount: &Written, at: At<'_>) -> Option<(VertexId, EntryPath)> {
        let source = EntryPath::rooted(&mount.source).unwrap_or_default();
        let taken = match &mount.from {
            None => Taken::Context(String::new()),
            Some(from) => {
                let place = match self.input.dockerfile.mount_from(from) {
                    wbuild_dockerfile::FromRef::Stage(index) => Place::Stage(index),
                    wbuild_dockerfile::FromRef::External(name) => Place::Named(name),
                };
                self.files_of(place, &state.platform)?
            }
        };
        let vertex = match taken {
            Taken::Vertex(vertex) => vertex,
            Taken::Context(name) if source.is_root() => self.context(&name),
            Taken::Context(name) => {
                let patterns = vec![Pattern::Literal(mount.source.clone())];
                let op = Op::Source(Source::Local { context: name, files: Files::Matching { patterns } });
                self.part(op, Vec::new(), "context", at)
            }
        };
        Some((vertex, source))
    }
}

/// What the step sees of ENV and ARG. Values are in records by their digest only (decision 4).
fn environment(state: &StageState) -> Vec<Environment> {
    let entry = |(name, value): (&str, &str)| Environment {
        name: name.to_owned(),
        value: value.to_owned(),
        in_key: EnvInKey::Hashed,
    };
    state.scope.env().entries().into_iter().map(entry).collect()
}

/// Permission bits of a mount; the parser refuses larger numbers.
fn bits(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or(0o755)
}
