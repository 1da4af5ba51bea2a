//! `wbuild login` and `logout`.

use std::io::{self, IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use wbuild_engine::registry_client;
use wbuild_oci::Reference;
use wbuild_registry::Kept;

use super::transfer::watched;
use super::{Failure, Session, WriteError, print};
use crate::args::{LoginArgs, LogoutArgs};
use crate::render::escape_line;

/// No password or token is longer.
const MAX_PASSWORD: u64 = 64 << 10;

pub(crate) fn log_in(args: &LoginArgs, session: &Session) -> Result<(), Failure> {
    let registry = host(&args.registry)?;
    let terminal = io::stdin().is_terminal();
    let user = match &args.user {
        Some(user) => user.clone(),
        None if terminal && !args.password_stdin => asked("Username: ", true)?,
        None => {
            return Err(Failure::usage("nobody is there to ask for a user name", "name it with --username"));
        }
    };
    if user.is_empty() || user.contains(':') || user.chars().any(char::is_control) {
        return Err(Failure::usage(
            format!("`{}` is no user name", user.escape_debug()),
            "user names have no colons",
        ));
    }
    let password = match (args.password_stdin, terminal) {
        (true, _) => from_stdin()?,
        (false, true) => asked("Password: ", false)?,
        (false, false) => {
            return Err(Failure::usage(
                "nobody is there to ask for a password",
                "pipe it in, with --password-stdin",
            ));
        }
    };
    if password.is_empty() {
        return Err(Failure::usage(
            "the password is empty",
            "a token of the registry does as well as a password",
        ));
    }
    let client = registry_client(&session.variable)?;
    let kept = watched(session, &mut |text| eprint_line(&format!("warning: {text}")), |watch| {
        client.log_in(&registry, &user, &password, watch)
    })?;
    let place = match kept {
        Kept::File(path) => format!("{}, readable to whoever can read that file", path.display()),
        Kept::Helper(program) => program,
    };
    print(&format!("{}\n", escape_line(&format!("logged in to {registry} as {user}; kept in {place}"))))
}

pub(crate) fn log_out(args: &LogoutArgs, session: &Session) -> Result<(), Failure> {
    let registry = host(&args.registry)?;
    let client = registry_client(&session.variable)?;
    let text = match client.log_out(&registry)? {
        Some(path) => format!("forgot the credentials for {registry} in {}", path.display()),
        None => format!("there were no credentials for {registry}"),
    };
    print(&format!("{}\n", escape_line(&text)))
}

/// The host of a registry: nothing else can be logged in to.
fn host(text: &str) -> Result<String, Failure> {
    let bare = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or(text);
    let bare = bare.strip_suffix('/').unwrap_or(bare);
    if bare == "index.docker.io" || bare == "index.docker.io/v1" || bare == "registry-1.docker.io" {
        return Ok("docker.io".to_owned());
    }
    let parsed = format!("{bare}/x").parse::<Reference>();
    match parsed {
        Ok(reference)
            if reference.registry == bare && reference.repository.trim_start_matches("library/") == "x" =>
        {
            Ok(bare.to_owned())
        }
        _ => Err(Failure::usage(
            format!("`{}` is no host of a registry", text.escape_debug()),
            "for example ghcr.io, or localhost:5000",
        )),
    }
}

fn from_stdin() -> Result<String, Failure> {
    let failed = |source| Failure::new(WriteError { path: "standard input".into(), source });
    let mut text = String::new();
    io::stdin().take(MAX_PASSWORD).read_to_string(&mut text).map_err(failed)?;
    let line = text.strip_suffix('\n').unwrap_or(&text);
    Ok(line.strip_suffix('\r').unwrap_or(line).to_owned())
}

/// Asks at the terminal; what is typed is shown, or not.
fn asked(question: &str, shown: bool) -> Result<String, Failure> {
    let failed = |source| Failure::new(WriteError { path: "the terminal".into(), source });
    let _ = write!(io::stderr(), "{question}");
    let stdin = io::stdin();
    let before = tcgetattr(&stdin).map_err(|error| failed(error.into()))?;
    if !shown {
        let mut hidden = before.clone();
        hidden.local_modes &= !LocalModes::ECHO;
        tcsetattr(&stdin, OptionalActions::Flush, &hidden).map_err(|error| failed(error.into()))?;
    }
    let mut text = String::new();
    let read = stdin.read_line(&mut text);
    if !shown {
        let _ = tcsetattr(&stdin, OptionalActions::Flush, &before);
        eprint_line("");
    }
    read.map_err(failed)?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

fn eprint_line(text: &str) {
    // Whoever does not look any more misses nothing.
    let _ = writeln!(io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for (text, expected) in [
            ("ghcr.io", "ghcr.io"),
            ("https://localhost:5000/", "localhost:5000"),
            ("https://index.docker.io/v1/", "docker.io"),
            ("docker.io", "docker.io"),
            ("127.0.0.1:80", "127.0.0.1:80"),
        ] {
            assert_eq!(host(text).ok().as_deref(), Some(expected), "{text}");
        }
        for text in ["", "ghcr.io/team", "a b", "host", "-x.y", "user@host.io"] {
            assert!(host(text).is_err(), "{text}");
        }
    }
}
