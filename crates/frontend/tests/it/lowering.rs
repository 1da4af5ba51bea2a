use std::fmt::Write as _;

use wbuild_frontend::{Definition, NoTarget, RowDelta, Spec};
use wbuild_graph::{Capture, FileAction, Files, MountKind, Op, Source, Vertex};
use wbuild_report::Hint as _;

use crate::example::{Example, path, shown};

/// One line a vertex, with what decides about its result.
fn dump(definition: &Definition) -> String {
    let mut out = String::new();
    for (id, vertex) in definition.graph.iter() {
        let inputs: Vec<String> = vertex.inputs.iter().map(|input| input.0.to_string()).collect();
        let minor = if vertex.minor { "  " } else { "* " };
        let _ =
            writeln!(out, "{minor}{} [{}] {} = {}", id.0, inputs.join(" "), vertex.name, operation(vertex));
    }
    for (name, target) in &definition.targets {
        let _ = writeln!(
            out,
            "\n{name}: {} on {}",
            target.vertex.0,
            target.base_image.as_ref().map_or("scratch", |image| image.reference.as_str())
        );
        for row in &target.history {
            let _ =
                writeln!(out, "  {} {}", if row.delta != RowDelta::None { "+" } else { " " }, row.created_by);
        }
    }
    out
}

fn list<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn operation(vertex: &Vertex) -> String {
    match &vertex.op {
        Op::Source(Source::Scratch) => "scratch".to_owned(),
        Op::Source(Source::Image(image)) => format!("image {}", image.reference),
        Op::Source(Source::Local { files: Files::Paths(paths), .. }) => format!("context {}", list(paths)),
        Op::Source(other) => panic!("no source of a workspace: {other:?}"),
        Op::Exec(exec) => {
            let capture = match &exec.capture {
                Capture::All => "all".to_owned(),
                Capture::Outputs { include, exclude, .. } => {
                    format!("{} without {}", list(include), list(exclude))
                }
            };
            let env: Vec<String> =
                exec.env.iter().map(|one| format!("{}={} ({:?})", one.name, one.value, one.in_key)).collect();
            let mounts: Vec<String> = exec
                .mounts
                .iter()
                .map(|mount| match &mount.kind {
                    MountKind::Cache(cache) => format!("cache `{}` at {}", cache.id, mount.target),
                    MountKind::Secret { id, version, .. } => {
                        format!("secret {id}/{version:?} at {}", mount.target)
                    }
                    other => format!("{other:?}"),
                })
                .collect();
            let secrets: Vec<String> = exec
                .secret_env
                .iter()
                .map(|one| format!("{}={}/{:?}", one.name, one.id, one.version))
                .collect();
            format!(
                "exec {:?} in {}\n      captures {capture}\n      env {}\n      mounts {}\n      secrets {}",
                exec.argv,
                exec.cwd,
                env.join(", "),
                mounts.join(", "),
                secrets.join(", ")
            )
        }
        Op::File(file) => list(&file.actions.iter().map(action).collect::<Vec<_>>()),
        Op::Merge => "merge".to_owned(),
        Op::Diff => "diff".to_owned(),
        Op::AddUser(add) => format!("user {}:{} {}:{}", add.user, add.uid, add.group, add.gid),
        Op::Partition(partition) => {
            let parts: Vec<String> = partition
                .parts
                .iter()
                .map(|part| format!("{}({})", part.name, list(&part.include)))
                .collect();
            format!("partition {} {}", parts.join(" "), partition.rest)
        }
        Op::Select(select) => format!("without {}", list(&select.exclude)),
        Op::Assert(assert) => format!(
            "assert {}{}",
            list(&assert.exists.keys().collect::<Vec<_>>()),
            assert
                .no_dangling_links
                .as_ref()
                .map(|below| format!("no dangling links in {below}"))
                .unwrap_or_default()
        ),
    }
}

