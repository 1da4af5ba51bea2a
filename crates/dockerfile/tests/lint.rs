//! The lint: BuildKit's own check tests (`dockerfile_check_test.go`) as a table, and this project's rules.

mod common;

use std::collections::BTreeSet;
use std::sync::Arc;

use wbuild_dockerfile::lint::{
    BUILDKIT_RULES, BaseImage, ContextFiles, Ignored, Lint, LintReport, OWN_RULES, WorkspacePackage,
};
use wbuild_dockerfile::{GlobalScope, Source, TransferStep, parse};
use wbuild_oci::Platform;

struct Setup<'a> {
    text: &'a str,
    build_args: &'a [(&'a str, &'a str)],
    stages: Option<BTreeSet<usize>>,
    own: bool,
    base: BaseImage,
    ignored: Option<Patterns>,
    context: Option<Context>,
}

impl<'a> Setup<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            text,
            build_args: &[],
            stages: None,
            own: false,
            base: BaseImage::default(),
            ignored: None,
            context: None,
        }
    }

    fn run(&self) -> LintReport {
        let parsed = parse(&Source::from_text("Dockerfile", self.text));
        let global = Arc::new(
            GlobalScope::new(&parsed.dockerfile, common::settings(self.build_args))
                .expect("the test is well formed"),
        );
        Lint {
            dockerfile: &parsed.dockerfile,
            global: &global,
            options: Lint::options(&parsed.dockerfile, &global).expect("the test is well formed"),
            own_rules: self.own,
            stages: self.stages.as_ref(),
            base: &|_| Some(self.base.clone()),
            ignored: self.ignored.as_ref().map(|ignored| ignored as &dyn Ignored),
            context: self.context.as_ref().map(|context| context as &dyn ContextFiles),
        }
        .run()
    }

    fn found(&self) -> Vec<String> {
        self.run().findings.iter().map(ToString::to_string).collect()
    }
}

fn found(text: &str) -> Vec<String> {
    Setup::new(text).found()
}

/// A workspace of four packages, `web` needs `ui` and `tsconfig`; and files with secrets.
struct Context {
    suspects: Vec<String>,
    packages: Vec<WorkspacePackage>,
}

impl Context {
    fn new() -> Self {
        let package = |directory: &str, name: &str| WorkspacePackage {
            directory: directory.to_owned(),
            name: name.to_owned(),
        };
        Self {
            suspects: [".env", "apps/web/.env", "ca.pem"].map(str::to_owned).to_vec(),
            packages: vec![
                package("apps/web", "web"),
                package("packages/database", "@repo/database"),
                package("packages/tsconfig", "@repo/tsconfig"),
                package("packages/ui", "@repo/ui"),
            ],
        }
    }
}

impl ContextFiles for Context {
    fn suspects(&self) -> &[String] {
        &self.suspects
    }

    fn text(&self, path: &str) -> Option<String> {
        let text = match path {
            "apps/web/.env" => "SESSION_SECRET=0123456789abcdef",
            ".env" => "PORT=3000",
            "ca.pem" => "-----BEGIN CERTIFICATE-----",
            _ => return None,
        };
        Some(text.to_owned())
    }

    fn taken(&self, step: &TransferStep, paths: &[String]) -> Vec<bool> {
        let mut taken = vec![false; paths.len()];
        for (source, _) in &step.sources {
            let mounted = self.mounted(source, paths);
            taken.iter_mut().zip(mounted).for_each(|(taken, mounted)| *taken |= mounted);
        }
        taken
    }

    fn packages(&self) -> &[WorkspacePackage] {
        &self.packages
    }

    fn closure(&self, directory: &str) -> Vec<String> {
        let closure: &[&str] = match directory {
            "apps/web" => &["", "apps/web", "packages/database", "packages/tsconfig", "packages/ui"],
            "packages/tsconfig" => &["", "packages/tsconfig"],
            _ => return vec![String::new(), directory.to_owned(), "packages/tsconfig".to_owned()],
        };
        closure.iter().map(|directory| (*directory).to_owned()).collect()
    }
}

