//! Every fault of a registry × builds from it, builds into it, and copies between two: the right result or a clear error,
//! nothing half done, and a state directory that the next build uses.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use wbuild_testkit::{FakeRegistry, Fault};

use crate::context::{Output, TestContext, base_layout, bases};

/// Cases at the same time: most of them wait.
const AT_ONCE: usize = 8;

const ALWAYS: usize = usize::MAX;

/// What goes wrong, and how often.
#[derive(Clone, Debug)]
struct Case {
    method: &'static str,
    path: &'static str,
    times: usize,
    fault: Fault,
}

/// What helps against it is to try again: the first of two tries may meet it.
fn passing() -> Vec<Fault> {
    let statuses = [408, 500, 503].map(Fault::Status);
    let others = [Fault::Limited(0), Fault::Cut(0), Fault::Cut(100), Fault::Held(100), Fault::Dripped];
    statuses.into_iter().chain(others).collect()
}

/// The same for what is sent.
fn passing_uploads() -> Vec<Fault> {
    let uploads = [Fault::CutUpload(100), Fault::LostUpload(100), Fault::HeldUpload(100), Fault::LostAnswer];
    passing()
        .into_iter()
        .filter(|fault| !matches!(fault, Fault::Cut(_) | Fault::Held(_)))
        .chain(uploads)
        .collect()
}

/// What stays as it is, however often it is tried.
fn lasting() -> Vec<Fault> {
    let statuses = [400, 401, 403, 404, 405, 413, 416].map(Fault::Status);
    let others = [
        Fault::WrongByte,
        Fault::Shortened,
        Fault::WrongDigestHeader,
        Fault::Length(7),
        Fault::Length(100_000_000),
        Fault::Compressed,
        Fault::Redirect("http://127.0.0.1:1/nothing".to_owned()),
        Fault::Redirect("file:///etc/passwd".to_owned()),
        Fault::RedirectLoop,
        Fault::UploadsAt("http://127.0.0.1:1".to_owned()),
        Fault::NoRange,
        Fault::TokensEnd,
    ];
    statuses.into_iter().chain(others).collect()
}

fn cases(places: &[(&'static str, &'static str)], passing: &[Fault]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (method, path) in places.iter().copied() {
        let case = |times: usize, fault: &Fault| Case { method, path, times, fault: fault.clone() };
        cases.extend(passing.iter().map(|fault| case(1, fault)));
        let waits = |fault: &&Fault| !matches!(fault, Fault::Held(_) | Fault::HeldUpload(_) | Fault::Dripped);
        cases.extend(passing.iter().filter(waits).chain(&lasting()).map(|fault| case(ALWAYS, fault)));
    }
    cases
}

/// Calls `work` for every case, some at a time; fails with what it says about those that are not as they should be.
fn each(cases: &[Case], work: impl Fn(&Case) -> Result<(), String> + Sync) {
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(why) = work(case) {
                        wrong.lock().unwrap().push(format!("{case:?}: {why}"));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
}

/// A world that asks registries, twice at most and not for long.
fn world() -> TestContext {
    TestContext::empty()
        .env("WBUILD_OFFLINE", "0")
        .env("WBUILD_HTTP_TIMEOUT", "2")
        .env("WBUILD_HTTP_RETRIES", "1")
}

/// A registry with the image of a layout as `team/base:1`.
fn with_image(layout: &Path) -> FakeRegistry {
    let registry = FakeRegistry::start().unwrap();
    let blob = |digest: &Value| {
        let hex = digest.as_str().unwrap().trim_start_matches("sha256:");
        std::fs::read(layout.join("blobs/sha256").join(hex)).unwrap()
    };
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let entry = &index["manifests"][0];
    let bytes = blob(&entry["digest"]);
    let manifest: Value = serde_json::from_slice(&bytes).unwrap();
    for part in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        registry.put_blob("team/base", &blob(&part["digest"]));
    }
    registry.put_manifest("team/base", Some("1"), entry["mediaType"].as_str().unwrap(), &bytes);
    registry
}

