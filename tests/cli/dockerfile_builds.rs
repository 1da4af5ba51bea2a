//! What `wbuild build` does besides what the conformance cases compare: outputs, streams, odd graphs.

use std::fs;
use std::process::Stdio;

use insta::assert_snapshot;

use crate::context::{Output, TestContext, bases};
use crate::layout::Layout;

fn build(context: &TestContext, args: &[&str]) -> Output {
    let mut all: Vec<String> = ["build", "--progress", "plain"].map(str::to_owned).to_vec();
    all.extend(context.base_images());
    all.extend(args.iter().map(|arg| (*arg).to_owned()));
    context.run(&all)
}

/// Equal layers are one folder, which an overlay takes only once.
#[test]
fn equal_layers_in_one_root() {
    if bases().is_none() {
        return;
    }
    let context = TestContext::empty();
    context.write("a", "A");
    context.write(
        "Dockerfile",
        "FROM alpine:3.23\nCOPY a /x\nRUN sed -i s/A/B/ /x\nCOPY a /x\nCOPY a /x\nWORKDIR /q\nRUN rmdir /q\nWORKDIR /q\nRUN cat /x && pwd\n",
    );
    let output = build(&context, &["-o", "type=oci,dest=../out,tar=false", "."]);
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stderr.contains(" A/q\n"), "{output}");
    // And in an image that has them already.
    context.write("again", "FROM base\nRUN cat /x\n");
    let base = format!("base=oci-layout://{}", context.folder().join("out").display());
    let output = build(&context, &["-f", "again", "--build-context", &base, "."]);
    assert_eq!(output.code, 0, "{output}");
}

/// As with folders, what a step writes to a file that is bound writable is forgotten.
#[test]
fn single_files_are_bound_writable() {
    if bases().is_none() {
        return;
    }
    let context = TestContext::empty();
    context.write("page.txt", "page\n");
    context.write(
        "Dockerfile",
        "FROM alpine:3.23\n\
         RUN --mount=type=bind,from=alpine:3.23,source=/etc/alpine-release,target=/rel,rw \\\n\
         grep -q ^3 /rel && echo changed > /rel && cat /rel > /out\n\
         RUN --mount=type=bind,source=page.txt,target=/page,rw cat /page >> /out && echo more >> /page && cat /page >> /out\n\
         RUN --mount=type=bind,source=page.txt,target=/page,rw cat /page >> /out && cat /out && ! test -e /rel\n",
    );
    let output = build(&context, &["-o", "type=tar,dest=../out.tar", "."]);
    assert_eq!(output.code, 0, "{output}");
    for line in [" changed\n", " page\n", " more\n"] {
        assert!(output.stderr.contains(line), "{line}: {output}");
    }
    assert_eq!(output.stderr.matches(" page\n").count(), 3, "{output}");
    assert_eq!(output.stderr.matches(" more\n").count(), 1, "{output}");
    assert_eq!(context.read("page.txt"), "page\n");
}

/// Linux would refuse to start the step.
#[test]
fn a_soft_limit_is_not_above_the_hard_one() {
    let context = TestContext::empty();
    context.write("Dockerfile", "FROM scratch\n");
    let output = build(&context, &["--ulimit", "nofile=1024:10", "."]);
    assert_eq!(output.code, 2, "{output}");
    assert!(
        output.stderr.contains("`--ulimit nofile=1024:10`: the soft limit is above the hard one"),
        "{output}"
    );
}

#[test]
fn build_arguments_that_nothing_declares() {
    let context = TestContext::empty();
    context.write(
        "Dockerfile",
        "ARG GLOBAL\nFROM scratch AS other\nARG ELSEWHERE\nFROM scratch\nARG VERSION HERE=1\n",
    );
    let known = ["GLOBAL=1", "VERSION=1", "HERE=1", "https_proxy=http://p", "NO_PROXY=x", "TARGETARCH=arm64"];
    let given = |more: &[&str]| -> Vec<String> {
        let silent = ["SOURCE_DATE_EPOCH=1", "BUILDKIT_INLINE_CACHE=1"];
        known.iter().chain(&silent).chain(more).map(|arg| format!("--build-arg={arg}")).collect()
    };
    let said = |args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = build(&context, &[args.as_slice(), &["."]].concat());
        assert_eq!(output.code, 0, "{output}");
        output.stderr
    };
    assert!(!said(&given(&[])).contains("not consumed"));
    let stderr = said(&given(&["VERSOIN=hidden", "ELSEWHERE=hidden"]));
    assert!(stderr.contains("One or more build-args [ELSEWHERE VERSOIN] were not consumed"), "{stderr}");
    assert!(stderr.contains("did you mean `VERSION` for `VERSOIN`?"), "{stderr}");
    assert!(!stderr.contains("hidden"), "{stderr}");
}