struct Patterns(&'static [&'static str]);

impl Ignored for Patterns {
    fn has_exceptions(&self) -> bool {
        self.0.iter().any(|pattern| pattern.starts_with('!'))
    }

    fn excludes_everything(&self) -> bool {
        self.0.iter().any(|pattern| matches!(*pattern, "*" | "**" | "**/*"))
    }

    fn excludes(&self, path: &str) -> bool {
        self.0.contains(&path) || (self.excludes_everything() && path != ".")
    }
}

#[test]
fn nothing_to_say() {
    for text in [
        "#check=skip=all\nFROM scratch as base\ncopy Dockerfile .",
        "#check=skip=all;error=true\nFROM scratch as base\ncopy Dockerfile .",
        "#check=skip=ConsistentInstructionCasing,FromAsCasing;error=true\nFROM scratch as base\ncopy Dockerfile .",
        "from scratch\ncopy Dockerfile /foo\ncopy Dockerfile /bar",
        "FROM alpine\nRUN <<'EOT'\nenv\nEOT",
        "FROM scratch AS b1\nFROM scratch AS b2",
        "FROM scratch\nSHELL [\"/usr/bin/customshell\"]\nCMD mycommand",
        "FROM scratch AS base\nSHELL [\"/usr/bin/customshell\"]\nFROM base\nENTRYPOINT mycommand",
        "FROM scratch\n# check=skip=JSONArgsRecommended\nCMD mycommand",
        "FROM scratch\n# check=skip=MaintainerDeprecated\nMAINTAINER me@example.org",
        "ARG BUILDPLATFORM=linux/amd64\nFROM --platform=$BUILDPLATFORM scratch",
        "FROM --platform=$BUILDPLATFORM scratch",
        "ARG DEBUG\nFROM scratch${DEBUG}",
        "ARG DEBUG\nFROM scra${DEBUG:-tch}",
        "ARG DEBUG=\"\"\nFROM scratch${DEBUG-@bogus}",
        "FROM scratch AS a\nWORKDIR /app\nFROM a AS b\nWORKDIR subdir/",
        "FROM scratch\n# check=skip=WorkdirRelativePath\nWORKDIR app/",
        "FROM scratch\nARG foo\nCOPY Dockerfile${foo} .",
        "FROM alpine AS base\nARG foo=Dockerfile\nFROM base\nCOPY $foo .",
        "FROM alpine\nRUN echo $PATH",
        "FROM scratch AS a\nENTRYPOINT [\"/a\"]\nCMD [\"/a\"]\nHEALTHCHECK CMD [\"/a\"]\nFROM a\nENTRYPOINT [\"/b\"]\nCMD [\"/b\"]\nHEALTHCHECK CMD [\"/b\"]",
        "FROM scratch\nENV testkey=value\nLABEL key=value",
        "FROM scratch\n# check=skip=LegacyKeyValueFormat\nENV testkey value",
        "# check=skip=RedundantTargetPlatform\nFROM --platform=$TARGETPLATFORM scratch",
        "FROM --platform=linux/amd64 scratch AS my_amd64_stage",
        "FROM --platform=linux/amd64 scratch AS linux",
        "ARG VERSION=\"latest\"\nFROM busybox:${VERSION}",
        "ARG BUSYBOX_VARIANT=\"\"\nFROM busybox:stable${BUSYBOX_VARIANT}",
        "FROM scratch\nCOPY a \\\n# a comment\n  /b",
        "# check=skip=all;experimental=InvalidDefinitionDescription\n# foo this is the foo\nARG foo=bar\n\n# base this is the base image\nFROM scratch AS base\n\n# version this is the version number\nARG version=latest\n\n# baz this is the baz\nARG foo=baz bar=qux baz=quux\n#\nARG bit=bat\n\n# comment for something other than ARG or FROM\nCOPY Dockerfile .",
    ] {
        let report = Setup::new(text).run();
        assert!(
            report.findings.is_empty() && report.errors.is_empty() && report.failure.is_none(),
            "{text}\n{report:#?}"
        );
    }
}

