use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::helper::{Helper, HelperError};
use super::{Credentials, server_name};
use crate::repository::Repository;

/// No file of credentials is larger.
pub(super) const MAX_FILE_BYTES: u64 = 4 << 20;

/// The files that may hold credentials, in the order in which they are looked at:
///
/// 1. what `REGISTRY_AUTH_FILE` names,
/// 2. `config.json` in `DOCKER_CONFIG`, else in `~/.docker`,
/// 3. podman's `containers/auth.json` in `XDG_RUNTIME_DIR`, then in the XDG configuration folder.
#[derive(Clone, Debug, Default)]
pub struct CredentialFiles {
    pub(super) files: Vec<PathBuf>,
    /// Docker's, which `login` writes.
    pub(super) docker: Option<PathBuf>,
    pub(super) path: Option<OsString>,
}

/// What was found for a repository.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// The credentials, and where they come from.
    pub credentials: Option<(Credentials, String)>,
    /// The files that were looked at, with what is to be said about each: for messages.
    pub looked_at: Vec<String>,
}

/// A file of docker or podman.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Document {
    auths: Option<BTreeMap<String, Entry>>,
    pub(super) creds_store: Option<String>,
    pub(super) cred_helpers: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl Entry {
    /// Whether there is something in it that is nothing.
    fn is_unreadable(&self) -> bool {
        self.auth.as_ref().is_some_and(|auth| !auth.is_empty()) && self.credentials().is_none()
    }

    fn credentials(&self) -> Option<Credentials> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = given(&self.identitytoken) {
            return Some(Credentials::Identity(token));
        }
        if let Some(token) = given(&self.registrytoken) {
            return Some(Credentials::Registry(token));
        }
        if let Some(auth) = given(&self.auth) {
            let decoded = String::from_utf8(BASE64_STANDARD.decode(auth.trim()).ok()?).ok()?;
            let (user, password) = decoded.split_once(':')?;
            // Docker for Windows once filled up with zeros.
            let (user, password) = (user.to_owned(), password.trim_end_matches('\0').to_owned());
            return Some(Credentials::Password { user, password });
        }
        let (user, password) = (given(&self.username)?, given(&self.password)?);
        Some(Credentials::Password { user, password })
    }
}

impl CredentialFiles {
    /// Those of this person.
    pub fn of_environment(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let path_of = |name: &str| variable(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let home = path_of("HOME");
        let config = path_of("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")));
        let docker = path_of("DOCKER_CONFIG").or_else(|| Some(home.as_ref()?.join(".docker")));
        let docker = docker.map(|folder| folder.join("config.json"));
        let podman = [path_of("XDG_RUNTIME_DIR"), config];
        let podman = podman.into_iter().flatten().map(|folder| folder.join("containers/auth.json"));
        let files = path_of("REGISTRY_AUTH_FILE").into_iter().chain(docker.clone()).chain(podman).collect();
        Self { files, docker, path: variable("PATH").map(OsString::from) }
    }

    /// What there is for a repository: the most special entry of the first file that has one. Files and programs that cannot
    /// be used are passed over, and said in [`looked_at`](Found::looked_at): many images need no credentials at all.
    pub fn find(&self, repository: &Repository) -> Found {
        let mut found = Found::default();
        for path in &self.files {
            let shown = path.display().to_string();
            let document = match read_document(path) {
                Ok(Some(document)) => document,
                Ok(None) => {
                    found.looked_at.push(format!("`{shown}` (there is none)"));
                    continue;
                }
                Err(why) => {
                    found.looked_at.push(format!("`{shown}` ({why})"));
                    continue;
                }
            };
            let mut notes = Vec::new();
            if let Some((credentials, from)) = self.find_in(&document, repository, &mut notes) {
                let from = from.map_or_else(
                    || format!("`{shown}`"),
                    |program| format!("`{program}`, which `{shown}` names"),
                );
                found.looked_at.push(format!("`{shown}`"));
                found.credentials = Some((credentials, from));
                return found;
            }
            let notes = if notes.is_empty() { "nothing for it".to_owned() } else { notes.join("; ") };
            found.looked_at.push(format!("`{shown}` ({notes})"));
        }
        found
    }

    /// As docker does: the program for this registry, the entry for a part of it, the program for all, the entry for it.
    fn find_in(
        &self,
        document: &Document,
        repository: &Repository,
        notes: &mut Vec<String>,
    ) -> Option<(Credentials, Option<String>)> {
        let mut ask = |name: &str| {
            let Some(helper) = Helper::new(name, self.path.clone()) else {
                notes.push(format!("`{}` is no name of a program", name.escape_debug()));
                return None;
            };
            match helper.get(server_name(&repository.registry)) {
                Ok(credentials) => Some((credentials, Some(helper.program().to_owned()))),
                Err(HelperError::NotFound) => {
                    notes.push(format!("`{}` has nothing for it", helper.program()));
                    None
                }
                Err(HelperError::Failed(why)) => {
                    notes.push(format!("`{}` cannot be used: {why}", helper.program()));
                    None
                }
            }
        };
        let helpers = document.cred_helpers.iter().flatten();
        let mut helpers = helpers.filter(|(host, _)| is_registry(host, &repository.registry));
        if let Some(found) = helpers.next().and_then(|(_, name)| ask(name)) {
            return Some(found);
        }
        // The longest prefix of host/repository that has an entry with something in it.
        let full = repository.to_string();
        let entries = document.auths.iter().flatten();
        let special = entries
            .filter(|(key, _)| key.len() > repository.registry.len() && is_above(key, &full))
            .filter_map(|(key, entry)| Some((key.len(), entry.credentials()?)))
            .max_by_key(|(length, _)| *length);
        if let Some((_, credentials)) = special {
            return Some((credentials, None));
        }
        let store = document.creds_store.as_deref().filter(|name| !name.is_empty());
        if let Some(found) = store.and_then(ask) {
            return Some(found);
        }
        let entries = || document.auths.iter().flatten();
        let found = entries()
            .find_map(|(key, entry)| is_registry(key, &repository.registry).then(|| entry.credentials())?)
            .map(|credentials| (credentials, None));
        if found.is_none() {
            let for_it = |key: &str| is_registry(key, &repository.registry) || is_above(key, &full);
            let unreadable = entries().filter(|(key, entry)| for_it(key) && entry.is_unreadable());
            notes.extend(unreadable.map(|(key, _)| {
                format!("the `auth` of `{}` is no NAME:PASSWORD in base64", key.escape_debug())
            }));
        }
        found
    }
}

