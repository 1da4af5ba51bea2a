//! RUN.

use super::build::command_line;
use super::flag::{Flags, Takes};
use crate::ast::{Device, Network, Run, Security};
use crate::problem::Problem;
use crate::source::Word;
use crate::statement::Statement;
use crate::suggest::{did_you_mean, suggest};
use crate::values::{boolean, csv_fields};

pub(crate) fn run(statement: &Statement, problems: &mut Vec<Problem>) -> Option<Run> {
    let known = [
        ("mount", Takes::Values),
        ("network", Takes::Value),
        ("security", Takes::Value),
        ("device", Takes::Values),
    ];
    let flags = Flags::read(&statement.flags, &known, problems);
    let mounts = flags.values("mount");
    for mount in &mounts {
        check_mount(mount, problems);
    }
    let network = flags.given("network").map_or(Some(Network::Default), |word| network(&word, problems));
    let security = flags.given("security").map_or(Some(Security::Sandbox), |word| security(&word, problems));
    let devices = flags.values("device").iter().filter_map(|word| device(word, problems)).collect();
    Some(Run {
        command: command_line(&statement.arguments, statement),
        heredocs: statement.heredocs.clone(),
        mounts,
        network: network?,
        security: security?,
        devices,
    })
}

/// What can be said of a mount before its variables are known.
fn check_mount(mount: &Word, problems: &mut Vec<Problem>) {
    let fields = match csv_fields(&mount.text) {
        Ok(fields) => fields,
        Err(reason) => {
            problems.push(Problem::new(format!("failed to parse csv mounts: {reason}"), mount.span).hint(
                "write `--mount=type=…,target=…`; a field with a comma stands in double quotes as a whole",
            ));
            return;
        }
    };
    for field in &fields {
        if let Some((key, value)) = field.split_once('=')
            && key.eq_ignore_ascii_case("from")
            && value.find('$').is_some_and(|dollar| dollar + 1 != value.len())
        {
            let at = mount.text.find(field.as_str()).unwrap_or(0);
            problems.push(
                Problem::new(
                    "'from' doesn't support variable expansion, define alias stage instead",
                    mount.part(at..at + field.len()),
                )
                .label("has to be a plain name")
                .hint("add `FROM $NAME AS alias` and write `from=alias`"),
            );
        }
    }
}

fn network(word: &Word, problems: &mut Vec<Problem>) -> Option<Network> {
    match word.text.as_str() {
        "default" => Some(Network::Default),
        "none" => Some(Network::None),
        "host" => Some(Network::Host),
        other => {
            let found = suggest(other, ["default", "none", "host"]);
            problems.push(
                Problem::new(format!("invalid network mode {other:?}{}", did_you_mean(found)), word.span)
                    .hint("the modes are `default`, `none` and `host`"),
            );
            None
        }
    }
}

fn security(word: &Word, problems: &mut Vec<Problem>) -> Option<Security> {
    match word.text.as_str() {
        "sandbox" => Some(Security::Sandbox),
        "insecure" => Some(Security::Insecure),
        other => {
            // No suggestion: the nearest word to `secure` is the one that is not.
            problems.push(
                Problem::new(format!("security {other:?} is not valid"), word.span)
                    .hint("the modes are `sandbox`, which is the default, and `insecure`"),
            );
            None
        }
    }
}

fn device(word: &Word, problems: &mut Vec<Problem>) -> Option<Device> {
    read_device(&word.text)
        .map_err(|message| {
            problems.push(
                Problem::new(message, word.span).hint("write `--device=vendor.com/class=name[,required]`"),
            );
        })
        .ok()
}

fn read_device(text: &str) -> Result<Device, String> {
    let fields = csv_fields(text).map_err(|reason| format!("failed to parse csv devices: {reason}"))?;
    let mut device = Device { name: String::new(), required: false };
    for field in fields {
        let (key, value) =
            field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
        match (key.to_lowercase().as_str(), value) {
            ("required", None) => device.required = true,
            ("required", Some(value)) => {
                device.required =
                    boolean(value).ok_or_else(|| format!("invalid value for required: {value}"))?;
            }
            ("name", Some(value)) if device.name.is_empty() => device.name = value.to_owned(),
            ("name", Some(_)) => return Err(format!("device name already set to {}", device.name)),
            _ if device.name.is_empty() => device.name.clone_from(&field),
            (_, None) => return Err(format!("invalid field '{field}' must be a key=value pair")),
            (key, Some(_)) => {
                let found = suggest(key, ["name", "required"]);
                return Err(format!("unexpected key '{key}' in '{field}'{}", did_you_mean(found)));
            }
        }
    }
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices() {
        for (text, name, required) in [
            ("vendor1.com/device=foo", "vendor1.com/device=foo", false),
            ("vendor1.com/device,required", "vendor1.com/device", true),
            ("name=vendor1.com/device=foo,required=false", "vendor1.com/device=foo", false),
        ] {
            assert_eq!(read_device(text).unwrap(), Device { name: name.into(), required }, "{text}");
        }
        assert_eq!(
            read_device("vendor1.com/device=foo,name=vendor2.com/device=bar").unwrap_err(),
            "device name already set to vendor1.com/device=foo"
        );
    }
}
