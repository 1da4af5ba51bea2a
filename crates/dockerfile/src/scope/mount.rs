//! `RUN --mount`: the keys of each type, read with the variables that are in force at the line.

use crate::problem::Problem;
use crate::source::Word;
use crate::suggest::{did_you_mean, suggest};
use crate::values::{boolean, csv_fields, size};

/// One mount of a RUN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted.
    pub kind: MountKind,
    /// Where, from the root. `None` for a secret that is an environment variable only, and for an agent's socket at its
    /// default place.
    pub target: Option<String>,
    /// The stage, named context or image that the source belongs to; the build context if there is none.
    pub from: Option<String>,
    /// The source within it, from its root.
    pub source: String,
    /// Whether the step can only read it.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountKind {
    /// Files of another place. What the step writes is discarded.
    Bind,
    /// A directory that outlives the build.
    Cache {
        /// Its name.
        id: String,
        /// What happens when several steps want it.
        sharing: Sharing,
        /// Mode and owner it is made with.
        owner: Ownership,
    },
    /// An empty directory in memory.
    Tmpfs {
        /// Its limit in bytes.
        size: Option<u64>,
    },
    /// A secret of the build.
    Secret {
        /// Its name.
        id: String,
        /// The environment variable that holds it.
        env: Option<String>,
        /// Whether the step fails without it.
        required: bool,
        /// Mode and owner of the file.
        owner: Ownership,
    },
    /// The socket of an SSH agent.
    Ssh {
        /// The agent's name.
        id: String,
        /// Whether the step fails without it.
        required: bool,
        /// Mode and owner of the socket.
        owner: Ownership,
    },
}

/// How steps share a cache mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// At once.
    #[default]
    Shared,
    /// A new one for whoever comes second.
    Private,
    /// One after the other.
    Locked,
}

/// Mode and owner of what is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ownership {
    /// Permission bits.
    pub mode: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Whether any of the three was asked for.
    pub given: bool,
}

const TYPES: [&str; 5] = ["bind", "cache", "tmpfs", "secret", "ssh"];

const KEYS: [&str; 19] = [
    "type",
    "from",
    "source",
    "target",
    "readonly",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "src",
    "dst",
    "destination",
    "ro",
    "rw",
    "readwrite",
    "env",
];

/// What the keys say, before it is known whether they fit together.
#[derive(Default)]
struct Fields {
    kind: String,
    from: String,
    source: String,
    target: String,
    read_only: Option<bool>,
    required: bool,
    size: Option<u64>,
    id: String,
    sharing: Option<Sharing>,
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    env: Option<String>,
}

/// Why a mount cannot be used: either its own problem, or that of expanding a value.
pub(super) enum MountError<E> {
    Problem(Problem),
    Expand(E),
}

/// Reads a mount. `expand` gets each value with its place.
pub(super) fn read<E>(
    flag: &Word,
    workdir: &str,
    mut expand: impl FnMut(&Word) -> Result<String, E>,
) -> Result<Mount, MountError<E>> {
    let fields = csv_fields(&flag.text).map_err(|reason| {
        MountError::Problem(Problem::new(format!("failed to parse csv mounts: {reason}"), flag.span))
    })?;
    let mut mount = Fields { kind: "bind".to_owned(), ..Fields::default() };
    let mut from = 0;
    for field in fields {
        let at = flag.text[from..].find(&field).map_or(0..0, |at| from + at..from + at + field.len());
        from = at.end.max(from);
        let span = flag.part(at.clone());
        let (key, value) = match field.split_once('=') {
            None => (field.to_lowercase(), None),
            Some((key, value)) => {
                let start = at.start + key.len() + 1;
                let expanded =
                    expand(&Word::new(value, flag.part(start..at.end))).map_err(MountError::Expand)?;
                (key.to_lowercase(), Some(expanded))
            }
        };
        mount.set(&key, value.as_deref(), &field).map_err(|message| {
            let problem = Problem::new(message, span);
            let hint = hint(&key, &mount.kind);
            MountError::Problem(if hint.is_empty() { problem } else { problem.hint(hint) })
        })?;
    }
    mount
        .check(workdir)
        .map_err(|(message, hint)| MountError::Problem(Problem::new(message, flag.span).hint(hint)))
}

