//! The cases of the conformance corpus that Dockerfile text alone decides: errors with their words and lines, lint, and what
//! instructions put into an image's configuration and into files from heredocs. The corpus is not part of the repository:
//! `WBUILD_CONFORMANCE_CASES` names its `cases` folder.
#![expect(clippy::disallowed_methods, reason = "the corpus lies outside of the repository")]
#![expect(clippy::unwrap_used, reason = "a corpus of another form is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use wbuild_dockerfile::lint::{BaseImage, Ignored, Lint};
use wbuild_dockerfile::{
    Base, BaseFacts, Command, CommandLine, GlobalScope, Healthcheck, Settings, Source, StageGraph,
    StageScope, Step, created_by, parse,
};
use wbuild_oci::Platform;
use wbuild_report::Diagnostic;

/// What a build leaves behind, as far as it is known without running anything.
#[derive(Default, Clone)]
struct Image {
    config: BTreeMap<String, Value>,
    files: BTreeMap<String, String>,
    shell: Vec<String>,
    cmd_set: bool,
    history: Vec<String>,
}

fn base(name: &str) -> BaseFacts {
    let path = ("PATH".to_owned(), wbuild_dockerfile::DEFAULT_PATH.to_owned());
    let env = match name {
        "conf/full:1" => vec![
            path,
            ("FOO".to_owned(), "base".to_owned()),
            ("EMPTY".to_owned(), String::new()),
            ("SPACED".to_owned(), "a b".to_owned()),
        ],
        "conf/noenv:1" => Vec::new(),
        _ => vec![path],
    };
    BaseFacts { env, workdir: if name == "conf/full:1" { "/srv/app".to_owned() } else { String::new() } }
}

fn base_config(name: &str) -> BTreeMap<String, Value> {
    match name {
        "conf/full:1" => BTreeMap::from([
            ("Labels".to_owned(), json!({"a": "1", "b": "two"})),
            ("Entrypoint".to_owned(), json!(["/entry", "x"])),
            ("Cmd".to_owned(), json!(["c1", "c2"])),
        ]),
        _ => BTreeMap::new(),
    }
}

fn dockerfile_text(case: &Value) -> Option<Vec<u8>> {
    let name = case["dockerfile"].as_str().unwrap_or("Dockerfile");
    let file = match name.strip_prefix('@') {
        Some(outside) => {
            let (folder, file) = outside.split_once('/')?;
            &case["extra"][folder][file]
        }
        None => &case["files"][name],
    };
    if let Some(link) = file["symlink"].as_str() {
        return case["files"][link]["text"].as_str().map(|text| text.as_bytes().to_vec());
    }
    if let Some(pieces) = file["gen"].as_array() {
        let text: String = pieces
            .iter()
            .map(|piece| {
                piece[0].as_str().unwrap().repeat(usize::try_from(piece[1].as_u64().unwrap()).unwrap())
            })
            .collect();
        return Some(text.into_bytes());
    }
    // The runner replaces this with the address of a server of its own.
    file["text"].as_str().map(|text| text.replace("@@HTTP@@", "http://127.0.0.1:1").into_bytes())
}

fn build(case: &Value, bytes: Vec<u8>) -> Result<Image, Vec<Diagnostic>> {
    let source = Source::decode("Dockerfile", bytes).map_err(|error| vec![*error])?;
    let (dockerfile, _) = parse(&source).into_result()?;
    let mut settings = Settings::plain(Platform::linux("amd64"));
    for (name, value) in case["args"]["build_args"].as_object().into_iter().flatten() {
        settings.build_args.insert(name.clone(), value.as_str().unwrap().to_owned());
    }
    settings.target = case["args"]["target"].as_str().map(str::to_owned);
    let one = |error: Box<Diagnostic>| vec![*error];
    let global = Arc::new(GlobalScope::new(&dockerfile, settings).map_err(one)?);
    let lines: Vec<_> = dockerfile
        .stages
        .iter()
        .map(|stage| global.from_line(stage).map_err(one))
        .collect::<Result<_, _>>()?;
    let target = dockerfile.target(case["args"]["target"].as_str()).map_err(one)?;
    let graph = StageGraph::new(&dockerfile, &lines, &|_| false)?;
    let reachable = graph.reachable(target);
    let forward = graph.forward_uses(&dockerfile, &reachable);
    if !forward.is_empty() {
        return Err(forward);
    }
    let mut done: BTreeMap<usize, (StageScope, Image)> = BTreeMap::new();
    for index in reachable {
        let (mut scope, mut image) = match graph.base(index) {
            Base::Stage(index) => (done[index].0.child(), done[index].1.clone()),
            Base::Scratch => (StageScope::new(&global, &BaseFacts::default()), Image::default()),
            Base::Image(name) => {
                let image = Image { config: base_config(name), ..Image::default() };
                (StageScope::new(&global, &base(name)), image)
            }
        };
        image.cmd_set = false;
        for instruction in &dockerfile.stages[index].instructions {
            let before = scope.clone();
            let applied = scope.apply(instruction).map_err(one)?;
            let shell = if image.shell.is_empty() {
                vec!["/bin/sh".to_owned(), "-c".to_owned()]
            } else {
                image.shell.clone()
            };
            image.history.extend(created_by(&applied.step, &shell, &before.declared()));
            record(&mut image, applied.step);
        }
        let env: Map<String, Value> = scope
            .image_env()
            .entries()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), json!(value)))
            .collect();
        image.config.insert("Env".to_owned(), Value::Object(env));
        done.insert(index, (scope, image));
    }
    Ok(done.remove(&target).map(|(_, image)| image).unwrap_or_default())
}

