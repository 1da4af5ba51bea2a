//! A spec where there is none: what can be known of the workspace, and the habits of the field for the rest.

use std::collections::BTreeMap;

use wbuild_report::{Diagnostic, SourceFile};
use wbuild_tree::EntryPath;
use wbuild_workspace::VersionRange;

use super::{
    BuildSpec, DevSpec, InstallSpec, Layer, Normalise, Origin, Probe, RunnerSpec, SecretSpec, SecretTarget,
    Spec, User,
};

/// What stands in messages for the name of the file.
const NAME: &str = "(inferred)";

/// Node's version where nothing says which.
const DEFAULT_NODE: &str = "22";

/// What Prisma's client wants to see while a page is built, and never connects to.
const PLACEHOLDER_DATABASE: &str =
    "postgresql://placeholder:placeholder@placeholder:5432/placeholder?schema=public";

/// What is known of a workspace without a spec.
#[derive(Clone, Debug, Default)]
pub struct InferFacts {
    /// The name of the application's package.
    pub app: String,
    /// Its folder.
    pub dir: EntryPath,
    /// Why it is this one: `the only package that builds with next`.
    pub why: String,
    /// Where Next writes, relative to the folder; `None` when it is no Next.js application.
    pub dist: Option<EntryPath>,
    /// The version of pnpm that `packageManager` pins.
    pub pnpm: Option<String>,
    /// The major of pnpm whose rules hold.
    pub pnpm_major: u32,
    /// The version of turbo in the lockfile.
    pub turbo: Option<String>,
    /// Whether there is a turbo.json.
    pub turbo_config: bool,
    /// The version of Node.
    pub node: Option<NodeVersion>,
    /// Whether dependencies may build native code when they are installed.
    pub builds: bool,
    /// Whether the application has a `dev` script.
    pub dev: bool,
    /// The path of a health route, such as `/api/health`.
    pub health: Option<String>,
    /// The names of variables that the application's task declares.
    pub declared_env: Vec<String>,
}

/// A version of Node, and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeVersion {
    /// `22.16.0`, or less of it.
    pub version: String,
    /// `.node-version`
    pub from: String,
}

/// Majors of Node, the ones to choose first where several will do.
const NODES: [u32; 6] = [22, 24, 20, 18, 16, 26];

/// The majors that `lts/NAME` means.
const LTS: [(&str, &str); 6] = [
    ("gallium", "16"),
    ("hydrogen", "18"),
    ("iron", "20"),
    ("jod", "22"),
    ("krypton", "24"),
    ("*", DEFAULT_NODE),
];

impl NodeVersion {
    /// From the text of `.node-version`, `.nvmrc` or `.tool-versions`; `None` when that names no version by number or
    /// by the name of a long-term release.
    pub fn from_file(name: &str, text: &str) -> Option<Self> {
        let mut lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        let version = match name {
            ".tool-versions" => lines.find_map(|line| {
                let mut words = line.split_whitespace();
                matches!(words.next(), Some("nodejs" | "node")).then(|| words.next()).flatten()
            })?,
            _ => lines.find(|line| !line.is_empty())?,
        };
        let version = match version.to_ascii_lowercase().strip_prefix("lts/") {
            Some(lts) => LTS.iter().find(|(name, _)| *name == lts).map(|(_, major)| (*major).to_owned()),
            None => numeric(version),
        };
        Some(Self { version: version?, from: name.to_owned() })
    }

    /// From a range of `engines`. A range says what a package runs on at all, so of the majors in it the usual one is
    /// taken; where it allows no major as a whole, the first version that it names.
    pub fn from_engines(range: &str) -> Option<Self> {
        let parsed = VersionRange::parse(range)?;
        let version = match NODES.into_iter().find(|major| parsed.allows_newest_of(*major)) {
            Some(major) => major.to_string(),
            None => {
                let first = range.split("||").next()?.trim_start_matches(['^', '~', '=', 'v', ' ']);
                numeric(first.split_whitespace().next()?.trim_end_matches(".x"))?
            }
        };
        Some(Self { version, from: format!("engines.node `{range}`") })
    }
}

