//! Several programs doing one thing in turns, so that what else the machine does meets all of them alike.

use std::process::Command;
use std::time::Duration;

use crate::problem::Problem;
use crate::run::{Peak, Run, run, settle};

/// What the first lane's time may be against a peer's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// At most so many times the peer's.
    Share(f64),
    /// At least so many times faster.
    Times(f64),
}

/// Makes ready for a round, not measured. The round's number lets each make another edit.
type Before<'a> = Box<dyn Fn(usize) -> Result<(), Problem> + 'a>;

/// One program.
pub(crate) struct Lane<'a> {
    name: &'static str,
    command: Box<dyn Fn() -> Command + 'a>,
    before: Option<Before<'a>>,
    goal: Option<Goal>,
    runs: Vec<Run>,
}

impl<'a> Lane<'a> {
    pub(crate) fn new(name: &'static str, command: impl Fn() -> Command + 'a) -> Self {
        Self { name, command: Box::new(command), before: None, goal: None, runs: Vec::new() }
    }

    /// What to do before each run, not measured.
    pub(crate) fn before(mut self, before: impl Fn(usize) -> Result<(), Problem> + 'a) -> Self {
        self.before = Some(Box::new(before));
        self
    }

    /// What the first lane is to reach against this one.
    pub(crate) fn goal(mut self, goal: Goal) -> Self {
        self.goal = Some(goal);
        self
    }

    fn turn(&mut self, round: usize) -> Result<(), Problem> {
        if let Some(before) = &self.before {
            before(round)?;
        }
        settle()?;
        let run = run((self.command)(), Peak::Loose)?;
        eprintln!("  {}: {}", self.name, seconds(run.wall));
        self.runs.push(run);
        Ok(())
    }

    fn median(&self) -> Duration {
        let mut walls: Vec<Duration> = self.runs.iter().map(|run| run.wall).collect();
        walls.sort_unstable();
        walls[walls.len() / 2]
    }
}

/// A scenario: wbuild's lane first, its peers after it.
pub(crate) struct Contest<'a> {
    title: String,
    rounds: usize,
    lanes: Vec<Lane<'a>>,
}

impl<'a> Contest<'a> {
    pub(crate) fn new(title: impl Into<String>, rounds: usize) -> Self {
        Self { title: title.into(), rounds, lanes: Vec::new() }
    }

    pub(crate) fn add(&mut self, lane: Lane<'a>) {
        self.lanes.push(lane);
    }

    /// Runs all lanes in turns, starting with another one each round, and prints medians and ratios.
    pub(crate) fn run(mut self) -> Result<(), Problem> {
        eprintln!("{}:", self.title);
        let count = self.lanes.len();
        for round in 0..self.rounds {
            for turn in 0..count {
                self.lanes[(round + turn) % count].turn(round)?;
            }
        }
        let peak = self.peak()?;
        println!("\n## {}\n", self.title);
        println!("| | median of {} | fastest | slowest | wbuild's time is | goal | |", self.rounds);
        println!("|---|---|---|---|---|---|---|");
        let own = self.lanes[0].median();
        for (index, lane) in self.lanes.iter().enumerate() {
            let walls = || lane.runs.iter().map(|run| run.wall);
            let (least, most) = (walls().min().unwrap_or_default(), walls().max().unwrap_or_default());
            let times = format!("{} | {} | {}", seconds(lane.median()), seconds(least), seconds(most));
            let ratio = own.as_secs_f64() / lane.median().as_secs_f64();
            let against = if index == 0 { String::new() } else { share(ratio) };
            let goal = lane.goal.map_or_else(|| " | ".to_owned(), |goal| judged(goal, ratio));
            println!("| {} | {times} | {against} | {goal} |", lane.name);
        }
        println!(
            "\npeak memory of the wbuild process: {:.1} MB (goal: below 150 MB)",
            f64::from(u32::try_from(peak / 1000).unwrap_or(u32::MAX)) / 1000.0
        );
        Ok(())
    }

    /// The most that wbuild's process had in any run. A run too short to be watched in passing is done once more.
    fn peak(&self) -> Result<u64, Problem> {
        let own = &self.lanes[0];
        let most = own.runs.iter().map(|run| run.peak).max().unwrap_or_default();
        if own.median() > Duration::from_secs(1) {
            return Ok(most);
        }
        Ok(most.max(run((own.command)(), Peak::Close)?.peak))
    }
}

fn judged(goal: Goal, ratio: f64) -> String {
    let (text, met) = match goal {
        Goal::Share(most) => (format!("at most {most:.2} ×"), ratio <= most),
        Goal::Times(least) => (format!("at most 1/{least:.0}"), 1.0 / ratio >= least),
    };
    format!("{text} | {}", if met { "met" } else { "missed" })
}

fn share(ratio: f64) -> String {
    if ratio < 0.5 { format!("1/{:.1}", 1.0 / ratio) } else { format!("{ratio:.2} ×") }
}

fn seconds(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{:.1} ms", time.as_secs_f64() * 1000.0)
    } else {
        format!("{:.2} s", time.as_secs_f64())
    }
}