/// What went wrong, if it is not said as it should be.
fn clear(said: &Output, hosts: &[&FakeRegistry], repositories: &[&str]) -> Result<(), String> {
    let names = |text: &str| said.stderr.contains(text);
    let right = said.code == 1
        && said.stderr.contains("error: ")
        && said.stderr.contains("hint")
        && hosts.iter().any(|host| names(&host.host()))
        && repositories.iter().any(|repository| names(repository))
        && !said.stderr.contains("panicked");
    if right { Ok(()) } else { Err(format!("it is not said what is wrong: {said}")) }
}

/// That a case ended well when it had to.
fn expected(case: &Case, said: &Output) -> Result<(), String> {
    let passes = case.times == 1;
    if passes && said.code != 0 { Err(format!("it did not get over it: {said}")) } else { Ok(()) }
}

fn same(what: &str, found: &str, expected: &str) -> Result<(), String> {
    if found.trim() == expected { Ok(()) } else { Err(format!("{what}: {found} and not {expected}")) }
}

fn ok(said: &Output) -> Result<(), String> {
    if said.code == 0 { Ok(()) } else { Err(said.to_string()) }
}

/// Whether there is a tag; then it is that of this manifest, and all blobs are there.
fn whole(registry: &FakeRegistry, repository: &str, tag: &str, right: &str) -> Result<bool, String> {
    let Some(bytes) = registry.manifest(repository, tag) else { return Ok(false) };
    if registry.manifest(repository, right).as_ref() != Some(&bytes) {
        return Err(format!("{repository}:{tag} is another image"));
    }
    let manifest: Value = serde_json::from_slice(&bytes).unwrap();
    for part in manifest["layers"].as_array().unwrap().iter().chain([&manifest["config"]]) {
        let digest = part["digest"].as_str().unwrap();
        let there = registry.blob(repository, &digest.parse().unwrap());
        if there.is_none() {
            return Err(format!("{repository}:{tag} is there, and {digest} is not"));
        }
    }
    Ok(true)
}

/// The base image of this machine, or one without a shell, for which there is no RUN.
fn base(context: &TestContext) -> (std::path::PathBuf, &'static str) {
    if bases().is_some() {
        return (base_layout("alpine:3.23"), "RUN echo built > /built\n");
    }
    context.write("base/etc/alpine-release", "3");
    context.write("base/Dockerfile", "FROM scratch\nCOPY etc /etc\n");
    let said =
        context.run(&["build", "--progress", "quiet", "-o", "type=oci,tar=false,dest=base-image", "base"]);
    assert_eq!(said.code, 0, "{said}");
    (context.path("base-image"), "")
}

#[test]
fn builds_from_it() {
    let made = TestContext::empty();
    let (layout, run) = base(&made);
    let build = |context: &TestContext, registry: &FakeRegistry| {
        let name = format!("{}/team/base:1", registry.host());
        let text = format!(
            "FROM {name}\n{run}FROM {name}\nCOPY --from=0 /etc/alpine-release /a\n{run}COPY --from={name} /etc /b\n"
        );
        context.write("app/Dockerfile", &text);
        context.run(&["build", "--progress", "plain", "-o", "type=oci,tar=false,dest=out", "app"])
    };
    let right = build(&world(), &with_image(&layout)).stdout;
    let right = right.trim();
    assert!(right.starts_with("sha256:"), "{right}");
    each(&cases(&[("GET", "/manifests/"), ("GET", "/blobs/")], &passing()), |case| {
        let (context, registry) = (world(), with_image(&layout));
        registry.plan(case.method, case.path, case.times, case.fault.clone());
        let said = build(&context, &registry);
        expected(case, &said)?;
        match said.code {
            0 => same("the image", &said.stdout, right)?,
            _ => {
                clear(&said, &[&registry], &["team/base"])?;
                if context.path("out").exists() {
                    return Err("there is something where the image should be".to_owned());
                }
            }
        }
        ok(&context.run(&["cache", "verify"]))?;
        registry.forgive();
        let said = build(&context, &registry);
        ok(&said)?;
        same("the next image", &said.stdout, right)
    });
}