/// A message with what to do about it.
type Advice = (String, &'static str);

fn hint(key: &str, kind: &str) -> &'static str {
    match (key, kind) {
        ("type", _) => "the types are `bind`, `cache`, `tmpfs`, `secret` and `ssh`",
        ("sharing", _) => "cache mounts are `shared`, `private` or `locked`",
        ("mode", _) => "a mode is octal: `mode=0755`",
        ("required", _) => "only secret and ssh mounts can be required; write `type=` before it",
        ("size", "tmpfs") => "write a number with a unit: `size=64m`",
        ("size", _) => "only tmpfs mounts have a size; write `type=tmpfs` before it",
        _ => "",
    }
}

impl Fields {
    fn set(&mut self, key: &str, value: Option<&str>, field: &str) -> Result<(), String> {
        let can_be_required = matches!(self.kind.as_str(), "secret" | "ssh");
        let unexpected = || format!("unexpected key '{key}' for mount type '{}'", self.kind);
        let Some(value) = value else {
            match key {
                "readonly" | "ro" => self.read_only = Some(true),
                "readwrite" | "rw" => self.read_only = Some(false),
                "required" if can_be_required => self.required = true,
                "required" => return Err(unexpected()),
                _ => return Err(format!("invalid field '{field}' must be a key=value pair")),
            }
            return Ok(());
        };
        let flag = || boolean(value).ok_or_else(|| format!("invalid value for {key}: {value}"));
        let number =
            |radix| u32::from_str_radix(value, radix).map_err(|_| format!("invalid value {value} for {key}"));
        match key {
            "type" => {
                let lower = value.to_lowercase();
                if !TYPES.contains(&lower.as_str()) {
                    let found = suggest(value, TYPES);
                    return Err(format!("unsupported mount type {value:?}{}", did_you_mean(found)));
                }
                self.kind = lower;
            }
            "from" => self.from = value.to_owned(),
            "source" | "src" => self.source = value.to_owned(),
            "target" | "dst" | "destination" => self.target = value.to_owned(),
            "readonly" | "ro" => self.read_only = Some(flag()?),
            "readwrite" | "rw" => self.read_only = Some(!flag()?),
            "required" if can_be_required => self.required = flag()?,
            "size" if self.kind == "tmpfs" => {
                self.size = Some(size(value).ok_or_else(|| format!("invalid value for size: {value}"))?);
            }
            "required" | "size" => return Err(unexpected()),
            "id" => self.id = value.to_owned(),
            "sharing" => {
                self.sharing = Some(match value.to_lowercase().as_str() {
                    "shared" => Sharing::Shared,
                    "private" => Sharing::Private,
                    "locked" => Sharing::Locked,
                    _ => {
                        let found = suggest(value, ["shared", "private", "locked"]);
                        return Err(format!("unsupported sharing value {value:?}{}", did_you_mean(found)));
                    }
                });
            }
            "mode" => self.mode = Some(number(8)?),
            "uid" => self.uid = Some(number(10)?),
            "gid" => self.gid = Some(number(10)?),
            "env" => self.env = Some(value.to_owned()),
            _ => {
                let found = suggest(key, KEYS);
                return Err(format!("unexpected key '{key}' in '{field}'{}", did_you_mean(found)));
            }
        }
        Ok(())
    }

