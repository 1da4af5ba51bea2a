//! `--call outline` and `--call targets`: what a Dockerfile offers, without building it. Texts and documents have the shape
//! that buildx gives them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use wbuild_dockerfile::{Dockerfile, GlobalScope, Settings};
use wbuild_report::Diagnostic;

use crate::commands::{Failure, print};
use crate::render::{Align, Table, Theme};

/// The stages that can be built.
pub(super) fn targets(dockerfile: &Dockerfile, settings: &Settings, json: bool) -> Result<(), Failure> {
    let one = |error: Box<Diagnostic>| Failure::Diagnostics(vec![*error]);
    let default = dockerfile.target(settings.target.as_deref()).map_err(one)?;
    if json {
        let global = GlobalScope::new(dockerfile, settings.clone()).map_err(one)?;
        let mut targets = Vec::new();
        for stage in &dockerfile.stages {
            let mut target = Map::new();
            if !stage.name.is_empty() {
                target.insert("name".to_owned(), stage.name.clone().into());
            }
            if stage.index == default {
                target.insert("default".to_owned(), true.into());
            }
            if let Some(description) = &stage.description {
                target.insert("description".to_owned(), description.clone().into());
            }
            target.insert("base".to_owned(), global.from_line(stage).map_err(one)?.base.into());
            targets.push(Value::Object(target));
        }
        return print(&format!("{:#}\n", json!({ "targets": targets })));
    }
    let mut table = Table::new([("TARGET", Align::Left), ("DESCRIPTION", Align::Left)]);
    for stage in &dockerfile.stages {
        let default = if stage.index == default { " (default)" } else { "" };
        let name = if stage.name.is_empty() { "(no name)" } else { &stage.name };
        table.row([&format!("{name}{default}"), stage.description.as_deref().unwrap_or_default()]);
    }
    print(&table.render(&Theme::plain()))
}

/// What the target can be given.
pub(super) fn outline(dockerfile: &Dockerfile, settings: Settings, json: bool) -> Result<(), Failure> {
    let one = |error: Box<Diagnostic>| Failure::Diagnostics(vec![*error]);
    let target = dockerfile.target(settings.target.as_deref()).map_err(one)?;
    let global = Arc::new(GlobalScope::new(dockerfile, settings).map_err(one)?);
    let outline = wbuild_dockerfile::outline(dockerfile, &global, target).map_err(Failure::Diagnostics)?;
    if json {
        let args: Vec<Value> = outline
            .args
            .iter()
            .map(|arg| json!({ "name": arg.name, "value": arg.value, "description": arg.description }))
            .collect();
        let named = |list: &BTreeMap<String, bool>| -> Vec<Value> {
            list.iter().map(|(name, required)| json!({ "name": name, "required": required })).collect()
        };
        let document = json!({
            "name": outline.name,
            "description": outline.description,
            "args": args,
            "secrets": named(&outline.secrets),
            "ssh": named(&outline.agents),
        });
        return print(&format!("{document:#}\n"));
    }
    let mut text = String::new();
    if !outline.name.is_empty() {
        let _ = writeln!(text, "TARGET:      {}", outline.name);
    }
    if let Some(description) = &outline.description {
        let _ = writeln!(text, "DESCRIPTION: {description}");
    }
    let mut args = Table::new(["BUILD ARG", "VALUE", "DESCRIPTION"].map(|heading| (heading, Align::Left)));
    for arg in &outline.args {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        args.row([arg.name.clone(), text(&arg.value), text(&arg.description)]);
    }
    let named = |heading, list: &BTreeMap<String, bool>| {
        let mut table = Table::new([(heading, Align::Left), ("REQUIRED", Align::Left)]);
        for (id, required) in list {
            table.row([id.as_str(), if *required { "true" } else { "" }]);
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