fn numeric(text: &str) -> Option<String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let parts: Vec<&str> = text.split('.').collect();
    let number =
        |part: &&str| !part.is_empty() && part.len() <= 5 && part.bytes().all(|b| b.is_ascii_digit());
    (parts.len() <= 3 && parts.iter().all(number)).then(|| text.to_owned())
}

/// Makes up a spec for the application. What it says, and from where, stands in its text as comments.
///
/// # Errors
/// When what is known of the workspace makes no valid spec: a package with an impossible name.
pub fn infer(facts: &InferFacts) -> Result<Spec, Vec<Diagnostic>> {
    let mut notes = BTreeMap::new();
    note(
        &mut notes,
        "",
        "Inferred, since there is no wbuild.toml. `wbuild image --print-spec > wbuild.toml` keeps it.",
    );
    note(&mut notes, "app", &format!("{}: {}", join(&facts.dir, "package.json"), facts.why));
    if !facts.turbo_config {
        let text = "no turbo.json: it runs after the scripts of this name of the packages that the application depends on";
        note(&mut notes, "build.task", text);
    }
    let mut guess = Spec {
        app: facts.app.clone(),
        base: base(facts, &mut notes),
        toolchain: toolchain(facts, &mut notes),
        install: InstallSpec { network: true },
        build: BuildSpec { task: "build".to_owned(), network: true, from_host: Vec::new() },
        env: variables(&[("NEXT_TELEMETRY_DISABLED", "1"), ("NODE_ENV", "production")]),
        args: args(facts, &mut notes),
        secrets: next_secrets(facts),
        runner: runner(facts, &mut notes),
        dev: facts.dev.then(|| DevSpec {
            cmd: match (&facts.turbo, facts.turbo_config) {
                (Some(_), true) => {
                    vec!["turbo".to_owned(), "run".to_owned(), "dev".to_owned(), filter(facts)]
                }
                _ => vec!["pnpm".to_owned(), filter(facts), "run".to_owned(), "dev".to_owned()],
            },
            env: variables(&[
                ("CHOKIDAR_USEPOLLING", "true"),
                ("NEXT_TELEMETRY_DISABLED", "1"),
                ("NODE_ENV", "development"),
            ]),
            expose: vec!["3000/tcp".to_owned()],
        }),
        normalise: Normalise { pnpm_state: true, next_build_id: true, next_trace: true },
        origin: Origin {
            file: SourceFile::new(NAME, ""),
            inferred: true,
            places: BTreeMap::new(),
            notes: BTreeMap::new(),
        },
    };
    guess.origin.notes = notes;
    // Read back, so that errors about it have a text to point into.
    let mut spec = Spec::parse(&SourceFile::new(NAME, guess.print()))?;
    spec.origin.inferred = true;
    spec.origin.notes = guess.origin.notes;
    Ok(spec)
}

/// The application as a filter of turbo and pnpm.
fn filter(facts: &InferFacts) -> String {
    format!("--filter={}", facts.app)
}

fn note(notes: &mut BTreeMap<String, String>, path: &str, text: &str) {
    notes.insert(path.to_owned(), text.to_owned());
}