#[test]
fn a_user_writes_to_the_standard_streams() {
    if bases().is_none() {
        return;
    }
    let context = TestContext::empty();
    context.write(
        "Dockerfile",
        "FROM alpine:3.23\nUSER 1234\nRUN echo out > /dev/stdout; echo err > /dev/stderr\n",
    );
    let output = build(&context, &["."]);
    assert_eq!(output.code, 0, "{output}");
    assert!(output.stderr.contains(" out\n") && output.stderr.contains(" err\n"), "{output}");
}

#[test]
fn archives_on_standard_output() {
    let context = TestContext::empty();
    context.write("a", "A");
    context.write("Dockerfile", "FROM scratch\nCOPY a /a\n");
    for (spec, wanted) in
        [("type=oci", "oci-layout"), ("type=docker,dest=-", "manifest.json"), ("type=tar", "a"), ("-", "a")]
    {
        let child = context
            .command(&["build", "--progress", "quiet", "-o", spec, "."])
            .stdout(Stdio::piped())
            .output();
        let mut archive = tar::Archive::new(std::io::Cursor::new(child.unwrap().stdout));
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert!(names.iter().any(|name| name == wanted), "{spec}: {names:?}");
    }
    assert!(!context.path("-").exists());
}

#[test]
fn outputs_that_cannot_be_written_are_found_before_anything_runs() {
    let context = TestContext::empty();
    context.write("Dockerfile", "FROM scratch\nRUN never\n");
    context.write("file", "");
    for spec in [
        "type=oci,dest=missing/x.tar",
        "type=tar,dest=.",
        "type=local,dest=file",
        "type=oci,dest=.,tar=false",
    ] {
        let answer = context.refused(&["build", "--progress", "plain", "-o", spec, "."]);
        assert!(!answer.contains("RUN never"), "{spec}: {answer}");
    }
}

#[test]
fn contexts_that_are_not_there_are_named() {
    let context = TestContext::empty();
    let answer = context.refused(&["build", "nowhere"]);
    assert!(
        answer.starts_with("exit 2") && answer.contains("the context `nowhere` does not exist"),
        "{answer}"
    );
}

/// The log of a build may lie in its own context.
#[test]
fn its_own_log_is_no_part_of_the_context() {
    let context = TestContext::empty();
    context.write("a", "A");
    context.write("Dockerfile", "FROM scratch\nCOPY . /\n");
    let log = fs::File::create(context.path("build.log")).unwrap();
    let mut command =
        context.command(&["build", "--progress", "plain", "-o", "type=oci,dest=../out,tar=false", "."]);
    let status = command.stdout(log.try_clone().unwrap()).stderr(log).status().unwrap();
    assert!(status.success(), "{}", context.read("build.log"));
    let files: Vec<String> = Layout::open(&context.folder().join("out")).files().into_keys().collect();
    assert_eq!(files, ["Dockerfile", "a"]);
}

/// A tar on standard input.
fn with_stdin(context: &TestContext, args: &[&str], archive: &[u8]) -> Output {
    let file = context.folder().join("stdin.tar");
    fs::write(&file, archive).unwrap();
    let mut command = context.command(args);
    let output = command.stdin(fs::File::open(&file).unwrap()).output().unwrap();
    context.output(output.status, &output.stdout, &output.stderr)
}

fn archive(entries: &[(&str, tar::EntryType, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, kind, text) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        let data = if *kind == tar::EntryType::Regular { text.as_bytes() } else { &[] };
        header.set_size(data.len() as u64);
        match kind {
            tar::EntryType::Symlink => header.set_link_name(text).unwrap(),
            tar::EntryType::Char | tar::EntryType::Block => {
                header.set_device_major(1).unwrap();
                header.set_device_minor(3).unwrap();
            }
            _ => {}
        }
        archive.append_data(&mut header, path, data).unwrap();
    }
    archive.into_inner().unwrap()
}

