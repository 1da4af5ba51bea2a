//! Layers that want to reach outside, after the classes of the advisories named with them. Each is unpacked beside a
//! folder that must not change, and read as a tree that must say the same as the disk.

use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use wbuild_layer::{DigestOnly, Expected, LayerError, Owners, ReadOptions, UnpackOptions, read_tree, unpack};
use wbuild_tree::Subtree;

use crate::raw_tar::{Block, RawTar, record};
use crate::reading::message;
use crate::trees::{list_disk, list_tree};

/// A folder to unpack into with a sibling that hostile layers aim at.
struct Scene {
    folder: tempfile::TempDir,
    before: Vec<String>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let outside = folder.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("passwd"), "root").unwrap();
        std::fs::set_permissions(outside.join("passwd"), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::create_dir(folder.path().join("target")).unwrap();
        let before = list_disk(&outside);
        Self { folder, before }
    }

    fn outside(&self) -> String {
        self.folder.path().join("outside").display().to_string()
    }

    fn target(&self) -> std::path::PathBuf {
        self.folder.path().join("target")
    }

    /// Unpacks, and checks both the outside and that both faces agree.
    fn unpack(&self, tar: RawTar) -> Result<(Vec<String>, Subtree), LayerError> {
        let tar = tar.end();
        let target = std::fs::File::open(self.target()).unwrap();
        let options = UnpackOptions { owners: Owners::of_process(), ..UnpackOptions::default() };
        let result = unpack(&tar[..], &Expected::default(), target.as_fd(), &options);
        assert_eq!(
            list_disk(&self.folder.path().join("outside")),
            self.before,
            "something outside has changed"
        );
        let tree = read_tree(&tar[..], &Expected::default(), &ReadOptions::default(), &DigestOnly);
        let unpacked = match (result, tree) {
            (Ok(unpacked), Ok(tree)) => {
                assert_eq!(unpacked.layer.tree, tree.tree);
                unpacked
            }
            (Err(error), Err(_)) => return Err(error),
            (disk, tree) => panic!("the faces disagree: {disk:?}, {tree:?}"),
        };
        let disk = list_disk(&self.target());
        if rustix::process::geteuid().is_root() && unpacked.without_devices.is_empty() {
            assert_eq!(normal(&disk), normal(&list_tree(&unpacked.layer.tree)));
        }
        Ok((disk, unpacked.layer.tree))
    }
}

/// Whiteouts and implied directories have times on disk that no tree has.
fn normal(lines: &[String]) -> Vec<String> {
    let time = |line: &String| {
        let mut parts: Vec<&str> = line.splitn(5, ' ').collect();
        if line.ends_with("char 0:0") {
            parts[3] = "-";
        }
        parts.join(" ")
    };
    lines.iter().map(time).collect()
}

fn names(lines: &[String]) -> Vec<&str> {
    lines.iter().map(|line| line.split(' ').next().unwrap_or_default()).collect()
}

#[test]
fn links_lead_nowhere_but_inside() {
    let scene = Scene::new();
    let outside = scene.outside();
    let long = record("linkpath", &outside);
    let inside = outside.trim_start_matches('/').to_owned();
    // CVE-2018-20990 and its many relatives: a link, then an entry below it.
    let tar = RawTar::new()
        .pax(&long)
        .symlink("l", "x")
        .pax(&record("path", "l/passwd"))
        .file("p", "owned")
        .pax(&record("path", "l/new/dir/"))
        .dir("p")
        .pax(&record("path", "l/.wh.gone"))
        .file("p", "");
    let (disk, _) = scene.unpack(tar).unwrap();
    assert!(names(&disk).contains(&format!("{inside}/passwd").as_str()), "{disk:?}");
    assert!(scene.target().join(&inside).join("new/dir").is_dir());
}

