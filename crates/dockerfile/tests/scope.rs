//! ARG and ENV: rows A01 to A12, and what was seen on the running builder where it differs.

mod common;

use common::walk;
use wbuild_dockerfile::expand::MAX_VALUE_BYTES;
use wbuild_dockerfile::{MountKind, Step};

fn labels(walked: &common::Walked) -> Vec<(String, String)> {
    let steps = walked.applied.iter().filter_map(|applied| match &applied.step {
        Step::Label(labels) => Some(labels.clone()),
        _ => None,
    });
    steps.flatten().collect()
}

fn label(text: &str, build_args: &[(&str, &str)], key: &str) -> String {
    let walked = walk(text, build_args, &[("BASE", "b")]).unwrap_or_else(|errors| panic!("{errors:#?}"));
    labels(&walked).into_iter().rfind(|(name, _)| name == key).map(|(_, value)| value).unwrap_or_default()
}

#[test]
fn a01_a_global_arg_has_to_be_imported() {
    let text = "ARG V=1\nFROM scratch\nLABEL before=x$V\nARG V\nLABEL after=x$V";
    assert_eq!((label(text, &[], "before"), label(text, &[], "after")), ("x".into(), "x1".into()));
    assert_eq!(label("ARG V=1\nFROM scratch\nARG V=2\nLABEL l=$V", &[], "l"), "2", "its own default counts");
    assert_eq!(label("ARG V=1\nFROM scratch\nARG V=2\nLABEL l=$V", &[("V", "3")], "l"), "3");
}

#[test]
fn a02_args_are_inherited_by_from_stage() {
    assert_eq!(label("FROM scratch AS a\nARG X=1\nFROM a\nLABEL l=x$X", &[], "l"), "x1");
    assert_eq!(label("FROM scratch AS a\nARG X=1\nFROM scratch\nLABEL l=x$X", &[], "l"), "x");
}

#[test]
fn a03_empty_is_not_absent() {
    let walked = walk("FROM scratch\nARG A\nARG B=\nARG C=c", &[("C", "")], &[]).unwrap();
    assert_eq!((walked.value("A"), walked.value("B"), walked.value("C")), (None, Some(""), Some("")));
}

#[test]
fn a04_the_later_of_arg_and_env_wins_and_the_image_keeps_env() {
    let walked = walk("FROM scratch\nARG A=arg\nENV A=env\nENV B=env\nARG B=arg", &[], &[]).unwrap();
    assert_eq!((walked.value("A"), walked.value("B")), (Some("env"), Some("arg")));
    let image = walked.last().image_env();
    assert_eq!((image.get("A"), image.get("B")), (Some("env"), Some("env")));
    assert_eq!(walked.last().declared(), [("A", "env"), ("B", "arg")]);
}

#[test]
fn a05_declared_args_in_order_of_their_first_declaration() {
    let walked =
        walk("FROM scratch AS a\nARG B=1\nARG A\nFROM a\nARG C=3\nARG B=2", &[("A", "x")], &[]).unwrap();
    assert_eq!(walked.last().declared(), [("B", "2"), ("A", "x"), ("C", "3")]);
    assert_eq!(walked.scopes[0].declared(), [("B", "1"), ("A", "x")], "the parent does not change");
    let walked = walk("FROM scratch\nARG HIDDEN", &[], &[]).unwrap();
    assert_eq!(walked.last().declared(), [("HIDDEN", "")]);
}

#[test]
fn a06_defaults_are_expanded_with_what_is_there() {
    let text = "ARG FOO=123\nARG ABC=abc\nARG FOO=${FOO}${ABC}456\nARG FOO=${FOO}${FOO}\nFROM scratch\nARG FOO\nLABEL l=$FOO";
    assert_eq!(label(text, &[], "l"), "123abc456123abc456");
    assert_eq!(
        label("FROM x\nENV a=1\nARG b=${a}2$BASE\nENV c=${b}3\nARG d=$c$b\nLABEL l=$d", &[], "l"),
        "12b312b"
    );
    assert_eq!(
        label("FROM scratch\nENV a=hi\nENV a=bye b=$a\nLABEL l=$b", &[], "l"),
        "hi",
        "one instruction at once"
    );
    // A default that is not needed is not looked at.
    assert_eq!(label("FROM scratch\nARG V=${NO:?never}\nLABEL l=$V", &[("V", "given")], "l"), "given");
}

#[test]
fn a07_proxies_come_from_build_arguments() {
    let proxies = common::settings(&[("http_proxy", "p"), ("NO_PROXY", "n")]).proxies().unwrap();
    assert_eq!((proxies.http.as_str(), proxies.no.as_str(), proxies.https.as_str()), ("p", "n", ""));
    assert_eq!(common::settings(&[("X", "p")]).proxies(), None);
    let walked = walk("FROM scratch\nLABEL l=x$HTTP_PROXY", &[("HTTP_PROXY", "p")], &[]).unwrap();
    assert_eq!((walked.value("HTTP_PROXY"), walked.last().declared().len()), (None, 0));
}

#[test]
fn a08_platform_args_are_global() {
    let text = "FROM scratch AS build-linux\nFROM build-${TARGETOS}\nLABEL u=x$TARGETARCH\nARG TARGETARCH TARGETVARIANT\nLABEL a=$TARGETARCH v=[$TARGETVARIANT]";
    assert_eq!(
        (label(text, &[], "u"), label(text, &[], "a"), label(text, &[], "v")),
        ("x".into(), "amd64".into(), "[]".into())
    );
    assert_eq!(
        label("FROM scratch\nARG TARGETOS\nLABEL l=$TARGETOS", &[("TARGETOS", "plan9")], "l"),
        "plan9"
    );
}

