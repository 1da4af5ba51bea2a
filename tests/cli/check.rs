//! `wbuild check`: the rules of this project on the Dockerfile that it was born for.

use std::fs;
use std::path::Path;

use crate::context::{TestContext, bases};

/// The example with the original Dockerfile and ignore file, and what a developer's checkout has besides.
fn checkout() -> TestContext {
    let context = TestContext::example();
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("buildspec/docker/Dockerfile.web");
    context.write("docker/Dockerfile.web", &fs::read_to_string(web).unwrap());
    context.write("apps/web/.env", "SESSION_SECRET=0123456789abcdef0123456789abcdef\n");
    context.write("packages/ui/node_modules/react/index.js", "");
    context.write("packages/ui/node_modules/react/package.json", "{}");
    context
}

#[test]
fn the_original_web_image() {
    let output = checkout().run(&["check", "-f", "docker/Dockerfile.web", "."]);
    insta::assert_snapshot!(output);
}

#[test]
fn what_is_mended_is_not_reported() {
    let context = checkout();
    context.edit(".dockerignore", "node_modules\n", "**/node_modules\n");
    context.edit(".dockerignore", "\n.env\n", "\n**/.env\n");
    let output = context.run(&["check", "-f", "docker/Dockerfile.web", "."]);
    for gone in ["RootOnlyIgnore", "SecretFile"] {
        assert!(!output.stdout.contains(gone), "{output}");
    }
    context.edit(
        "docker/Dockerfile.web",
        "COPY packages/database/package.json",
        "COPY packages/tsconfig/package.json ./packages/tsconfig/package.json\n\
         COPY packages/ui/package.json ./packages/ui/package.json\n\
         COPY packages/database/package.json",
    );
    let output = context.run(&["check", "-f", "docker/Dockerfile.web", "."]);
    assert!(!output.stdout.contains("MissingManifest"), "{output}");
    let skipped = "# check=skip=wbuild/PackageCache,wbuild/LocalhostHealthcheck\n";
    let text = context.read("docker/Dockerfile.web");
    context.write("docker/Dockerfile.web", &format!("{skipped}{text}"));
    let output = context.run(&["check", "-f", "docker/Dockerfile.web", "."]);
    assert_eq!(output.stdout, "Check complete, no warnings found.\n", "{output}");
}

/// Nothing of it is said as long as the steps succeed; the step that fails is not the one that is wrong.
#[test]
fn a_failing_build_step_names_the_manifests_that_its_install_lacked() {
    let Some(_) = bases() else { return };
    let context = checkout();
    let dockerfile = "FROM node:22.16.0-alpine AS deps\nWORKDIR /app\nRUN echo '#!/bin/sh' > /usr/local/bin/pnpm && chmod +x /usr/local/bin/pnpm\n\
        COPY pnpm-workspace.yaml package.json pnpm-lock.yaml ./\nCOPY apps/web/package.json apps/web/\n\
        RUN pnpm install --filter=web...\nFROM node:22.16.0-alpine\nCOPY --from=deps /app /app\n";
    let build = |step: &str| {
        context.write("Dockerfile.fails", &format!("{dockerfile}RUN {step}\n"));
        let mut args: Vec<String> = ["build", "-f", "Dockerfile.fails"].map(str::to_owned).to_vec();
        args.extend(context.base_images());
        args.push(".".to_owned());
        context.run(&args)
    };
    let failed = build("turbo run build || exit 3");
    assert_ne!(failed.code, 0, "{failed}");
    for line in [
        "in line 6, pnpm installs without",
        "COPY packages/database/package.json ./packages/database/package.json",
        "COPY packages/ui/package.json ./packages/ui/package.json",
    ] {
        assert!(failed.stderr.contains(line), "`{line}` is not in\n{failed}");
    }
    let other = build("exit 3");
    assert!(other.code != 0 && !other.stderr.contains("pnpm installs"), "{other}");
}

/// `--call`: what a file offers, in the shapes of buildx.
#[test]
fn what_a_dockerfile_offers() {
    let context = TestContext::empty();
    context.write(
        "Dockerfile",
        "# VERSION of the base\nARG VERSION=22\nARG UNUSED=1\n\n# deps installs\nFROM node:${VERSION} AS deps\nARG MODE=fast\n\
         RUN --mount=type=secret,id=token,required=true --mount=type=ssh true\n\n# runner starts it\nFROM deps AS runner\n\
         # PORT to listen on\nARG PORT\nRUN --mount=type=secret,id=token --mount=type=secret,id=other true\n\nFROM scratch\nARG ELSEWHERE\n",
    );
    let told = |args: &[&str]| {
        let output = context.run(&[&["build", "."], args].concat());
        assert_eq!(output.code, 0, "{output}");
        output.stdout
    };
    let runner = ["--target", "runner", "--build-arg", "PORT=80"];
    let mut all = vec![
        told(&["--call", "targets"]),
        told(&["--call=targets,format=json", "--target", "runner"]),
        told(&[&["--call=outline"], &runner[..]].concat()),
        told(&[&["--call=outline,format=json"], &runner[..]].concat()),
    ];
    context.write("Dockerfile", "FROM scratch AS One\nCOPY Dockerfile /\n");
    all.push(told(&["--call=check,format=json"]));
    insta::assert_snapshot!(all.join("---\n"));
    let output = context.run(&["build", ".", "--call", "target"]);
    assert_eq!(output.code, 2, "{output}");
    assert!(output.stderr.contains("`target` is none of build, check, outline, targets"), "{output}");
}

/// As `docker build --check`: what is wrong is told in the document, too, and fails the command.
#[test]
fn errors_of_a_check() {
    let context = TestContext::empty();
    let check = |text: &str| {
        context.write("Dockerfile", text);
        let plain = context.run(&["build", ".", "--check"]);
        let output = context.run(&["build", ".", "--call=check,format=json"]);
        assert_eq!((plain.code, output.code), (1, 1), "{plain}{output}");
        assert!(plain.stderr.contains("error: ") && output.stderr.contains("error: "), "{plain}{output}");
        serde_json::from_str::<serde_json::Value>(&output.stdout).unwrap()
    };
    let unread = check("FROM scratch AS a\nCOPY --frm=b a b\n");
    assert_eq!(unread["buildError"]["message"], "unknown flag: --frm (did you mean from?)");
    assert_eq!(unread["buildError"]["location"]["ranges"][0]["start"]["line"], 2);
    assert_eq!(unread["warnings"], serde_json::json!([]));
    let read = check("FROM scratch AS One\nEXPOSE 1/x\n");
    assert_eq!(read["buildError"]["message"], "invalid port: \"1/x\": invalid proto: x");
    assert_eq!(read["warnings"][0]["ruleName"], "StageNameCasing");
    // Warnings alone are told, and fail nothing: that is what `# check=error=true` is for.
    context.write("Dockerfile", "FROM scratch AS One\nCOPY Dockerfile /\n");
    assert_eq!(context.run(&["build", ".", "--check"]).code, 0);
    context.write("Dockerfile", "# check=error=true\nFROM scratch AS One\nCOPY Dockerfile /\n");
    assert_eq!(context.run(&["build", ".", "--check"]).code, 1);
}

#[test]
fn an_error_is_no_complete_check() {
    let context = TestContext::empty();
    context.write("Dockerfile", "FROM scratch\nEXPOSE abc\n");
    for args in [&["check"][..], &["build", "--check", "."]] {
        let said = context.run(args);
        assert!(said.code == 1 && said.stderr.contains("invalid containerPort: abc"), "{said}");
        assert_eq!(said.stdout, "");
    }
}