#[test]
fn relative_links_and_chains_stay_inside() {
    for (first, second) in [
        ("../outside", "l/passwd"),
        ("../../../../../../../../../../outside", "l/passwd"),
        ("..", "l/outside/passwd"),
        (".", "l/../../outside/passwd"),
        ("/", "l/outside/passwd"),
        ("/..", "l/outside/passwd"),
        ("../outside/", "l/passwd"),
    ] {
        let scene = Scene::new();
        let tar = RawTar::new().symlink("l", first).file(second, "owned");
        // One of them leaves the root by its own name, and is refused for that.
        if let Ok((disk, _)) = scene.unpack(tar) {
            assert!(disk.iter().any(|line| line.contains("passwd")), "{disk:?}");
        }
    }
    let scene = Scene::new();
    let tar = RawTar::new()
        .symlink("a", "b")
        .symlink("b", "c/..")
        .dir("c/")
        .symlink("c/up", "../..")
        .file("a/c/up/x", "x");
    let (disk, _) = scene.unpack(tar).unwrap();
    assert!(names(&disk).contains(&"x"));
}

#[test]
fn nothing_is_written_through_a_name() {
    // A link, or another name of a file, is replaced and never opened.
    let scene = Scene::new();
    let passwd = record("linkpath", &format!("{}/passwd", scene.outside()));
    let tar = RawTar::new().pax(&passwd).symlink("l", "x").file("l", "owned");
    let (disk, _) = scene.unpack(tar).unwrap();
    assert!(disk[0].contains("file"), "{disk:?}");

    let scene = Scene::new();
    let tar = RawTar::new().file("a", "first").hard_link("b", "a").file("b", "second");
    scene.unpack(tar).unwrap();
    assert_eq!(std::fs::read(scene.target().join("a")).unwrap(), b"first");
    assert_eq!(std::fs::read(scene.target().join("b")).unwrap(), b"second");

    // A hard link to a link, then a file over it; and a hard link to a link, then its mode (CVE-2021-32760).
    let scene = Scene::new();
    let passwd = record("linkpath", &format!("{}/passwd", scene.outside()));
    let tar = RawTar::new().pax(&passwd).symlink("l", "x").hard_link("h", "l").file("h", "owned");
    scene.unpack(tar).unwrap();
    let scene = Scene::new();
    let passwd = record("linkpath", &format!("{}/passwd", scene.outside()));
    let tar =
        RawTar::new().pax(&passwd).symlink("l", "x").block(Block::new(b'1', "h").link("l").mode(0o4777));
    scene.unpack(tar).unwrap();
}

#[test]
fn modes_and_owners_are_set_on_no_link() {
    // CVE-2026-33056: a directory entry over a link to a directory changed the mode of what it points to.
    let scene = Scene::new();
    let outside = record("linkpath", &scene.outside());
    let tar = RawTar::new().pax(&outside).symlink("d", "x").block(Block::new(b'5', "d").mode(0o777));
    let (disk, _) = scene.unpack(tar).unwrap();
    assert!(disk[0].starts_with("d 777") && disk[0].ends_with("dir"), "{disk:?}");
    // The other order: the directory is gone when its metadata would be set.
    let scene = Scene::new();
    let outside = record("linkpath", &scene.outside());
    let tar = RawTar::new()
        .block(Block::new(b'5', "d").mode(0o777))
        .file("d/x", "")
        .pax(&outside)
        .symlink("d", "x");
    let (disk, _) = scene.unpack(tar).unwrap();
    assert_eq!(disk.len(), 1);
}

