use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use serde::Deserialize;

use super::Credentials;

/// No answer is longer.
const MAX_ANSWER: u64 = 1 << 20;

/// A program may ask the person something; it gets this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why a program that keeps credentials did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum HelperError {
    /// It has none for this registry.
    NotFound,
    /// Anything else, in words.
    Failed(String),
}

/// `docker-credential-NAME` (docker-credential-helpers' protocol).
#[derive(Clone, Debug)]
pub(crate) struct Helper {
    program: String,
    /// Where to look for it: `PATH`.
    path: Option<OsString>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

impl Helper {
    /// `None` when the name is none of a program: it comes from a file.
    pub(crate) fn new(name: &str, path: Option<OsString>) -> Option<Self> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let valid = !name.is_empty() && name.bytes().all(plain);
        valid.then(|| Self { program: format!("docker-credential-{name}"), path })
    }

    pub(crate) fn program(&self) -> &str {
        &self.program
    }

    /// What it has for a server.
    pub(crate) fn get(&self, server: &str) -> Result<Credentials, HelperError> {
        let answer = self.run("get", server.as_bytes())?;
        // What the parser says could show a part of the answer.
        let malformed =
            || HelperError::Failed("its answer is no JSON of a user name and a secret".to_owned());
        let answer: Answer = serde_json::from_slice(&answer).map_err(|_| malformed())?;
        Ok(match answer.username.as_str() {
            "<token>" => Credentials::Identity(answer.secret),
            _ => Credentials::Password { user: answer.username, password: answer.secret },
        })
    }

    pub(crate) fn store(&self, server: &str, user: &str, secret: &str) -> Result<(), HelperError> {
        let document = serde_json::json!({ "ServerURL": server, "Username": user, "Secret": secret });
        self.run("store", document.to_string().as_bytes()).map(|_| ())
    }

    pub(crate) fn erase(&self, server: &str) -> Result<(), HelperError> {
        self.run("erase", server.as_bytes()).map(|_| ())
    }

    fn run(&self, verb: &str, input: &[u8]) -> Result<Vec<u8>, HelperError> {
        let failed = |error: &io::Error| HelperError::Failed(error.to_string());
        let program =
            self.find().ok_or_else(|| HelperError::Failed("there is no such program in PATH".to_owned()))?;
        let mut child = Command::new(program)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // What it says to people may be anything, and is not shown.
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| failed(&error))?;
        if let Some(mut stdin) = child.stdin.take() {
            // One that does not read its input will not know what to say.
            let _ = stdin.write_all(input);
        }
        let answer = read_answer(&mut child);
        let _ = child.kill();
        let status = child.wait().map_err(|error| failed(&error))?;
        let answer = answer?;
        match answer.1 {
            true => Ok(answer.0),
            false if String::from_utf8_lossy(&answer.0).contains("credentials not found") => {
                Err(HelperError::NotFound)
            }
            false => Err(HelperError::Failed(format!("it ended with {status}"))),
        }
    }

    fn find(&self) -> Option<std::path::PathBuf> {
        let path = self.path.as_ref()?;
        let absolute = std::env::split_paths(path).filter(|folder| Path::new(folder).is_absolute());
        absolute.map(|folder| folder.join(&self.program)).find(|program| program.is_file())
    }
}

/// What it wrote, and whether it succeeded.
fn read_answer(child: &mut Child) -> Result<(Vec<u8>, bool), HelperError> {
    let stdout = child.stdout.take();
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut answer = Vec::new();
        let read = stdout.map(|stdout| stdout.take(MAX_ANSWER + 1).read_to_end(&mut answer));
        let _ = sender.send(match read {
            Some(Err(error)) => Err(error),
            _ => Ok(answer),
        });
    });
    let late = || HelperError::Failed(format!("it said nothing in {} seconds", PATIENCE.as_secs()));
    let answer = receiver.recv_timeout(PATIENCE).map_err(|_| late())?;
    let answer = answer.map_err(|error| HelperError::Failed(error.to_string()))?;
    if answer.len() as u64 > MAX_ANSWER {
        return Err(HelperError::Failed("its answer is too long".to_owned()));
    }
    // Who has closed its output is about to end.
    let status = child.wait().map_err(|error| HelperError::Failed(error.to_string()))?;
    Ok((answer, status.success()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn helper(script: &str) -> (tempfile::TempDir, Helper) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("docker-credential-test");
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        let path = Some(folder.path().as_os_str().to_owned());
        (folder, Helper::new("test", path).unwrap())
    }

    #[test]
    fn what_a_program_says() {
        let (_folder, found) =
            helper(r#"read server; echo '{"ServerURL":"x","Username":"u","Secret":"'$1-$server'"}'"#);
        let password = |text: &str| Credentials::Password { user: "u".into(), password: text.into() };
        assert_eq!(found.get("ghcr.io").unwrap(), password("get-ghcr.io"));
        let (_folder, token) = helper(r#"echo '{"Username":"<token>","Secret":"t"}'"#);
        assert_eq!(token.get("x").unwrap(), Credentials::Identity("t".into()));
        let (_folder, none) = helper("echo credentials not found in native keychain; exit 1");
        assert_eq!(none.get("x").unwrap_err(), HelperError::NotFound);
        let (_folder, broken) = helper("echo hunter2; exit 3");
        let said = format!("{:?}", broken.get("x").unwrap_err());
        assert!(said.contains("exit status: 3") && !said.contains("hunter2"), "{said}");
        let (_folder, garbage) = helper("echo hunter2");
        assert!(!format!("{:?}", garbage.get("x").unwrap_err()).contains("hunter2"));
        let missing = Helper::new("missing", None).unwrap().get("x").unwrap_err();
        assert_eq!(missing, HelperError::Failed("there is no such program in PATH".into()));
    }

    #[test]
    fn names_are_no_paths() {
        for name in ["", "a/b", "..\u{0}", "a b", "$x"] {
            assert!(Helper::new(name, None).is_none(), "{name}");
        }
    }
}
