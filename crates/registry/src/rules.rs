use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use wbuild_remote::HostTls;

use crate::repository::Repository;

/// Docker Hub, as references name it.
pub(crate) const DOCKER_HUB: &str = "docker.io";

/// Where Docker Hub's registry is.
const DOCKER_HUB_HOST: &str = "registry-1.docker.io";

/// Which encryption a host speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    /// TLS and nothing else.
    Required,
    /// TLS if the host speaks it, else none.
    Preferred,
    /// None.
    Never,
}

/// What the person's configuration says about registries: mirrors, other places, trust. Read from a file
/// ([`load`](Self::load)); the default knows no mirrors, and trusts what the machine trusts.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Where they were read from, or would be.
    pub(crate) file: Option<PathBuf>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) tls: BTreeMap<String, HostTls>,
    /// Hosts that may speak no TLS, besides what the rules say.
    pub(crate) insecure: BTreeSet<String>,
}

/// What is said about one registry, or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rule {
    /// `host`, `host/path` or `*.host`.
    pub(crate) prefix: String,
    /// What stands instead of the prefix in requests.
    pub(crate) location: Option<String>,
    /// Asked first, in this order.
    pub(crate) mirrors: Vec<Mirror>,
    /// No encryption.
    pub(crate) http: bool,
    /// Whatever certificate, or none.
    pub(crate) insecure: bool,
    /// Not to be asked at all.
    pub(crate) blocked: bool,
}

/// A copy of a registry, or of a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mirror {
    /// `host` or `host/path`.
    pub(crate) location: String,
    pub(crate) insecure: bool,
    pub(crate) takes: Takes,
}

/// Which references a mirror is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    All,
    Digests,
    Tags,
}

/// Where to ask for a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Host and port, as URLs have them.
    pub(crate) host: String,
    /// As the person names it: for messages, and for finding credentials.
    pub(crate) registry: String,
    /// The repository's name there.
    pub(crate) name: String,
    pub(crate) encryption: Encryption,
    pub(crate) mirror: bool,
}

/// The person's configuration says that a registry is not to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blocked {
    pub(crate) prefix: String,
}

impl Rules {
    /// The file that the rules come from, or would come from if it existed.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// From now on the registry that has a repository may speak plain http, or show any certificate: BuildKit's
    /// `registry.insecure` of an output.
    pub fn accept_insecure(&mut self, repository: &Repository) {
        // One that is blocked is not asked.
        let Ok(endpoint) = self.for_push(repository) else { return };
        self.tls.entry(tls_key(&endpoint.host)).or_default().unverified = true;
        self.insecure.insert(endpoint.host);
    }

    /// Where to ask for what is in a repository: mirrors, then the registry itself.
    pub(crate) fn for_pull(
        &self,
        repository: &Repository,
        by_digest: bool,
    ) -> Result<Vec<Endpoint>, Blocked> {
        let rule = self.rule_for(repository)?;
        let mut endpoints = Vec::new();
        for mirror in rule.map_or(&[][..], |rule| &rule.mirrors) {
            let takes = match mirror.takes {
                Takes::All => true,
                Takes::Digests => by_digest,
                Takes::Tags => !by_digest,
            };
            if takes {
                let rest = rule.and_then(|rule| rest_behind(&rule.prefix, repository));
                let place = joined(&mirror.location, rest.as_deref().unwrap_or(&repository.name));
                endpoints.push(self.endpoint(&place, true, mirror.insecure));
            }
        }
        endpoints.push(self.own(repository, rule));
        Ok(endpoints)
    }

    /// Where to send what is to be in a repository: never to a mirror.
    pub(crate) fn for_push(&self, repository: &Repository) -> Result<Endpoint, Blocked> {
        let rule = self.rule_for(repository)?;
        Ok(self.own(repository, rule))
    }

    /// Where a registry is itself: for questions about nothing in it.
    pub(crate) fn for_login(&self, registry: &str) -> Endpoint {
        self.endpoint(&format!("{registry}/"), false, false)
    }

    fn own(&self, repository: &Repository, rule: Option<&Rule>) -> Endpoint {
        let moved = rule.and_then(|rule| {
            let location = rule.location.as_ref()?;
            Some(joined(location, &rest_behind(&rule.prefix, repository)?))
        });
        let place = moved.unwrap_or_else(|| repository.to_string());
        self.endpoint(&place, false, rule.is_some_and(|rule| rule.insecure))
    }

    fn endpoint(&self, place: &str, mirror: bool, insecure: bool) -> Endpoint {
        let (registry, name) = place.split_once('/').unwrap_or((place, ""));
        let host = if registry == DOCKER_HUB { DOCKER_HUB_HOST } else { registry };
        let of_host = self.rules.iter().find(|rule| rule.prefix == registry);
        let encryption = if of_host.is_some_and(|rule| rule.http) {
            Encryption::Never
        } else if insecure
            || of_host.is_some_and(|rule| rule.insecure)
            || self.insecure.contains(host)
            || is_loopback(host)
        {
            Encryption::Preferred
        } else {
            Encryption::Required
        };
        Endpoint {
            host: host.to_owned(),
            registry: registry.to_owned(),
            name: name.to_owned(),
            encryption,
            mirror,
        }
    }