fn action(action: &FileAction) -> String {
    match action {
        FileAction::Copy(copy) => format!(
            "copy({}:{} to {} {:?})",
            copy.input,
            copy.source,
            copy.target,
            copy.owner.map(|o| (o.uid, o.gid))
        ),
        FileAction::Mkdir { path, .. } => format!("mkdir({path})"),
        FileAction::Mkfile { path, contents, mode, .. } => {
            format!("mkfile({path} {} {mode:o})", if contents.is_empty() { "empty" } else { "with contents" })
        }
        other => format!("{other:?}"),
    }
}

/// The vertices by name, as they would be serialised: what a key is made of, and more.
fn ops(definition: &Definition, prefix: &str) -> Vec<String> {
    let found = definition.graph.iter().filter(|(_, vertex)| vertex.name.starts_with(prefix));
    found.map(|(_, vertex)| serde_json::to_string(&vertex.op).unwrap()).collect()
}

fn all(definition: &Definition) -> String {
    serde_json::to_string(&definition.graph).unwrap()
}

fn lowered(example: &Example) -> Definition {
    example.lower().unwrap_or_else(|errors| panic!("{}", shown(&errors)))
}

#[test]
fn the_example() {
    let definition = lowered(&Example::new());
    assert_eq!(shown(&definition.warnings), "");
    insta::assert_snapshot!(dump(&definition));
}

#[test]
fn the_runner_has_the_configuration_of_the_dockerfile() {
    let definition = lowered(&Example::new());
    let config = serde_json::to_string_pretty(&definition.target("runner").unwrap().config).unwrap();
    insta::assert_snapshot!(config);
    let dev = serde_json::to_string_pretty(&definition.target("dev").unwrap().config).unwrap();
    insta::assert_snapshot!("dev_config", dev);
}

#[test]
fn lowering_is_deterministic() {
    let backwards = Example { backwards: true, ..Example::new() };
    assert_eq!(all(&lowered(&Example::new())), all(&lowered(&Example::new())));
    assert_eq!(all(&lowered(&Example::new())), all(&lowered(&backwards)));
}

#[test]
fn every_identity_is_used_once() {
    let definition = lowered(&Example::new());
    let mut identities: Vec<&str> =
        definition.graph.iter().map(|(_, vertex)| vertex.identity.as_str()).collect();
    let count = identities.len();
    identities.sort_unstable();
    identities.dedup();
    assert_eq!(identities.len(), count);
    assert!(identities.iter().all(|identity| identity.starts_with("ai-whisperers/web/")));
}

#[test]
fn a_script_is_no_reason_to_install() {
    let before = lowered(&Example::new());
    for (file, from, to) in [
        ("apps/web/package.json", "\"dev\": \"next dev\"", "\"dev\": \"next dev --turbo\""),
        ("packages/database/package.json", "prisma migrate deploy", "prisma migrate reset"),
        ("package.json", "\"turbo run dev\"", "\"turbo run dev --parallel\""),
        ("packages/ui/package.json", "\"version\": \"0.0.0\"", "\"version\": \"0.0.1\""),
    ] {
        let mut example = Example::new();
        example.edit(file, from, to);
        let after = lowered(&example);
        assert_eq!(ops(&before, "[deps]"), ops(&after, "[deps]"), "{file}");
        assert_eq!(ops(&before, "[base]"), ops(&after, "[base]"), "{file}");
    }
}

#[test]
fn a_dependency_is_a_reason_to_install() {
    let before = lowered(&Example::new());
    let mut example = Example::new();
    example.edit(
        "pnpm-workspace.yaml",
        "onlyBuiltDependencies:\n  - sharp",
        "onlyBuiltDependencies:\n  - sharp\n  - prisma",
    );
    assert_ne!(ops(&before, "[deps]"), ops(&lowered(&example), "[deps]"));
}

