//! Dockerfiles made to hurt: each is built right or refused with a message, with little memory and no crash. How long
//! they take is measured elsewhere; here they only end.

use std::fs;
use std::process::{Command, Stdio};

use crate::context::{Output, TestContext, bases, skip};

/// What the binary may have, in bytes of address space: far more than it needs, far less than what a value that doubles
/// forty-five times would take. Address space is what can be limited, and threads reserve much of it.
const ADDRESS_SPACE: u64 = 4 << 30;

/// Builds in a world of its own, with limited memory.
fn build(dockerfile: impl AsRef<[u8]>, ignore: Option<&str>) -> Output {
    let context = TestContext::empty();
    context.write("file.txt", "file\n");
    fs::write(context.path("Dockerfile"), dockerfile).unwrap();
    if let Some(ignore) = ignore {
        let deep = "a/".repeat(60);
        context.write(&format!("{deep}{}", "a".repeat(200)), "deep\n");
        context.write(".dockerignore", ignore);
    }
    let mut arguments: Vec<String> =
        ["build", "--progress", "quiet", "--network", "none"].map(str::to_owned).to_vec();
    arguments.extend(context.base_images());
    arguments.push(".".to_owned());
    let command = context.command(&arguments);
    let mut limited = Command::new("prlimit");
    limited
        .arg(format!("--as={ADDRESS_SPACE}"))
        .arg("--")
        .arg(command.get_program())
        .args(command.get_args());
    limited.current_dir(context.site()).env_clear().stdin(Stdio::null());
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = limited.output().unwrap();
    let output = context.output(output.status, &output.stdout, &output.stderr);
    assert!(output.code == 0 || output.code == 1, "{}", beginning(&output));
    assert!(output.stderr.len() < 20_000_000, "{} bytes of messages", output.stderr.len());
    output
}

/// Enough of an answer to understand it.
fn beginning(output: &Output) -> String {
    output.to_string().chars().take(2000).collect()
}

fn builds(dockerfile: impl AsRef<[u8]>) {
    let output = build(dockerfile, None);
    assert_eq!(output.code, 0, "{}", beginning(&output));
}

fn refuses(dockerfile: impl AsRef<[u8]>, message: &str) {
    let output = build(dockerfile, None);
    assert_eq!(output.code, 1, "{}", beginning(&output));
    let first = output.stderr.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    assert!(first.contains(message), "{}", beginning(&output));
    assert!(output.stderr.len() < 20_000, "{} bytes of messages", output.stderr.len());
}

/// Without the program that limits, the tests would test nothing.
fn can_limit() -> bool {
    let can = Command::new("prlimit").arg("--version").stdout(Stdio::null()).status().is_ok();
    if !can {
        skip("there is no `prlimit` (Debian: util-linux)");
    }
    can
}

#[test]
fn long_lines() {
    if !can_limit() {
        return;
    }
    let message = "line greater than max allowed size of 65535";
    refuses(format!("FROM scratch\nLABEL a={}\n", "x".repeat(64 << 10)), message);
    refuses(format!("FROM scratch\nCMD {}\n", "[".repeat(100_000)), message);
    builds(format!("FROM scratch\nLABEL a={}\n", "x".repeat(60_000)));
}

#[test]
fn many_lines() {
    if !can_limit() {
        return;
    }
    let million = "line\n".repeat(1_000_000);
    builds(format!("FROM scratch\nCOPY <<EOF /file\n{million}EOF\n"));
    refuses(format!("FROM scratch\nCOPY <<EOF /file\n{million}"), "unterminated heredoc");
    let comments = "# comment\n".repeat(1_000_000);
    builds(format!("FROM scratch\nLABEL a=1 \\\n{comments} b=2\n"));
}

/// A script is an argument of its shell, and the kernel has a limit for those: what is said about it is short.
#[test]
fn a_script_of_a_million_lines() {
    if !can_limit() || bases().is_none() {
        return;
    }
    let script = ": line\n".repeat(1_000_000);
    let output = build(format!("FROM alpine:3.23\nRUN <<EOF\n{script}EOF\n"), None);
    assert_eq!(output.code, 1, "{}", beginning(&output));
    assert!(output.stderr.contains("Argument list too long"), "{}", beginning(&output));
    assert!(output.stderr.len() < 20_000, "{} bytes of messages", output.stderr.len());
}

#[test]
fn many_heredocs_of_one_instruction() {
    if !can_limit() {
        return;
    }
    let words: String = (0..1000).map(|number| format!(" <<E{number}")).collect();
    let bodies: String = (0..1000).map(|number| format!("text\nE{number}\n")).collect();
    builds(format!("FROM scratch\nCOPY{words} /folder/\n{bodies}"));
}

