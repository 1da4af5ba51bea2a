//! Real sandboxes on this machine, as whoever runs the test. What the machine cannot do is skipped, with the reason.

#![expect(clippy::print_stdout, reason = "this is its own test harness")]
#![expect(clippy::unwrap_used, reason = "tests; clippy knows them only by the usual harness")]

mod bed;
mod cases;

use std::panic::{AssertUnwindSafe, catch_unwind};

use bed::Bed;

/// What came of a case besides failure, which is a panic.
pub(crate) enum Verdict {
    Passed,
    Skipped(String),
}

fn main() {
    wbuild_executor::init(bed::HANDLERS);
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == bed::VICTIM) {
        return bed::be_the_victim(arguments[1].as_ref(), &arguments[2]);
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with("--")).collect();
    let listed = arguments.iter().any(|argument| argument == "--list");
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let wanted = |name: &str| {
        filters.is_empty()
            || filters
                .iter()
                .any(|filter| if exact { name == *filter } else { name.contains(filter.as_str()) })
    };
    let cases: Vec<_> = cases::all().into_iter().filter(|(name, _)| wanted(name)).collect();
    if listed {
        for (name, _) in cases {
            println!("{name}: test");
        }
        return;
    }
    let (mut passed, mut skipped, mut failed) = (0, 0, Vec::new());
    println!("running {} tests", cases.len());
    let bed = Bed::new();
    for (name, case) in cases {
        let verdict = match &bed {
            Ok(bed) => catch_unwind(AssertUnwindSafe(|| case(bed))),
            Err(reason) => Ok(Verdict::Skipped(reason.clone())),
        };
        match verdict {
            Ok(Verdict::Passed) => {
                passed += 1;
                println!("test {name} ... ok");
            }
            Ok(Verdict::Skipped(reason)) => {
                skipped += 1;
                println!("test {name} ... ignored, {reason}");
            }
            Err(_) => {
                println!("test {name} ... FAILED");
                failed.push(name);
            }
        }
    }
    let word = if failed.is_empty() { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {} failed; {skipped} ignored; 0 measured; 0 filtered out",
        failed.len()
    );
    assert!(failed.is_empty(), "failed: {failed:?}");
}