#[test]
fn builds_into_it() {
    let context = world();
    let (layout, run) = base(&context);
    context.write("app/Dockerfile", &format!("FROM base\n{run}COPY Dockerfile /a\n{run}"));
    let flag = format!("base=oci-layout://{}", layout.display());
    let push = |registry: &FakeRegistry, build_again: bool| {
        let name = |rest: &str| format!("{}/{rest}", registry.host());
        let other = format!("type=registry,name={}", name("team/other:1"));
        let tags = [name("team/app:1"), name("team/app:2")];
        let mut args = vec!["build", "--progress", "plain", "--build-context", &flag, "--push", "-o", &other];
        args.extend(tags.iter().flat_map(|tag| ["-t", tag]));
        args.extend(build_again.then_some("--no-cache"));
        args.push("app");
        context.run(&args)
    };
    let right = push(&FakeRegistry::start().unwrap(), true).stdout;
    let right = right.trim();
    assert!(right.starts_with("sha256:"), "{right}");
    // What is asked before is asked by copies, too.
    let places = [("POST", "/uploads/"), ("PUT", "/uploads/"), ("PUT", "/manifests/")];
    each(&cases(&places, &passing_uploads()), |case| {
        let registry = FakeRegistry::start().unwrap();
        registry.plan(case.method, case.path, case.times, case.fault.clone());
        let said = push(&registry, true);
        expected(case, &said)?;
        if said.code != 0 {
            clear(&said, &[&registry], &["team/app", "team/other"])?;
        }
        let names = [("team/app", "1"), ("team/app", "2"), ("team/other", "1")];
        for (repository, tag) in names {
            if !whole(&registry, repository, tag, right)? && said.code == 0 {
                return Err(format!("{repository}:{tag} is not there"));
            }
        }
        registry.forgive();
        let said = push(&registry, false);
        ok(&said)?;
        for (repository, tag) in names {
            if !whole(&registry, repository, tag, right)? {
                return Err(format!("{repository}:{tag} is not there then"));
            }
        }
        Ok(())
    });
}

#[test]
fn copies() {
    let made = TestContext::empty();
    made.write("files/f", &"hello\n".repeat(10_000));
    made.write("files/Dockerfile", "FROM scratch\nCOPY f /f\nCOPY f /g\n");
    let said = made.run(&["build", "--progress", "quiet", "-o", "type=oci,tar=false,dest=image", "files"]);
    let right = said.stdout.trim();
    let from = [("GET", "/manifests/"), ("GET", "/blobs/")];
    let to = [
        ("HEAD", "/blobs/"),
        ("HEAD", "/manifests/"),
        ("POST", "/uploads/"),
        ("PUT", "/uploads/"),
        ("PUT", "/manifests/"),
    ];
    let all: Vec<Case> = cases(&from, &passing()).into_iter().chain(cases(&to, &passing_uploads())).collect();
    each(&all, |case| {
        let (source, target) = (with_image(&made.path("image")), FakeRegistry::start().unwrap());
        let context = world();
        let at = if case.method == "GET" { &source } else { &target };
        at.plan(case.method, case.path, case.times, case.fault.clone());
        let names =
            [format!("{}/team/base:1", source.host()), format!("docker://{}/team/copy:1", target.host())];
        let copy = || context.run(&["copy", &names[0], &names[1]]);
        let said = copy();
        expected(case, &said)?;
        let there = whole(&target, "team/copy", "1", right)?;
        match said.code {
            0 if !there => return Err("the copy is not there".to_owned()),
            0 => {}
            _ => clear(&said, &[&source, &target], &["team/base", "team/copy"])?,
        }
        ok(&context.run(&["cache", "verify"]))?;
        at.forgive();
        ok(&copy())?;
        if whole(&target, "team/copy", "1", right)? {
            Ok(())
        } else {
            Err("the next copy is not there".to_owned())
        }
    });
}
