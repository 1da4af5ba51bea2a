//! The keys of the file as one table: the reader, the "did you mean", and the JSON schema are all made from it.

/// What a value looks like.
#[derive(Debug)]
pub(crate) enum Shape {
    /// A string.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number between these two, both allowed.
    Integer(i64, i64),
    /// A string such as `1m30s`.
    Duration,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// A list.
    List {
        /// Of these.
        of: &'static Shape,
        /// How many at least.
        least: usize,
    },
    /// A port: a number, or a string such as `53/udp`.
    Port,
    /// A table whose keys the person chooses.
    Map(&'static Shape),
    /// A table with known keys.
    Table(&'static [Key]),
}

/// One key of a table.
#[derive(Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    pub(crate) shape: Shape,
    /// What holds when the key is missing, as in the file.
    pub(crate) default: Option<&'static str>,
    /// For the schema and for README.md.
    pub(crate) doc: &'static str,
}

const fn required(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, required: true, shape, default: None, doc }
}

const fn optional(name: &'static str, shape: Shape, doc: &'static str) -> Key {
    Key { name, required: false, shape, default: None, doc }
}

const fn default(name: &'static str, shape: Shape, default: &'static str, doc: &'static str) -> Key {
    Key { name, required: false, shape, default: Some(default), doc }
}

const ARGV: Shape = Shape::List { of: &Shape::Text, least: 1 };
const NAMES: Shape = Shape::List { of: &Shape::Text, least: 0 };
const PORTS: Shape = Shape::List { of: &Shape::Port, least: 0 };
const VALUES: Shape = Shape::Map(&Shape::Text);

/// The layers that can be asked for, in the order in which they are stacked.
pub(crate) const LAYERS: [&str; 3] = ["links", "modules", "packages"];

const LAYER_LIST: Shape = Shape::List { of: &Shape::Choice(&LAYERS), least: 0 };

/// Largest user and group number: what a 32-bit id holds without the one that means "none".
const MAX_ID: i64 = 4_294_967_294;

/// The keys of the file.
pub(crate) const SPEC: &[Key] = &[
    required("version", Shape::Integer(1, 1), "Version of this format."),
    required("app", Shape::Text, "The application: the name of a workspace package, or its folder."),
    required("base", Shape::Table(BASE), "Stage `base`: what everything is installed and built in."),
    optional("toolchain", Shape::Table(TOOLCHAIN), "The tools on top of the base image."),
    optional("install", Shape::Table(INSTALL), "Stage `deps`: how dependencies are installed."),
    optional("build", Shape::Table(BUILD), "Stage `builder`: which task is built."),
    optional("env", VALUES, "Environment of every task. Part of its key."),
    optional(
        "args",
        VALUES,
        "Build arguments with their defaults; `--build-arg` overrides them. A task gets those that it declares in turbo.json.",
    ),
    optional(
        "secrets",
        Shape::Map(&Shape::Table(SECRET)),
        "Secrets of the application's task, by the id of `--secret`. Their values are in no key, layer or log.",
    ),
    required("runner", Shape::Table(RUNNER), "Stage `runner`: the image that is shipped."),
    optional("dev", Shape::Table(DEV), "Stage `dev`: the image to develop in."),
    optional(
        "normalise",
        Shape::Table(NORMALISE),
        "Known sources of noise that are taken out, so that the same inputs give the same bytes.",
    ),
];

const BASE: &[Key] =
    &[required("image", Shape::Text, "An image reference; a tag with the exact version, or a digest.")];

const TOOLCHAIN: &[Key] =
    &[optional("run", NAMES, "Lines for `/bin/sh -c`, each a step of its own, run in /app.")];

const INSTALL: &[Key] =
    &[default("network", Shape::Flag, "true", "Whether the install reaches the network.")];

const BUILD: &[Key] = &[
    default("task", Shape::Text, "\"build\"", "The task of turbo.json to build the application with."),
    default("network", Shape::Flag, "true", "Whether tasks reach the network."),
    optional(
        "from-host",
        NAMES,
        "Variables, with `*`, that come from the host when they are set there and a task declares them.",
    ),
];

const SECRET: &[Key] = &[
    optional("env", Shape::Text, "The variable to give it as. Either this or `file`."),
    optional(
        "file",
        Shape::Text,
        "The file to give it as, relative to the workspace root. Either this or `env`.",
    ),
    default(
        "version",
        Shape::Text,
        "\"1\"",
        "In the key instead of the value: change it when a new value shall count.",
    ),
    default("required", Shape::Flag, "false", "Whether the build stops without it."),
];

const RUNNER: &[Key] = &[
    optional("image", Shape::Text, "An image reference; the base image when missing."),
    required("user", Shape::Text, "Name of the user it runs as."),
    required("uid", Shape::Integer(0, MAX_ID), "Number of that user."),
    required("group", Shape::Text, "Name of the user's group."),
    required("gid", Shape::Integer(0, MAX_ID), "Number of that group."),
    default("workdir", Shape::Text, "\"/app\"", "Where the command starts."),
    optional("env", VALUES, "Its environment, over the base image's."),
    optional("expose", PORTS, "Ports it listens on."),
    optional(
        "entrypoint",
        ARGV,
        "Replaces the base image's entrypoint, which is kept otherwise, as in a Dockerfile.",
    ),
    required("cmd", ARGV, "What it runs."),
    optional("healthcheck", Shape::Table(HEALTHCHECK), "How a container engine finds out that it works."),
    optional("labels", VALUES, "Labels, over the base image's."),
    default(
        "layers",
        LAYER_LIST,
        "[\"links\", \"modules\", \"packages\"]",
        "What gets a layer of its own; the rest is the application's.",
    ),
];

const HEALTHCHECK: &[Key] = &[
    required("cmd", ARGV, "The probe's command; exit code 0 means healthy."),
    optional("interval", Shape::Duration, "Time between two probes."),
    optional("timeout", Shape::Duration, "Time that a probe may take."),
    optional("start-period", Shape::Duration, "Time after the start in which failures do not count."),
    optional("start-interval", Shape::Duration, "Time between two probes in the start period."),
    optional("retries", Shape::Integer(1, 1000), "Failures in a row until it counts as unhealthy."),
];

const DEV: &[Key] = &[
    required("cmd", ARGV, "What it runs."),
    optional("env", VALUES, "Its environment, over the base image's."),
    optional("expose", PORTS, "Ports it listens on."),
];

const NORMALISE: &[Key] = &[
    default(
        "pnpm-state",
        Shape::Flag,
        "true",
        "Fixed times in pnpm's two state files, `.modules.yaml` and `.pnpm-workspace-state-v1.json`.",
    ),
    default(
        "next-build-id",
        Shape::Flag,
        "true",
        "Gives `WBUILD_BUILD_ID`, made from the input digest, to the application's task.",
    ),
    default(
        "next-trace",
        Shape::Flag,
        "true",
        "Leaves Next's `trace` and `trace-build`, which hold times, out of the outputs.",
    ),
];
