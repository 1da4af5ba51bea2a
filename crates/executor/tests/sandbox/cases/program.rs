use std::path::PathBuf;
use std::time::Duration;

use wbuild_executor::{
    Access, CancelToken, ExecError, Host, Limit, Mount, MountKind, NotStarted, Resource, Source, Status, User,
};
use wbuild_report::LogStream;

use crate::Verdict::{self, Passed};
use crate::bed::Bed;

pub(super) fn exit_codes_and_signals(bed: &Bed) -> Verdict {
    assert_eq!(bed.run(&bed.step("exit 0")).finished.status, Status::Exited(0));
    assert_eq!(bed.run(&bed.step("exit 42")).finished.status, Status::Exited(42));
    let killed = bed.run(&bed.step("kill -9 $$")).finished.status;
    assert_eq!((killed.clone(), killed.code()), (Status::Signalled(9), 137));
    // The program is not pid 1, which the kernel would protect from its own signals.
    assert_eq!(bed.run(&bed.step("kill -TERM $$")).finished.status, Status::Signalled(15));
    let ran = bed.sh("true");
    assert!(ran.finished.max_rss > 100_000 && ran.finished.took < Duration::from_secs(10));
    Passed
}

pub(super) fn environment_is_only_what_is_given(bed: &Bed) -> Verdict {
    let mut step = bed.step("exec env");
    step.env = vec![("PATH".into(), "/bin:/usr/bin".into()), ("A".into(), "b=c\nd".into())];
    let out = bed.run(&step).ok().out;
    let mut lines: Vec<&str> =
        out.lines().filter(|line| !line.starts_with("PWD=") && !line.starts_with("_=")).collect();
    lines.retain(|line| !line.starts_with("OLDPWD") && !line.starts_with("SHLVL="));
    lines.sort_unstable();
    assert_eq!(lines, ["A=b=c", "PATH=/bin:/usr/bin", "d"]);
    Passed
}

pub(super) fn streams_are_told_apart(bed: &Bed) -> Verdict {
    let ran = bed.sh("for i in 1 2 3; do echo out$i; echo err$i >&2; done");
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("out1\nout2\nout3\n", "err1\nerr2\nerr3\n"));
    Passed
}

pub(super) fn big_output_arrives_whole(bed: &Bed) -> Verdict {
    let ran = bed.sh("head -c 20000000 /dev/zero; head -c 5000000 /dev/zero >&2; echo end");
    assert_eq!((ran.out.len(), ran.err.len()), (20_000_004, 5_000_000));
    assert!(ran.out.ends_with("end\n"));
    Passed
}

pub(super) fn output_comes_while_the_step_runs(bed: &Bed) -> Verdict {
    // The step goes on only when what it said before was heard.
    let heard = bed.directory("heard");
    let mut step = bed
        .step("for i in 1 2 3; do echo $i; until test -e /heard/$i; do sleep 0.01; done; done; echo end >&2");
    let kind = MountKind::Bind { source: Source::host(&heard), access: Access::ReadOnly };
    step.mounts.push(Mount { target: "/heard".into(), kind });
    let mut chunks = Vec::new();
    let mut output = |_: LogStream, bytes: &[u8]| {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        std::fs::write(heard.join(text.trim()), "").unwrap();
        chunks.push(text);
    };
    bed.isolation.run(&step, &mut output, &CancelToken::new().unwrap()).unwrap();
    assert_eq!(chunks, ["1\n", "2\n", "3\n", "end\n"]);
    Passed
}

pub(super) fn missing_programs_are_127(bed: &Bed) -> Verdict {
    for name in ["no-such-program", "/no/such", "./none"] {
        let mut step = bed.step("");
        step.argv = vec![name.into()];
        let status = bed.run(&step).finished.status;
        assert_eq!(status, Status::NotStarted(NotStarted::NotFound { program: name.into() }));
        assert_eq!(status.code(), 127);
    }
    let layer = bed.directory("layer");
    std::fs::write(layer.join("crlf"), "#!/bin/sh\r\ntrue\n").unwrap();
    std::fs::write(layer.join("elf"), elf_with_interpreter("/lib/ld-nowhere.so.1")).unwrap();
    for (name, interpreter) in [("/crlf", "/bin/sh\r"), ("/elf", "/lib/ld-nowhere.so.1")] {
        make_executable(&layer.join(name.trim_start_matches('/')));
        let mut step = bed.step_on(&[&layer], "");
        step.argv = vec![name.into()];
        let status = bed.run(&step).finished.status;
        let reason = NotStarted::NoInterpreter { program: name.into(), interpreter: interpreter.into() };
        assert_eq!(status, Status::NotStarted(reason));
        assert_eq!(status.code(), 127);
    }
    // The program's own 127 is not mistaken for ours.
    assert_eq!(bed.run(&bed.step("exit 127")).finished.status, Status::Exited(127));
    Passed
}

