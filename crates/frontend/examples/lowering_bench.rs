//! What reading and lowering a long Dockerfile takes. `cargo run --release -p wbuild-frontend --example lowering_bench`:
//! prints the fastest and the median of many runs over 2,000 lines (goal: below 5 ms).
#![expect(clippy::print_stdout, reason = "a program that prints")]
#![expect(clippy::disallowed_methods, reason = "a program that looks at the clock")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use wbuild_dockerfile::{Settings, Source, parse};
use wbuild_frontend::{DockerfileInput, StepOptions, lower_dockerfile};
use wbuild_oci::Platform;

const RUNS: usize = 200;

/// Stages of 20 lines each: variables that use each other, labels, copies, runs over two lines.
fn long(lines: usize) -> String {
    let mut text = String::new();
    for stage in 0..lines / 20 {
        let _ = writeln!(text, "FROM scratch AS stage{stage}\nARG VERSION{stage}=1.{stage}");
        for step in 0..3 {
            let _ = write!(
                text,
                "# step {step}\nENV A{step}=\"x ${{VERSION{stage}:-none}} y\"\nLABEL l{step}=\"$A{step}\"\n\
                 COPY --chown=1:{step} package.json /app/$A{step}/\nRUN echo $A{step} && \\\n    true\n"
            );
        }
    }
    let _ = writeln!(text, "FROM scratch");
    for stage in 0..lines / 20 {
        let _ = writeln!(text, "COPY --from=stage{stage} /app /app/{stage}");
    }
    text
}

fn main() {
    let text = long(2000);
    let platform: Platform = "linux/amd64".parse().expect("a platform");
    let mut times: Vec<(Duration, Duration)> = (0..RUNS)
        .map(|_| {
            let started = Instant::now();
            let parsed = parse(&Source::from_text("Dockerfile", &text));
            let reading = started.elapsed();
            let input = DockerfileInput {
                dockerfile: &parsed.dockerfile,
                settings: Settings::plain(platform.clone()),
                contexts: &BTreeMap::new(),
                steps: &StepOptions::default(),
                images: &[],
                project: "bench",
            };
            std::hint::black_box(lower_dockerfile(&input).expect("nothing is wrong with it"));
            (started.elapsed(), reading)
        })
        .collect();
    times.sort_unstable();
    println!("{} lines, {} bytes", text.lines().count(), text.len());
    for (name, (all, reading)) in [("fastest", times[0]), ("median", times[RUNS / 2])] {
        println!("{name}: {all:.2?}, of which reading {reading:.2?}");
    }
}