    /// Checks that the keys fit together, and fills in what was not said.
    fn check(self, workdir: &str) -> Result<Mount, Advice> {
        let refuse = |message: &str, hint: &'static str| Err((message.to_owned(), hint));
        let kind = self.kind.as_str();
        if matches!(kind, "bind" | "tmpfs") {
            for (key, given) in [("mode", self.mode), ("uid", self.uid), ("gid", self.gid)] {
                if given.is_some() {
                    let hint = "only cache, secret and ssh mounts have `mode`, `uid` and `gid`";
                    return Err((format!("{key} not allowed for {kind:?} type mounts"), hint));
                }
            }
        }
        if kind == "secret" {
            if !self.from.is_empty() {
                return refuse(
                    "secret mount should not have a from",
                    "secrets are given with `--secret id=…`; remove `from`",
                );
            }
            if self.sharing.is_some() {
                return refuse(
                    "secret mount should not define sharing",
                    "only cache mounts are shared; remove it",
                );
            }
            if self.source.is_empty() && self.target.is_empty() && self.id.is_empty() {
                return refuse(
                    "invalid secret mount. one of source, target required",
                    "name the secret: `--mount=type=secret,id=…`",
                );
            }
            if !self.source.is_empty() && !self.id.is_empty() {
                return refuse("both source and id can't be set", "both name the secret; keep `id`");
            }
        }
        if self.sharing.is_some() && kind != "cache" {
            return Err((
                format!("invalid cache sharing set for {kind} mount"),
                "only cache mounts are shared; remove it",
            ));
        }
        // BuildKit mounts it and then looks for the source in it, which is not there: the step fails.
        if kind == "tmpfs" && !matches!(cleaned(&self.source).as_str(), "" | "." | "/") {
            return refuse("a tmpfs mount has no source", "it is empty at first; remove `source`");
        }
        if kind == "ssh" && !self.source.is_empty() {
            return refuse("ssh does not support source", "write `id=…` to name an agent");
        }
        let owner = |mode| Ownership {
            mode: self.mode.unwrap_or(mode),
            uid: self.uid.unwrap_or_default(),
            gid: self.gid.unwrap_or_default(),
            given: self.mode.is_some() || self.uid.is_some() || self.gid.is_some(),
        };
        let base_name =
            |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        let absolute = |path: &str| super::stage::joined(workdir, path);
        let read_only = self.read_only.unwrap_or(!matches!(kind, "cache" | "tmpfs"));
        let (kind, target) = match kind {
            "secret" => {
                let id = [&self.source, &self.id].into_iter().find(|id| !id.is_empty()).cloned();
                let id = id.unwrap_or_else(|| base_name(&self.target));
                let target = match (&*self.target, &self.env) {
                    ("", Some(_)) => None,
                    ("", None) => Some(format!("/run/secrets/{}", base_name(&id))),
                    (target, _) => Some(absolute(target)),
                };
                (
                    MountKind::Secret {
                        id,
                        env: self.env.clone(),
                        required: self.required,
                        owner: owner(0o400),
                    },
                    target,
                )
            }
            "ssh" => {
                let id = if self.id.is_empty() { "default".to_owned() } else { self.id.clone() };
                let target = (!self.target.is_empty()).then(|| absolute(&self.target));
                (MountKind::Ssh { id, required: self.required, owner: owner(0o600) }, target)
            }
            other => {
                let target = absolute(&self.target);
                if target == "/" {
                    let hint =
                        "name a directory: `target=/cache`; without a target it is the working directory";
                    return Err((format!("invalid mount target {target:?}"), hint));
                }
                let kind = match other {
                    "cache" => {
                        let id = if self.id.is_empty() { cleaned(&self.target) } else { self.id.clone() };
                        MountKind::Cache {
                            id,
                            sharing: self.sharing.unwrap_or_default(),
                            owner: owner(0o755),
                        }
                    }
                    "tmpfs" => MountKind::Tmpfs { size: self.size.filter(|size| *size > 0) },
                    _ => MountKind::Bind,
                };
                (kind, Some(target))
            }
        };
        Ok(Mount {
            kind,
            target,
            from: (!self.from.is_empty()).then(|| self.from.clone()),
            source: super::stage::joined("/", &self.source),
            read_only,
        })
    }
}