fn make_executable(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The least that the kernel takes for a program of this machine that wants a loader.
fn elf_with_interpreter(path: &str) -> Vec<u8> {
    let machine: u16 = if cfg!(target_arch = "x86_64") { 62 } else { 183 };
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    file.extend(2_u16.to_le_bytes());
    file.extend(machine.to_le_bytes());
    file.extend(1_u32.to_le_bytes());
    for word in [0x40_0000_u64, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0_u32.to_le_bytes());
    for half in [64_u16, 56, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(3_u32.to_le_bytes());
    file.extend(4_u32.to_le_bytes());
    let length = path.len() as u64 + 1;
    for word in [120, 0, 0, length, length, 1] {
        file.extend(word.to_le_bytes());
    }
    file.extend(path.as_bytes());
    file.push(0);
    file
}

pub(super) fn what_cannot_be_run_is_126(bed: &Bed) -> Verdict {
    let layer = bed.directory("layer");
    std::fs::write(layer.join("plain"), "echo hi\n").unwrap();
    std::fs::write(layer.join("text"), "echo hi\n").unwrap();
    make_executable(&layer.join("text"));
    for (name, errno) in
        [("/plain", libc_errno::EACCES), ("/text", libc_errno::ENOEXEC), ("/tmp", libc_errno::EACCES)]
    {
        let mut step = bed.step_on(&[&layer], "");
        step.argv = vec![name.into()];
        let status = bed.run(&step).finished.status;
        match &status {
            Status::NotStarted(NotStarted::CannotRun { program, errno: got }) => {
                assert_eq!((program, got.raw_os_error()), (&PathBuf::from(name), errno));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(status.code(), 126);
    }
    Passed
}

mod libc_errno {
    pub(super) const EACCES: i32 = 13;
    pub(super) const ENOEXEC: i32 = 8;
}

pub(super) fn path_is_searched_in_order(bed: &Bed) -> Verdict {
    let layer = bed.directory("layer");
    for (directory, mode) in [("one", 0o644), ("two", 0o755), ("three", 0o755)] {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::create_dir(layer.join(directory)).unwrap();
        let file = layer.join(directory).join("tool");
        std::fs::write(&file, format!("#!/bin/sh\necho {directory}\n")).unwrap();
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut step = bed.step_on(&[&layer], "");
    step.argv = vec!["tool".into()];
    step.env = vec![("PATH".into(), "/none:/one:/two:/three:/bin".into())];
    assert_eq!(bed.run(&step).ok().out, "two\n");
    step.env = vec![("PATH".into(), "/one".into())];
    step.root = bed.root(&[&layer]);
    assert_eq!(bed.run(&step).finished.status.code(), 126);
    // Without PATH, as Docker: the usual places.
    step.env.clear();
    step.argv = vec!["true".into()];
    step.root = bed.root(&[&layer]);
    bed.run(&step).ok();
    Passed
}

pub(super) fn standard_input_is_empty(bed: &Bed) -> Verdict {
    let ran = bed.sh(
        "cat; readlink /proc/self/fd/0; test -t 0 || echo no tty; (: < /dev/tty) 2>/dev/null || echo none",
    );
    assert_eq!(ran.out, "/dev/null\nno tty\nnone\n");
    Passed
}

pub(super) fn host_name_and_hosts(bed: &Bed) -> Verdict {
    let mut step = bed.step("cat /proc/sys/kernel/hostname; grep db /etc/hosts; echo x >> /etc/hosts");
    step.hostname = "inside".into();
    step.add_hosts.push(Host { name: "db".into(), address: [10, 0, 0, 7].into() });
    let ran = bed.run(&step);
    assert_eq!(ran.out, "inside\n10.0.0.7\tdb\n");
    assert!(!ran.finished.status.success() && ran.err.to_lowercase().contains("read-only"), "{}", ran.err);
    assert!(!ran.upper.join("etc").exists());
    Passed
}

pub(super) fn limits_are_set(bed: &Bed) -> Verdict {
    let mut step = bed.step("ulimit -n; ulimit -c; ulimit -Hc");
    step.limits = vec![
        Limit { resource: Resource::Nofile, soft: Some(123), hard: Some(456) },
        Limit { resource: Resource::Core, soft: Some(0), hard: Some(0) },
    ];
    assert_eq!(bed.run(&step).ok().out, "123\n0\n0\n");
    Passed
}

pub(super) fn nonsense_is_refused(bed: &Bed) -> Verdict {
    let mut step = bed.step("");
    step.argv.clear();
    assert!(matches!(bed.try_run(&step), Err(ExecError::NoProgram)));
    step.argv = vec!["a\0b".into()];
    assert!(matches!(bed.try_run(&step), Err(ExecError::Nul(_))));
    step.argv = vec!["true".into()];
    for target in ["/", "relative", "//", ""] {
        let kind = MountKind::Tmpfs { size: None, mode: 0o755, owner: User::default() };
        step.mounts = vec![Mount { target: target.into(), kind }];
        assert!(matches!(bed.try_run(&step), Err(ExecError::BadTarget(_))), "{target}");
    }
    Passed
}
