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
use interrupt::Interrupts;
use progress::{Clock, Progress, ProgressMode, Terminal};
use wbuild_solver::Cancellation;

/// Exit codes: 0 done, 1 it failed, 2 wrong usage, 130 interrupted.
mod exit {
    pub(crate) const FAILED: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const INTERRUPTED: u8 = 130;
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(args::joined(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(exit::USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let cancellation = Cancellation::new();
    let interrupts = Interrupts::cancel(cancellation.clone());
    let mode = match &cli.command {
        Command::Image(args) => args.progress.mode(),
        Command::Build(args) => args.progress.mode(),
        Command::Pull(args) => args.progress.mode(),
        Command::Push(args) => args.progress.mode(),
        Command::Copy(args) => args.progress.mode(),
        _ => ProgressMode::Plain,
    };
    let session = match interrupts {
        Ok(interrupts) => Session { variable: |name| std::env::var(name).ok(), cancellation, interrupts },
        Err(error) => return fail(Failure::Failed { error: Box::new(error), hints: Vec::new() }, mode),
    };
    let done = match &cli.command {
        Command::Image(args) => commands::image::run(args, &session).map(|()| ExitCode::SUCCESS),
        Command::Build(args) => commands::build::run(args, &session).map(|()| ExitCode::SUCCESS),
        Command::Check(args) => commands::build::check(args, &session).map(|()| ExitCode::SUCCESS),
        Command::Run(args) => commands::run::run(args, &session),
        Command::Pull(args) => commands::transfer::pull(args, &session).map(|()| ExitCode::SUCCESS),
        Command::Push(args) => commands::transfer::push(args, &session).map(|()| ExitCode::SUCCESS),
        Command::Copy(args) => commands::transfer::copy(args, &session).map(|()| ExitCode::SUCCESS),
        Command::Login(args) => commands::login::log_in(args, &session).map(|()| ExitCode::SUCCESS),
        Command::Logout(args) => commands::login::log_out(args, &session).map(|()| ExitCode::SUCCESS),
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
        // What was said already is not said again.
        Err(Failure::Said(code)) => ExitCode::from(code),
        Err(failure) => fail(failure, mode),
    }
}

/// Says why the command failed, in the form that was asked for.
#[expect(clippy::print_stderr, reason = "the one place where errors are shown")]
fn fail(failure: Failure, mode: ProgressMode) -> ExitCode {
    let terminal = Terminal::stderr();
    let failure = match mode {
        ProgressMode::Json => match Progress::new(mode, std::io::stderr(), &terminal, Clock::start()) {
            Ok(progress) => failure.shown_by(progress, mode),
            Err(_) => failure,
        },
        _ => failure,
    };
    eprint!("{}", failure.render(&terminal.theme()));
    ExitCode::from(failure.exit_code())
}
