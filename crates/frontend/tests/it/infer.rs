use wbuild_frontend::{InferFacts, Spec, infer};
use wbuild_report::SourceFile;
use wbuild_workspace::Workspace;

use crate::example::{Example, shown};

fn inferred(example: &Example) -> Spec {
    let workspace = Workspace::read(&example.files).unwrap();
    let facts = InferFacts::read(&example.files, &workspace, None).unwrap();
    infer(&facts).unwrap_or_else(|errors| panic!("{}", shown(&errors)))
}

#[test]
fn the_example_without_a_spec() {
    let spec = inferred(&Example::new());
    assert!(spec.origin.inferred);
    insta::assert_snapshot!(spec.print());
}

#[test]
fn it_is_the_same_when_it_is_kept() {
    let printed = inferred(&Example::new()).print();
    let kept = Spec::parse(&SourceFile::new("wbuild.toml", printed.clone())).unwrap();
    let without_comments: Vec<&str> = printed.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(kept.print().lines().collect::<Vec<_>>(), without_comments);
}

#[test]
fn it_lowers_like_the_written_one() {
    let mut example = Example::new();
    let written = serde_json::to_string(&example.lower().unwrap().graph).unwrap();
    example.spec = inferred(&example).print();
    let lowered = example.lower().unwrap_or_else(|errors| panic!("{}", shown(&errors)));
    assert_eq!(serde_json::to_string(&lowered.graph).unwrap(), written);
}

#[test]
fn little_is_known_of_a_bare_workspace() {
    let mut example = Example::new();
    example.files.remove(&crate::example::path(".node-version"));
    example.files.remove(&crate::example::path("apps/web/src/app/api/health/route.ts"));
    example.edit("package.json", "\"packageManager\": \"pnpm@10.18.2\",", "");
    let printed = inferred(&example).print();
    for line in [
        "# from engines.node `>=20.19`",
        "image = \"node:22-alpine\"",
        "# turbo from pnpm-lock.yaml; no packageManager: pin pnpm there; compilers, because dependencies may build native code",
        "# without a health route there is no healthcheck",
    ] {
        assert!(printed.lines().any(|other| other == line), "{line}\n{printed}");
    }
    assert!(!printed.contains("[runner.healthcheck]"));
}

#[test]
fn several_applications_need_a_name() {
    let mut example = Example::new();
    example.edit("apps/admin/package.json", "\"build\": \"tsc\"", "\"build\": \"next build\"");
    example.edit(
        "apps/admin/package.json",
        "\"dependencies\": {",
        "\"dependencies\": { \"next\": \"16.4.6\",",
    );
    let workspace = Workspace::read(&example.files).unwrap();
    let error = InferFacts::read(&example.files, &workspace, None).unwrap_err();
    insta::assert_snapshot!(shown(error.diagnostics()), @"
    pnpm-workspace.yaml: the workspace has several Next.js applications: `admin`, `web`
      hint: name one with `--app`
    ");
    assert_eq!(InferFacts::read(&example.files, &workspace, Some("web")).unwrap().app, "web");
}

#[test]
fn a_workspace_without_turbo() {
    let mut example = Example::new();
    example.files.remove(&crate::example::path("turbo.json"));
    let spec = inferred(&example);
    assert_eq!(spec.dev.as_ref().unwrap().cmd, ["pnpm", "--filter=web", "run", "dev"]);
    let printed = spec.print();
    assert!(printed.contains("# no turbo.json: it runs after the scripts of this name"), "{printed}");
    example.spec = printed;
    example.lower().unwrap_or_else(|errors| panic!("{}", shown(&errors)));
}

#[test]
fn health_routes_are_asked_where_they_answer() {
    let probe = |config: &str, route: &str| {
        let mut example = Example::new();
        example.files.remove(&crate::example::path("apps/web/src/app/api/health/route.ts"));
        example.files.insert(crate::example::path(&format!("apps/web/{route}")), "");
        example.edit(
            "apps/web/next.config.ts",
            "output: 'standalone',",
            &format!("output: 'standalone', {config}"),
        );
        let probe = inferred(&example).runner.healthcheck?;
        let (_, path) = probe.cmd[2].split_once("||3000}")?;
        Some(path.split('`').next()?.to_owned())
    };
    let route = "src/app/api/health/route.ts";
    assert_eq!(probe("", route).as_deref(), Some("/api/health"));
    assert_eq!(probe("", "src/app/(ops)/api/(x)/healthz/route.js").as_deref(), Some("/api/healthz"));
    assert_eq!(probe("", "pages/api/health/index.ts").as_deref(), Some("/api/health"));
    assert_eq!(probe("", "app/health/route.tsx").as_deref(), Some("/health"));
    assert_eq!(probe("basePath: '/docs', trailingSlash: true,", route).as_deref(), Some("/docs/api/health/"));
    assert_eq!(probe("basePath: process.env.BASE,", route), None, "nobody knows where to ask");
    assert_eq!(probe("", "src/app/api/help/route.ts"), None);
}
