use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use wbuild_executor::{
    Access, Base, Content, Doing, ExecError, Identity, Mount, MountKind, Network, Source, Stub, User,
};

use crate::Verdict::{self, Passed};
use crate::bed::Bed;

fn bind(source: Source, target: &str, access: Access) -> Mount {
    Mount { target: target.into(), kind: MountKind::Bind { source, access } }
}

fn secret(target: &str, content: &str) -> Mount {
    let kind = MountKind::File { content: Content(content.into()), mode: 0o400, owner: User::default() };
    Mount { target: target.into(), kind }
}

pub(super) fn binds_are_read_only_or_not(bed: &Bed) -> Verdict {
    let source = bed.directory("source");
    fs::write(source.join("file"), "content").unwrap();
    let mut step =
        bed.step("cat /ro/file /one; echo x > /ro/new; echo x > /one; echo y > /rw/new; rm /rw/file");
    step.mounts.extend([
        bind(Source::host(&source), "/ro", Access::ReadOnly),
        bind(Source::host(source.join("file")), "/one", Access::ReadOnly),
        bind(Source::host(&source), "/rw", Access::ReadWrite),
    ]);
    let ran = bed.run(&step).ok();
    assert_eq!(ran.out, "contentcontent");
    assert_eq!(ran.err.to_lowercase().matches("read-only").count(), 2, "{}", ran.err);
    assert_eq!(fs::read_to_string(source.join("new")).unwrap(), "y\n");
    assert!(!source.join("file").exists());
    assert_eq!(fs::read_dir(&ran.upper).unwrap().count(), 0);
    Passed
}

pub(super) fn sources_stay_in_their_base(bed: &Bed) -> Verdict {
    let (base, outside) = (bed.directory("base"), bed.directory("outside"));
    fs::write(outside.join("secret"), "host").unwrap();
    symlink(outside.join("secret"), base.join("absolute")).unwrap();
    symlink("../outside/secret", base.join("relative")).unwrap();
    for inside in ["absolute", "relative", "../outside/secret"] {
        let mut step = bed.step("cat /x");
        let source = Source { base: Base::Host(base.clone()), inside: inside.into() };
        step.mounts.push(bind(source, "/x", Access::ReadOnly));
        assert!(matches!(bed.try_run(&step), Err(ExecError::Setup(f)) if f.doing == Doing::Open), "{inside}");
    }
    Passed
}