#[test]
fn packages_outside_of_the_closure_change_nothing() {
    let before = lowered(&Example::new());
    let mut example = Example::new();
    example
        .files
        .insert(path("packages/new/package.json"), r#"{"name": "@repo/new", "scripts": {"build": "tsc"}}"#);
    example.files.insert(path("packages/new/src/index.ts"), "export {}");
    example.edit("pnpm-lock.yaml", "\n  packages/tsconfig:", "\n  packages/new: {}\n\n  packages/tsconfig:");
    example.edit("apps/admin/package.json", "tsc --watch", "tsc --watch --pretty");
    example.files.insert(path("apps/admin/src/more.ts"), "");
    let after = lowered(&example);
    assert_eq!(all(&before), all(&after));
}

#[test]
fn a_task_sees_its_inputs_and_the_packages_it_reaches() {
    let definition = lowered(&Example::new());
    let seen = |name: &str| {
        let (_, vertex) = definition
            .graph
            .iter()
            .find(|(_, vertex)| vertex.name == format!("[builder] {name} context"))
            .unwrap();
        match &vertex.op {
            Op::Source(Source::Local { files: Files::Paths(paths), .. }) => list(paths),
            other => panic!("{other:?}"),
        }
    };
    insta::assert_snapshot!(seen("//#content"), @"/content/01-how-models-learn.md /content/02-prompting.md /content/03-agents.md /package.json /scripts/compile-content.js /tsconfig.base.json /turbo.json");
    insta::assert_snapshot!(seen("@repo/database#generate"), @"/packages/database/package.json /packages/database/prisma/schema.prisma /packages/database/prisma.config.ts /packages/database/tsconfig.json /packages/tsconfig/library.json /packages/tsconfig/nextjs.json /packages/tsconfig/node.json /packages/tsconfig/package.json /packages/tsconfig/react-library.json /tsconfig.base.json");
    insta::assert_snapshot!(seen("web#build"), @"/apps/web/next.config.ts /apps/web/package.json /apps/web/public/logo.svg /apps/web/public/robots.txt /apps/web/src/app/api/cover/[slug]/route.ts /apps/web/src/app/api/health/route.ts /apps/web/src/app/api/leads/route.ts /apps/web/src/app/courses/[slug]/page.tsx /apps/web/src/app/globals.css /apps/web/src/app/layout.tsx /apps/web/src/app/page.tsx /apps/web/src/lib/courses.ts /apps/web/src/lib/leads.ts /apps/web/tsconfig.json /packages/database/package.json /packages/database/prisma/schema.prisma /packages/database/prisma.config.ts /packages/database/src/index.ts /packages/database/tsconfig.json /packages/tsconfig/library.json /packages/tsconfig/nextjs.json /packages/tsconfig/node.json /packages/tsconfig/package.json /packages/tsconfig/react-library.json /packages/ui/package.json /packages/ui/src/course-card.tsx /packages/ui/src/footer.tsx /packages/ui/src/index.ts /packages/ui/tsconfig.json /tsconfig.base.json");
}

#[test]
fn arguments_reach_the_tasks_that_declare_them() {
    let env = |definition: &Definition, task: &str, name: &str| {
        let (_, vertex) =
            definition.graph.iter().find(|(_, vertex)| vertex.name == format!("[builder] {task}")).unwrap();
        let Op::Exec(exec) = &vertex.op else { panic!("{task} runs something") };
        exec.env.iter().find(|one| one.name == name).map(|one| format!("{} {:?}", one.value, one.in_key))
    };
    let mut example = Example::new();
    example.build_args.insert("DATABASE_URL".into(), "postgresql://x".into());
    example.build_args.insert("NEXT_PUBLIC_SITE".into(), "https://x".into());
    example.build_args.insert("PRISMA_SCHEMA_ENGINE_BINARY".into(), "/bin/true".into());
    example.build_args.insert("DATABSE_URL".into(), "typo".into());
    let definition = lowered(&example);
    assert_eq!(env(&definition, "web#build", "DATABASE_URL").as_deref(), Some("postgresql://x Hashed"));
    assert_eq!(env(&definition, "web#build", "NEXT_PUBLIC_SITE").as_deref(), Some("https://x Hashed"));
    assert_eq!(env(&definition, "@repo/database#generate", "DATABASE_URL"), None);
    assert_eq!(
        env(&definition, "@repo/database#generate", "PRISMA_SCHEMA_ENGINE_BINARY").as_deref(),
        Some("/bin/true NameOnly")
    );
    assert_eq!(env(&definition, "//#content", "NODE_ENV").as_deref(), Some("production Shown"));
    assert_eq!(env(&definition, "web#build", "WBUILD_BUILD_ID").as_deref(), Some("{input-digest} NameOnly"));
    assert_eq!(env(&definition, "//#content", "WBUILD_BUILD_ID"), None);
    insta::assert_snapshot!(shown(&definition.warnings), @"
    wbuild.toml: no task declares the build argument `DATABSE_URL`, so none sees it
      hint: did you mean `DATABASE_URL`?
      hint: add `DATABSE_URL` to `env` of the task in turbo.json
    ");
}

#[test]
fn two_versions_of_pnpm_are_one_too_many() {
    let mut example = Example::new();
    example.edit_spec("pnpm@10.18.2", "pnpm@10.20.0");
    insta::assert_snapshot!(shown(&lowered(&example).warnings), @r#"
    wbuild.toml:12:3: the toolchain has pnpm 10.20.0, but `packageManager` in package.json pins 10.18.2
      `"npm install -g turbo@2.11.11 pnpm@10.20.0"`: another version
      hint: write `pnpm@10.18.2` here, or change the pin
    "#);
    example.edit_spec("pnpm@10.20.0", "pnpm@10");
    assert_eq!(shown(&lowered(&example).warnings), "");
}

#[test]
fn lifecycle_scripts_run_after_the_install() {
    let mut example = Example::new();
    example.edit(
        "packages/ui/package.json",
        "\"typecheck\": \"tsc\"",
        "\"postinstall\": \"node setup.js\", \"typecheck\": \"tsc\"",
    );
    example.edit(
        "package.json",
        "\"content\":",
        "\"prepare\": \"node scripts/compile-content.js\", \"content\":",
    );
    let definition = lowered(&example);
    let (_, run) =
        definition.graph.iter().find(|(_, vertex)| vertex.identity.ends_with("lifecycle/run")).unwrap();
    let Op::Exec(exec) = &run.op else { panic!("it runs something") };
    insta::assert_snapshot!(format!("{}\n{}", run.name, exec.argv[2]), @"
    [builder] prepare of ai-whisperers, postinstall of @repo/ui
    cd '/app'
    pnpm run 'prepare'
    cd '/app/packages/ui'
    pnpm run 'postinstall'
    ");
    let (_, context) =
        definition.graph.iter().find(|(_, vertex)| vertex.identity.ends_with("lifecycle/context")).unwrap();
    insta::assert_snapshot!(operation(context), @"context /package.json /packages/ui/package.json /packages/ui/src/course-card.tsx /packages/ui/src/footer.tsx /packages/ui/src/index.ts /packages/ui/tsconfig.json /scripts/compile-content.js");
    // Deltas and rows stay as many as each other.
    let rows = definition
        .target("builder")
        .unwrap()
        .history
        .iter()
        .filter(|row| row.delta != RowDelta::None)
        .count();
    assert_eq!(rows, 1 + 2 + 2 + 1 + 1 + 3);
}

#[test]
fn noise_can_be_left_in() {
    let mut example = Example::new();
    example.spec.push_str("\n[normalise]\npnpm-state = false\nnext-build-id = false\nnext-trace = false\n");
    let text = all(&lowered(&example));
    for absent in ["prunedAt", "WBUILD_BUILD_ID\",\"value", ".next/trace"] {
        assert!(!text.contains(absent), "{absent}");
        assert!(all(&lowered(&Example::new())).contains(absent), "{absent}");
    }
}

#[test]
fn layers_can_be_left_together() {
    let mut example = Example::new();
    example.edit_spec(
        "cmd = [\"node\", \"apps/web/server.js\"]",
        "cmd = [\"node\", \"apps/web/server.js\"]\nlayers = [\"modules\"]",
    );
    let definition = lowered(&example);
    let rows: Vec<&str> = definition
        .target("runner")
        .unwrap()
        .history
        .iter()
        .filter(|row| row.delta != RowDelta::None)
        .map(|row| row.created_by.as_str())
        .collect();
    assert_eq!(rows[1..], ["COPY modules to /app", "COPY application to /app"]);
}

#[test]
fn errors_of_what_does_not_fit() {
    let mut out = String::new();
    let mut case = |name: &str, change: &dyn Fn(&mut Example)| {
        let mut example = Example::new();
        change(&mut example);
        let errors = match example.lower() {
            Err(errors) => errors,
            Ok(definition) => match definition.target("runner") {
                Err(NoTarget::Prevented(reasons)) => reasons,
                other => panic!("{name}: {other:?}"),
            },
        };
        let _ = writeln!(out, "--- {name}\n{}", shown(&errors));
    };
    case("an application that does not exist", &|example| {
        example.edit_spec("app = \"web\"", "app = \"wep\"");
    });
    case("not a Next.js application", &|example| example.edit_spec("app = \"web\"", "app = \"@repo/ui\""));
    case("a task that does not exist", &|example| example.edit_spec("task = \"build\"", "task = \"biuld\""));
    case("a task without a script", &|example| example.edit_spec("task = \"build\"", "task = \"generate\""));
    case("a required secret", &|example| {
        example.edit_spec(
            "env = \"NEXT_SERVER_ACTIONS_ENCRYPTION_KEY\"",
            "env = \"NEXT_SERVER_ACTIONS_ENCRYPTION_KEY\"\nrequired = true",
        );
    });
    case("an image that was not found", &|example| example.images.clear());
    case("an image for another platform", &|example| {
        example.images.values_mut().for_each(|image| image.architecture = "arm64".into());
    });
    case("no standalone output", &|example| {
        example.files.insert(path("apps/web/next.config.ts"), "export default { reactStrictMode: true };\n");
    });
    insta::assert_snapshot!(out);
}

#[test]
fn what_is_no_next_application_has_the_other_targets() {
    let mut example = Example::new();
    example.edit_spec("app = \"web\"", "app = \"@repo/database\"");
    example.edit_spec("task = \"build\"", "task = \"generate\"");
    let definition = lowered(&example);
    assert!(matches!(definition.target("runner"), Err(NoTarget::Prevented(_))));
    for target in ["base", "deps", "builder", "dev"] {
        assert!(definition.target(target).is_ok(), "{target}");
    }
}

#[test]
fn variables_that_nobody_decided_about() {
    let mut example = Example::new();
    example.build_args.insert("NEXT_PUBLIC_GIVEN".into(), "x".into());
    let names = ["DATABASE_URL", "HOME", "NEXT_PUBLIC_GIVEN", "NEXT_PUBLIC_SITE", "NODE_ENV", "SITE"];
    assert_eq!(example.undecided(&names), ["NEXT_PUBLIC_SITE"]);
}

#[test]
fn roots_image_is_warned_of() {
    let mut example = Example::new();
    example.edit_spec("uid = 1001", "uid = 0");
    let said: Vec<String> = lowered(&example).warnings.iter().map(ToString::to_string).collect();
    assert!(said.iter().any(|said| said.contains("the image runs as root")), "{said:?}");
}

#[test]
fn what_package_managers_write_beside_is_in_no_layer() {
    let definition = lowered(&Example::new());
    let mounts = |step: &str| {
        let found = definition.graph.iter().find(|(_, vertex)| vertex.identity.ends_with(step)).unwrap();
        let Op::Exec(exec) = &found.1.op else { panic!("{found:?}") };
        exec.mounts.iter().map(|mount| mount.target.to_string()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(mounts("base/toolchain/0"), "/root/.npm /tmp /var/log");
    assert_eq!(mounts("deps/install"), "/pnpm/store /root/.npm /root/.cache/pnpm /tmp");
}

#[test]
fn pnpm_11_does_not_look_for_its_own_pin() {
    let settings = |pnpm: &str| {
        let mut example = Example::new();
        example.edit("package.json", "pnpm@10.18.2", pnpm);
        let definition = lowered(&example);
        let install = definition.graph.iter().find(|(_, vertex)| vertex.identity.ends_with("deps/install"));
        let Op::Exec(exec) = &install.unwrap().1.op else { panic!("{install:?}") };
        let names = exec.env.iter().filter(|variable| variable.name.contains("_config_"));
        names.map(|variable| format!("{}={}", variable.name, variable.value)).collect::<Vec<_>>().join(" ")
    };
    let (ten, eleven) = (settings("pnpm@10.18.2"), settings("pnpm@11.28.11"));
    assert!(ten.contains("npm_config_cache_dir=/root/.cache/pnpm") && !ten.contains("pm_on_fail"), "{ten}");
    assert!(eleven.contains("pnpm_config_cache_dir=/root/.cache/pnpm"), "{eleven}");
    assert!(eleven.contains("pnpm_config_pm_on_fail=ignore"), "{eleven}");
}

#[test]
fn unknown_targets_are_guessed() {
    let definition = lowered(&Example::new());
    let error = definition.target("runer").unwrap_err();
    assert_eq!(error.to_string(), "there is no target `runer`");
    assert_eq!(
        error.hints(),
        ["did you mean `runner`?", "the targets are `base`, `builder`, `deps`, `dev`, `runner`"]
    );
}

/// The inputs, of the context, of a task of the example.
fn inputs_of(example: &Example, task: &str) -> Vec<String> {
    let project = example.project(&Spec::parse(&example.spec_file()).unwrap());
    let project = project.unwrap_or_else(|error| panic!("{}", shown(error.diagnostics())));
    let task = project.tasks.into_iter().find(|found| found.id == task).unwrap();
    task.inputs.iter().map(|path| String::from_utf8_lossy(path.as_bytes()).into_owned()).collect()
}

#[test]
fn links_bring_what_they_lead_to() {
    let mut example = Example::new();
    for name in [
        "shared/text.ts",
        "shared/deep/more.ts",
        "shared/deep/again",
        "elsewhere/x.ts",
        "apps/web/src/shared",
    ] {
        example.files.insert(path(name), "");
    }
    example.links.insert(path("apps/web/src/shared"), path("shared"));
    example.links.insert(path("shared/deep/again"), path("elsewhere/x.ts"));
    let found = inputs_of(&example, "web#build");
    for wanted in ["apps/web/src/shared", "shared/text.ts", "shared/deep/more.ts", "elsewhere/x.ts"] {
        assert!(found.iter().any(|path| path == wanted), "{wanted}");
    }
    assert!(!inputs_of(&example, "@repo/database#generate").iter().any(|path| path.starts_with("shared")));
}

#[test]
fn commands_bring_what_they_name_outside_of_their_package() {
    let mut example = Example::new();
    example.files.insert(path("tools/with-env.sh"), "");
    example.edit(
        "apps/web/package.json",
        "\"build\": \"next build\"",
        "\"build\": \"pnpm with-env next build\", \"with-env\": \"sh ../../tools/with-env.sh\"",
    );
    assert!(inputs_of(&example, "web#build").iter().any(|path| path == "tools/with-env.sh"));
}

#[test]
fn plain_links_bring_their_folders() {
    let mut example = Example::new();
    example.files.insert(path("design/tokens/package.json"), r#"{"name": "tokens"}"#);
    example.files.insert(path("design/tokens/index.ts"), "");
    let (from, to) = (
        "\"@repo/ui\": \"workspace:*\",",
        "\"@repo/ui\": \"workspace:*\", \"tokens\": \"link:../../design/tokens\",",
    );
    example.edit("apps/web/package.json", from, to);
    let importer = "  apps/web:\n    dependencies:\n";
    let locked = "      tokens:\n        specifier: link:../../design/tokens\n        version: link:../../design/tokens\n";
    example.edit("pnpm-lock.yaml", importer, &format!("{importer}{locked}"));
    assert!(inputs_of(&example, "web#build").iter().any(|path| path == "design/tokens/index.ts"));
}

/// Nobody declares what is never restored from a cache; the tasks after it need it all the same.
#[test]
fn uncached_tasks_keep_everything() {
    let mut example = Example::new();
    let turbo = r#"{"tasks": {
        "build": {"dependsOn": ["^generate"], "outputs": [".next/**"]}, "generate": {"cache": false}}}"#;
    example.files.insert(path("turbo.json"), turbo);
    let lowered = example.lower().unwrap_or_else(|errors| panic!("{}", shown(&errors)));
    let captured = |name: &str| {
        let (_, vertex) = lowered.graph.iter().find(|(_, vertex)| vertex.name == name).unwrap();
        let Op::Exec(exec) = &vertex.op else { panic!("{name} runs nothing") };
        let Capture::Outputs { include, exclude, .. } = &exec.capture else {
            panic!("{name} declares nothing")
        };
        format!("{} without {}", list(include), list(exclude))
    };
    assert_eq!(
        captured("[builder] @repo/database#generate"),
        "app/** without app/**/.turbo/** app/**/node_modules/.cache/**"
    );
    assert!(captured("[builder] web#build").starts_with("app/apps/web/.next/** without"));
}

#[test]
fn lifecycle_scripts_see_what_they_need() {
    let scripts = |prepare: &str| {
        let mut example = Example::new();
        example.edit(
            "package.json",
            "\"scripts\": {",
            &format!(
                "\"scripts\": {{ \"prepare\": \"{prepare}\", \"gen\": \"node scripts/compile-content.js\","
            ),
        );
        let spec = Spec::parse(&example.spec_file()).unwrap();
        let project = example.project(&spec).unwrap_or_else(|error| panic!("{}", shown(error.diagnostics())));
        let found = project.install.scripts.into_iter().find(|script| script.event == "prepare");
        found.map(|script| {
            script
                .inputs
                .iter()
                .map(|path| String::from_utf8_lossy(path.as_bytes()).into_owned())
                .collect::<Vec<_>>()
                .join(" ")
        })
    };
    // There is no repository whose hooks could be installed.
    assert_eq!(scripts("husky || true"), None);
    assert_eq!(scripts("pnpm run gen").unwrap(), "package.json scripts/compile-content.js");
    let generate = scripts("pnpm --filter @repo/database run generate").unwrap();
    assert!(generate.contains("packages/database/prisma/schema.prisma"), "{generate}");
    assert!(!generate.contains("apps/admin"), "{generate}");
}

#[test]
fn packages_that_are_built_into_nowhere_are_named() {
    let mut example = Example::new();
    let (private, main) = ("\"private\": true,", "\"private\": true, \"main\": \"./dist/index.js\",");
    example.edit("packages/ui/package.json", private, main);
    let (check, build) = ("\"typecheck\": \"tsc\"", "\"build\": \"tsc\"");
    example.edit("packages/ui/package.json", check, build);
    let warned = |example: &Example| {
        let spec = Spec::parse(&example.spec_file()).unwrap();
        let project = example.project(&spec).unwrap_or_else(|error| panic!("{}", shown(error.diagnostics())));
        shown(&project.warnings)
    };
    example.files.insert(
        path("turbo.json"),
        r#"{"tasks": {"build": {"dependsOn": ["^build"], "outputs": [".next/**"]}}}"#,
    );
    let said = warned(&example);
    assert!(said.contains("`@repo/ui` is loaded by `./dist/index.js`, which is no file of it"), "{said}");
    assert!(said.contains("add `dist/**` to its `outputs` in turbo.json"), "{said}");
    example.edit("turbo.json", "\".next/**\"", "\".next/**\", \"dist/**\"");
    assert!(!warned(&example).contains("is loaded by"), "{}", warned(&example));
}
