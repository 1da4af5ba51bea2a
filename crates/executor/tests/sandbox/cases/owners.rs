//! What one id cannot express is recorded; real root simply does it. The same steps must come to the same owners.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use wbuild_executor::{Access, Identity, Mount, MountKind, Source, Special, User};

use crate::Verdict::{self, Passed, Skipped};
use crate::bed::{Bed, Ran};

/// Whose a file of the step's changes is: what is recorded, else what it really is, else the step's user.
fn owner(bed: &Bed, ran: &Ran, path: &str) -> (u32, u32) {
    let path = ran.upper.join(path.trim_start_matches('/'));
    let metadata = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if bed.isolation.identity() == Identity::Root {
        assert!(ran.finished.ownership.is_empty());
        return (metadata.uid(), metadata.gid());
    }
    let owned = record(ran, &path);
    (owned.and_then(|owned| owned.uid).unwrap_or(0), owned.and_then(|owned| owned.gid).unwrap_or(0))
}

fn record<'a>(ran: &'a Ran, path: &Path) -> Option<&'a wbuild_executor::Owned> {
    let metadata = fs::symlink_metadata(path).unwrap();
    let born = metadata.created().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
    let born = (born.as_secs().cast_signed(), born.subsec_nanos());
    ran.finished.ownership.iter().find(|owned| (owned.ino, owned.born) == (metadata.ino(), born))
}

fn owners(bed: &Bed, ran: &Ran, expected: &[(&str, u32, u32)]) {
    for (path, uid, gid) in expected {
        assert_eq!(owner(bed, ran, path), (*uid, *gid), "{path}");
    }
}