fn record(image: &mut Image, step: Step) {
    let shell = if image.shell.is_empty() {
        vec!["/bin/sh".to_owned(), "-c".to_owned()]
    } else {
        image.shell.clone()
    };
    let argv = |command: Command| match command {
        Command::Exec(argv) => json!(argv),
        Command::Shell(text) => json!(shell.iter().cloned().chain([text]).collect::<Vec<_>>()),
    };
    let config = &mut image.config;
    match step {
        Step::Label(labels) => {
            let all = config.entry("Labels".to_owned()).or_insert_with(|| json!({}));
            for (key, value) in labels {
                all[key] = json!(value);
            }
        }
        Step::Cmd(command) => {
            image.cmd_set = true;
            config.insert("Cmd".to_owned(), argv(command));
        }
        Step::Entrypoint(command) => {
            config.insert("Entrypoint".to_owned(), argv(command));
            if !image.cmd_set {
                config.remove("Cmd");
            }
        }
        Step::Shell(words) => {
            config.insert("Shell".to_owned(), json!(words));
            image.shell = words;
        }
        Step::Expose(ports) => {
            let all = config.entry("ExposedPorts".to_owned()).or_insert_with(|| json!([]));
            let list = all.as_array_mut().unwrap();
            list.extend(ports.iter().map(|port| json!(port.to_string())));
        }
        Step::Healthcheck(Healthcheck::Check { command, .. }) => {
            let test = match command {
                CommandLine::Exec(words) => {
                    std::iter::once("CMD".to_owned()).chain(words.into_iter().map(|word| word.text)).collect()
                }
                CommandLine::Shell(text) => vec!["CMD-SHELL".to_owned(), text.text],
            };
            config.insert("Healthcheck".to_owned(), json!({ "Test": test }));
        }
        Step::Copy(step) | Step::Add(step) => {
            for file in step.inline {
                let path = match step.target.strip_suffix('/') {
                    Some(folder) => format!("{folder}/{}", file.name),
                    None => step.target.clone(),
                };
                image.files.insert(path.trim_start_matches('/').to_owned(), file.content);
            }
        }
        _ => {}
    }
}

fn check_failure(id: &str, want: &Value, outcome: Result<Image, Vec<Diagnostic>>) {
    let Err(errors) = outcome else { panic!("{id}: builds") };
    let text: String = errors.iter().map(|error| format!("{error}\n{}\n", error.hints.join("\n"))).collect();
    for word in want["words"].as_array().into_iter().flatten() {
        let any: Vec<&str> = match word.as_array() {
            Some(any) => any.iter().filter_map(Value::as_str).collect(),
            None => word.as_str().into_iter().collect(),
        };
        assert!(any.iter().any(|word| text.contains(word)), "{id}: {any:?} not in\n{text}");
    }
    if let Some(line) = want["line"].as_u64() {
        assert!(text.contains(&format!("Dockerfile:{line}:")), "{id}: line {line} not in\n{text}");
    }
    assert_eq!(errors.len(), 1, "{id}: one mistake, one error:\n{text}");
}