pub(super) fn targets_stay_in_the_root(bed: &Bed) -> Verdict {
    let (layer, outside) = (bed.directory("layer"), bed.directory("outside"));
    symlink(&outside, layer.join("absolute")).unwrap();
    symlink("../../../../../../../..", layer.join("up")).unwrap();
    let inside = outside.display().to_string();
    let mut step = bed.step_on(&[&layer], &format!("cat {inside}/made /up{inside}/made; ls {inside}"));
    step.mounts.push(secret("/absolute/made", "s"));
    let ran = bed.run(&step).ok();
    assert_eq!(ran.out, "ssmade\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(ran.finished.stubs.is_empty());
    // What had to be made among the changes is gone again.
    assert!(holds_directories_only(&ran.upper));
    Passed
}

/// Directories that overlayfs copied up because something was made in them for a while are no change.
fn holds_directories_only(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().all(|entry| {
        let path = entry.unwrap().path();
        path.is_dir() && holds_directories_only(&path)
    })
}

pub(super) fn missing_targets_are_made_and_removed(bed: &Bed) -> Verdict {
    let source = bed.directory("source");
    let tmpfs = |target: &str| Mount {
        target: target.into(),
        kind: MountKind::Tmpfs { size: None, mode: 0o755, owner: User::default() },
    };
    let mut step = bed.step("touch /new/deep/mount/x /cache/y; touch /new/kept; ls /new/deep");
    step.mounts.extend([tmpfs("/new/deep/mount"), bind(Source::host(&source), "/cache", Access::ReadWrite)]);
    let ran = bed.run(&step).ok();
    assert_eq!(ran.out, "mount\n");
    // A directory that was only there for a mount is part of the changes when the step put something into it.
    let new: Vec<_> = fs::read_dir(ran.upper.join("new")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(new, ["kept"]);
    assert!(!ran.upper.join("cache").exists());
    // Where a lower hides the stubs they are made among the changes.
    let hiding = bed.directory("hiding");
    fs::create_dir(hiding.join("new")).unwrap();
    rustix::fs::setxattr(hiding.join("new"), "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())
        .unwrap();
    let mut step = bed.step_on(&[&hiding], "touch /new/deep/kept");
    step.mounts.push(tmpfs("/new/deep/mount"));
    let ran = bed.run(&step).ok();
    assert_eq!(ran.finished.stubs, [Stub { path: "new/deep".into(), directory: true }]);
    let left: Vec<_> =
        fs::read_dir(ran.upper.join("new/deep")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["kept"]);
    Passed
}

pub(super) fn tmpfs_has_its_options(bed: &Bed) -> Verdict {
    let mut step = bed.step(
        "stat -c '%a %u %g' /m; head -c 3000000 /dev/zero > /m/big || echo full; grep ' /m ' /proc/mounts",
    );
    let owner = User::new(7, 8);
    step.mounts.push(Mount {
        target: "/m".into(),
        kind: MountKind::Tmpfs { size: Some(1 << 20), mode: 0o1770, owner },
    });
    let out = bed.run(&step).ok().out;
    let owner = if bed.isolation.identity() == Identity::Root { "7 8" } else { "0 0" };
    assert!(out.starts_with(&format!("1770 {owner}\nfull\n")), "{out}");
    assert!(out.contains("nosuid") && out.contains("nodev"));
    Passed
}

pub(super) fn secrets_touch_no_disk(bed: &Bed) -> Verdict {
    let mut step = bed.step("set -e; cat /run/secrets/token; stat -c '%a %u' /run/secrets/token; stat -f -c %T /run/secrets/token");
    step.mounts.push(secret("/run/secrets/token", "hush"));
    let ran = bed.run(&step).ok();
    assert_eq!(ran.out, "hush400 0\ntmpfs\n");
    assert_eq!(fs::read_dir(&ran.upper).unwrap().count(), 0);
    assert!(!format!("{step:?}").contains("hush"));
    step.user = User::new(1001, 1001);
    step.root = bed.root(&[]);
    let read = bed.run(&step).finished.status.success();
    // With one id everything belongs to the step's user.
    assert_eq!(read, bed.isolation.identity() == Identity::SingleId);
    Passed
}

pub(super) fn layers_can_be_bound(bed: &Bed) -> Verdict {
    let (top, bottom) = (bed.directory("top"), bed.directory("bottom"));
    for (layer, text) in [(&top, "top"), (&bottom, "bottom")] {
        fs::create_dir(layer.join("out")).unwrap();
        fs::write(layer.join("out/a"), text).unwrap();
        fs::write(layer.join("out").join(text), text).unwrap();
    }
    symlink("/out", bottom.join("link")).unwrap();
    let mut step = bed.step("ls /dir; cat /dir/a /file; touch /dir/x 2>/dev/null || echo ro");
    let layers = vec![top, bottom.clone()];
    step.mounts.extend([
        bind(Source::layers(layers.clone(), "/link"), "/dir", Access::ReadOnly),
        bind(Source::layers(layers, "/out/a"), "/file", Access::ReadOnly),
        bind(Source::layers(vec![bottom], "/"), "/single", Access::ReadOnly),
    ]);
    let ran = bed.run(&step).ok();
    assert_eq!(ran.out, "a\nbottom\ntop\ntoptopro\n");
    Passed
}

pub(super) fn discarded_changes(bed: &Bed) -> Verdict {
    let source = bed.directory("source");
    fs::write(source.join("file"), "before").unwrap();
    let mut step = bed.step("echo after > /x/file; rm -f /x/none; mkdir /x/new; cat /x/file; ls /x");
    step.mounts.push(bind(Source::host(&source), "/x", Access::Discarded));
    let ran = bed.run(&step).ok();
    assert_eq!(ran.out, "after\nfile\nnew\n");
    assert_eq!(fs::read_to_string(source.join("file")).unwrap(), "before");
    assert_eq!(fs::read_dir(&source).unwrap().count(), 1);
    assert_eq!(fs::read_dir(&ran.upper).unwrap().count(), 0);
    // One file of it.
    let file = source.join("file");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let mut step = bed.step("stat -c %a /one; cat /one; echo after > /one; cat /one");
    step.mounts.push(bind(Source::host(&file), "/one", Access::Discarded));
    let ran = bed.run(&step).ok();
    assert_eq!(ran.out, "640\nbeforeafter\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), "before");
    assert_eq!(fs::read_dir(&ran.upper).unwrap().count(), 0);
    Passed
}

pub(super) fn order_follows_depth(bed: &Bed) -> Verdict {
    let source = bed.directory("source");
    fs::create_dir(source.join("sub")).unwrap();
    let mut step = bed.step("cat /a/sub/secret; ls /a");
    step.mounts
        .extend([secret("/a/sub/secret", "deep\n"), bind(Source::host(&source), "/a", Access::ReadWrite)]);
    assert_eq!(bed.run(&step).ok().out, "deep\nsub\n");
    // A cache keeps the mount point that another mount needed in it; nothing of the mount itself.
    assert_eq!(fs::metadata(source.join("sub/secret")).unwrap().len(), 0);
    Passed
}

pub(super) fn standard_links_are_refused(bed: &Bed) -> Verdict {
    for name in ["dev", "proc", "sys"] {
        let (layer, outside) = (bed.directory("layer"), bed.directory("outside"));
        symlink(&outside, layer.join(name)).unwrap();
        let error = bed.try_run(&bed.step_on(&[&layer], "true")).err().unwrap();
        match error {
            ExecError::Setup(failure) => {
                assert!([Doing::Dev, Doing::Proc, Doing::Sys].contains(&failure.doing), "{failure}");
            }
            other => panic!("{other}"),
        }
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
    Passed
}

pub(super) fn resolv_conf_link_is_not_followed_to_the_host(bed: &Bed) -> Verdict {
    let (layer, outside) = (bed.directory("layer"), bed.directory("outside"));
    fs::write(outside.join("file"), "host").unwrap();
    fs::create_dir(layer.join("etc")).unwrap();
    symlink(outside.join("file"), layer.join("etc/hosts")).unwrap();
    symlink("../run/systemd/resolve/stub-resolv.conf", layer.join("etc/resolv.conf")).unwrap();
    let mut step = bed.step_on(
        &[&layer],
        "grep -c localhost /etc/hosts; readlink /etc/hosts; readlink /etc/resolv.conf; cat /etc/resolv.conf",
    );
    step.network = Network::Host;
    let ran = bed.run(&step).ok();
    assert!(ran.out.contains("stub-resolv.conf\n"));
    let own = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    assert!(ran.out.ends_with(&own), "{}", ran.out);
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "host");
    assert!(holds_directories_only(&ran.upper));
    Passed
}

pub(super) fn kernel_interfaces_cannot_be_mounted_over(bed: &Bed) -> Verdict {
    let layer = bed.directory("layer");
    symlink("/proc/self", layer.join("link")).unwrap();
    symlink("/", layer.join("top")).unwrap();
    for target in ["/proc/sys/kernel", "/sys/kernel", "/proc", "/link", "/etc/..", "/top"] {
        let mut step = bed.step_on(&[&layer], "true");
        step.mounts.push(Mount {
            target: target.into(),
            kind: MountKind::Tmpfs { size: None, mode: 0o755, owner: User::default() },
        });
        let error = bed.try_run(&step).err();
        assert!(
            matches!(&error, Some(ExecError::Setup(f)) if f.doing == Doing::FindMountPoint),
            "{target}: {error:?}"
        );
    }
    // In /dev it is possible, and nothing of it stays.
    let mut step = bed.step("cat /dev/extra");
    step.mounts.push(secret("/dev/extra", "x"));
    assert_eq!(bed.run(&step).ok().out, "x");
    Passed
}

pub(super) fn whiteouts_of_standard_files(bed: &Bed) -> Verdict {
    let deleted = bed.run(&bed.step("rm -rf /etc")).finished;
    // The files that are mounted there cannot be removed, as with docker.
    assert!(!deleted.status.success());
    let layer = bed.directory("layer");
    let made = bed.run(&bed.step("mkdir /x; echo y > /x/hosts"));
    assert!(Path::new(&made.upper).join("x/hosts").exists());
    fs::create_dir(layer.join("etc")).unwrap();
    rustix::fs::setxattr(layer.join("etc"), "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty())
        .unwrap();
    let ran = bed.run(&bed.step_on(&[&layer], "ls /etc")).ok();
    assert_eq!(ran.out, "hosts\nresolv.conf\n");
    assert!(ran.finished.stubs.is_empty());
    assert!(!ran.upper.join("etc/hosts").exists());
    Passed
}
