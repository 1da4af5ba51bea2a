//! What people get for a mistake in a Dockerfile: each message has its place, and says enough to fix the mistake without
//! opening documentation.

use std::fmt::Write as _;

use crate::context::{TestContext, skip};

/// Name, Dockerfile, further arguments.
type Mistake<'a> = (&'static str, &'a str, &'a [&'a str]);

fn gallery(mistakes: &[Mistake<'_>]) -> String {
    let mut out = String::new();
    for (name, dockerfile, args) in mistakes {
        let context = TestContext::empty();
        context.write("Dockerfile", dockerfile);
        context.write("package.json", "{}");
        context.write("src/index.js", "1");
        let mut arguments = vec!["build", "--progress", "quiet"];
        arguments.extend(*args);
        arguments.push(".");
        let answer = context.refused(&arguments);
        // How long the step took is no part of the message.
        let lines = answer.lines().filter(|line| !line.starts_with("failed ["));
        let _ = writeln!(out, "## {name}\n{}\n", lines.collect::<Vec<_>>().join("\n").trim_end());
    }
    out
}

#[test]
fn words() {
    let shown = gallery(&[
        ("an instruction with a typo", "FROM scratch\nCOYP a b\n", &[]),
        ("an instruction of another tool", "FROM scratch\nINCLUDE other\n", &[]),
        ("nothing", "", &[]),
        ("comments only", "# syntax check\n\n# nothing\n", &[]),
        ("no stage", "ARG VERSION=1\n", &[]),
        ("an instruction before FROM", "RUN true\nFROM scratch\n", &[]),
        ("a flag with a typo", "FROM scratch\nCOPY --chonw=1 package.json /\n", &[]),
        ("a flag without a value", "FROM scratch\nCOPY --chown package.json /\n", &[]),
        ("a flag twice", "FROM scratch\nCOPY --chown=1 --chown=2 package.json /\n", &[]),
        ("a flag where none is", "FROM scratch\nENV --global A=1\n", &[]),
        ("a boolean that is none", "FROM scratch\nCOPY --link=maybe package.json /\n", &[]),
        ("COPY with one word", "FROM scratch\nCOPY package.json\n", &[]),
        ("ENV without a value", "FROM scratch\nENV NAME\n", &[]),
        ("ENV with a word too many", "FROM scratch\nENV A=1 B\n", &[]),
        ("SHELL that is no list", "FROM scratch\nSHELL /bin/bash -c\n", &[]),
        ("a list with numbers", "FROM scratch\nCMD [\"sleep\", 5]\nSHELL [1]\n", &[]),
        ("a quote that is not closed", "FROM scratch\nENV A=\"1\nENV B=2\n", &[]),
        ("a heredoc that is not closed", "FROM scratch\nCOPY <<EOF /a\nhello\n", &[]),
        ("a directive twice", "# escape=\\\n# escape=`\nFROM scratch\n", &[]),
        ("an escape that is none", "# escape=x\nFROM scratch\n", &[]),
        ("two mistakes at once", "FROM scratch\nCOYP a b\nEXPOSE 99999\nENV NAME\n", &[]),
    ]);
    insta::assert_snapshot!(shown);
}

#[test]
fn stages() {
    let shown = gallery(&[
        ("FROM with a word too many", "FROM scratch AS a b\n", &[]),
        ("FROM without a name", "FROM\n", &[]),
        ("a stage with a bad name", "FROM scratch AS 1st\n", &[]),
        ("FROM of an argument without a value", "ARG BASE\nFROM $BASE\n", &[]),
        ("an argument declared too late", "FROM scratch\nARG BASE=scratch\nFROM ${BASE}\n", &[]),
        ("a target with a typo", "FROM scratch AS build\nFROM scratch AS runner\n", &["--target", "runer"]),
        ("a target where there are no names", "FROM scratch\n", &["--target", "runner"]),
        (
            "--from of a stage below",
            "FROM scratch AS a\nCOPY --from=b /x /x\nFROM scratch AS b\nCOPY package.json /x\nFROM a\n",
            &[],
        ),
        (
            "stages in a circle",
            "FROM scratch AS a\nCOPY --from=b / /\nFROM a AS b\nCOPY package.json /\n",
            &[],
        ),
        ("--from of an index that does not exist", "FROM scratch\nCOPY --from=7 /x /x\n", &[]),
        ("an image that is not at hand", "FROM node:22-alpine\nRUN true\n", &[]),
        ("a platform that is none", "FROM --platform=windows-95 scratch\n", &[]),
        ("an empty platform", "FROM --platform=$NOPE scratch\n", &[]),
    ]);
    insta::assert_snapshot!(shown);
}

#[test]
fn files() {
    let shown = gallery(&[
        ("a file that is not there", "FROM scratch\nCOPY pakage.json /\n", &[]),
        (
            "a file in a stage that is not there",
            "FROM scratch AS a\nCOPY src /s\nFROM scratch\nCOPY --from=a /s/index.ts /\n",
            &[],
        ),
        ("a URL for COPY", "FROM scratch\nCOPY https://example.com/a /\n", &[]),
        ("a repository for COPY", "FROM scratch\nCOPY https://example.com/a.git /\n", &[]),
        ("a mode that is none", "FROM scratch\nCOPY --chmod=rwx package.json /\n", &[]),
        (
            "an owner that nobody knows",
            "FROM scratch\nCOPY <<EOF /etc/passwd\nroot:x:0:0::/:\nEOF\nCOPY <<EOF /etc/group\nroot:x:0:\nEOF\nCOPY --chown=node package.json /\n",
            &[],
        ),
        ("an owner without a passwd file", "FROM scratch\nCOPY --chown=node package.json /\n", &[]),
        ("an owner that is too large", "FROM scratch\nCOPY --chown=4294967295 package.json /\n", &[]),
        ("a directory over a file", "FROM scratch\nCOPY package.json /src\nCOPY src /src\n", &[]),
        (
            "a file over a directory",
            "FROM scratch\nCOPY src /package.json/index.js/\nCOPY package.json /package.json\nCOPY package.json /\n",
            &[],
        ),
        (
            "a checksum of a local file",
            "FROM scratch\nADD --checksum=sha256:0000000000000000000000000000000000000000000000000000000000000000 package.json /\n",
            &[],
        ),
        ("a checksum that is none", "FROM scratch\nADD --checksum=md5:00 https://example.com/a /\n", &[]),
    ]);
    insta::assert_snapshot!(shown);
}

#[test]
fn settings() {
    let shown = gallery(&[
        ("a port that is none", "FROM scratch\nEXPOSE 99999\n", &[]),
        ("a protocol that is none", "FROM scratch\nEXPOSE 80/http\n", &[]),
        ("a signal that is none", "FROM scratch\nSTOPSIGNAL SIGFOO\n", &[]),
        ("a health check of another kind", "FROM scratch\nHEALTHCHECK CONNECT localhost\n", &[]),
        ("an interval without a unit", "FROM scratch\nHEALTHCHECK --interval=30 CMD true\n", &[]),
        ("a mount of a type that is none", "FROM scratch\nRUN --mount=type=cahce,target=/x true\n", &[]),
        ("a mount key with a typo", "FROM scratch\nRUN --mount=type=cache,tarjet=/x true\n", &[]),
        ("a mount over the root", "FROM scratch\nRUN --mount=type=tmpfs,target=/ true\n", &[]),
        ("sharing that is none", "FROM scratch\nRUN --mount=type=cache,target=/x,sharing=lock true\n", &[]),
        ("the host's network without leave", "FROM scratch\nRUN --network=host true\n", &[]),
        ("a modifier that is none", "FROM scratch\nENV A=${B:=c}\n", &[]),
        (
            "a variable that must be set",
            "FROM scratch\nARG TAG\nLABEL tag=\"${TAG:?give it with --build-arg}\"\n",
            &[],
        ),
        ("ONBUILD of ONBUILD", "FROM scratch\nONBUILD ONBUILD RUN true\n", &[]),
        (
            "a time that is none",
            "FROM scratch\nARG SOURCE_DATE_EPOCH\n",
            &["--build-arg", "SOURCE_DATE_EPOCH=today"],
        ),
    ]);
    insta::assert_snapshot!(shown);
}

/// A platform that nobody builds on, and that this machine does not emulate; else the tests are skipped.
fn foreign() -> Option<&'static str> {
    let emulated = std::path::Path::new("/proc/sys/fs/binfmt_misc/qemu-s390x").exists();
    if emulated || std::env::consts::ARCH == "s390x" {
        skip("this machine runs programs for s390x");
        return None;
    }
    Some("linux/s390x")
}

#[test]
fn programs_of_other_processors() {
    let Some(platform) = foreign() else { return };
    let for_one = format!(
        "FROM scratch AS own\nCOPY src /src\nRUN [\"/src/never\"]\n\
         FROM --platform={platform} scratch AS other\nCOPY src /src\nRUN [\"/src/first\"]\nRUN [\"/src/second\"]\n\
         FROM scratch\nCOPY --from=other /src /src\nCOPY --from=own /src /own\n"
    );
    let shown = gallery(&[
        ("FROM --platform", &for_one, &[]),
        ("--platform", "FROM scratch\nCOPY src /src\nRUN [\"/src/index.js\"]\n", &["--platform", platform]),
        (
            "--platform with another system",
            "FROM scratch\nRUN [\"a.exe\"]\n",
            &["--platform", "windows/amd64"],
        ),
    ]);
    let host = ["linux/amd64", "linux/arm64"].into_iter().find(|host| shown.contains(&format!("is {host} ")));
    insta::assert_snapshot!(shown.replace(host.unwrap(), "[HOST]"));
}

#[test]
fn stages_for_other_processors_that_run_nothing_of_theirs() {
    let Some(platform) = foreign() else { return };
    let context = TestContext::empty();
    context.write("a", "a");
    context.write(
        "Dockerfile",
        "FROM scratch AS unused\nRUN [\"/never\"]\nFROM scratch\nCOPY a /a\nWORKDIR /work\nCMD [\"/a\"]\n",
    );
    let built =
        context.run(&["build", ".", "--platform", platform, "--output", "type=oci,dest=../image,tar=false"]);
    assert_eq!(built.code, 0, "{built}");
}

#[test]
fn a_stage_that_is_nearly_named() {
    let context = TestContext::empty();
    context.write(
        "Dockerfile",
        "FROM scratch AS builder\nCOPY Dockerfile /\nFROM scratch\nCOPY --from=buildr / /\n",
    );
    let said = context.run(&["build", "."]);
    assert!(said.code == 1 && said.stderr.contains("hint: did you mean the stage `builder`?"), "{said}");
    context.write("Dockerfile", "FROM scratch\nCOPY --from=alpine / /\n");
    let said = context.run(&["build", "."]);
    assert!(said.code == 1 && !said.stderr.contains("did you mean"), "{said}");
}