fn check_image(id: &str, case: &Value, image: &Image) {
    let skip: BTreeSet<&str> =
        case["check"]["env_skip"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (key, wanted) in case["want"]["config"].as_object().into_iter().flatten() {
        let mut actual = image.config.get(key).cloned().unwrap_or(Value::Null);
        if key == "Env" {
            actual.as_object_mut().unwrap().retain(|name, _| !skip.contains(name.as_str()));
        }
        if matches!(
            key.as_str(),
            "Env" | "Labels" | "Cmd" | "Entrypoint" | "Shell" | "ExposedPorts" | "Healthcheck"
        ) {
            assert_eq!(&actual, wanted, "{id}: {key}");
        }
    }
    for key in case["want"]["config_absent"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let actual = image.config.get(key).cloned().unwrap_or(Value::Null);
        let empty = match &actual {
            Value::Null => true,
            Value::Array(list) => list.is_empty(),
            Value::Object(map) => map.keys().all(|name| key == "Env" && skip.contains(name.as_str())),
            _ => false,
        };
        assert!(empty, "{id}: {key} is {actual}");
    }
    for (path, content) in &image.files {
        if let Some(wanted) = case["want"]["tree"][path]["x"].as_str() {
            assert_eq!(content, wanted, "{id}: {path}");
        }
    }
}

/// The rows that this build adds are the last ones.
fn check_history(id: &str, case: &Value, image: &Image) {
    let Some(wanted) = case["want"]["history"].as_array() else { return };
    let bare = |text: &str| text.strip_suffix(" # buildkit").unwrap_or(text).to_owned();
    let wanted: Vec<String> = wanted.iter().map(|row| bare(row[0].as_str().unwrap())).collect();
    let ours: Vec<String> = image.history.iter().map(|row| bare(row)).collect();
    assert!(wanted.ends_with(&ours), "{id}: {ours:#?}\nwanted {wanted:#?}");
}

struct IgnoreList(Vec<String>);

impl Ignored for IgnoreList {
    fn has_exceptions(&self) -> bool {
        self.0.iter().any(|pattern| pattern.starts_with('!'))
    }

    fn excludes_everything(&self) -> bool {
        self.0.iter().any(|pattern| matches!(pattern.as_str(), "*" | "**" | "**/*"))
    }

    /// Enough for the patterns of the cases: `name*` and `**/*.end`.
    fn excludes(&self, path: &str) -> bool {
        self.0.iter().any(|pattern| match pattern.strip_prefix("**/*") {
            Some(end) => path.ends_with(end),
            None => match pattern.strip_suffix('*') {
                Some(start) => path.starts_with(start),
                None => path == pattern,
            },
        })
    }
}

fn check_lint(id: &str, case: &Value, bytes: Vec<u8>) {
    let source = Source::decode("Dockerfile", bytes).unwrap();
    let parsed = parse(&source);
    assert!(!parsed.has_errors(), "{id}: {:?}", parsed.diagnostics);
    let global =
        Arc::new(GlobalScope::new(&parsed.dockerfile, Settings::plain(Platform::linux("amd64"))).unwrap());
    let ignored = case["files"][".dockerignore"]["text"].as_str();
    let ignored = ignored.map(|text| IgnoreList(text.lines().map(str::to_owned).collect()));
    let report = Lint {
        dockerfile: &parsed.dockerfile,
        global: &global,
        options: Lint::options(&parsed.dockerfile, &global).unwrap(),
        own_rules: false,
        stages: None,
        base: &|name| Some(BaseImage { facts: base(name), ..BaseImage::default() }),
        ignored: ignored.as_ref().map(|list| list as &dyn Ignored),
        context: None,
    }
    .run();
    let mut found: Vec<Value> =
        report.findings.iter().map(|finding| json!([finding.rule.name, finding.line])).collect();
    found.sort_by_key(ToString::to_string);
    assert_eq!(Value::Array(found), case["want"]["lint"], "{id}");
}

#[test]
fn cases_that_the_text_decides() {
    let Some(folder) = std::env::var_os("WBUILD_CONFORMANCE_CASES") else {
        println!("skipped: WBUILD_CONFORMANCE_CASES is not set");
        return;
    };
    let mut checked = 0;
    for area in ["parser", "vars", "lint", "stages", "config", "copy", "ignore", "run", "e2e", "cache"] {
        let mut paths: Vec<_> = std::fs::read_dir(Path::new(&folder).join(area))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        paths.sort();
        for path in paths {
            let case: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let id = path.file_stem().unwrap().to_string_lossy().into_owned();
            let Some(bytes) = dockerfile_text(&case) else {
                println!("{id}: has no Dockerfile");
                continue;
            };
            // Other areas are about what happens later, but their files must be understood.
            let decided_here = matches!(area, "parser" | "vars" | "lint");
            if case["want"].get("lint").is_some() {
                check_lint(&id, &case, bytes);
            } else if case["want"]["fail"] == true {
                let by_text = decided_here || matches!(id.get(..7), Some("stg-003" | "stg-008"));
                if by_text {
                    check_failure(&id, &case["want"], build(&case, bytes));
                }
            } else {
                match build(&case, bytes) {
                    Ok(image) if decided_here => check_image(&id, &case, &image),
                    // Triggers are run by the frontend.
                    Ok(image) if !id.contains("onbuild") => check_history(&id, &case, &image),
                    Ok(_) => {}
                    Err(errors) => panic!("{id}: {errors:#?}"),
                }
            }
            checked += 1;
        }
    }
    println!("{checked} cases");
    assert!(checked > 80, "{checked}");
}