#[test]
fn what_buildkit_finds() {
    let once = |name: &str| {
        format!(
            "Multiple {name} instructions should not be used in the same stage because only the last one will be used"
        )
    };
    let json = "JSON arguments recommended for CMD to prevent unintended behavior related to OS signals";
    let secret = |kind: &str, name: &str, line: usize| {
        format!(
            "SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data ({kind} {name:?}) (line {line})"
        )
    };
    let table: Vec<(&str, Vec<String>)> = vec![
        (
            "\nFROM scratch AS BadStageName\nFROM scratch as base2\nFROM scratch AS base3",
            vec![
                "StageNameCasing: Stage name 'BadStageName' should be lowercase (line 2)".into(),
                "FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 3)".into(),
            ],
        ),
        ("from scratch AS base\nfrom scratch as base2", vec!["FromAsCasing: 'AS' and 'from' keywords' casing do not match (line 1)".into()]),
        (
            "\nFROM scratch\n# warning\nCOPY Dockerfile \\\n\n.\nCOPY Dockerfile \\\n.",
            vec!["NoEmptyContinuation: Empty continuation line (line 6)".into()],
        ),
        (
            "From scratch as base\nFROM scratch AS base2",
            vec!["ConsistentInstructionCasing: Command 'From' should match the case of the command majority (uppercase) (line 1)".into()],
        ),
        (
            "frOM scratch as base\nfrom scratch as base2",
            vec!["ConsistentInstructionCasing: Command 'frOM' should match the case of the command majority (lowercase) (line 1)".into()],
        ),
        (
            "from scratch\nCOPY Dockerfile /foo\ncopy Dockerfile /bar",
            vec!["ConsistentInstructionCasing: Command 'COPY' should match the case of the command majority (lowercase) (line 2)".into()],
        ),
        (
            "FROM scratch AS b\nFROM scratch AS b",
            vec!["DuplicateStageName: Duplicate stage name \"b\", stage names should be unique (line 2)".into()],
        ),
        (
            "FROM scratch AS scratch\nFROM scratch AS context",
            vec![
                "ReservedStageName: Stage name should not use the same name as reserved stage \"scratch\" (line 1)".into(),
                "ReservedStageName: Stage name should not use the same name as reserved stage \"context\" (line 2)".into(),
            ],
        ),
        ("FROM scratch\nCMD mycommand", vec![format!("JSONArgsRecommended: {json} (line 2)")]),
        (
            "FROM scratch\nMAINTAINER me@example.org",
            vec!["MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)".into()],
        ),
        (
            "ARG tag=latest\nFROM busybox:${tag}${version} AS b",
            vec!["UndefinedArgInFrom: FROM argument 'version' is not declared (line 2)".into()],
        ),
        (
            "FROM scratch\nWORKDIR app/",
            vec!["WorkdirRelativePath: Relative workdir \"app/\" can have unexpected results if the base image changes (line 2)".into()],
        ),
        (
            "FROM alpine\nCOPY $foo .\nARG foo=bar\nRUN echo $foo",
            vec!["UndefinedVar: Usage of undefined variable '$foo' (line 2)".into()],
        ),
        (
            "FROM alpine\nARG DIR_BINARIES=binaries/\nARG DIR_ASSETS=assets/\nCOPY $DIR_ASSET .",
            vec!["UndefinedVar: Usage of undefined variable '$DIR_ASSET' (did you mean $DIR_ASSETS?) (line 4)".into()],
        ),
        (
            "FROM alpine\nENV PATH=$PAHT:/tmp/bin",
            vec!["UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?) (line 2)".into()],
        ),
        (
            "FROM scratch\nENTRYPOINT [\"/a\"]\nENTRYPOINT [\"/b\"]\nCMD [\"/a\"]\nCMD [\"/b\"]\nHEALTHCHECK CMD [\"/a\"]\nHEALTHCHECK CMD [\"/b\"]",
            vec![
                format!("MultipleInstructionsDisallowed: {} (line 2)", once("ENTRYPOINT")),
                format!("MultipleInstructionsDisallowed: {} (line 4)", once("CMD")),
                format!("MultipleInstructionsDisallowed: {} (line 6)", once("HEALTHCHECK")),
            ],
        ),
        (
            "FROM scratch\nENV testkey value\nLABEL key value",
            vec![
                "LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format (line 2)".into(),
                "LegacyKeyValueFormat: \"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format (line 3)".into(),
            ],
        ),
        (
            "FROM --platform=${TARGETPLATFORM} scratch",
            vec!["RedundantTargetPlatform: Setting platform to predefined ${TARGETPLATFORM} in FROM is redundant as this is the default behavior (line 1)".into()],
        ),
        (
            "FROM --platform=linux/amd64 scratch",
            vec!["FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/amd64\" (line 1)".into()],
        ),
        (
            "FROM scratch\nEXPOSE 80/TcP 8080/TCP 8080/udp",
            vec![
                "ExposeProtoCasing: Defined protocol '80/TcP' in EXPOSE instruction should be lowercase (line 2)".into(),
                "ExposeProtoCasing: Defined protocol '8080/TCP' in EXPOSE instruction should be lowercase (line 2)".into(),
            ],
        ),
        (
            "FROM scratch\nEXPOSE 127.0.0.1:80:80 [::1]:8080:8080 5000:5000 8000",
            ["127.0.0.1:80:80", "5000:5000", "[::1]:8080:8080"]
                .map(|port| format!("ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '{port}' (line 2)"))
                .to_vec(),
        ),
        (
            "FROM scratch\nARG SECRET_PASSPHRASE\nENV SUPER_Secret=foo\nENV password=bar secret=baz\nENV git_key=\nENV PUBLIC_KEY=\n# check=skip=SecretsUsedInArgOrEnv // allow\nENV password=bar\n# check=skip=all // here\nARG password",
            vec![
                secret("ARG", "SECRET_PASSPHRASE", 2),
                secret("ENV", "SUPER_Secret", 3),
                secret("ENV", "password", 4),
                secret("ENV", "secret", 4),
                secret("ENV", "git_key", 5),
            ],
        ),
        (
            "# check=experimental=InvalidDefinitionDescription\n# bar this is the bar\nARG foo=bar\n# BasE this is the BasE image\nFROM scratch AS base\n# definitely a bad comment\nARG foo=baz bar=qux baz=quux",
            vec![
                "InvalidDefinitionDescription: Comment for ARG should follow the format: `# foo <description>` (line 3)".into(),
                "InvalidDefinitionDescription: Comment for FROM should follow the format: `# base <description>` (line 5)".into(),
                "InvalidDefinitionDescription: Comment for ARG should follow the format: `# <arg_key> <description>` (line 7)".into(),
            ],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(found(text), expected, "{text}");
    }
}

#[test]
fn defaults_in_from_must_be_names_without_build_arguments() {
    for (text, args, name) in [
        ("ARG VERSION\nFROM busybox:$VERSION", ("VERSION", "latest"), "busybox:$VERSION"),
        ("ARG IMAGE\nFROM $IMAGE", ("IMAGE", "busybox:latest"), "$IMAGE"),
        ("ARG SFX=\"box:\"\nFROM busy${SFX}", ("SFX", "box:latest"), "busy${SFX}"),
    ] {
        let setup = Setup { build_args: &[args], ..Setup::new(text) };
        let detail = format!(
            "InvalidDefaultArgInFrom: Default value for ARG {name} results in empty or invalid base image name (line 2)"
        );
        assert_eq!(setup.found(), [detail]);
    }
}

#[test]
fn options_of_the_build_replace_those_of_the_file() {
    let text = "#check=skip=all\nFROM scratch as base\ncopy Dockerfile .";
    let setup = Setup {
        build_args: &[("BUILDKIT_DOCKERFILE_CHECK", "skip=ConsistentInstructionCasing;error=true")],
        ..Setup::new(text)
    };
    let report = setup.run();
    assert_eq!(report.findings.len(), 1);
    assert_eq!(report.failure.as_deref(), Some("lint violation found for rules: FromAsCasing"));
    let setup = Setup {
        build_args: &[("BUILDKIT_DOCKERFILE_CHECK", "skip=all")],
        ..Setup::new("#check=error=true\nFROM scratch as base\ncopy Dockerfile .")
    };
    assert!(setup.run().failure.is_none());
    let parsed = parse(&Source::from_text("Dockerfile", "# check=skp=all\nFROM scratch"));
    let global = GlobalScope::new(&parsed.dockerfile, common::settings(&[])).unwrap();
    let error = Lint::options(&parsed.dockerfile, &global).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Dockerfile:1:9: failed to parse check options: invalid check option \"skp\""
    );
}