fn variables(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn base(facts: &InferFacts, notes: &mut BTreeMap<String, String>) -> String {
    let (version, from) = match &facts.node {
        Some(node) => (node.version.as_str(), format!("from {}", node.from)),
        None => (DEFAULT_NODE, "no .node-version, .nvmrc or engines.node: pin one".to_owned()),
    };
    note(notes, "base.image", &from);
    format!("node:{version}-alpine")
}

fn toolchain(facts: &InferFacts, notes: &mut BTreeMap<String, String>) -> Vec<String> {
    let mut from = Vec::new();
    let mut tools = Vec::new();
    if let Some(turbo) = &facts.turbo {
        tools.push(format!("turbo@{turbo}"));
        from.push("turbo from pnpm-lock.yaml");
    }
    match &facts.pnpm {
        Some(pnpm) => {
            tools.push(format!("pnpm@{pnpm}"));
            from.push("pnpm from packageManager");
        }
        None => {
            tools.push(format!("pnpm@{}", facts.pnpm_major));
            from.push("no packageManager: pin pnpm there");
        }
    }
    let mut run = vec![format!("npm install -g {}", tools.join(" "))];
    if facts.builds {
        run.push("apk add --no-cache libc6-compat python3 make g++ openssl".to_owned());
        from.push("compilers, because dependencies may build native code");
    }
    note(notes, "toolchain.run", &from.join("; "));
    run
}

fn args(facts: &InferFacts, notes: &mut BTreeMap<String, String>) -> BTreeMap<String, String> {
    if !facts.declared_env.iter().any(|name| name == "DATABASE_URL") {
        return BTreeMap::new();
    }
    note(notes, "args.DATABASE_URL", "declared in turbo.json; the build itself connects to no database");
    variables(&[("DATABASE_URL", PLACEHOLDER_DATABASE)])
}

/// What Next writes into its own output and makes up where it is not given.
fn next_secrets(facts: &InferFacts) -> BTreeMap<String, SecretSpec> {
    let Some(dist) = &facts.dist else { return BTreeMap::new() };
    let secret = |target| SecretSpec { target, version: "1".to_owned(), required: false };
    let key = SecretTarget::Env("NEXT_SERVER_ACTIONS_ENCRYPTION_KEY".to_owned());
    let preview = SecretTarget::File(join(&facts.dir.join_path(dist), "cache/.previewinfo"));
    BTreeMap::from([
        ("next-server-actions-key".to_owned(), secret(key)),
        ("next-preview-keys".to_owned(), secret(preview)),
    ])
}

fn runner(facts: &InferFacts, notes: &mut BTreeMap<String, String>) -> RunnerSpec {
    if facts.health.is_none() {
        note(notes, "runner", "without a health route there is no healthcheck");
    }
    RunnerSpec {
        image: base(facts, &mut BTreeMap::new()),
        user: User { name: "nextjs".to_owned(), uid: 1001, group: "nodejs".to_owned(), gid: 1001 },
        workdir: "/app".to_owned(),
        env: variables(&[
            ("HOSTNAME", "0.0.0.0"),
            ("NEXT_TELEMETRY_DISABLED", "1"),
            ("NODE_ENV", "production"),
            ("PORT", "3000"),
        ]),
        expose: vec!["3000/tcp".to_owned()],
        healthcheck: facts.health.as_ref().map(|path| Probe {
            cmd: ["node", "-e", &probe(path)].map(str::to_owned).to_vec(),
            interval: Some(30_000_000_000),
            timeout: Some(3_000_000_000),
            start_period: Some(40_000_000_000),
            start_interval: None,
            retries: Some(3),
        }),
        entrypoint: None,
        cmd: vec!["node".to_owned(), join(&facts.dir, "server.js")],
        labels: variables(&[("org.opencontainers.image.title", &facts.app)]),
        layers: vec![Layer::Links, Layer::Modules, Layer::Packages],
    }
}

fn join(dir: &EntryPath, name: &str) -> String {
    if dir.is_root() {
        name.to_owned()
    } else {
        format!("{}/{name}", String::from_utf8_lossy(dir.as_bytes()))
    }
}

/// Asks 127.0.0.1, since `localhost` may mean `::1` first, where a server on 0.0.0.0 does not listen.
fn probe(path: &str) -> String {
    format!(
        "require('http').get(`http://127.0.0.1:${{process.env.PORT||3000}}{path}`, (r) => process.exit(r.statusCode === 200 ? 0 : 1)).on('error', () => process.exit(1))"
    )
}
