use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use super::files::{CredentialFiles, is_registry, read_bytes};
use super::helper::{Helper, HelperError};
use super::{CredentialsError, server_name};

/// Where credentials were put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// In the file itself, readable to who can read it.
    File(PathBuf),
    /// With a program.
    Helper(String),
}

impl CredentialFiles {
    /// Keeps a user name and a password for a registry, where docker does: with the program that its configuration names,
    /// else in `config.json` (mode 0600). All else in that file stays as it is.
    pub(crate) fn keep(&self, registry: &str, user: &str, password: &str) -> Result<Kept, CredentialsError> {
        let (path, mut document) = self.docker_document()?;
        let server = server_name(registry);
        let helper = self.helper_of(&document, registry, &path)?;
        let entry = match &helper {
            Some(helper) => {
                helper.store(server, user, password).map_err(|error| failed(helper, &path, "keep", error))?;
                Value::Object(Map::new())
            }
            None => {
                let auth = BASE64_STANDARD.encode(format!("{user}:{password}"));
                serde_json::json!({ "auth": auth })
            }
        };
        let auths = auths(&mut document, &path)?;
        auths.retain(|key, _| !is_registry(key, registry));
        auths.insert(server.to_owned(), entry);
        write(&path, &document)?;
        Ok(match helper {
            Some(helper) => Kept::Helper(helper.program().to_owned()),
            None => Kept::File(path),
        })
    }

    /// Forgets them. Says from where, or `None` when there were none.
    pub(crate) fn forget(&self, registry: &str) -> Result<Option<PathBuf>, CredentialsError> {
        let (path, mut document) = self.docker_document()?;
        let mut known = false;
        if let Some(helper) = self.helper_of(&document, registry, &path)? {
            match helper.erase(server_name(registry)) {
                Ok(()) => known = true,
                Err(HelperError::NotFound) => {}
                Err(error) => return Err(failed(&helper, &path, "forget", error)),
            }
        }
        if document.contains_key("auths") {
            let auths = auths(&mut document, &path)?;
            let before = auths.len();
            auths.retain(|key, _| !is_registry(key, registry));
            let removed = auths.len() < before;
            if removed {
                write(&path, &document)?;
            }
            known = removed || known;
        }
        Ok(known.then_some(path))
    }

    fn docker_document(&self) -> Result<(PathBuf, Map<String, Value>), CredentialsError> {
        let path = self.docker.clone().ok_or(CredentialsError::NoPlace)?;
        // A link stays one: what it leads to is replaced.
        let path = fs::canonicalize(&path).unwrap_or(path);
        let read = |source| CredentialsError::File { what: "read", path: path.clone(), source };
        let bytes = read_bytes(&path).map_err(read)?.unwrap_or_default();
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok((path, Map::new()));
        }
        match serde_json::from_slice(&bytes) {
            Ok(document) => Ok((path, document)),
            Err(error) => {
                let why = format!("it is malformed in line {}", error.line());
                Err(CredentialsError::Malformed { path, why })
            }
        }
    }

    fn helper_of(
        &self,
        document: &Map<String, Value>,
        registry: &str,
        path: &Path,
    ) -> Result<Option<Helper>, CredentialsError> {
        let helpers = document.get("credHelpers").and_then(Value::as_object);
        let own = helpers.into_iter().flatten().find(|(host, _)| is_registry(host, registry));
        let name = own.map(|(_, name)| name).or_else(|| document.get("credsStore"));
        let Some(name) = name.and_then(Value::as_str).filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let helper = Helper::new(name, self.path.clone());
        helper.map(Some).ok_or_else(|| CredentialsError::Malformed {
            path: path.to_owned(),
            why: format!("`{}` is no name of a program", name.escape_debug()),
        })
    }
}

fn failed(helper: &Helper, path: &Path, what: &'static str, error: HelperError) -> CredentialsError {
    let why = match error {
        HelperError::NotFound => "it does not have them".to_owned(),
        HelperError::Failed(why) => why,
    };
    CredentialsError::Helper { program: helper.program().to_owned(), path: path.to_owned(), what, why }
}

fn auths<'a>(
    document: &'a mut Map<String, Value>,
    path: &Path,
) -> Result<&'a mut Map<String, Value>, CredentialsError> {
    let auths = document.entry("auths").or_insert_with(|| Value::Object(Map::new()));
    auths.as_object_mut().ok_or_else(|| CredentialsError::Malformed {
        path: path.to_owned(),
        why: "its `auths` are no object".to_owned(),
    })
}