#[test]
fn a_build_looks_at_values_of_the_stages_it_needs() {
    let text = "FROM scratch AS First\nCOPY $foo .\nFROM scratch AS second\nCOPY $bar .";
    let setup = Setup { stages: Some(BTreeSet::from([1])), ..Setup::new(text) };
    assert_eq!(
        setup.found(),
        [
            "StageNameCasing: Stage name 'First' should be lowercase (line 1)",
            "UndefinedVar: Usage of undefined variable '$bar' (line 4)"
        ]
    );
    assert_eq!(found(text).len(), 3);
}

#[test]
fn base_images_bring_variables_shells_and_platforms() {
    let mut base = BaseImage::default();
    base.facts.env.push(("VERSION".to_owned(), "1".to_owned()));
    base.shell = true;
    base.platform = Some(Platform::linux("arm64"));
    base.onbuild = vec!["WORKDIR relative".to_owned()];
    let setup = Setup { base, ..Setup::new("FROM image:1\nLABEL v=$VERSION\nCMD x") };
    assert_eq!(
        setup.found(),
        [
            "InvalidBaseImagePlatform: Base image image:1 was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build (line 1)",
            "WorkdirRelativePath: Relative workdir \"relative\" can have unexpected results if the base image changes (line 1)"
        ]
    );
}

