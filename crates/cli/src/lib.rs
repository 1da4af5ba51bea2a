//! The command line of `wbuild`, the only crate that prints.
//!
//! [`progress`] turns the [`Event`](wbuild_report::Event) stream of a build into a live view, a plain log or JSON
//! lines. [`render`] turns errors, diagnostics, sizes, durations, tables and trees into text. Neither decides
//! where text goes: progress writes to the writer it is given, rendering returns strings.

mod args;
mod commands;
mod interrupt;
pub mod progress;
pub mod render;
mod version;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use args::{Cli, Command};
use commands::{Failure, Session};
use progress::Terminal;
use render::{render_diagnostics, render_error};

/// Exit codes: 0 done, 1 it failed, 2 wrong usage, 130 interrupted.
mod exit {
    pub(crate) const FAILED: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let session = Session { variable: |name| std::env::var(name).ok(), cancellation: Default::default() };
    if let Err(error) = interrupt::cancel_on_signal(session.cancellation.clone()) {
        return fail(&Failure::Failed { error: Box::new(error), hints: Vec::new() });
    }
    let done = match &cli.command {
        Command::Image(args) => commands::image::run(args, &session).map(|()| ExitCode::SUCCESS),
        Command::Build(args) => commands::build::run(args, &session).map(|()| ExitCode::SUCCESS),
        Command::Check(args) => commands::build::check(args, &session).map(|()| ExitCode::SUCCESS),
        Command::Run(args) => commands::run::run(args, &session),
        Command::Workspace(args) => commands::workspace::run(args, &session).map(|()| ExitCode::SUCCESS),
        Command::Doctor(args) => commands::doctor::run(args, &session).map(|()| ExitCode::SUCCESS),
        Command::Cache(command) => commands::cache::run(command, &session).map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Cli::command(), "wbuild", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    };
    match done {
        Ok(code) => code,
        Err(failure) => fail(&failure),
    }
}

#[expect(clippy::print_stderr, reason = "the one place where errors are shown")]
fn fail(failure: &Failure) -> ExitCode {
    let theme = Terminal::stderr().theme();
    match failure {
        Failure::Usage { message, hints } => {
            eprint!("{}", render_error(&UsageError(message.clone()), hints, &theme));
            ExitCode::from(exit::USAGE)
        }
        Failure::Failed { error, hints } => {
            eprint!("{}", render_error(&**error, hints, &theme));
            ExitCode::from(exit::FAILED)
        }
        Failure::Diagnostics(diagnostics) => {
            eprint!("{}", render_diagnostics(diagnostics, &theme));
            ExitCode::from(exit::FAILED)
        }
        Failure::Interrupted => {
            eprintln!("interrupted");
            ExitCode::from(exit::INTERRUPTED)
        }
    }
}

/// The arguments make no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UsageError(String);
