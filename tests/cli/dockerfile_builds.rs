//! What `wbuild build` does besides what the conformance cases compare: outputs, streams, odd graphs.

use std::fs;
use std::process::Stdio;

use crate::context::{TestContext, bases};
use crate::layout::Layout;

fn build(context: &TestContext, args: &[&str]) -> crate::context::Output {
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