#[test]
fn ignored_files() {
    let table: [(&str, &'static [&'static str], Vec<usize>); 6] = [
        ("FROM scratch\nCOPY Dockerfile .\nADD ./Dockerfile /windy", &["Dockerfile"], vec![2, 3]),
        (
            "FROM scratch AS base\nCOPY x /foobar\nFROM base\nCOPY --from=base /foobar /Dockerfile",
            &["foobar", "/foobar"],
            vec![],
        ),
        ("FROM scratch\nCOPY Dockerfile .", &["**", "!Dockerfile"], vec![]),
        ("FROM scratch\nCOPY . .", &[".*"], vec![]),
        ("FROM scratch\nCOPY . .", &["*"], vec![2]),
        ("FROM scratch\nADD https://x/Dockerfile /", &["https://x/Dockerfile"], vec![]),
    ];
    for (text, patterns, lines) in table {
        let setup = Setup { ignored: Some(Patterns(patterns)), ..Setup::new(text) };
        let report = setup.run();
        assert!(report.findings.iter().all(|finding| finding.rule.name == "CopyIgnoredFile"));
        assert_eq!(report.findings.iter().map(|finding| finding.line).collect::<Vec<_>>(), lines, "{text}");
    }
}

#[test]
fn errors_are_told_apart_from_findings() {
    let report = Setup::new("FROM scratch AS Bad\nEXPOSE x\nEXPOSE y\nLABEL a=${b:?c}").run();
    assert_eq!((report.findings.len(), report.errors.len()), (1, 3));
    // A variable that makes an instruction fail is undefined all the same.
    let report = Setup::new("FROM scratch AS bad\nLABEL a=${b:?c}").run();
    assert_eq!((report.findings.len(), report.errors.len()), (1, 1));
}

