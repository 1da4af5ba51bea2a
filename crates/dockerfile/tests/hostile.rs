//! Files that want to hurt: an error or the right result, soon, and never a panic.
#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "how long it takes is what is tested")]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{errors, read, walk};
use wbuild_dockerfile::lint::{BaseImage, Lint};
use wbuild_dockerfile::{GlobalScope, MAX_DOCKERFILE_BYTES, Source, Step, parse};

/// Generous: tests are built with little optimisation and run on busy machines. A release build takes a tenth of it.
const SOON: Duration = Duration::from_secs(5);

fn soon<T>(what: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = run();
    let took = start.elapsed();
    println!("{what}: {took:?}");
    assert!(took < SOON, "{what} took {took:?}");
    result
}

fn lint(text: &str) -> usize {
    let parsed = parse(&Source::from_text("Dockerfile", text));
    let Ok(global) = GlobalScope::new(&parsed.dockerfile, common::settings(&[])) else { return 0 };
    let global = Arc::new(global);
    let report = Lint {
        dockerfile: &parsed.dockerfile,
        global: &global,
        options: Lint::options(&parsed.dockerfile, &global).unwrap_or_default(),
        own_rules: true,
        stages: None,
        base: &|_| Some(BaseImage::default()),
        ignored: None,
        context: None,
    }
    .run();
    report.findings.len()
}

#[test]
fn long_lines() {
    let fits = format!("FROM scratch\nLABEL a={}\n", "x".repeat(65_535 - "LABEL a=".len()));
    soon("64 KiB line", || walk(&fits, &[], &[])).unwrap();
    let errors = soon("longer line", || errors(&format!("FROM scratch\nLABEL a={}\n", "x".repeat(65_600))));
    assert_eq!(errors[0].message, "dockerfile line greater than max allowed size of 65535");
    let joined = format!("FROM scratch\nLABEL a=\\\n{}x", "xxxxxxxxxxxxxxx\\\n".repeat(60_000));
    assert_eq!(soon("many lines joined", || common::errors(&joined)).len(), 1, "the value is too long");
    let words = format!("FROM scratch\nCOPY {} /d/", "a ".repeat(32_000));
    soon("many words", || walk(&words, &[], &[])).unwrap();
}

#[test]
fn a_heredoc_of_a_million_lines() {
    let text = format!("FROM scratch\nCOPY <<EOF /f\n{}EOF\n", "line $x \"q\"\n".repeat(1_000_000));
    let walked = soon("million lines", || walk(&text, &[], &[])).unwrap();
    match &walked.applied[0].step {
        Step::Copy(copy) => assert_eq!(copy.inline[0].content.len(), 1_000_000 * "line  \"q\"\n".len()),
        other => panic!("{other:?}"),
    }
    let open = format!("FROM scratch\nRUN <<EOF\n{}", "x\n".repeat(1_000_000));
    assert_eq!(soon("unterminated", || errors(&open))[0].message, "unterminated heredoc");
    let many = format!("FROM scratch\nRUN {}\n{}", "<<A ".repeat(16_000), "A\n".repeat(16_000));
    soon("16000 heredocs", || walk(&many, &[], &[])).unwrap();
}

#[test]
fn a_heredoc_cannot_explode() {
    let text =
        format!("FROM scratch\nENV v={}\nCOPY <<EOF /f\n{}EOF\n", "x".repeat(60_000), "$v\n".repeat(100_000));
    assert!(soon("heredoc bomb", || errors(&text))[0].message.contains("the expanded value has more than"));
}