/// Go's `path.Clean`.
fn cleaned(path: &str) -> String {
    if path.starts_with('/') {
        return super::stage::joined("/", path);
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        match (part, parts.last()) {
            ("..", Some(last)) if *last != ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

#[cfg(test)]
mod tests {
    use wbuild_report::{SourceFile, Span};

    use super::*;

    fn mount(text: &str) -> Result<Mount, String> {
        let word = Word::new(text, Span::new(0, text.len()));
        read(&word, "/w", |value| Ok::<_, ()>(value.text.replace("$v", "x"))).map_err(|error| match error {
            MountError::Problem(problem) => problem.error(&SourceFile::new("f", text)).message,
            MountError::Expand(()) => String::new(),
        })
    }

    #[test]
    fn defaults_of_each_type() {
        let bind = mount("target=/m,source=../a/./b,from=s").unwrap();
        assert_eq!(
            (bind.target.as_deref(), bind.source.as_str(), bind.read_only),
            (Some("/m"), "/a/b", true)
        );
        let cache = mount("type=CACHE,dst=c/$v,ro").unwrap();
        assert_eq!(cache.target.as_deref(), Some("/w/c/x"));
        assert!(cache.read_only && matches!(&cache.kind, MountKind::Cache { id, .. } if id == "c/x"));
        let tmpfs = mount("type=tmpfs,target=/t,size=64m").unwrap();
        assert_eq!((tmpfs.kind, tmpfs.read_only), (MountKind::Tmpfs { size: Some(64 << 20) }, false));
        let secret = mount("type=secret,id=a/b").unwrap();
        assert_eq!(secret.target.as_deref(), Some("/run/secrets/b"));
        let secret = mount("type=secret,id=a,env=TOKEN,required").unwrap();
        assert!(secret.target.is_none() && matches!(secret.kind, MountKind::Secret { required: true, .. }));
        let secret = mount("type=secret,target=/k/file,mode=0440,uid=5").unwrap();
        let owner = Ownership { mode: 0o440, uid: 5, gid: 0, given: true };
        assert_eq!(secret.kind, MountKind::Secret { id: "file".into(), env: None, required: false, owner });
        assert!(matches!(mount("type=ssh").unwrap().kind, MountKind::Ssh { id, .. } if id == "default"));
    }

    #[test]
    fn messages_are_those_of_buildkit() {
        for (text, message) in [
            ("type=bind,target=/", "invalid mount target \"/\""),
            ("typ=cache", "unexpected key 'typ' in 'typ=cache' (did you mean type?)"),
            ("type=cahce", "unsupported mount type \"cahce\" (did you mean cache?)"),
            ("target=/x,mode=755", "mode not allowed for \"bind\" type mounts"),
            ("target=/x,required", "unexpected key 'required' for mount type 'bind'"),
            ("target=/x,size=1m", "unexpected key 'size' for mount type 'bind'"),
            ("type=tmpfs,target=/x,size=y", "invalid value for size: y"),
            ("target", "invalid field 'target' must be a key=value pair"),
            (
                "type=cache,target=/x,sharing=lock",
                "unsupported sharing value \"lock\" (did you mean locked?)",
            ),
            ("type=secret,id=a,from=b", "secret mount should not have a from"),
            ("type=tmpfs,source=/x,target=/t", "a tmpfs mount has no source"),
            ("type=secret", "invalid secret mount. one of source, target required"),
            ("type=secret,id=a,source=b", "both source and id can't be set"),
            ("type=ssh,source=b", "ssh does not support source"),
            ("type=tmpfs,target=/x,sharing=shared", "invalid cache sharing set for tmpfs mount"),
            ("target=/x,ro=maybe", "invalid value for ro: maybe"),
            ("type=cache,target=/x,mode=9", "invalid value 9 for mode"),
        ] {
            assert_eq!(mount(text).unwrap_err(), message, "{text}");
        }
    }
}