/// Whether a key of a file, which may be an address of old, names a registry.
pub(super) fn is_registry(key: &str, registry: &str) -> bool {
    let host = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let host = host.strip_suffix('/').unwrap_or(host);
    let host = host.strip_suffix("/v1").or_else(|| host.strip_suffix("/v2")).unwrap_or(host);
    let hub = ["docker.io", "index.docker.io", "registry-1.docker.io"];
    host == registry || (hub.contains(&host) && hub.contains(&registry))
}

/// Whether `key` is `full`, or a part of it up to a slash.
fn is_above(key: &str, full: &str) -> bool {
    full.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// `None` when there is no such file.
pub(super) fn read_document(path: &Path) -> Result<Option<Document>, String> {
    let bytes = match read_bytes(path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(None),
        Err(error) => return Err(format!("it cannot be read: {error}")),
    };
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Some(Document::default()));
    }
    // What the parser says could show a part of the file.
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| format!("it is malformed in line {}", error.line()))
}

pub(super) fn read_bytes(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > MAX_FILE_BYTES {
        true => Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has more than {MAX_FILE_BYTES} bytes"),
        )),
        false => Ok(Some(bytes)),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password { user: user.into(), password: password.into() }
    }

    fn files(text: &str) -> (tempfile::TempDir, CredentialFiles) {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("config.json"), text).unwrap();
        let config = folder.path().display().to_string();
        let files =
            CredentialFiles::of_environment(&|name| (name == "DOCKER_CONFIG").then(|| config.clone()));
        (folder, files)
    }

    fn find(files: &CredentialFiles, name: &str) -> Option<Credentials> {
        files.find(&Repository::of(&name.parse().unwrap())).credentials.map(|(found, _)| found)
    }

    #[test]
    fn entries_of_all_forms() {
        // u:p, u:p:q
        let (_folder, files) = files(
            r#"{"auths":{
                "https://index.docker.io/v1/":{"auth":"dTpw"},
                "a.example":{"auth":"dTpwOnE="},
                "https://b.example/v2/":{"username":"u","password":"p"},
                "c.example":{"auth":"dTpw","identitytoken":"t"},
                "d.example":{"registrytoken":"r"},
                "e.example":{},
                "e.example/team":{"auth":"dTpw"},
                "e.example/team/app":{"username":"app","password":"p"},
                "f.example":{"auth":"%%"}
            },"HttpHeaders":{"x":"y"}}"#,
        );
        for (name, expected) in [
            ("node", Some(password("u", "p"))),
            ("o/r", Some(password("u", "p"))),
            ("a.example/r", Some(password("u", "p:q"))),
            ("b.example/r", Some(password("u", "p"))),
            ("c.example/r", Some(Credentials::Identity("t".into()))),
            ("d.example/r", Some(Credentials::Registry("r".into()))),
            ("e.example/r", None),
            ("e.example/teams", None),
            ("e.example/team/x", Some(password("u", "p"))),
            ("e.example/team/app", Some(password("app", "p"))),
            ("e.example/team/app/sub", Some(password("app", "p"))),
            ("f.example/r", None),
            ("g.example/r", None),
        ] {
            assert_eq!(find(&files, name), expected, "{name}");
        }
    }

    #[test]
    fn what_was_looked_at_is_said() {
        let (folder, files) = files(r#"{"credsStore":"missing","auths":{"secret""#);
        let repository = Repository::of(&"a.example/r".parse().unwrap());
        let shown = folder.path().join("config.json").display().to_string();
        assert_eq!(files.find(&repository).looked_at, [format!("`{shown}` (it is malformed in line 1)")]);
        fs::write(&shown, r#"{"credsStore":"missing","auths":{"a.example":{}}}"#).unwrap();
        let why = "`docker-credential-missing` cannot be used: there is no such program in PATH";
        assert_eq!(files.find(&repository).looked_at, [format!("`{shown}` ({why})")]);
        fs::remove_file(&shown).unwrap();
        assert_eq!(files.find(&repository).looked_at, [format!("`{shown}` (there is none)")]);
    }

    #[test]
    fn files_in_their_order() {
        let files = CredentialFiles::of_environment(&|name| match name {
            "HOME" => Some("/h".to_owned()),
            "XDG_RUNTIME_DIR" => Some("/run/u".to_owned()),
            "REGISTRY_AUTH_FILE" => Some("/r.json".to_owned()),
            _ => None,
        });
        let paths = [
            "/r.json",
            "/h/.docker/config.json",
            "/run/u/containers/auth.json",
            "/h/.config/containers/auth.json",
        ];
        assert_eq!(files.files, paths.map(PathBuf::from));
        assert!(!format!("{:?}", password("u", "p")).contains("\"p\""));
    }
}