/// BuildKit stops at what makes no sense; what follows in the same stage, and in those on it, would be guesswork.
#[test]
fn behind_an_error_only_errors_are_told() {
    let text = "FROM scratch AS a\nCMD echo hi\nEXPOSE foo/bar\nWORKDIR rel\nEXPOSE 1/x\nFROM a AS b\nWORKDIR rel\n\
        FROM scratch AS c\nWORKDIR rel\n";
    let report = Setup::new(text).run();
    let lines: Vec<(&str, usize)> =
        report.findings.iter().map(|finding| (finding.rule.name, finding.line)).collect();
    assert_eq!(lines, [("JSONArgsRecommended", 2), ("WorkdirRelativePath", 9)]);
    let errors: Vec<&str> = report.errors.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(
        errors,
        ["invalid port: \"foo/bar\": invalid proto: bar", "invalid port: \"1/x\": invalid proto: x"]
    );
}

fn own(text: &str) -> Vec<(&'static str, usize)> {
    let setup = Setup { own: true, ..Setup::new(text) };
    let findings = setup.run().findings;
    findings
        .iter()
        .filter(|finding| finding.rule.is_own())
        .map(|finding| (finding.rule.name, finding.line))
        .collect()
}

#[test]
fn own_rules_are_named_apart_and_silent_unless_asked_for() {
    assert!(OWN_RULES.iter().all(|rule| rule.is_own()) && !BUILDKIT_RULES.iter().any(|rule| rule.is_own()));
    let text = "FROM node\nCMD [\"x\"]";
    assert!(found(text).is_empty());
    assert_eq!(own(text), [("wbuild/LatestTag", 1), ("wbuild/RootUser", 1)]);
    assert_eq!(own("FROM a:1\nUSER x\nEXPOSE 80"), [("wbuild/MissingHealthcheck", 1)]);
    assert!(own("FROM a:1\nUSER x\nEXPOSE 80\nHEALTHCHECK NONE").is_empty());
    assert!(
        own(
            "# check=skip=wbuild/LatestTag,wbuild/RootUser,wbuild/MissingHealthcheck\nFROM node\nCMD [\"x\"]"
        )
        .is_empty()
    );
}

#[test]
fn files_that_are_stored_twice() {
    assert_eq!(own("FROM a:1\nCOPY . /app\nRUN chown -R node:node /app"), [("wbuild/ChangedAgain", 3)]);
    assert_eq!(
        own("FROM a:1\nWORKDIR /app\nCOPY . .\nRUN x && chmod -vR 755 ./bin"),
        [("wbuild/ChangedAgain", 4)]
    );
    assert!(own("FROM a:1\nCOPY . /app\nRUN mkdir /data && chown -R node /data").is_empty());
    assert!(own("FROM a:1\nCOPY . /app\nRUN chown node /app/x").is_empty());
    let installed = "FROM a:1\nWORKDIR /app\nRUN --mount=type=cache,target=/root/.npm npm ci\n";
    assert_eq!(own(&format!("{installed}RUN chown -R node /app")), [("wbuild/ChangedAgain", 4)]);
    assert!(own(&format!("{installed}RUN chown -R node /data")).is_empty());
    assert!(
        own("FROM a:1\nRUN --mount=type=cache,target=/root/.npm npm ci && chown -R node node_modules")
            .is_empty()
    );
    assert!(
        own("FROM a:1\nCOPY . /app\n# check=skip=wbuild/ChangedAgain\nRUN chown -R node:node /app")
            .is_empty()
    );
}

