//! `wbuild cache`: what the state directory holds, and less of it.

use wbuild_engine::Engine;

use super::{Failure, Session, print};
use crate::args::CacheCommand;
use crate::render::{Align, Table, Theme, size};

pub(crate) fn run(command: &CacheCommand, session: &Session) -> Result<(), Failure> {
    let (CacheCommand::Du { home } | CacheCommand::Prune { home, .. } | CacheCommand::Verify { home }) =
        command;
    let options = session.plain_options(home.home.as_ref())?;
    if !options.home.exists() {
        // Looking at it must not make it.
        return print(&format!("there is no state directory `{}`\n", options.home.display()));
    }
    let engine = Engine::open(options, &session.variable)?;
    match command {
        CacheCommand::Du { .. } => {
            let usage = engine.store().usage().map_err(Failure::new)?;
            let mut table =
                Table::new([("WHAT", Align::Left), ("COUNT", Align::Right), ("SIZE", Align::Right)]);
            let rows = [
                ("blobs", usage.blobs),
                ("trees", usage.trees),
                ("records", usage.records),
                ("files of deltas", usage.deltas),
                ("shared inodes", usage.pool),
                ("cache mounts", usage.mounts),
                ("work", usage.work),
                ("logs and indexes", usage.other),
            ];
            for (name, of) in rows {
                table.row([name.to_owned(), of.count.to_string(), size(of.bytes)]);
            }
            table.row(["total".to_owned(), String::new(), size(usage.total())]);
            print(&table.render(&Theme::plain()))
        }
        CacheCommand::Prune { keep, .. } => {
            let (freed, kept) = engine.prune(bytes(keep)?)?;
            print(&format!("freed {}, kept {}\n", size(freed), size(kept)))
        }
        CacheCommand::Verify { .. } => {
            let verified = engine.verify()?;
            let mut text = String::new();
            for (what, why) in &verified.damaged {
                text.push_str(&format!("damaged and dropped: {what}: {why}\n"));
            }
            for key in &verified.records {
                text.push_str(&format!("damaged and dropped: record {}\n", key.hex()));
            }
            for what in &verified.incomplete {
                text.push_str(&format!("dropped with it: {what}: a part of it is gone\n"));
            }
            for name in &verified.set_aside {
                text.push_str(&format!("runs again: {name}\n"));
            }
            let again = match verified.set_aside.len() {
                0 => String::new(),
                1 => ", 1 step runs again".to_owned(),
                count => format!(", {count} steps run again"),
            };
            print(&format!("{text}{} checked, {} damaged{again}\n", verified.checked, verified.damaged()))
        }
    }
}

/// `20GB`, `512m`, `1000`: units of 1024, as docker's `--keep-storage` has them.
pub(crate) fn bytes(text: &str) -> Result<u64, Failure> {
    let lower = text.to_ascii_lowercase();
    let number = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match lower[number.len()..].trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => 64,
    };
    match number.parse::<u64>() {
        Ok(number) if shift < 64 && number.leading_zeros() >= shift => Ok(number << shift),
        _ => Err(Failure::usage(format!("`{text}` is no size"), "for example 20GB")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in
            [("0", 0), ("1000", 1000), ("2k", 2048), ("20GB", 20 << 30), ("1MiB", 1 << 20)]
        {
            assert_eq!(bytes(text).ok(), Some(expected), "{text}");
        }
        for text in ["", "x", "20XB", "-1", "99999999999999999999", "18446744073709551615k"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }
}