    /// The rule with the longest prefix (containers-registries.conf(5)).
    fn rule_for(&self, repository: &Repository) -> Result<Option<&Rule>, Blocked> {
        let fitting = self.rules.iter().filter(|rule| rest_behind(&rule.prefix, repository).is_some());
        let rule = fitting.max_by_key(|rule| (!rule.prefix.starts_with('*'), rule.prefix.len()));
        match rule {
            Some(rule) if rule.blocked => Err(Blocked { prefix: rule.prefix.clone() }),
            other => Ok(other),
        }
    }
}

/// What is left of a repository's full name behind a prefix that it has.
fn rest_behind(prefix: &str, repository: &Repository) -> Option<String> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let host = repository.registry.rsplit_once(':').map_or(&*repository.registry, |(host, _)| host);
        return host.ends_with(domain).then(|| repository.name.clone());
    }
    let full = repository.to_string();
    let rest = full.strip_prefix(prefix)?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(rest.to_owned()),
        None => rest.is_empty().then(String::new),
    }
}

fn joined(location: &str, rest: &str) -> String {
    if rest.is_empty() { location.to_owned() } else { format!("{location}/{rest}") }
}

/// As the client for HTTP knows a host.
pub(crate) fn tls_key(host: &str) -> String {
    host.strip_suffix(":443").unwrap_or(host).to_ascii_lowercase()
}

/// Whether a host is this machine: asked without encryption if it speaks none, as Docker does.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port))
            if (host.starts_with('[') || !name.contains(':'))
                && port.bytes().all(|byte| byte.is_ascii_digit()) =>
        {
            name
        }
        _ => host,
    };
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository(text: &str) -> Repository {
        Repository::of(&text.parse().unwrap())
    }

    fn places(rules: &Rules, name: &str, by_digest: bool) -> Vec<String> {
        let endpoints = rules.for_pull(&repository(name), by_digest).unwrap();
        endpoints.into_iter().map(|end| format!("{}/{} {:?}", end.host, end.name, end.encryption)).collect()
    }

    #[test]
    fn without_rules() {
        let rules = Rules::default();
        for (name, place) in [
            ("node", "registry-1.docker.io/library/node Required"),
            ("ghcr.io/o/r", "ghcr.io/o/r Required"),
            ("localhost:5000/r", "localhost:5000/r Preferred"),
            ("127.0.0.2/r", "127.0.0.2/r Preferred"),
            ("localhost.example.org/r", "localhost.example.org/r Required"),
        ] {
            assert_eq!(places(&rules, name, false), [place]);
        }
        assert!(is_loopback("[::1]:5000") && is_loopback("::1") && !is_loopback("10.0.0.1:5000"));
    }

    #[test]
    fn one_registry_may_be_insecure() {
        let mut rules = Rules::default();
        rules.accept_insecure(&repository("r.example:443/a"));
        assert_eq!(places(&rules, "r.example:443/b", false), ["r.example:443/b Preferred"]);
        assert_eq!(places(&rules, "other.example/b", false), ["other.example/b Required"]);
        assert!(rules.tls["r.example"].unverified && rules.tls.len() == 1);
    }

    #[test]
    fn the_longest_prefix_counts() {
        let mirror = |location: &str, takes| Mirror { location: location.into(), insecure: false, takes };
        let rules = Rules {
            rules: vec![
                Rule {
                    prefix: "docker.io".into(),
                    mirrors: vec![mirror("m.example/hub", Takes::All), mirror("d.example", Takes::Digests)],
                    ..Rule::default()
                },
                Rule {
                    prefix: "docker.io/o".into(),
                    location: Some("in.example/x".into()),
                    ..Rule::default()
                },
                Rule { prefix: "*.example.org".into(), insecure: true, ..Rule::default() },
                Rule { prefix: "bad.example.org".into(), blocked: true, ..Rule::default() },
                Rule { prefix: "m.example".into(), http: true, ..Rule::default() },
            ],
            ..Rules::default()
        };
        let own = "registry-1.docker.io/library/node Required";
        assert_eq!(places(&rules, "node", false), ["m.example/hub/library/node Never", own]);
        assert_eq!(places(&rules, "node", true)[1..], ["d.example/library/node Required", own]);
        assert_eq!(places(&rules, "o/r", false), ["in.example/x/r Required"]);
        assert_eq!(places(&rules, "other/r", false).len(), 2);
        assert_eq!(places(&rules, "a.example.org/r", false), ["a.example.org/r Preferred"]);
        rules.for_pull(&repository("bad.example.org/r"), false).unwrap_err();
        assert_eq!(rules.for_push(&repository("node")).unwrap().host, "registry-1.docker.io");
        assert_eq!(rules.for_login("docker.io").host, "registry-1.docker.io");
    }
}
