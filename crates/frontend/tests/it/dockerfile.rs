//! Dockerfiles to graphs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use wbuild_dockerfile::{Settings, Source as Text, parse};
use wbuild_frontend::{
    DockerfileBuild, DockerfileInput, Lowered, NamedContext, RowDelta, StepOptions, lower_dockerfile,
};
use wbuild_graph::{EnvInKey, FileAction, ImageRef, MountKind, Op, Source, TransferSource};
use wbuild_oci::{Execution, ImageConfig, Platform};

struct Case<'a> {
    text: &'a str,
    contexts: BTreeMap<String, NamedContext>,
    build_args: BTreeMap<String, String>,
}

impl<'a> Case<'a> {
    fn new(text: &'a str) -> Self {
        Self { text, contexts: BTreeMap::new(), build_args: BTreeMap::new() }
    }

    /// Lowers; every image is an Alpine, and one named `child` has triggers.
    fn lower(&self) -> Result<DockerfileBuild, Vec<String>> {
        let parsed = parse(&Text::from_text("Dockerfile", self.text));
        assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        let platform: Platform = "linux/amd64".parse().unwrap();
        let settings = Settings { build_args: self.build_args.clone(), ..Settings::plain(platform) };
        let mut images = Vec::new();
        for _ in 0..5 {
            let input = DockerfileInput {
                dockerfile: &parsed.dockerfile,
                settings: settings.clone(),
                contexts: &self.contexts,
                steps: &StepOptions::default(),
                images: &images,
                project: "p",
            };
            let lowered = lower_dockerfile(&input);
            match lowered.map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>())? {
                Lowered::Done(build) => return Ok(*build),
                Lowered::Needs { bases: wanted, .. } => {
                    images.extend(wanted.into_iter().map(|image| (image.clone(), config(&image))));
                }
            }
        }
        panic!("images are wanted again and again");
    }
}

fn config(image: &ImageRef) -> ImageConfig {
    let mut on_build = Vec::new();
    if image.reference == "child" {
        on_build = vec!["COPY --from=tools /t /t".to_owned(), "RUN trigger".to_owned()];
    }
    ImageConfig {
        architecture: "amd64".to_owned(),
        os: "linux".to_owned(),
        config: Execution {
            env: vec!["PATH=/bin".to_owned()],
            cmd: Some(vec!["/bin/sh".to_owned()]),
            on_build,
            ..Execution::default()
        },
        ..ImageConfig::default()
    }
}

fn show(build: &DockerfileBuild) -> String {
    let mut out = String::new();
    for (id, vertex) in build.definition.graph.iter() {
        let inputs: Vec<String> = vertex.inputs.iter().map(|input| input.0.to_string()).collect();
        let _ = writeln!(out, "{} ({}) {}: {}", id.0, inputs.join(" "), vertex.name, operation(&vertex.op));
    }
    let target = build.definition.target(&build.definition.default_target).unwrap();
    let base = target.base_image.as_ref().map_or("scratch", |image| image.reference.as_str());
    let _ = writeln!(out, "target {} on {base}", target.vertex.0);
    for row in &target.history {
        let mark = if row.delta == RowDelta::None { " " } else { "+" };
        let _ = writeln!(out, "  {mark} {}", row.created_by);
    }
    let _ = writeln!(out, "{}", serde_json::to_string(&target.config.config).unwrap());
    out
}

fn operation(op: &Op) -> String {
    match op {
        Op::Source(Source::Image(image)) => format!("image {}", image.reference),
        Op::Source(Source::Local { context, files }) => format!("local {context:?} {files:?}"),
        Op::Exec(exec) => {
            let env = exec.env.iter().map(|one| {
                let mark = if one.in_key == EnvInKey::Never { " (not in the key)" } else { "" };
                format!("{}={}{mark}", one.name, one.value)
            });
            let mounts = exec.mounts.iter().map(|mount| match &mount.kind {
                MountKind::Cache(cache) => format!("cache {} at {}", cache.id, mount.target),
                other => format!("{other:?} at {}", mount.target),
            });
            format!(
                "exec {:?} in {} as {:?}, {:?}, env {:?}, mounts {:?}",
                exec.argv,
                exec.cwd,
                exec.user,
                exec.network,
                env.collect::<Vec<_>>(),
                mounts.collect::<Vec<_>>()
            )
        }
        Op::File(file) => file.actions.iter().map(action).collect::<Vec<_>>().join(", "),
        other => format!("{other:?}"),
    }
}

