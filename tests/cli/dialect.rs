//! The differences from BuildKit that are on purpose: each row of `buildspec/dialect.md` that a person can run into.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::SystemTime;

use crate::context::TestContext;
use crate::layout::Layout;

const LAYOUT: [&str; 6] = ["build", "--progress", "quiet", "-o", "type=oci,dest=../out,tar=false", "."];

fn context(dockerfile: &str) -> TestContext {
    let context = TestContext::empty();
    context.write("Dockerfile", dockerfile);
    context.write("a", "A");
    context
}

fn built(context: &TestContext) -> Layout {
    let output = context.run(&LAYOUT);
    assert_eq!(output.code, 0, "{output}");
    Layout::open(&context.folder().join("out"))
}

#[test]
fn a_file_that_cannot_be_read_is_an_error() {
    let Some(context) = context("FROM scratch\nCOPY . /\n").by_plain_user() else { return };
    context.write("secret", "S");
    fs::set_permissions(context.path("secret"), fs::Permissions::from_mode(0o000)).unwrap();
    let output = context.run(&LAYOUT);
    assert_eq!(output.code, 1, "{output}");
    assert!(output.stderr.contains("secret") && output.stderr.contains("Permission denied"), "{output}");
}

#[test]
fn an_ignore_file_that_cannot_be_read_is_an_error() {
    let Some(context) = context("FROM scratch\nCOPY a /\n").by_plain_user() else { return };
    context.write(".dockerignore", "b\n");
    fs::set_permissions(context.path(".dockerignore"), fs::Permissions::from_mode(0o000)).unwrap();
    let output = context.run(&LAYOUT);
    assert_eq!(output.code, 1, "{output}");
    assert!(
        output.stderr.contains(".dockerignore") && output.stderr.contains("Permission denied"),
        "{output}"
    );
}

#[test]
fn a_range_backwards_in_an_ignore_file_is_an_error_with_its_line() {
    let context = context("FROM scratch\nCOPY a /\n");
    context.write(".dockerignore", "ok\n[z-a]\n");
    let output = context.run(&LAYOUT);
    assert_eq!(output.code, 1, "{output}");
    assert!(output.stderr.contains(".dockerignore:2:1"), "{output}");
}

#[test]
fn an_edit_that_keeps_size_and_time_is_seen() {
    let context = context("FROM scratch\nCOPY a /\n");
    let path = context.path("a");
    let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    let set = || fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    set();
    assert_eq!(built(&context).text("a"), "A");
    context.write("a", "B");
    set();
    assert_eq!(built(&context).text("a"), "B");
}

#[test]
fn link_and_chmod_go_together() {
    let context = context("FROM scratch\nCOPY --link --chmod=640 a /x/a\n");
    let image = built(&context);
    let mut modes = Vec::new();
    image.headers(&mut |path, header| modes.push(format!("{path} {:o}", header.mode().unwrap())));
    assert_eq!(modes, ["x 640", "x/a 640"]);
    // Directories that are there keep their mode.
    let context = self::context("FROM scratch\nCOPY dir /\nCOPY --link --chmod=600 a /etc/a\n");
    context.write("dir/etc/b", "b");
    let mut modes = Vec::new();
    built(&context).headers(&mut |path, header| modes.push(format!("{path} {:o}", header.mode().unwrap())));
    assert_eq!(modes, ["etc 755", "etc/b 644", "etc 755", "etc/a 600"]);
}

#[test]
fn a_source_that_is_a_file_can_be_excluded() {
    let context = context("FROM scratch\nCOPY --exclude=a * /\n");
    context.write("b", "B");
    let files: Vec<String> = built(&context).files().into_keys().collect();
    assert!(files.contains(&"b".to_owned()) && !files.contains(&"a".to_owned()), "{files:?}");
}

#[test]
fn two_files_through_one_link() {
    let context = context("FROM scratch\nCOPY link/a link/b /x/\n");
    context.write("real/a", "1");
    context.write("real/b", "2");
    std::os::unix::fs::symlink("real", context.path("link")).unwrap();
    let image = built(&context);
    assert_eq!((image.text("x/a"), image.text("x/b")), ("1".to_owned(), "2".to_owned()));
}

/// The same image from two checkouts, whenever they were made; a plain manifest; times as they are when asked.
#[test]
fn times_and_manifests() {
    let images: Vec<Layout> = [1_000_000_000, 1_700_000_000]
        .into_iter()
        .map(|seconds| {
            let context = context("FROM scratch\nCOPY a /\n");
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
            fs::File::options().write(true).open(context.path("a")).unwrap().set_modified(time).unwrap();
            let image = built(&context);
            let index = fs::read_to_string(context.folder().join("out/index.json")).unwrap();
            let index: serde_json::Value = serde_json::from_str(&index).unwrap();
            assert_eq!(index["manifests"].as_array().unwrap().len(), 1, "no attestations unless asked");
            assert_eq!(image.config()["created"], "1970-01-01T00:00:01Z");
            let kept =
                context.run(&["build", "--timestamp", "keep", "-o", "type=oci,dest=../kept,tar=false", "."]);
            assert_eq!(kept.code, 0, "{kept}");
            let mut times = Vec::new();
            Layout::open(&context.folder().join("kept"))
                .headers(&mut |path, header| times.push((path.to_owned(), header.mtime().unwrap())));
            assert_eq!(times, [("a".to_owned(), seconds)]);
            image
        })
        .collect();
    assert_eq!(images[0].layers(), images[1].layers());
}