#[test]
fn hard_links_reach_only_this_layer() {
    let scene = Scene::new();
    std::fs::write(scene.target().parent().unwrap().join("secret"), "s").unwrap();
    for (tar, expected) in [
        (RawTar::new().hard_link("h", "/etc/passwd"), "which this layer does not have"),
        (RawTar::new().hard_link("h", "not/there"), "which this layer does not have"),
        (RawTar::new().symlink("l", "..").hard_link("h", "l/secret"), "which this layer does not have"),
        (RawTar::new().file(".wh.a", "").hard_link("h", "a"), "which this layer does not have"),
        (RawTar::new().dir("d").hard_link("h", "d"), "which cannot be linked"),
        (RawTar::new().hard_link("h", "/"), "which cannot be linked"),
        (RawTar::new().file("a", "").hard_link("a", "a"), "which cannot be linked"),
        (RawTar::new().file("d/a", "").hard_link("d", "d/a"), "which cannot be linked"),
        (RawTar::new().hard_link("h", "later").file("later", ""), "which this layer does not have"),
    ] {
        let error = message(&Scene::new().unpack(tar).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
    let scene = Scene::new();
    let tar = RawTar::new()
        .dir("d")
        .file("d/a", "x")
        .symlink("l", "d")
        .hard_link("l/b", "/l/a")
        .hard_link("c", "d/b");
    let (disk, tree) = scene.unpack(tar).unwrap();
    assert!(tree.has_links());
    assert_eq!(names(&disk), ["c", "d", "d/a", "d/b", "l"]);
}

#[test]
fn the_root_stays_a_directory() {
    // CVE-2021-29136: later layers would land at the target.
    for name in [".", "/", "./", "a/.."] {
        let scene = Scene::new();
        let error = message(&scene.unpack(RawTar::new().symlink(name, "../outside")).unwrap_err());
        assert!(error.contains("replace the root"), "{error}");
        let error =
            message(&Scene::new().unpack(RawTar::new().file("a", "").hard_link(name, "a")).unwrap_err());
        assert!(error.contains("replace the root"), "{error}");
    }
    let scene = Scene::new();
    scene.unpack(RawTar::new().block(Block::new(b'5', "./").mode(0o711)).file("a", "")).unwrap();
    assert_eq!(std::fs::metadata(scene.target()).unwrap().permissions().mode() & 0o7777, 0o711);
}

#[test]
fn loops_and_files_as_parents_end_in_errors() {
    for (tar, expected) in [
        (RawTar::new().symlink("a", "b").symlink("b", "a").file("a/x", ""), "symbolic links are on the way"),
        (RawTar::new().symlink("a", "a/b").file("a/x", ""), "symbolic links are on the way"),
        (RawTar::new().file("f", "").file("f/x", ""), "its parent `/f` is not a directory"),
        (RawTar::new().file("f", "").symlink("l", "f").file("l/x", ""), "its parent `/f` is not a directory"),
        (RawTar::new().pax(&record("path", &"n".repeat(256))).file("x", ""), "more than 255 bytes"),
        (RawTar::new().pax(&record("path", &"d/".repeat(2049))).dir("x"), "more than 255 bytes"),
        (RawTar::new().pax(&record("linkpath", &"t".repeat(4096))).symlink("x", "y"), "link target"),
    ] {
        let error = message(&Scene::new().unpack(tar).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_path_can_be_as_deep_as_linux_has_it() {
    let scene = Scene::new();
    let deep = "d/".repeat(2047) + "f";
    let tar = RawTar::new().pax(&record("path", &deep)).file("x", "deep").end();
    let target = std::fs::File::open(scene.target()).unwrap();
    let unpacked = unpack(&tar[..], &Expected::default(), target.as_fd(), &UnpackOptions::default()).unwrap();
    assert_eq!(unpacked.layer.tree.entries(), 2048);
    assert_eq!(unpacked.layer.implied.len(), 2047);
    let flags = rustix::fs::OFlags::RDONLY;
    rustix::fs::openat(&target, deep.as_bytes(), flags, rustix::fs::Mode::empty()).unwrap();
}

#[test]
fn whiteouts_remove_nothing() {
    let scene = Scene::new();
    let tar = RawTar::new()
        .symlink("l", "../outside")
        .file("l/.wh.passwd", "")
        .file("l/.wh..wh..opq", "")
        .file("d/.wh.x", "")
        .file("d/y", "");
    let (disk, _) = scene.unpack(tar).unwrap();
    assert_eq!(names(&disk), ["d", "d/x", "d/y", "l", "outside", "outside/passwd"]);
    let mut value = [0; 8];
    let size =
        rustix::fs::getxattr(scene.target().join("outside"), "user.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..size], b"y");
}

#[test]
fn what_is_already_there_is_never_trusted() {
    // The target should be empty; if somebody planted a link there, unpacking fails and follows nothing.
    let scene = Scene::new();
    symlink(scene.outside(), scene.target().join("d")).unwrap();
    let tar = RawTar::new().dir("d/").file("d/passwd", "owned").end();
    let target = std::fs::File::open(scene.target()).unwrap();
    let result = unpack(&tar[..], &Expected::default(), target.as_fd(), &UnpackOptions::default());
    assert!(matches!(result, Err(LayerError::Disk { .. })));
    assert_eq!(std::fs::read(Path::new(&scene.outside()).join("passwd")).unwrap(), b"root");
    let tar = RawTar::new().file("d", "owned").end();
    let result = unpack(&tar[..], &Expected::default(), target.as_fd(), &UnpackOptions::default());
    assert!(matches!(result, Err(LayerError::Disk { .. })));
}