pub(super) fn given_away(bed: &Bed) -> Verdict {
    let ran = bed
        .sh("mkdir -p /d/e; touch /d/f /g; ln -s f /d/l; chown -R 7:8 /d; chown -h 9:10 /d/l; chown 11:12 /g
         chown 13:14 /etc/passwd; cd /d; chown 15:16 ./e; touch /mine; chmod 4755 /g");
    owners(
        bed,
        &ran,
        &[
            ("/d", 7, 8),
            ("/d/e", 15, 16),
            ("/d/f", 7, 8),
            ("/d/l", 9, 10),
            ("/g", 11, 12),
            ("/etc/passwd", 13, 14),
            ("/mine", 0, 0),
        ],
    );
    assert_eq!(fs::metadata(ran.upper.join("g")).unwrap().mode() & 0o7777, 0o4755);
    // Giving a file away takes its set-id bits, as everywhere.
    let ran = bed.sh("touch /x; chmod 6755 /x; chown 5:5 /x");
    assert_eq!(fs::metadata(ran.upper.join("x")).unwrap().mode() & 0o7777, 0o755);
    // A file of a lower layer that is only given away is part of the changes.
    let layer = bed.directory("layer");
    fs::write(layer.join("below"), "content").unwrap();
    let ran = bed.run(&bed.step_on(&[&layer], "chown 21:22 /below"));
    assert_eq!(fs::read(ran.upper.join("below")).unwrap(), b"content");
    owners(bed, &ran, &[("/below", 21, 22)]);
    Passed
}

pub(super) fn survive_renames_and_die_with_the_file(bed: &Bed) -> Verdict {
    let ran = bed.sh(
        "for i in 1 2 3 4 5 6 7 8 9; do touch /a; chown 5:6 /a; rm /a; touch /b$i; done
         touch /c; chown 7:7 /c; mv /c /d; ln /d /e; mkdir /dir; chown 8:8 /dir; mv /dir /dir2; touch /dir2/x; chown 9:0 /dir2/x",
    );
    owners(bed, &ran, &[("/d", 7, 7), ("/e", 7, 7), ("/dir2", 8, 8), ("/dir2/x", 9, 0)]);
    for number in 1..=9 {
        owners(bed, &ran, &[(&format!("/b{number}"), 0, 0)]);
    }
    Passed
}

pub(super) fn of_an_archive(bed: &Bed) -> Verdict {
    if !bed.has_busybox() && !Path::new("/usr/bin/tar").exists() {
        return Skipped("needs tar".into());
    }
    // Written by hand: the owners in it are nobody's here.
    let layer = bed.directory("layer");
    fs::write(layer.join("a.tar"), archive(&[("dir/", 33, 34), ("dir/file", 35, 36), ("top", 0, 37)]))
        .unwrap();
    let ran = bed.run(&bed.step_on(&[&layer], "mkdir /out; tar -C /out -xpf /a.tar")).ok();
    owners(bed, &ran, &[("/out/dir", 33, 34), ("/out/dir/file", 35, 36), ("/out/top", 0, 37)]);
    Passed
}

fn archive(entries: &[(&str, u32, u32)]) -> Vec<u8> {
    let mut tar = Vec::new();
    for (name, uid, gid) in entries {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        let directory = name.ends_with('/');
        let mode = if directory { 0o755 } else { 0o644 };
        for (at, text) in [
            (100, format!("{mode:07o}\0")),
            (108, format!("{uid:07o}\0")),
            (116, format!("{gid:07o}\0")),
            (124, format!("{:011o}\0", 0)),
            (136, format!("{:011o}\0", 1)),
            (148, "        ".to_owned()),
            (156, if directory { "5" } else { "0" }.to_owned()),
            (257, "ustar\x0000".to_owned()),
        ] {
            header[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend(header);
    }
    tar.extend([0; 1024]);
    tar
}

pub(super) fn step_user_is_everybody(bed: &Bed) -> Verdict {
    // A step of another user owns what it makes, and may give away nothing.
    let mut step = bed.step("touch /tmp/x; chown 5 /tmp/x || echo refused; chown 1001 /tmp/x && echo same; chgrp 1002 /tmp/x && echo group");
    step.user = User { uid: 1001, gid: 1001, groups: vec![1002] };
    let ran = bed.run(&step).ok();
    assert_eq!(ran.out, "refused\nsame\ngroup\n");
    if bed.isolation.identity() == Identity::SingleId {
        let owned = record(&ran, &ran.upper.join("tmp/x")).unwrap();
        assert_eq!(owned.gid, Some(1002));
    }
    Passed
}

pub(super) fn identity_changes_are_told_back(bed: &Bed) -> Verdict {
    let script = "
import os
os.setgroups([5, 6]); os.setgid(7); os.seteuid(8)
print(os.getresuid(), os.getresgid(), os.getgroups())
os.seteuid(0); os.setuid(9)
print(os.getresuid(), os.getresgid())
try: os.setuid(0)
except PermissionError: print('never again')
if os.fork() == 0:
    print(os.getuid(), os.getgroups(), flush=True); os._exit(0)
os.wait()
try: os.chown('/tmp', 9, 9)
except PermissionError: print('not mine')
";
    let Some(step) = bed.python(script) else { return Skipped("needs python3".into()) };
    let out = bed.run(&step).ok().out;
    let expected = "(0, 8, 0) (7, 7, 7) [5, 6]\n(9, 9, 9) (7, 7, 7)\nnever again\n9 [5, 6]\nnot mine\n";
    let mut expected: Vec<&str> = expected.lines().collect();
    let mut lines: Vec<&str> = out.lines().collect();
    // Python's buffer is written once by each process.
    lines.dedup();
    for line in &lines {
        assert!(expected.contains(line), "{out}");
    }
    expected.retain(|line| !lines.contains(line));
    assert!(expected.is_empty(), "{out}");
    Passed
}

pub(super) fn file_capabilities(bed: &Bed) -> Verdict {
    let script = "
import os
value = bytes([1, 0, 0, 2, 0, 4, 0, 0]) + bytes(12)
open('/prog', 'w').close(); open('/other', 'w').close()
os.setxattr('/prog', 'security.capability', value)
os.setxattr('/other', 'user.note', b'x')
print(os.listxattr('/other'))
os.setxattr('/etc/passwd', 'security.capability', value); os.chown('/etc/passwd', 0, 0)
try: os.setxattr('/tmp', 'security.capability', value)
except PermissionError: print('directory')
";
    let Some(step) = bed.python(script) else { return Skipped("needs python3".into()) };
    let ran = bed.run(&step).ok();
    assert!(ran.out.contains("user.note"));
    let value = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    if bed.isolation.identity() == Identity::SingleId {
        assert_eq!(
            record(&ran, &ran.upper.join("prog")).unwrap().capability.as_deref(),
            Some(value.as_slice())
        );
        assert_eq!(record(&ran, &ran.upper.join("etc/passwd")).unwrap().capability, None);
    } else {
        let mut real = [0; 64];
        let length = rustix::fs::getxattr(ran.upper.join("prog"), "security.capability", &mut real).unwrap();
        assert_eq!(&real[..length], value);
    }
    Passed
}

pub(super) fn devices(bed: &Bed) -> Verdict {
    let ran = bed.sh("umask 027; mknod /null c 1 3; mknod /disk b 259 65537; mkfifo /fifo; mknod /wh c 0 0 || echo refused; mknod /null c 1 3 || echo exists");
    assert_eq!(ran.out, "refused\nexists\n");
    let kind = |name: &str| fs::symlink_metadata(ran.upper.join(name)).unwrap();
    assert!(kind("fifo").file_type().is_fifo());
    assert_eq!(kind("null").mode() & 0o7777, 0o640);
    if bed.isolation.identity() == Identity::SingleId {
        let special = |name: &str| record(&ran, &ran.upper.join(name)).unwrap().special.unwrap();
        assert_eq!(special("null"), Special { block: false, major: 1, minor: 3 });
        assert_eq!(special("disk"), Special { block: true, major: 259, minor: 65537 });
        assert!(kind("null").is_file());
    } else {
        assert!(kind("null").file_type().is_char_device() && kind("disk").file_type().is_block_device());
    }
    Passed
}

pub(super) fn read_only_places(bed: &Bed) -> Verdict {
    let source = bed.directory("source");
    fs::write(source.join("f"), "").unwrap();
    let mut step = bed.step("chown 5 /ro/f 2>/dev/null || echo ro; chown 5 /none 2>/dev/null || echo none; chown 5 /rw/f && echo rw; chown 5 /proc/version 2>/dev/null || echo proc");
    for (target, access) in [("/ro", Access::ReadOnly), ("/rw", Access::ReadWrite)] {
        let kind = MountKind::Bind { source: Source::host(&source), access };
        step.mounts.push(Mount { target: target.into(), kind });
    }
    let ran = bed.run(&step);
    assert!(ran.out.starts_with("ro\nnone\nrw\n"), "{}", ran.out);
    // Caches are no part of the changes.
    assert!(ran.finished.ownership.is_empty());
    Passed
}

pub(super) fn of_threads_and_races(bed: &Bed) -> Verdict {
    let script = "
import os, threading
def work(number):
    for i in range(200):
        name = f'/f{number}-{i}'
        open(name, 'w').close(); os.chown(name, 100 + number, 200 + i); os.rename(name, name + 'x')
        if i % 3 == 0: os.unlink(name + 'x')
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
";
    let Some(step) = bed.python(script) else { return Skipped("needs python3".into()) };
    let ran = bed.run(&step).ok();
    for number in 0..8 {
        for index in (0..200).filter(|index| index % 3 != 0) {
            owners(bed, &ran, &[(&format!("/f{number}-{index}x"), 100 + number, 200 + index)]);
        }
    }
    Passed
}

pub(super) fn of_paths_below_a_changed_root(bed: &Bed) -> Verdict {
    if !bed.has_busybox() {
        return Skipped("needs busybox".into());
    }
    let ran = bed.sh(
        "mkdir -p /new/bin /new/d; cp /bin/busybox /new/bin/; ln -s busybox /new/bin/sh; ln -s busybox /new/bin/chown; ln -s /d /new/l
         touch /d0 /new/d/f /new/d/g; chroot /new /bin/sh -c 'chown 5:6 /l/f; cd /d; chown 7:8 g ../../../d'",
    );
    owners(bed, &ran, &[("/new/d/f", 5, 6), ("/new/d/g", 7, 8), ("/new/d", 7, 8), ("/d0", 0, 0)]);
    Passed
}

pub(super) fn nothing_to_record_as_root(bed: &Bed) -> Verdict {
    let ran = bed.sh("touch /x; chown 5:6 /x");
    assert_eq!(ran.finished.ownership.is_empty(), bed.isolation.identity() == Identity::Root);
    Passed
}