#[test]
fn ten_thousand_stages() {
    let plain: String = (0..10_000).map(|n| format!("FROM scratch AS s{n}\nCOPY a /{n}\n")).collect();
    assert_eq!(soon("10000 stages", || walk(&plain, &[], &[])).unwrap().scopes.len(), 10_000);
    let chain: String =
        (1..10_000).map(|n| format!("FROM s{} AS s{n}\nENV v{n}=${{v{}}}x\n", n - 1, n - 1)).collect();
    let chain = format!("FROM scratch AS s0\nENV v0=a\n{chain}");
    // Its variables grow by one letter in each stage: more than a stage may have.
    assert!(soon("chain with ENV", || errors(&chain))[0].message.contains("take more than"));
    let chain: String =
        (1..10_000).map(|n| format!("FROM s{} AS s{n}\nENV v{n}=x\nARG a{n}=y\n", n - 1)).collect();
    let walked = soon("chain of 10000", || walk(&format!("FROM scratch AS s0\n{chain}"), &[], &[])).unwrap();
    assert_eq!(walked.last().declared().len(), 9_999);
    let ring: String = (0..10_000)
        .map(|n| format!("FROM scratch AS s{n}\nCOPY --from=s{} a /\n", (n + 1) % 10_000))
        .collect();
    assert!(soon("ring of 10000", || errors(&ring))[0].message.starts_with("circular dependency"));
    let diamonds: String = (1..3000)
        .map(|n| format!("FROM scratch AS s{n}\nCOPY --from=s{0} a /\nCOPY --from=s{0} b /\n", n - 1))
        .collect();
    soon("diamonds", || walk(&format!("FROM scratch AS s0\n{diamonds}"), &[], &[])).unwrap();
    assert!(soon("lint of 10000 stages", || lint(&plain)) <= 1000);
}

#[test]
fn deep_and_wide_substitutions() {
    let deep = format!("FROM scratch\nLABEL a={}x{}", "${a:-".repeat(10_000), "}".repeat(10_000));
    assert!(soon("deep", || errors(&deep))[0].message.contains("nested"));
    let from = format!("FROM {}x{}", "${a:-".repeat(10_000), "}".repeat(10_000));
    assert_eq!(soon("deep FROM", || errors(&from)).len(), 1);
    let heredoc = format!("FROM scratch\nRUN echo {} <<EOF\nEOF\n", "${a:-".repeat(10_000));
    soon("deep in RUN", || errors(&heredoc));
    let line = format!("LABEL a={}\n", "${v%%*a*a*a*}".repeat(4000));
    let patterns = format!("FROM scratch\nENV v={}\n{}", "a".repeat(60_000), line.repeat(5));
    assert!(soon("patterns", || errors(&patterns))[0].message.contains("too much work"));
    let line = format!("LABEL a={}\n", "${u:+$v}".repeat(8000));
    let discarded = format!("FROM scratch\nENV v={} u=\n{}", "a".repeat(60_000), line.repeat(20));
    soon("discarded", || walk(&discarded, &[], &[])).map(drop).unwrap_or_default();
}

#[test]
fn odd_nesting_and_counts() {
    assert_eq!(
        soon("ONBUILD of ONBUILD", || errors(&format!("FROM scratch\n{}RUN x", "ONBUILD ".repeat(8000))))
            .len(),
        1
    );
    assert!(soon("JSON", || walk(&format!("FROM scratch\nCMD {}", "[".repeat(65_000)), &[], &[])).is_ok());
    assert_eq!(
        soon("ports", || errors(&format!("FROM scratch\nEXPOSE {}", "1-65535 ".repeat(8000)))).len(),
        1
    );
    let nonsense = "nonsense here\n".repeat(100_000);
    assert!(soon("no Dockerfile", || errors(&nonsense)).len() <= 50);
    let unknown = format!("FROM scratch\n{}", "COPY $aa $bb $cc /x\n".repeat(20_000));
    assert_eq!(soon("undefined variables", || lint(&unknown)), 1000);
    let flags = format!("FROM scratch\nCOPY {} a /", "--exclude=x ".repeat(5000));
    soon("flags", || walk(&flags, &[], &[])).unwrap();
    let args: String = (0..5000).map(|n| format!("ARG x{n}\n")).collect();
    let froms = format!("{args}FROM x{}\n", "${y}".repeat(10_000));
    soon("names in FROM", || lint(&froms));
}