/// Where wbuild unpacks archives is nobody's business.
#[test]
fn what_is_wrong_with_an_archive_is_said_of_the_archive() {
    use tar::EntryType::{Directory, Regular, Symlink};
    let context = TestContext::empty();
    let other = [("a", Regular, "A"), ("folder", Directory, "")];
    let mut shown = String::new();
    for (args, entries) in [
        (&["build", "-"][..], &other[..]),
        (&["build", "-f", "docker/File", "-"], &other),
        (&["build", "-f", "folder", "-"], &other),
        (&["build", "-"], &[("Dockerfile", Symlink, "/etc/passwd")]),
        (&["build", "-"], &[("Dockerfile", Symlink, "Dockerfile")]),
        (&["build", "-"], &[("Dockerfile", Regular, "FROM scratch\nCOPY missing /\n")]),
        (
            &["build", "-"],
            &[("Dockerfile", Regular, "FROM scratch\nCOPY loop /\n"), ("loop", Symlink, "loop")],
        ),
    ] {
        let answer = with_stdin(&context, args, &archive(entries));
        assert!(answer.code != 0 && !answer.stderr.contains("/state/"), "{answer}");
        let lines =
            answer.stderr.lines().filter(|line| !line.starts_with("failed ") && !line.starts_with('#'));
        shown.push_str(&lines.collect::<Vec<_>>().join("\n"));
        shown.push('\n');
    }
    assert_snapshot!(shown);
}

#[test]
fn devices_of_an_archive_are_named() {
    use tar::EntryType::{Block, Char, Fifo, Regular};
    let context = TestContext::empty();
    let entries = [
        ("Dockerfile", Regular, "FROM scratch\nCOPY . /\n"),
        ("dev/null", Char, ""),
        ("dev/disk", Block, ""),
        ("fifo", Fifo, ""),
    ];
    let args = ["build", "--progress", "plain", "-o", "type=oci,dest=../out,tar=false", "-"];
    let built = with_stdin(&context, &args, &archive(&entries));
    assert_eq!(built.code, 0, "{built}");
    let said =
        "left out of the build context: devices of the archive on standard input: `dev/null`, `dev/disk`";
    assert!(built.stderr.contains(said), "{built}");
    let files: Vec<String> = Layout::open(&context.folder().join("out")).files().into_keys().collect();
    assert_eq!(files, ["Dockerfile", "dev", "fifo"]);
}

/// As buildx: a build argument, else the variable, else a default in the Dockerfile.
#[test]
fn the_time_of_an_image() {
    let dockerfile =
        "ARG SOURCE_DATE_EPOCH=300\nFROM scratch\nARG SOURCE_DATE_EPOCH\nLABEL epoch=$SOURCE_DATE_EPOCH\n";
    for (variable, args, created) in [
        (None, &[][..], "1970-01-01T00:05:00Z"),
        (Some("100"), &[], "1970-01-01T00:01:40Z"),
        (Some("100"), &["--build-arg", "SOURCE_DATE_EPOCH=200"], "1970-01-01T00:03:20Z"),
        (Some("100"), &["--build-arg", "SOURCE_DATE_EPOCH="], "1970-01-01T00:00:01Z"),
        (Some(""), &[], "1970-01-01T00:05:00Z"),
    ] {
        let mut context = TestContext::empty();
        if let Some(value) = variable {
            context = context.env("SOURCE_DATE_EPOCH", value);
        }
        context.write("Dockerfile", dockerfile);
        let all = [args, &["-o", "type=oci,dest=../out,tar=false", "."]].concat();
        let built = build(&context, &all);
        assert_eq!(built.code, 0, "{built}");
        let config = Layout::open(&context.folder().join("out")).config();
        assert_eq!(config["created"], created, "{variable:?} {args:?}");
        if variable == Some("100") && args.is_empty() {
            assert_eq!(config["config"]["Labels"]["epoch"], "100", "a stage can declare it");
        }
    }
}