fn write(path: &Path, document: &Map<String, Value>) -> Result<(), CredentialsError> {
    let failed = |what| {
        let path = path.to_owned();
        move |source| CredentialsError::File { what, path, source }
    };
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    let mut text =
        serde_json::to_string_pretty(document).map_err(|e| failed("write")(io::Error::other(e)))?;
    text.push('\n');
    // Made with mode 0600, and complete before it has its name.
    let mut file =
        tempfile::Builder::new().prefix(".config.json-").tempfile_in(folder).map_err(failed("write"))?;
    file.write_all(text.as_bytes()).map_err(failed("write"))?;
    file.as_file().set_permissions(fs::Permissions::from_mode(0o600)).map_err(failed("write"))?;
    file.as_file().sync_all().map_err(failed("write"))?;
    file.persist(path).map_err(|error| failed("replace")(error.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::Credentials;
    use crate::repository::Repository;

    fn files(folder: &Path) -> CredentialFiles {
        let config = folder.display().to_string();
        let path = folder.display().to_string();
        CredentialFiles::of_environment(&|name| match name {
            "DOCKER_CONFIG" => Some(config.clone()),
            "PATH" => Some(format!("{path}:/usr/bin:/bin")),
            _ => None,
        })
    }

    fn read(folder: &Path) -> Value {
        serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap()
    }

    #[test]
    fn login_and_logout_keep_everything_else() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        let before = r#"{"auths":{"docker.io":{"auth":"b2xk"},"other":{"auth":"x"}},"HttpHeaders":{"a":"b"},"new":[1]}"#;
        fs::write(&file, before).unwrap();
        let files = files(folder.path());
        assert_eq!(
            files.keep("docker.io", "u", "p:w").unwrap(),
            Kept::File(fs::canonicalize(&file).unwrap())
        );
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let now = read(folder.path());
        assert_eq!(
            now["auths"].as_object().unwrap().keys().collect::<Vec<_>>(),
            ["https://index.docker.io/v1/", "other"]
        );
        assert_eq!((&now["HttpHeaders"]["a"], &now["new"][0]), (&"b".into(), &1.into()));
        let repository = Repository::of(&"node".parse().unwrap());
        let found = files.find(&repository).credentials.unwrap().0;
        assert_eq!(found, Credentials::Password { user: "u".into(), password: "p:w".into() });
        assert!(files.forget("docker.io").unwrap().is_some());
        assert!(files.forget("docker.io").unwrap().is_none());
        assert_eq!(read(folder.path())["auths"]["other"]["auth"], "x");
    }

    #[test]
    fn a_file_that_is_something_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        for text in ["[]", "{\"auths\":[]}", "secret"] {
            fs::write(folder.path().join("config.json"), text).unwrap();
            let error = files(folder.path()).keep("a", "u", "p").unwrap_err();
            assert!(matches!(error, CredentialsError::Malformed { .. }), "{error}");
            assert!(!error.to_string().contains("secret"));
            assert_eq!(fs::read_to_string(folder.path().join("config.json")).unwrap(), text);
        }
    }

    #[test]
    fn a_program_keeps_them_where_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("docker-credential-test");
        let kept = folder.path().join("kept");
        let script = format!(
            "#!/bin/sh\ncase $1 in store) cat >{k};; get) cat >/dev/null; cat {k};; erase) rm {k};; esac\n",
            k = kept.display()
        );
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(folder.path().join("config.json"), r#"{"credsStore":"test"}"#).unwrap();
        let files = files(folder.path());
        let done = files.keep("a.example", "u", "secret").unwrap();
        assert_eq!(done, Kept::Helper("docker-credential-test".into()));
        assert_eq!(read(folder.path())["auths"]["a.example"], serde_json::json!({}));
        let found = files.find(&Repository::of(&"a.example/x".parse().unwrap()));
        let (credentials, from) = found.credentials.unwrap();
        assert_eq!(credentials, Credentials::Password { user: "u".into(), password: "secret".into() });
        assert!(from.starts_with("`docker-credential-test`, which `"), "{from}");
        files.forget("a.example").unwrap();
        assert!(!kept.exists());
    }
}