#[test]
fn caches_of_package_managers() {
    for (command, found) in [
        ("apt-get update && apt-get install -y curl", true),
        ("apt-get update && apt-get install -y curl && rm -rf /var/lib/apt/lists/*", false),
        ("--mount=type=cache,target=/var/cache/apt apt-get install curl", false),
        ("apk add curl", true),
        ("apk add --no-cache curl", false),
        ("npm install -g turbo pnpm@10.18.2", true),
        ("--mount=type=cache,target=/root/.npm npm ci", false),
        ("npm run build", false),
        ("pnpm install --frozen-lockfile", true),
        ("--mount=type=cache,target=/root/.local/share/pnpm/store pnpm install", false),
        ("pnpm run build", false),
        ("yarn --frozen-lockfile", true),
        ("yarn --version", false),
        ("yarn build", false),
        ("yarn install && yarn cache clean", false),
        ("python3 -m pip install x", true),
        ("pip install x", true),
        ("pip install --no-cache-dir x", false),
        ("dnf -y install x && dnf clean all", false),
        ("echo apk add", false),
    ] {
        assert_eq!(!own(&format!("FROM a:1\nRUN {command}")).is_empty(), found, "{command}");
    }
}

#[test]
fn secrets_and_hidden_text() {
    assert_eq!(
        own(
            "FROM a:1\nENV X=AKIAIOSFODNN7EXAMPLE\nCOPY .env .npmrc .env.example id_rsa /x/\nCOPY <<E /k\n-----BEGIN PRIVATE KEY-----\nE"
        ),
        [
            ("wbuild/SecretContent", 2),
            ("wbuild/SecretFile", 3),
            ("wbuild/SecretFile", 3),
            ("wbuild/SecretFile", 3),
            ("wbuild/SecretContent", 4)
        ]
    );
    let report = Setup { own: true, ..Setup::new("FROM a:1\nENV X=AKIAIOSFODNN7EXAMPLE") }.run();
    assert!(!format!("{report:?}").contains("AKIA"), "the secret is not repeated");
    assert_eq!(own("FROM a:1\nRUN echo \u{202e}x"), [("wbuild/HiddenText", 2)]);
}

/// The original Dockerfile.web, shortened to what the rules look at.
#[test]
fn the_original_web_image() {
    let web = "FROM node:22.16.0-alpine AS base\nWORKDIR /app\nRUN npm install -g turbo pnpm@10.18.2\n\
               RUN apk add --no-cache libc6-compat\nFROM base AS builder\nCOPY . .\n\
               ARG DATABASE_URL=\"postgresql://placeholder:placeholder@placeholder:5432/placeholder?schema=public\"\n\
               ENV DATABASE_URL=$DATABASE_URL\nRUN turbo run build --filter=web\nFROM node:22.16.0-alpine AS runner\nWORKDIR /app\n\
               COPY --from=builder --chown=nextjs:nodejs /app/apps/web/.next/standalone ./\nUSER nextjs\nEXPOSE 3000\n\
               HEALTHCHECK --interval=30s CMD node -e \"require('http').get(`http://localhost:3000/`)\"\n\
               CMD [\"node\", \"apps/web/server.js\"]\n";
    assert_eq!(own(web), [("wbuild/PackageCache", 3), ("wbuild/LocalhostHealthcheck", 15)]);
    assert!(found(web).is_empty());
    let fixed = web.replace("USER nextjs", "USER nextjs\nENV HOSTNAME=0.0.0.0");
    assert_eq!(own(&fixed), [("wbuild/PackageCache", 3)]);
}

fn own_in_context(text: &str) -> Vec<String> {
    let setup = Setup { own: true, context: Some(Context::new()), ..Setup::new(text) };
    let findings = setup.run().findings;
    findings
        .iter()
        .filter(|finding| matches!(finding.rule.name, "wbuild/MissingManifest" | "wbuild/SecretFile"))
        .map(|finding| format!("{finding} {}", finding.hints[0]))
        .collect()
}