fn action(action: &FileAction) -> String {
    let FileAction::Transfer(transfer) = action else { return format!("{action:?}") };
    let sources = transfer.sources.iter().map(|source| match source {
        TransferSource::Files { input, pattern, unpack } => format!("{input}:{pattern:?} {unpack:?}"),
        TransferSource::Inline { name, contents } => {
            format!("{name}={:?}", String::from_utf8_lossy(contents))
        }
    });
    format!(
        "transfer {} to {}{} owner {:?} mode {:?}",
        sources.collect::<Vec<_>>().join(" + "),
        transfer.target,
        if transfer.into_directory { "/" } else { "" },
        transfer.owner,
        transfer.mode.as_ref().map(ToString::to_string),
    )
}

#[test]
fn stages_become_a_graph() {
    let build = Case::new(
        r#"ARG VERSION=3.23
FROM alpine:$VERSION AS base
WORKDIR /app
ENV A=1
FROM base AS build
ARG TOKEN=x
COPY --chown=node:5 package.json src/*.js ./
RUN --mount=type=cache,target=/root/.npm --mount=from=base,source=/etc,target=/e make
FROM scratch AS unused
COPY nothing /
FROM alpine:$VERSION
COPY --from=build --chmod=u=rX /app/out /srv/
COPY --link --chown=node <<EOF /etc/motd
hello $VERSION
EOF
USER 1001
EXPOSE 3000
CMD ["node", "server.js"]
"#,
    )
    .lower()
    .unwrap();
    insta::assert_snapshot!(show(&build));
}

#[test]
fn triggers_bring_stages_that_nothing_else_uses() {
    let build = Case::new("FROM alpine AS tools\nRUN make tools\nFROM child\nRUN mine\n").lower().unwrap();
    insta::assert_snapshot!(show(&build));
}

#[test]
fn named_contexts_replace_images_stages_and_sources() {
    let contexts = BTreeMap::from([
        ("alpine:3.23".to_owned(), NamedContext::Image(ImageRef::new("mirror/alpine"))),
        ("src".to_owned(), NamedContext::Files),
        ("dep".to_owned(), NamedContext::Files),
    ]);
    let text = "FROM alpine:3.23 AS dep\nRUN never\nFROM alpine:3.23\nCOPY --from=src a b/\nCOPY --from=dep / /dep\n";
    let build = Case { contexts, ..Case::new(text) }.lower().unwrap();
    insta::assert_snapshot!(show(&build));
}

#[test]
fn mounts_secrets_and_proxies() {
    let text = r#"FROM alpine
RUN --mount=type=secret,id=token,env=TOKEN --mount=type=ssh --mount=type=tmpfs,target=/t,size=1m <<EOF
#!/usr/bin/env node
1
EOF
RUN --network=none ["true"]
"#;
    let build_args = BTreeMap::from([("HTTP_PROXY".to_owned(), "http://proxy".to_owned())]);
    let build = Case { build_args, ..Case::new(text) }.lower().unwrap();
    insta::assert_snapshot!(show(&build));
}

#[test]
fn independent_mistakes_are_all_reported() {
    let text = "FROM alpine\nRUN --network=host true\nRUN --security=insecure true\nEXPOSE 99999\n";
    let errors = Case::new(text).lower().unwrap_err();
    insta::assert_snapshot!(errors.join("\n"));
}

#[test]
fn ten_thousand_stages_are_no_trouble() {
    let mut text = String::from("FROM alpine AS s0\n");
    for stage in 1..10_000 {
        let _ = writeln!(text, "FROM s{} AS s{stage}\nENV A{stage}=1", stage - 1);
    }
    assert_eq!(Case::new(&text).lower().unwrap().stages.len(), 10_000);
}
