//! The errors that people meet, as they read them: good enough to fix the mistake without opening documentation.

mod common;

use std::sync::Arc;

use common::{errors, read, rendered, settings};
use wbuild_dockerfile::lint::Lint;
use wbuild_dockerfile::{GlobalScope, Source, parse};

/// Files that are wrong, each with a name.
const MISTAKES: &[(&str, &str)] = &[
    ("empty file", ""),
    ("only comments", "# just\n\n# comments\n"),
    ("only ARG", "ARG VERSION=1\n"),
    ("unknown instruction", "FROM node:22\nRUNN npm ci\n"),
    ("instruction in lower case, mistyped", "from node:22\ncoppy . .\n"),
    (
        "a command that lost its backslash",
        "FROM node:22\nRUN apt-get update &&\n    apt-get install -y curl\n",
    ),
    ("several mistakes at once", "FROM node:22\nCOPY --form=deps /app .\nWORKDIR\nENV A\nEXPOSE\n"),
    ("instruction before FROM", "RUN echo hi\nFROM node:22\n"),
    ("FROM without image", "FROM\n"),
    ("FROM without a name behind AS", "FROM node:22 AS\n"),
    ("FROM with a name but no AS", "FROM node:22 base\n"),
    ("FROM with a comment", "FROM node:22 AS base # the base\n"),
    ("invalid stage name", "FROM node:22 AS 2nd\n"),
    ("empty base", "ARG BASE\nFROM ${BASE}\n"),
    ("mistyped variable in FROM", "FROM $TARGETPLATFROM\n"),
    ("required base", "ARG V\nFROM node:${V:?say which version}\n"),
    ("empty platform", "FROM --platform=$BULIDPLATFORM scratch\n"),
    ("invalid platform", "FROM --platform=linux/amd64/x/y scratch\n"),
    ("COPY without destination", "FROM scratch\nCOPY package.json\n"),
    ("COPY of a URL", "FROM scratch\nCOPY https://example.com/a.tgz /\n"),
    ("COPY of a repository", "FROM scratch\nCOPY https://github.com/a/b.git /\n"),
    ("COPY to a heredoc", "FROM scratch\nCOPY a <<EOF\nx\nEOF\n"),
    ("COPY of a heredoc with a blank", "FROM scratch\nCOPY << EOF /a\nx\nEOF\n"),
    ("variable in --from", "FROM scratch\nARG S=x\nCOPY --from=$S /a /b\n"),
    ("stage index that does not exist", "FROM scratch\nCOPY --from=3 /a /b\n"),
    (
        "stages that need each other",
        "FROM scratch AS a\nCOPY --from=b /x /\nFROM scratch AS b\nCOPY --from=a /x /\n",
    ),
    ("duplicate flag", "FROM scratch\nCOPY --chmod=644 --chmod=755 a /\n"),
    ("flag without value", "FROM scratch\nCOPY --chown a /\n"),
    ("boolean flag with another value", "FROM scratch\nCOPY --link=maybe a /\n"),
    ("flag of an instruction without flags", "FROM scratch\nWORKDIR --create /app\n"),
    ("flag that is none", "FROM scratch\nRUN --privileged true\n"),
    ("invalid chmod", "FROM scratch\nCOPY --chmod=64a a /\n"),
    ("invalid chown", "FROM scratch\nCOPY --chown=a:b:c a /\n"),
    ("huge id", "FROM scratch\nCOPY --chown=4294967295 a /\n"),
    ("checksum of a file", "FROM scratch\nADD --checksum=sha256:00 a.tar /\n"),
    ("checksum that is none", "FROM scratch\nADD --checksum=sha256:00 https://example.com/a /\n"),
    ("unknown key in a git URL", "FROM scratch\nADD https://example.com/a.git?brnch=x /\n"),
    ("array with a number", "FROM scratch\nENTRYPOINT [ \"sleep\", 5 ]\n"),
    ("nested array", "FROM scratch\nHEALTHCHECK CMD [ \"echo\", [ \"x\" ] ]\n"),
    ("SHELL without JSON", "FROM scratch\nSHELL /bin/bash -c\n"),
    ("SHELL with single quotes", "FROM scratch\nSHELL ['/bin/bash', '-c']\n"),
    ("comment behind ENV", "FROM scratch\nENV A=b # why\n"),
    ("value with blanks", "FROM scratch\nENV A=two words\n"),
    ("blanks around =", "FROM scratch\nENV =b\n"),
    ("open quote", "FROM scratch\nLABEL a=\"b\n"),
    ("open brace", "FROM scratch\nLABEL a=${b\n"),
    ("bad substitution", "FROM scratch\nLABEL a=${}\n"),
    ("unknown modifier", "FROM scratch\nLABEL a=${b:=c}\n"),
    ("replacement without end", "FROM scratch\nLABEL a=${b/c}\n"),
    ("required variable", "FROM scratch\nLABEL a=\"${TOKEN:?give --build-arg TOKEN}\"\n"),
    (
        "doubling",
        "FROM scratch\nENV a=0123456789abcdef\nENV a=$a$a$a$a$a$a$a$a\nENV a=$a$a$a$a$a$a$a$a\nENV a=$a$a$a$a$a$a$a$a\nENV a=$a$a$a$a$a$a$a$a\nENV a=$a$a$a$a$a$a$a$a\n",
    ),
    ("invalid port", "FROM scratch\nEXPOSE 80/http 70000\n"),
    ("empty volume", "FROM scratch\nVOLUME [\"\"]\n"),
    ("invalid signal", "FROM scratch\nSTOPSIGNAL SIGFOO\n"),
    ("invalid user", "FROM scratch\nUSER a:b:c\n"),
    ("unknown health check", "FROM scratch\nHEALTHCHECK CONNECT tcp 80\n"),
    ("health check without command", "FROM scratch\nHEALTHCHECK CMD\n"),
    ("time without unit", "FROM scratch\nHEALTHCHECK --interval=30 CMD true\n"),
    ("time that is too short", "FROM scratch\nHEALTHCHECK --timeout=5us --retries=x CMD true\n"),
    ("mistyped mount key", "FROM scratch\nRUN --mount=typ=cache,target=/x true\n"),
    ("mistyped mount type", "FROM scratch\nRUN --mount=type=cahce,target=/x true\n"),
    ("mount at the root", "FROM scratch\nRUN --mount=type=tmpfs,target=/ true\n"),
    ("mode on a bind mount", "FROM scratch\nRUN --mount=target=/x,mode=0755 true\n"),
    ("required before type", "FROM scratch\nRUN --mount=required,type=secret,id=x true\n"),
    ("variable in from of a mount", "FROM scratch\nRUN --mount=type=bind,from=$X,target=/x true\n"),
    ("mistyped sharing", "FROM scratch\nRUN --mount=type=cache,target=/x,sharing=lock true\n"),
    ("mistyped network", "FROM scratch\nRUN --network=non true\n"),
    ("mistyped security", "FROM scratch\nRUN --security=secure true\n"),
    ("ONBUILD in ONBUILD", "FROM scratch\nONBUILD ONBUILD RUN x\n"),
    ("FROM in ONBUILD", "FROM scratch\nONBUILD FROM x\n"),
    ("unterminated heredoc", "FROM scratch\nCOPY <<EOF /a\nx\n  EOF\n"),
    ("heredoc ended behind tabs", "FROM scratch\nRUN <<EOF\n\techo\n\tEOF\n"),
    ("heredoc without any end", "FROM scratch\nRUN <<'END'\necho\n"),
    ("heredoc behind an open quote", "FROM scratch\nRUN echo it's <<EOF\nhello\nEOF\n"),
    ("two escape directives", "# escape=`\n# escape=\\\nFROM scratch\n"),
    ("invalid escape", "# escape=^\nFROM scratch\n"),
    (
        "instruction over several lines",
        "FROM scratch\nCOPY a \\\n  b \\\n  --chwon=x \\\n  /x/\nCOPY --chwon=x \\\n  a /x\n",
    ),
    ("NUL byte", "FROM scratch\nENV A=\0\n"),
];