#[test]
fn secrets_in_files_of_the_context() {
    assert_eq!(
        own_in_context("FROM a:1\nCOPY . ."),
        [
            "wbuild/SecretFile: `apps/web/.env` holds what looks like a value for `SESSION_SECRET`, and is copied into a \
             layer (line 2) keep it out: write `**/.env` in the ignore file"
        ]
    );
    // Known by name only: it is not there yet.
    assert_eq!(own_in_context("FROM a:1\nCOPY .npmrc /").len(), 1);
    for text in [
        "FROM a:1\nCOPY .env ca.pem /",
        "FROM a:1\nCOPY packages packages",
        "FROM a:1\nCOPY --from=b:1 . .",
        "FROM a:1\n# check=skip=wbuild/SecretFile\nCOPY . .",
    ] {
        assert!(own_in_context(text).is_empty(), "{text}");
    }
}

/// The beginning of the original Dockerfile.web.
const TWO_MANIFESTS: &str = "FROM a:1 AS deps\nWORKDIR /app\nCOPY pnpm-workspace.yaml package.json pnpm-lock.yaml ./\n\
     COPY apps/web/package.json ./apps/web/package.json\n\
     COPY packages/database/package.json ./packages/database/package.json\n";

#[test]
fn missing_manifests_are_named_ready_to_paste() {
    for (install, names) in [
        ("pnpm install --frozen-lockfile --filter=web...", "`web` needs"),
        ("corepack enable && pnpm -F './apps/web...' i", "`web` needs"),
        ("pnpm install", "`web` and `@repo/database` need"),
    ] {
        assert_eq!(
            own_in_context(&format!("{TWO_MANIFESTS}RUN {install}\nCOPY . /app\n# check=skip=all\nCOPY . .")),
            [
                format!(
                    "wbuild/MissingManifest: pnpm installs without `packages/tsconfig/package.json` and \
                     `packages/ui/package.json`, which {names}, says nothing, and leaves links that lead nowhere (line 6) \
                     add above line 6:\nCOPY packages/tsconfig/package.json ./packages/tsconfig/package.json\n\
                     COPY packages/ui/package.json ./packages/ui/package.json"
                ),
                "wbuild/SecretFile: `apps/web/.env` holds what looks like a value for `SESSION_SECRET`, and is copied into a \
                 layer (line 7) keep it out: write `**/.env` in the ignore file"
                    .to_owned()
            ],
            "{install}"
        );
    }
}

#[test]
fn installs_that_have_all_they_need_are_not_reported() {
    for rest in [
        "COPY packages/ui/package.json packages/ui/\nCOPY packages/tsconfig packages/tsconfig\nRUN pnpm install --filter=web...",
        "COPY packages packages\nRUN pnpm install",
        "RUN --mount=type=bind,source=packages,target=packages pnpm install --filter=web...",
        // Not an install of the workspace with what it needs, or not understood.
        "RUN pnpm install --prod --filter=web...",
        "RUN pnpm install --filter=web",
        "RUN pnpm install --filter='...[origin/main]'",
        "RUN pnpm fetch",
        "RUN pnpm add -g turbo",
        "RUN npm install",
        // Others brought what is not known here.
        "COPY --from=b:1 /out/json/ ./\nRUN pnpm install",
        // The first one only fills the store.
        "RUN pnpm install\nCOPY packages packages\nRUN pnpm install --offline",
        "# check=skip=wbuild/MissingManifest\nRUN pnpm install --filter=web...",
    ] {
        let text = format!("{TWO_MANIFESTS}{rest}");
        assert!(own_in_context(&text).is_empty(), "{rest}: {:?}", own_in_context(&text));
    }
    assert!(own_in_context("FROM a:1\nCOPY apps/web/package.json ./\nRUN pnpm install").is_empty());
    let skipped = format!("# check=skip=wbuild/MissingManifest\n{TWO_MANIFESTS}RUN pnpm install");
    assert!(own_in_context(&skipped).is_empty());
    // A stage on the stage goes on from there.
    let later = format!("{TWO_MANIFESTS}FROM deps\nRUN pnpm install --filter=web...");
    assert_eq!(own_in_context(&later).len(), 1);
}