#[test]
fn a09_the_target_stage_has_a_name() {
    assert_eq!(label("FROM scratch AS one\nARG TARGETSTAGE\nLABEL l=$TARGETSTAGE", &[], "l"), "one");
    assert_eq!(label("FROM scratch\nARG TARGETSTAGE\nLABEL l=$TARGETSTAGE", &[], "l"), "default");
}

#[test]
fn scanners_arguments_are_not_in_the_environment() {
    let walked = walk("FROM scratch\nARG BUILDKIT_SBOM_SCAN_STAGE=true", &[], &[]).unwrap();
    assert_eq!(walked.value("BUILDKIT_SBOM_SCAN_STAGE"), None);
    assert_eq!(walked.last().declared(), [("BUILDKIT_SBOM_SCAN_STAGE", "true")]);
}

#[test]
fn undefined_variables_are_noted_once_per_word() {
    let walked = walk(
        "FROM scratch\nARG known\nCOPY $knwon$knwon $knwon /a$known\nENV PATH=$PAHT:/x\nEXPOSE $PORTS",
        &[],
        &[],
    )
    .unwrap();
    let noted: Vec<Vec<(&str, Option<&str>)>> = walked
        .applied
        .iter()
        .map(|applied| applied.undefined.iter().map(|u| (u.name.as_str(), u.near.as_deref())).collect())
        .collect();
    assert_eq!(noted[1], [("knwon", None), ("knwon", None)], "a declared ARG without value is no candidate");
    assert_eq!(noted[2], [("PAHT", Some("PATH"))]);
    assert!(noted[3].is_empty(), "BuildKit says nothing about EXPOSE");
}

#[test]
fn doubling_is_an_error_at_once() {
    let doubling: String = (1..46).map(|n| format!("ENV A{n}=$A{}$A{}\n", n - 1, n - 1)).collect();
    let errors = common::errors(&format!("FROM scratch\nENV A0=xxxxxxxxxx\n{doubling}"));
    assert_eq!(errors[0].message, format!("the expanded value has more than {MAX_VALUE_BYTES} bytes"));
    let args: String = (1..46).map(|n| format!("ARG A{n}=$A{}$A{}\n", n - 1, n - 1)).collect();
    assert_eq!(common::errors(&format!("ARG A0=xxxxxxxxxx\n{args}FROM scratch")).len(), 1);
    let many: String = (0..20).map(|n| format!("ENV B{n}=$V\n")).collect();
    let errors = common::errors(&format!("FROM scratch\nENV V={}\n{many}", "v".repeat(60_000)));
    assert!(errors[0].message.contains("of this stage take more than 1048576 bytes"), "{}", errors[0]);
    let labels: String = (0..20).map(|n| format!("LABEL l{n}=$V\n")).collect();
    assert_eq!(common::errors(&format!("FROM scratch\nENV V={}\n{labels}", "v".repeat(60_000))).len(), 1);
}

#[test]
fn mounts_are_expanded_where_they_stand() {
    let text = "FROM scratch\nARG dir=c\nWORKDIR /w\nRUN --mount=type=cache,target=$dir,id=id-$dir --mount=type=secret,id=s,required true";
    let walked = walk(text, &[], &[]).unwrap();
    let Some(Step::Run(run)) = walked.applied.last().map(|applied| &applied.step) else { panic!("no RUN") };
    assert_eq!(run.mounts[0].target.as_deref(), Some("/w/c"));
    assert!(matches!(&run.mounts[0].kind, MountKind::Cache { id, .. } if id == "id-c"));
    assert_eq!(run.mounts[1].target.as_deref(), Some("/run/secrets/s"));
}

#[test]
fn working_directories_are_joined() {
    for (text, workdir) in [
        ("WORKDIR a\nWORKDIR b", "/a/b"),
        ("WORKDIR /a\nWORKDIR ../c", "/c"),
        ("WORKDIR /a/../b", "/a/../b"),
        ("ENV d=x\nWORKDIR /$d/\nWORKDIR y", "/x/y"),
        ("WORKDIR $none", "/"),
    ] {
        assert_eq!(
            walk(&format!("FROM scratch\n{text}"), &[], &[]).unwrap().last().workdir(),
            workdir,
            "{text}"
        );
    }
}

#[test]
fn a_copy_knows_its_target() {
    for (destination, target) in [
        (".", "/w/"),
        ("./", "/w/"),
        ("x", "/w/x"),
        ("x/", "/w/x/"),
        ("/x/.", "/x/"),
        ("/", "/"),
        ("\"\"", "/w/"),
        ("../y", "/y"),
    ] {
        let walked = walk(&format!("FROM scratch\nWORKDIR /w\nCOPY a {destination}"), &[], &[]).unwrap();
        let Some(Step::Copy(copy)) = walked.applied.last().map(|applied| &applied.step) else {
            panic!("no COPY")
        };
        assert_eq!(copy.target, target, "{destination}");
    }
}

#[test]
fn add_knows_what_it_fetches() {
    let add = |arguments: &str| {
        let walked = walk(&format!("FROM scratch\nADD {arguments} /"), &[], &[]).unwrap();
        match walked.applied.into_iter().last().map(|applied| applied.step) {
            Some(Step::Add(step)) => *step,
            other => panic!("{other:?}"),
        }
    };
    let digest = format!("sha256:{}", "a".repeat(64));
    assert_eq!(add(&format!("--checksum={digest} https://x/y")).checksum.unwrap().to_string(), digest);
    let git = add("--checksum=abc123 --keep-git-dir https://x/y.git#v1");
    assert_eq!((git.commit.as_deref(), git.keep_git_dir), (Some("abc123"), true));
    assert!(add("https://x/y.git?keep-git-dir=1").keep_git_dir);
    assert_eq!(add("--unpack=false a.tar").unpack, Some(false));
}