#[test]
fn errors_of_files() {
    assert!(MISTAKES.len() >= 40);
    let mut gallery = String::new();
    for (name, text) in MISTAKES {
        let errors = errors(text);
        assert!(!errors.is_empty(), "{name} is no error");
        gallery.push_str(&format!("## {name}\n{}\n", rendered(&errors)));
    }
    insta::assert_snapshot!(gallery);
}

#[test]
fn errors_of_requests() {
    let dockerfile = read("FROM scratch AS build\nFROM scratch AS runner\nFROM scratch\n").unwrap();
    let unnamed = read("FROM scratch\n").unwrap();
    let mut gallery = String::new();
    for (file, target) in [(&dockerfile, "bulid"), (&dockerfile, "nonsense"), (&unnamed, "x")] {
        gallery.push_str(&format!(
            "## --target {target}\n{}\n",
            rendered(&[*file.target(Some(target)).unwrap_err()])
        ));
    }
    assert_eq!(dockerfile.target(Some("RUNNER")).unwrap(), 1);
    for (name, bytes) in [("UTF-16", &b"\xff\xfeF\0"[..]), ("binary", &[0x80; 3000])] {
        gallery.push_str(&format!(
            "## {name}\n{}\n",
            rendered(&[*Source::decode("Dockerfile", bytes.to_vec()).unwrap_err()])
        ));
    }
    let latin = Source::decode("Dockerfile", b"FROM scratch\nLABEL author=Fran\xe7ois\n".to_vec()).unwrap();
    gallery.push_str(&format!("## Latin-1\n{}\n", rendered(&parse(&latin).diagnostics)));
    let trigger =
        parse(&Source::from_text("Dockerfile", "FROM scratch\nONBUILD COPY package.json\nONBUILD RNU x\n"));
    assert!(!trigger.has_errors());
    gallery.push_str(&format!("## triggers that will fail\n{}\n", rendered(&trigger.diagnostics)));
    let checked = parse(&Source::from_text("Dockerfile", "# check=skp=A\nFROM scratch\n")).dockerfile;
    let global = Arc::new(GlobalScope::new(&checked, settings(&[])).unwrap());
    gallery.push_str(&format!(
        "## check options\n{}\n",
        rendered(&[*Lint::options(&checked, &global).unwrap_err()])
    ));
    insta::assert_snapshot!(gallery);
}

#[test]
fn uses_of_later_stages() {
    use std::collections::BTreeSet;
    use wbuild_dockerfile::StageGraph;
    let text = "FROM scratch AS first\nCOPY --from=second /a /\nRUN --mount=from=second,target=/x true\nFROM scratch AS second\n";
    let dockerfile = read(text).unwrap();
    let global = GlobalScope::new(&dockerfile, settings(&[])).unwrap();
    let lines: Vec<_> = dockerfile.stages.iter().map(|stage| global.from_line(stage).unwrap()).collect();
    let graph = StageGraph::new(&dockerfile, &lines, &|_| false).unwrap();
    insta::assert_snapshot!(rendered(&graph.forward_uses(&dockerfile, &BTreeSet::from([0, 1]))));
}
