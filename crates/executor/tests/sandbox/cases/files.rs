use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use wbuild_executor::{Doing, ExecError, Identity, NotStarted, Root, Status, Step, User};

use crate::Verdict::{self, Passed};
use crate::bed::Bed;

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

pub(super) fn changes_land_in_upper(bed: &Bed) -> Verdict {
    let ran = bed.sh("mkdir -p /app/a; echo hi > /app/a/file; ln -s file /app/a/link; rm /etc/group; echo more >> /etc/passwd");
    assert_eq!(names(&ran.upper), ["app", "etc"]);
    assert_eq!(names(&ran.upper.join("etc")), ["group", "passwd"]);
    assert_eq!(fs::read(ran.upper.join("app/a/file")).unwrap(), b"hi\n");
    assert_eq!(fs::read_link(ran.upper.join("app/a/link")).unwrap(), Path::new("file"));
    let whiteout = fs::symlink_metadata(ran.upper.join("etc/group")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    // The layers below are as they were.
    assert!(bed.base.join("etc/group").exists());
    assert!(!fs::read_to_string(bed.base.join("etc/passwd")).unwrap().contains("more"));
    Passed
}

pub(super) fn umask_and_modes(bed: &Bed) -> Verdict {
    let ran = bed.sh("umask; touch /f; mkdir /d; mkdir /closed; touch /closed/x; chmod 0 /closed");
    assert_eq!(ran.out, "0022\n");
    let mode = |name: &str| fs::metadata(ran.upper.join(name)).unwrap().mode() & 0o7777;
    assert_eq!((mode("f"), mode("d"), mode("closed")), (0o644, 0o755, 0));
    Passed
}

pub(super) fn lowers_are_stacked(bed: &Bed) -> Verdict {
    let (top, bottom) = (bed.directory("top"), bed.directory("bottom"));
    fs::write(bottom.join("a"), "bottom").unwrap();
    fs::write(bottom.join("b"), "bottom").unwrap();
    fs::write(top.join("a"), "top").unwrap();
    assert_eq!(bed.run(&bed.step_on(&[&top, &bottom], "cat /a /b")).ok().out, "topbottom");
    Passed
}

fn stack(bed: &Bed, count: usize) -> Vec<PathBuf> {
    // Long names: no limit on the length of all of them together applies.
    let parent = bed.directory(&"long".repeat(50));
    let layer = |index: usize| {
        let layer = parent.join(format!("{index:04}-{}", "name".repeat(50)));
        fs::create_dir(&layer).unwrap();
        fs::write(layer.join(format!("file{index}")), "").unwrap();
        fs::write(layer.join("top"), index.to_string()).unwrap();
        layer
    };
    (0..count).map(layer).collect()
}

pub(super) fn many_lowers(bed: &Bed) -> Verdict {
    let layers = stack(bed, 498);
    let layers: Vec<&Path> = layers.iter().map(PathBuf::as_path).collect();
    let ran = bed.run(&bed.step_on(&layers, "cat /top; ls /file* | wc -l; cat /proc/mounts")).ok();
    assert!(ran.out.starts_with("0498\n"), "{}", ran.out);
    // The step does not learn where the host keeps its layers.
    assert!(!ran.out.contains("longlong") && !ran.out.contains("wbuild-executor-"));
    Passed
}

pub(super) fn too_many_lowers(bed: &Bed) -> Verdict {
    let layers = vec![bed.base.clone(); 500];
    let root =
        Root::Overlay { lowers: layers, upper: bed.directory("upper"), scratch: bed.directory("scratch") };
    let error = bed.try_run(&Step::new(root, ["true"])).err().unwrap();
    assert!(matches!(error, ExecError::TooManyLayers { count: 500, limit: 499 }), "{error}");
    Passed
}

pub(super) fn whiteouts_and_opaque_directories(bed: &Bed) -> Verdict {
    let bottom = bed.directory("bottom");
    fs::create_dir_all(bottom.join("dir/sub")).unwrap();
    fs::write(bottom.join("dir/old"), "").unwrap();
    fs::write(bottom.join("gone"), "").unwrap();
    let first = bed
        .run(
            &bed.step_on(
                &[&bottom],
                "rm -r /dir; mkdir /dir; touch /dir/new; rm /gone; mv /etc/passwd /etc/p2",
            ),
        )
        .ok();
    // The changes of one step are a layer of the next, whoever mounts them.
    let second =
        bed.run(&bed.step_on(&[&first.upper, &bottom], "ls /dir /etc; test -e /gone || echo gone")).ok();
    assert!(second.out.contains("new\n") && !second.out.contains("old\n") && second.out.contains("gone\n"));
    assert!(second.out.contains("p2\n") && !second.out.contains("passwd\n"));
    let mut value = [0; 8];
    let length = rustix::fs::getxattr(first.upper.join("dir"), "user.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..length], b"y");
    Passed
}

pub(super) fn read_only_root(bed: &Bed) -> Verdict {
    let mut step =
        bed.step("echo ok; touch /x 2>/dev/null || echo read-only; touch /dev/shm/x && echo memory");
    step.root = Root::ReadOnly { lowers: vec![bed.base.clone()] };
    assert_eq!(bed.run(&step).ok().out, "ok\nread-only\nmemory\n");
    Passed
}

pub(super) fn plain_directory_root(bed: &Bed) -> Verdict {
    if !bed.has_busybox() {
        return Verdict::Skipped("needs busybox".into());
    }
    let root = bed.directory("root");
    fs::create_dir_all(root.join("bin")).unwrap();
    fs::copy(bed.base.join("bin/busybox"), root.join("bin/busybox")).unwrap();
    std::os::unix::fs::symlink("busybox", root.join("bin/sh")).unwrap();
    let step = Step::new(
        Root::Directory(root.clone()),
        [
            "/bin/sh",
            "-c",
            "echo hi > /new; test -e /proc/self && test -c /dev/null && /bin/busybox chown 5:6 /new",
        ],
    );
    let ran = bed.run(&step).ok();
    assert!(ran.finished.stubs.is_empty());
    // No mount point is left.
    assert_eq!(names(&root), ["bin", "new"]);
    let owned = ran.finished.ownership.iter().map(|owned| (owned.uid, owned.gid)).collect::<Vec<_>>();
    match bed.isolation.identity() {
        Identity::Root => assert_eq!(fs::metadata(root.join("new")).unwrap().uid(), 5),
        Identity::SingleId => assert_eq!(owned, [(Some(5), Some(6))]),
    }
    Passed
}

pub(super) fn nothing_is_left_by_mounts(bed: &Bed) -> Verdict {
    let ran = bed.sh("true");
    assert_eq!(names(&ran.upper), [""; 0]);
    assert!(ran.finished.stubs.is_empty());
    assert!(!bed.base.join("proc").exists() && !bed.base.join("etc/hosts").exists());
    Passed
}

pub(super) fn above_the_root_is_the_root(bed: &Bed) -> Verdict {
    let ran = bed.sh("ls -a / > /tmp/a; ls -a /../.. > /tmp/b; cmp /tmp/a /tmp/b && grep -c ' / / ' /proc/self/mountinfo; ls -a /");
    assert!(ran.out.starts_with("1\n"), "{}", ran.out);
    assert!(!ran.out.contains("boot"));
    let mounts = bed.sh("cut -d' ' -f5 /proc/self/mountinfo").out;
    let roots = mounts.lines().filter(|target| *target == "/").count();
    assert_eq!(roots, 1, "{mounts}");
    let known = ["/", "/proc", "/sys", "/dev", "/etc", "/bin", "/usr", "/lib", "/lib64"];
    for target in mounts.lines() {
        let top: String = target.split('/').take(2).collect::<Vec<_>>().join("/");
        assert!(known.contains(&top.as_str()) || target == "/", "{target} is mounted");
    }
    Passed
}

pub(super) fn working_directory_stays_inside(bed: &Bed) -> Verdict {
    let layer = bed.directory("layer");
    fs::create_dir_all(layer.join("real")).unwrap();
    std::os::unix::fs::symlink("/real", layer.join("absolute")).unwrap();
    std::os::unix::fs::symlink("../../../../../real", layer.join("relative")).unwrap();
    for cwd in ["/absolute", "/relative", "/../../real"] {
        let mut step = bed.step_on(&[&layer], "pwd -P");
        step.cwd = cwd.into();
        assert_eq!(bed.run(&step).ok().out, "/real\n", "{cwd}");
    }
    for number in 0..12 {
        let mut step = bed.step("pwd");
        step.cwd = format!("/proc/self/fd/{number}").into();
        let error = bed.try_run(&step).err().unwrap();
        assert!(
            matches!(&error, ExecError::Setup(failure) if failure.doing == Doing::WorkingDirectory),
            "{error}"
        );
    }
    Passed
}

pub(super) fn working_directory_is_made(bed: &Bed) -> Verdict {
    let mut step = bed.step("pwd; stat -c '%a %u:%g' /no /no/where");
    step.cwd = "/no/where".into();
    step.user = User::new(1234, 0);
    let out = bed.run(&step).ok().out;
    assert!(out.starts_with("/no/where\n755 1234:0\n755 1234:0\n"), "{out}");
    step = bed.step("true");
    step.cwd = "/bin/sh/x".into();
    match bed.try_run(&step) {
        Err(ExecError::Setup(failure)) => {
            assert_eq!(failure.to_string(), "cannot enter the working directory `/bin/sh/x`");
        }
        other => panic!("{:?}", other.map(|ran| ran.finished)),
    }
    Passed
}

pub(super) fn empty_root(bed: &Bed) -> Verdict {
    let root = Root::Overlay {
        lowers: Vec::new(),
        upper: bed.directory("upper"),
        scratch: bed.directory("scratch"),
    };
    let status = bed.run(&Step::new(root, ["sh"])).finished.status;
    assert_eq!(status, Status::NotStarted(NotStarted::NotFound { program: "sh".into() }));
    Passed
}

pub(super) fn odd_names(bed: &Bed) -> Verdict {
    let odd = OsStr::from_bytes(b"a\xff\xfe b");
    let mut step = bed.step("printf '%s' \"$1\" > \"/$1\"; printf '%s' \"$V\" > /v");
    step.argv.extend(["sh".into(), odd.to_owned()]);
    step.env.push(("V".into(), odd.to_owned()));
    let ran = bed.run(&step).ok();
    assert_eq!(fs::read(ran.upper.join(odd)).unwrap(), odd.as_bytes());
    assert_eq!(fs::read(ran.upper.join("v")).unwrap(), odd.as_bytes());
    Passed
}

pub(super) fn directories_named_with_odd_characters(bed: &Bed) -> Verdict {
    let parent = bed.directory("a,b:c=d\\e \"f\"\nlowerdir=x");
    let (lower, upper, scratch) = (parent.join("l:1,2"), parent.join("u:p"), parent.join("s,c"));
    for directory in [&lower, &upper, &scratch] {
        fs::create_dir(directory).unwrap();
    }
    fs::write(lower.join("file"), "found").unwrap();
    let mut step = bed.step("cat /file; echo x > /new");
    step.root = Root::Overlay { lowers: vec![lower, bed.base.clone()], upper: upper.clone(), scratch };
    assert_eq!(bed.run(&step).ok().out, "found");
    assert_eq!(names(&upper), ["new"]);
    let owner = fs::metadata(upper.join("new")).unwrap().uid();
    assert_eq!(owner, if bed.isolation.identity() == Identity::Root { 0 } else { bed.machine.uid });
    Passed
}