#[test]
fn ten_thousand_stages() {
    if !can_limit() {
        return;
    }
    let apart: String =
        (0..10_000).map(|stage| format!("FROM scratch AS s{stage}\nENV A={stage}\n")).collect();
    builds(apart);
    let chain: String =
        (1..10_000).map(|stage| format!("FROM s{} AS s{stage}\nENV A={stage}\n", stage - 1)).collect();
    builds(format!("FROM scratch AS s0\nENV A=0\n{chain}"));
    let copies: String = (1..10_000)
        .map(|stage| format!("FROM scratch AS s{stage}\nCOPY --from=s{} /file.txt /file.txt\n", stage - 1))
        .collect();
    builds(format!("FROM scratch AS s0\nCOPY file.txt /\n{copies}"));
}

#[test]
fn stages_that_need_each_other() {
    if !can_limit() {
        return;
    }
    let circular = "circular dependency detected on stage: a";
    refuses("FROM scratch AS a\nCOPY --from=a /f /f\n", circular);
    refuses("FROM scratch AS a\nCOPY --from=b /f /f\nFROM scratch AS b\nCOPY --from=a /f /f\n", circular);
    // Only a later stage is called `b`; what FROM names then is an image.
    refuses("FROM b AS a\nFROM a AS b\n", "the base image `b` is not at hand");
}

#[test]
fn expansions() {
    if !can_limit() {
        return;
    }
    let nested =
        |depth: usize| format!("FROM scratch\nLABEL a={}x{}\n", "${a:-".repeat(depth), "}".repeat(depth));
    builds(nested(20));
    refuses(nested(5000), "more than 100 substitutions are nested");
    let doubled = |instruction: &str| -> String {
        (1..=45).map(|n| format!("{instruction} A{n}=$A{0}$A{0}\n", n - 1)).collect()
    };
    let message = "the expanded value has more than 65536 bytes";
    refuses(format!("FROM scratch\nARG A0=0123456789\n{}LABEL a=$A45\n", doubled("ARG")), message);
    refuses(format!("FROM scratch\nENV A0=0123456789\n{}", doubled("ENV")), message);
    refuses(format!("ARG A0=0123456789\n{}FROM $A45\n", doubled("ARG")), message);
    let replaced = format!("LABEL a=${{A//x/{}}}", "y".repeat(3000));
    refuses(format!("FROM scratch\nARG A={}\n{replaced}\n", "x".repeat(60_000)), message);
    // A pattern that a matcher which goes back would try for longer than anybody waits.
    let pattern = format!("LABEL a=${{A##{}b}}", "*a".repeat(300));
    builds(format!("FROM scratch\nARG A={}\n{pattern}\n", "a".repeat(60_000)));
}

#[test]
fn encodings() {
    if !can_limit() {
        return;
    }
    refuses(b"FROM scratch\nLABEL a=\xff\xfe\n", "this is not UTF-8");
    let wide: Vec<u8> = "\u{feff}FROM scratch\n".encode_utf16().flat_map(|unit| unit.to_le_bytes()).collect();
    refuses(wide, "the Dockerfile is UTF-16, not UTF-8");
    refuses(b"FROM scratch\nLABEL a=\0\n", "a NUL byte stands in this instruction");
    builds("\u{feff}FROM scratch\nCOPY file.txt /\n");
    builds("FROM scratch\r\nCOPY <<EOF /f\r\nhello\r\nEOF\r\nENV A=1 \\\r\n  B=2\r\nCOPY file.txt /\r\n");
}

#[test]
fn ignore_files() {
    if !can_limit() {
        return;
    }
    let rows = |count: usize, row: &dyn Fn(usize) -> String| (0..count).map(row).collect::<String>();
    let hostile = [
        format!("{}b\n", "**/a/".repeat(40)),
        format!("**/{}b\n", "a*".repeat(100)),
        format!("{}b\n", "**/".repeat(20_000)),
        rows(1000, &|number| format!("**/a**/{number}**/b\n")),
        format!("*\n!file.txt\n{}", rows(1000, &|number| format!("!**/**/**/**/q{number}\n"))),
    ];
    for ignore in &hostile {
        let output = build("FROM scratch\nCOPY . /x\nCOPY file.txt /\n", Some(ignore));
        assert_eq!(output.code, 0, "{}\n{}", &ignore[..ignore.len().min(100)], beginning(&output));
    }
    let output = build("FROM scratch\nCOPY . /x\n", Some("[z-a]\n"));
    assert_eq!(output.code, 1, "{}", beginning(&output));
}
