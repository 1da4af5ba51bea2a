//! Flags with a little language of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use wbuild_dockerfile::{PLATFORM_ARGS, PROXY_ARGS};
use wbuild_frontend::{DockerfileBuild, StepOptions};
use wbuild_graph::{NetworkMode, StepLimits};
use wbuild_report::{Warning, nearest};
use wbuild_solver::NoCache;

use crate::args::BuildArgs;
use crate::commands::{Failure, Session};

/// What steps get.
pub(super) fn steps(args: &BuildArgs) -> Result<StepOptions, Failure> {
    let network = match args.network.as_str() {
        "" | "default" => NetworkMode::Default,
        "host" => NetworkMode::Host,
        "none" => NetworkMode::None,
        other => {
            let message = format!("`--network {other}` is not a network");
            return Err(Failure::usage(message, "the networks are default, host and none"));
        }
    };
    let mut options = StepOptions { network, ..StepOptions::default() };
    for what in args.allow.iter().flat_map(|text| text.split(',')) {
        match what.trim() {
            "network.host" => options.allow_host_network = true,
            "security.insecure" => options.allow_insecure = true,
            other => {
                let message = format!("`--allow {other}` is not an entitlement");
                return Err(Failure::usage(message, "there are network.host and security.insecure"));
            }
        }
    }
    // What the person asks for with a flag needs no further leave.
    options.allow_host_network |= network == NetworkMode::Host;
    for text in &args.add_hosts {
        options.hosts.push(host(text)?);
    }
    options.limits = StepLimits {
        shm_size: args.shm_size.as_deref().map(super::super::cache::bytes).transpose()?,
        ulimits: args.ulimits.iter().map(|text| ulimit(text)).collect::<Result<_, _>>()?,
    };
    Ok(options)
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`; `host-gateway` is this machine, whose network steps share.
fn host(text: &str) -> Result<(String, IpAddr), Failure> {
    let usage = || {
        let message = format!("`--add-host {text}` is not of the form NAME:ADDRESS");
        Failure::usage(message, "for example --add-host example.test:127.0.0.1")
    };
    let at = text.find(['=', ':']).ok_or_else(usage)?;
    let (name, address) = (&text[..at], &text[at + 1..]);
    let address = match address.trim_start_matches('[').trim_end_matches(']') {
        "host-gateway" => IpAddr::from([127, 0, 0, 1]),
        address => address.parse().map_err(|_| usage())?,
    };
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(usage());
    }
    Ok((name.to_owned(), address))
}

/// `NAME=SOFT[:HARD]`; -1 is no limit.
fn ulimit(text: &str) -> Result<(String, Option<u64>, Option<u64>), Failure> {
    let usage = || {
        let message = format!("`--ulimit {text}` is not of the form NAME=SOFT[:HARD]");
        Failure::usage(message, "for example --ulimit nofile=1024:4096")
    };
    let (name, values) = text.split_once('=').ok_or_else(usage)?;
    let value = |text: &str| match text {
        "-1" | "unlimited" => Ok(None),
        number => number.parse().map(Some).map_err(|_| usage()),
    };
    let (soft, hard) = values.split_once(':').unwrap_or((values, values));
    let known = wbuild_engine::is_limit(name);
    if !known {
        return Err(Failure::usage(
            format!("`{name}` is no resource that can be limited"),
            "for example nofile, nproc, core, memlock",
        ));
    }
    let (soft, hard) = (value(soft)?, value(hard)?);
    if hard.is_some_and(|hard| soft.is_none_or(|soft| soft > hard)) {
        return Err(Failure::usage(
            format!("`--ulimit {text}`: the soft limit is above the hard one"),
            "the soft limit comes first: --ulimit NAME=SOFT:HARD",
        ));
    }
    Ok((name.to_owned(), soft, hard))
}

/// What `docker build` says of build arguments that no ARG of what is built declares. Those that mean something without an
/// ARG are not among them.
pub(super) fn unused(given: &BTreeMap<String, String>, declared: &BTreeSet<String>) -> Option<Warning> {
    let known = |name: &str| {
        declared.contains(name)
            || PROXY_ARGS.contains(&name.to_ascii_uppercase().as_str())
            || PLATFORM_ARGS.contains(&name)
            || name.starts_with("BUILDKIT_")
            || name == "SOURCE_DATE_EPOCH"
    };
    let unused: Vec<&str> = given.keys().map(String::as_str).filter(|name| !known(name)).collect();
    let hints = unused.iter().filter_map(|name| {
        let near = nearest(name, declared.iter().map(String::as_str));
        near.first().map(|near| format!("did you mean `{near}` for `{name}`?"))
    });
    (!unused.is_empty()).then(|| Warning {
        message: format!("One or more build-args [{}] were not consumed", unused.join(" ")),
        hints: hints.collect(),
    })
}

/// `--ssh default` or `--ssh ID=SOCKET`.
pub(super) fn agents(given: &[String], session: &Session) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let mut agents = BTreeMap::new();
    for text in given {
        let (id, path) = text.split_once('=').map_or((text.as_str(), None), |(id, path)| (id, Some(path)));
        let path = match path.filter(|path| !path.is_empty()) {
            Some(path) => PathBuf::from(path),
            None => PathBuf::from((session.variable)("SSH_AUTH_SOCK").ok_or_else(|| {
                Failure::usage(
                    format!("`--ssh {text}` names no socket, and SSH_AUTH_SOCK is not set"),
                    "start an agent, or name its socket: --ssh ID=SOCKET",
                )
            })?),
        };
        use std::os::unix::fs::FileTypeExt;
        let is_socket = std::fs::metadata(&path).is_ok_and(|meta| meta.file_type().is_socket());
        if !is_socket {
            let message = format!("`{}` of `--ssh {text}` is not the socket of an agent", path.display());
            return Err(Failure::usage(message, "keys are given to an agent: ssh-add, then --ssh default"));
        }
        agents.insert(id.to_owned(), path);
    }
    Ok(agents)
}

/// `--turbo-cache[=NAME]`, where steps are run.
pub(super) fn turbo_cache(args: &BuildArgs) -> Result<Option<&str>, Failure> {
    let Some(name) = args.turbo_cache.as_deref() else { return Ok(None) };
    let is_name = (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
    if is_name {
        return Ok(Some(name));
    }
    let message = format!("`--turbo-cache={}` is not a name", name.escape_debug());
    Err(Failure::usage(message, "letters, digits, -, _ and ., for example --turbo-cache=web"))
}

/// `--no-cache` and `--no-cache-filter`.
pub(super) fn no_cache(args: &BuildArgs, build: &DockerfileBuild) -> Result<NoCache, Failure> {
    if args.no_cache {
        return Ok(NoCache::Everything);
    }
    let mut vertices = BTreeSet::new();
    for name in args.no_cache_filter.iter().flat_map(|names| names.split(',')).map(str::trim) {
        let of_stage = build.steps.iter().find(|(stage, _)| stage.eq_ignore_ascii_case(name));
        let Some((_, steps)) = of_stage else {
            let stages: Vec<&str> = build.steps.keys().map(String::as_str).collect();
            let message = format!("`--no-cache-filter {name}` names no stage that is built");
            return Err(Failure::usage(message, format!("the stages with steps are {}", stages.join(", "))));
        };
        vertices.extend(steps);
    }
    Ok(if vertices.is_empty() { NoCache::Nothing } else { NoCache::Vertices(vertices) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_limits() {
        assert_eq!(host("a:1.2.3.4").unwrap(), ("a".to_owned(), "1.2.3.4".parse().unwrap()));
        assert_eq!(host("a=[::1]").unwrap(), ("a".to_owned(), "::1".parse().unwrap()));
        assert_eq!(host("a:host-gateway").unwrap().1, IpAddr::from([127, 0, 0, 1]));
        assert!(host("a").is_err() && host(":1.2.3.4").is_err() && host("a:b").is_err());
        assert_eq!(ulimit("nofile=5:7").unwrap(), ("nofile".to_owned(), Some(5), Some(7)));
        assert_eq!(ulimit("core=-1").unwrap(), ("core".to_owned(), None, None));
        assert!(ulimit("files=5").is_err() && ulimit("nofile").is_err());
        assert!(ulimit("nofile=8:7").is_err() && ulimit("nofile=-1:7").is_err());
        assert_eq!(ulimit("nofile=7:-1").unwrap(), ("nofile".to_owned(), Some(7), None));
    }
}
