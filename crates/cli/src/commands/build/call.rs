//! `--call outline` and `--call targets`: what a Dockerfile offers, without building it. Texts and documents have the shape
//! that buildx gives them.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use serde_json::{Value, json};
use wbuild_dockerfile::{Dockerfile, GlobalScope, LineRange, OutlineArg, OutlineMount, Settings, Stage};
use wbuild_report::Diagnostic;

use crate::commands::{Failure, print};
use crate::render::{Align, Table, Theme};

/// The stages that can be built: as they are written, and the last one is the default, whatever is asked for.
pub(super) fn targets(dockerfile: &Dockerfile, json: bool) -> Result<(), Failure> {
    let is_default = |stage: &Stage| stage.index + 1 == dockerfile.stages.len();
    if json {
        let targets = dockerfile.stages.iter().map(|stage| {
            object([
                ("name", text_value(Some(&stage.name))),
                ("default", is_default(stage).then(|| true.into())),
                ("description", text_value(stage.description.as_ref())),
                ("base", text_value(Some(&stage.base.text))),
                ("platform", text_value(stage.platform.as_ref().map(|platform| &platform.text))),
                ("location", Some(location(stage.lines))),
            ])
        });
        let targets: Vec<Value> = targets.collect();
        return print(&format!("{:#}\n", json!({ "targets": targets, "sources": [source(dockerfile)] })));
    }
    let mut table = Table::new([("TARGET", Align::Left), ("DESCRIPTION", Align::Left)]);
    for stage in &dockerfile.stages {
        let name = match (stage.name.as_str(), is_default(stage)) {
            ("", true) => "(default)".to_owned(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        table.row([&name, stage.description.as_deref().unwrap_or_default()]);
    }
    print(&table.render(&Theme::plain()))
}

/// An object of the fields that say something: Go's `omitempty`.
fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let fields = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(fields.collect())
}

fn text_value(text: Option<&String>) -> Option<Value> {
    text.filter(|text| !text.is_empty()).map(|text| text.as_str().into())
}

fn location(lines: LineRange) -> Value {
    json!({ "ranges": [{ "start": { "line": lines.first }, "end": { "line": lines.last } }] })
}

/// The file itself, as Go writes bytes.
fn source(dockerfile: &Dockerfile) -> String {
    BASE64.encode(&dockerfile.file.text)
}

/// What the target can be given.
pub(super) fn outline(dockerfile: &Dockerfile, settings: Settings, json: bool) -> Result<(), Failure> {
    let one = |error: Box<Diagnostic>| Failure::Diagnostics(vec![*error]);
    let target = dockerfile.target(settings.target.as_deref()).map_err(one)?;
    let global = Arc::new(GlobalScope::new(dockerfile, settings).map_err(one)?);
    let outline = wbuild_dockerfile::outline(dockerfile, &global, target).map_err(Failure::Diagnostics)?;
    if json {
        let arg = |arg: &OutlineArg| {
            object([
                ("name", Some(arg.name.as_str().into())),
                ("value", text_value(arg.value.as_ref())),
                ("description", text_value(arg.description.as_ref())),
                ("location", Some(location(arg.lines))),
            ])
        };
        let mount = |mount: &OutlineMount| {
            object([
                ("name", Some(mount.id.as_str().into())),
                ("required", mount.required.then(|| true.into())),
                ("location", Some(location(mount.lines))),
            ])
        };
        let list = |list: Vec<Value>| Some(Value::Array(list)).filter(|list| *list != json!([]));
        let document = object([
            ("name", text_value(Some(&outline.name))),
            ("description", text_value(outline.description.as_ref())),
            ("args", list(outline.args.iter().map(arg).collect())),
            ("secrets", list(outline.secrets.iter().map(mount).collect())),
            ("ssh", list(outline.agents.iter().map(mount).collect())),
            ("sources", Some(json!([source(dockerfile)]))),
        ]);
        return print(&format!("{document:#}\n"));
    }
    let mut text = String::new();
    if !outline.name.is_empty() || outline.description.is_some() {
        let name = if outline.name.is_empty() { "(default)" } else { &outline.name };
        let _ = writeln!(text, "TARGET:      {name}");
    }
    if let Some(description) = &outline.description {
        let _ = writeln!(text, "DESCRIPTION: {description}");
    }
    let mut args = Table::new(["BUILD ARG", "VALUE", "DESCRIPTION"].map(|heading| (heading, Align::Left)));
    for arg in &outline.args {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        args.row([arg.name.clone(), text(&arg.value), text(&arg.description)]);
    }
    let named = |heading, list: &[OutlineMount]| {
        let mut table = Table::new([(heading, Align::Left), ("REQUIRED", Align::Left)]);
        for mount in list {
            table.row([mount.id.as_str(), if mount.required { "true" } else { "" }]);
        }
        table
    };
    for table in [args, named("SECRET", &outline.secrets), named("SSH", &outline.agents)] {
        if !table.is_empty() {
            let blank = if text.is_empty() { "" } else { "\n" };
            let _ = write!(text, "{blank}{}", table.render(&Theme::plain()));
        }
    }
    print(&text)
}