#[test]
fn encodings() {
    let decode = |bytes: &[u8]| Source::decode("Dockerfile", bytes.to_vec());
    assert!(decode(b"\xff\xfeF\0R\0O\0M\0").unwrap_err().message.contains("UTF-16"));
    assert!(decode(&[0xc3; 10_000]).unwrap_err().message.contains("not a text file"));
    assert!(
        soon("too large", || decode(&vec![b'#'; MAX_DOCKERFILE_BYTES + 1]))
            .unwrap_err()
            .message
            .contains("bytes")
    );
    let outcome = |bytes: &[u8]| parse(&decode(bytes).unwrap()).into_result();
    assert!(
        outcome(b"# Fran\xe7ois\nFROM scratch\nRUN a \\\n # \xff\n b\n").is_ok(),
        "comments may be anything"
    );
    for bytes in [&b"FROM scratch\nLABEL a=\xff\n"[..], b"FROM scratch\nCOPY <<E /x\n# \xff\nE\n"] {
        let errors = outcome(bytes).unwrap_err();
        assert_eq!((errors.len(), errors[0].message.as_str()), (1, "this is not UTF-8"));
    }
    assert!(errors("FROM scratch\nRUN a\0b")[0].message.contains("NUL"));
    let crlf = read("\u{feff}# escape=`\r\nFROM scratch\r\nENV A=x`\r\ny B=\\b\r\n").unwrap();
    assert_eq!((crlf.directives.escape, crlf.stages.len()), ('`', 1));
}

#[test]
fn messages_stay_readable() {
    let long = "x".repeat(60_000);
    for text in [
        format!("FROM scratch\nCOPY --{long} a /"),
        format!("FROM scratch\nENV a=b {long}"),
        format!("{long} a"),
        format!("FROM scratch\nEXPOSE {long}"),
        format!("FROM scratch AS 1{long}"),
        format!("FROM scratch\nRUN --mount={long}=x true"),
        format!("FROM scratch\nLABEL a=${{x:?{long}}}"),
        format!("FROM --platform={long} scratch"),
        format!("FROM scratch\nSHELL {long}"),
    ] {
        for error in errors(&text) {
            assert!(error.to_string().len() < 2000 && error.hints.iter().all(|hint| hint.len() < 2000));
        }
    }
}

/// Printed with `--nocapture`; the promise is 5 ms in a release build.
#[test]
fn two_thousand_lines() {
    let block = "FROM node:22 AS s{n}\nWORKDIR /app\n# a comment\n# and another\nENV NODE_ENV=production PORT=300{n}\nARG V{n}=\"x y\"\n\
                 RUN apt-get update \\\n    && apt-get install -y curl \\\n    && rm -rf /var/lib/apt/lists/*\n\
                 COPY --chown=node:node package.json pnpm-lock.yaml ./\nRUN --mount=type=cache,target=/root/.npm npm ci\n\
                 COPY <<EOF /etc/conf\nkey=$V{n}\nEOF\nEXPOSE 3000\nHEALTHCHECK --interval=30s CMD curl -f http://127.0.0.1/\n\
                 LABEL a=b c=\"d e\"\nUSER node\nSTOPSIGNAL SIGTERM\nCMD [\"node\", \"server.js\"]\n";
    let text: String = (0..100).map(|n| block.replace("{n}", &n.to_string())).collect();
    assert_eq!(text.lines().count(), 2000);
    let source = Source::from_text("Dockerfile", text);
    let mut parsing = Duration::MAX;
    let mut walking = Duration::MAX;
    for _ in 0..20 {
        let start = Instant::now();
        let parsed = parse(&source);
        parsing = parsing.min(start.elapsed());
        assert!(!parsed.has_errors(), "{:?}", parsed.diagnostics);
        let start = Instant::now();
        assert_eq!(walk(&source.file().text, &[], &[]).unwrap().scopes.len(), 100);
        walking = walking.min(start.elapsed());
    }
    println!("2000 lines: parsed in {parsing:?}, parsed and evaluated in {walking:?}");
    assert!(parsing < Duration::from_millis(100));
}
