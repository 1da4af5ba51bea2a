//! Busybox's `chown` and `chgrp` do not say "leave it as it is": they ask for the present owner and set that again. Here
//! everybody is shown the step's user as the owner, so that `chown app FILE` would give the file's group to the step's
//! user. What was really asked for is in the command line.
//!
//! Not where busybox's shell runs its applets without starting them as programs (Debian's and the plain `busybox` image's
//! may, Alpine's does not): then the command line is the shell's.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Which of user and group a command line asks to change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) user: bool,
    pub(crate) group: bool,
}

/// What a process with this executable and command line (words ending in NUL) asks for; `None` if it is not busybox
/// changing owners.
pub(crate) fn asked(executable: &Path, command_line: &[u8]) -> Option<Asked> {
    if executable.file_name()? != "busybox" {
        return None;
    }
    let mut words = command_line.split(|byte| *byte == 0);
    let base =
        |word: &[u8]| Path::new(OsStr::from_bytes(word)).file_name().map(|name| name.as_bytes().to_vec());
    let mut applet = base(words.next()?)?;
    if applet == b"busybox" {
        applet = base(words.next()?)?;
    }
    let mut rest = words.skip_while(|word| word.len() > 1 && word.starts_with(b"-"));
    match applet.as_slice() {
        b"chgrp" => Some(Asked { user: false, group: true }),
        b"chown" => {
            let owner = rest.next().filter(|owner| !owner.is_empty())?;
            // `user`, `user:`, `user:group`, `:group`, and `user.group` as of old.
            match owner.iter().position(|byte| *byte == b':' || *byte == b'.') {
                Some(separator) => Some(Asked { user: separator > 0, group: true }),
                None => Some(Asked { user: true, group: false }),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines() {
        let both = Some(Asked { user: true, group: true });
        let user = Some(Asked { user: true, group: false });
        let group = Some(Asked { user: false, group: true });
        for (line, expected) in [
            ("chown\0-R\0app\0/x\0", user),
            ("/bin/chown\0app:app\0/x\0", both),
            ("chown\0app:\0/x\0", both),
            ("chown\0-hR\0:app\0/x\0", group),
            ("busybox\0chown\0-v\0--\0 7\0x\0", user),
            ("/bin/busybox\0chgrp\0-R\0app\0/x\0", group),
            ("chown\0", None),
            ("tar\0xf\0x\0", None),
            ("", None),
        ] {
            assert_eq!(asked(Path::new("/bin/busybox"), line.as_bytes()), expected, "{line:?}");
            assert_eq!(asked(Path::new("/usr/bin/chown"), line.as_bytes()), None);
        }
    }
}
