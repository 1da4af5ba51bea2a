//! From the tree of values to the typed spec, filling in defaults. The tree has the shape of the table, so that
//! nothing can go wrong here: what is missing has a default.

use std::collections::BTreeMap;

use super::read::Value;
use super::{
    BuildSpec, DevSpec, InstallSpec, Layer, Normalise, Origin, Probe, RunnerSpec, SecretSpec, SecretTarget,
    Spec, User,
};

/// A table of the tree, or an empty one where it is missing.
struct Table<'a>(Option<&'a BTreeMap<String, Value>>);

impl<'a> Table<'a> {
    fn of(value: &'a Value) -> Self {
        match value {
            Value::Table(table) => Self(Some(table)),
            _ => Self(None),
        }
    }

    fn get(&self, name: &str) -> Option<&'a Value> {
        self.0?.get(name)
    }

    fn table(&self, name: &str) -> Self {
        self.get(name).map_or(Self(None), Self::of)
    }

    fn entries(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.0.into_iter().flatten()
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name).and_then(text)
    }

    fn text_or(&self, name: &str, default: &str) -> String {
        self.text(name).unwrap_or_else(|| default.to_owned())
    }

    fn flag_or(&self, name: &str, default: bool) -> bool {
        match self.get(name) {
            Some(Value::Flag(flag)) => *flag,
            _ => default,
        }
    }

    fn number(&self, name: &str) -> Option<u64> {
        match self.get(name) {
            Some(Value::Integer(number)) => u64::try_from(*number).ok(),
            Some(Value::Duration(nanoseconds)) => Some(*nanoseconds),
            _ => None,
        }
    }

    fn id(&self, name: &str) -> u32 {
        self.number(name).and_then(|number| u32::try_from(number).ok()).unwrap_or_default()
    }

    fn list(&self, name: &str) -> Option<Vec<String>> {
        match self.get(name) {
            Some(Value::List(items)) => Some(items.iter().filter_map(text).collect()),
            _ => None,
        }
    }

    fn map(&self, name: &str) -> BTreeMap<String, String> {
        self.table(name).entries().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect()
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::Text(text) => Some(text.clone()),
        _ => None,
    }
}

pub(crate) fn spec(tree: &Value, origin: Origin) -> Spec {
    let root = Table::of(tree);
    let base = root.table("base").text_or("image", "");
    let build = root.table("build");
    Spec {
        app: root.text_or("app", ""),
        toolchain: root.table("toolchain").list("run").unwrap_or_default(),
        install: InstallSpec { network: root.table("install").flag_or("network", true) },
        build: BuildSpec {
            task: build.text_or("task", "build"),
            network: build.flag_or("network", true),
            from_host: build.list("from-host").unwrap_or_default(),
        },
        env: root.map("env"),
        args: root.map("args"),
        secrets: root
            .table("secrets")
            .entries()
            .map(|(id, value)| (id.clone(), secret(&Table::of(value))))
            .collect(),
        runner: runner(&root.table("runner"), &base),
        dev: root.get("dev").map(|dev| {
            let dev = Table::of(dev);
            DevSpec {
                cmd: dev.list("cmd").unwrap_or_default(),
                env: dev.map("env"),
                expose: dev.list("expose").unwrap_or_default(),
            }
        }),
        normalise: {
            let normalise = root.table("normalise");
            Normalise {
                pnpm_state: normalise.flag_or("pnpm-state", true),
                next_build_id: normalise.flag_or("next-build-id", true),
                next_trace: normalise.flag_or("next-trace", true),
            }
        },
        base,
        origin,
    }
}

fn secret(table: &Table<'_>) -> SecretSpec {
    let target = match table.text("file") {
        Some(file) => SecretTarget::File(file),
        None => SecretTarget::Env(table.text_or("env", "")),
    };
    SecretSpec { target, version: table.text_or("version", "1"), required: table.flag_or("required", false) }
}

fn runner(table: &Table<'_>, base: &str) -> RunnerSpec {
    let layers = table.list("layers").map_or_else(
        || vec![Layer::Links, Layer::Modules, Layer::Packages],
        |names| {
            [Layer::Links, Layer::Modules, Layer::Packages]
                .into_iter()
                .filter(|l| names.iter().any(|n| n == l.name()))
                .collect()
        },
    );
    RunnerSpec {
        image: table.text_or("image", base),
        user: User {
            name: table.text_or("user", ""),
            uid: table.id("uid"),
            group: table.text_or("group", ""),
            gid: table.id("gid"),
        },
        workdir: table.text_or("workdir", "/app"),
        env: table.map("env"),
        expose: table.list("expose").unwrap_or_default(),
        healthcheck: table.get("healthcheck").map(|probe| {
            let probe = Table::of(probe);
            Probe {
                cmd: probe.list("cmd").unwrap_or_default(),
                interval: probe.number("interval"),
                timeout: probe.number("timeout"),
                start_period: probe.number("start-period"),
                start_interval: probe.number("start-interval"),
                retries: probe.number("retries"),
            }
        }),
        entrypoint: table.list("entrypoint"),
        cmd: table.list("cmd").unwrap_or_default(),
        labels: table.map("labels"),
        layers,
    }
}

impl Layer {
    /// As it is written in the file.
    pub fn name(self) -> &'static str {
        super::shape::LAYERS[self as usize]
    }
}
