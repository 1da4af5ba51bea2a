//! What reaches steps and nothing else: the machine's CA bundle, its proxies, and secrets.

use std::fs;

use insta::assert_snapshot;

use crate::context::{TestContext, bases};
use crate::layout::Layout;

#[test]
fn bundle_and_proxies_reach_steps_and_leave_no_trace() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let bundle = context.folder().join("ca.crt");
    fs::write(&bundle, "-----BEGIN CERTIFICATE-----\nMARKOFTHEBUNDLE\n-----END CERTIFICATE-----\n").unwrap();
    let with = |context: TestContext| {
        context
            .env("SSL_CERT_FILE", &bundle.display().to_string())
            .env("https_proxy", "http://me:MARKOFTHEPROXY@127.0.0.1:9")
    };
    let look = r#"
for variable in SSL_CERT_FILE NODE_EXTRA_CA_CERTS NPM_CONFIG_CAFILE npm_config_cafile CURL_CA_BUNDLE REQUESTS_CA_BUNDLE; do
  eval "file=\$$variable"
  grep -q "MARKOFTHE"BUNDLE "$file"
done
for proxy in "$https_proxy" "$HTTPS_PROXY"; do
  case "$proxy" in http://me:"MARKOFTHE"PROXY@127.0.0.1:9) ;; *) exit 1 ;; esac
done
echo seen by the step
"#;
    context.write("apps/web/extra.sh", look);
    context.write(
        "packages/lib/generate.sh",
        &format!("set -e\n{look}\nmkdir -p generated\necho apple > generated/lib.txt\n"),
    );
    context.edit("wbuild.toml", "chmod 755", "grep -q 'MARKOFTHE'BUNDLE $SSL_CERT_FILE || exit 1\nchmod 755");
    let context = with(context);
    let built = context.build(&[]);
    let digest = built.digest().to_owned();
    assert_eq!(built.log().matches("seen by the step").count(), 2);
    for mark in ["MARKOFTHEBUNDLE", "MARKOFTHEPROXY"] {
        assert_eq!(context.traces(mark), [""; 0], "{mark}");
        assert!(!built.output.stdout.contains(mark) && !built.output.stderr.contains(mark));
    }
    // Not in any key either: on a machine with another bundle and without a proxy nothing runs.
    fs::write(&bundle, "-----BEGIN CERTIFICATE-----\nANOTHER\n-----END CERTIFICATE-----\n").unwrap();
    let other = context.env("https_proxy", "");
    let again = other.build(&[]);
    assert_eq!((again.digest(), again.steps("built")), (&*digest, vec![]));
}

#[test]
fn a_bundle_that_cannot_be_read() {
    let context = TestContext::small().env("SSL_CERT_FILE", "/nowhere/ca.crt");
    assert_snapshot!(context.refused(&["image"]), @"
    exit 1
    -- stderr
    error: cannot read the CA bundle `/nowhere/ca.crt` that SSL_CERT_FILE names
      caused by: No such file or directory (os error 2)
    ");
}

#[test]
fn secrets_reach_their_step_and_leave_no_trace() {
    let Some(_) = bases() else { return };
    let context = TestContext::small().env("THE_TOKEN", "MARKOFTHETOKEN");
    fs::write(context.folder().join("credentials"), "MARKOFTHEFILE\n").unwrap();
    context.write(
        "apps/web/extra.sh",
        "test \"$TOKEN\" = \"MARKOFTHE\"TOKEN\ntest \"$(cat credentials)\" = \"MARKOFTHE\"FILE\necho seen by the step\n",
    );
    // No other task is given them.
    context.write(
        "packages/lib/generate.sh",
        "set -e\ntest -z \"$TOKEN\"\ntest ! -e ../../apps/web/credentials\nmkdir -p generated\necho apple > generated/lib.txt\n",
    );
    let given = ["--secret", "id=token,env=THE_TOKEN", "--secret", "id=credentials,src=../credentials"];
    let built = context.build(&given);
    let digest = built.digest().to_owned();
    assert!(built.log().contains("seen by the step"));
    for mark in ["MARKOFTHETOKEN", "MARKOFTHEFILE"] {
        assert_eq!(context.traces(mark), [""; 0], "{mark}");
        assert!(!built.output.stdout.contains(mark) && !built.output.stderr.contains(mark));
    }
    let files = Layout::open(&context.path(".wbuild/image/web")).files();
    assert!(!files.keys().any(|path| path.contains("credentials")));
    // Their values are in no key; that they were given is.
    let other = context.env("THE_TOKEN", "another");
    let again = other.build(&given);
    assert_eq!((again.digest(), again.steps("built")), (&*digest, vec![]));
    assert_eq!(other.build(&[]).output.code, 1, "without them the step runs again, and fails");
}

#[test]
fn credentials_of_the_repository_reach_the_install_and_leave_no_trace() {
    let Some(_) = bases() else { return };
    let context = TestContext::small().env("NPM_TOKEN", "MARKOFTHENPMTOKEN");
    context.write(".npmrc", "//registry.example/:_authToken=${NPM_TOKEN}\n");
    let seen = "install) grep -q '_authToken=MARKOFTHE''NPMTOKEN' /root/.npmrc || exit 9; mkdir";
    context.edit("wbuild.toml", "install) mkdir", &seen.replace('\'', "\""));
    let forgotten = context.build(&[]);
    assert_snapshot!(forgotten.warnings().join("\n"), @".npmrc: `${NPM_TOKEN}` stands in it, and no secret of that name was given");
    assert_snapshot!(forgotten.error(), @"
    exit 1
    -- stderr
    error: [deps] pnpm install: `pnpm install --frozen-lockfile` did not complete successfully: exit code 9; its full log is `[TEST]/state/logs/[BUILD]/006-deps--pnpm-install.log`
    hint 1: `.npmrc` names `${NPM_TOKEN}`, and no secret of that name was given: --secret id=NPM_TOKEN,env=NPM_TOKEN
    hint 2: pnpm sees only the manifests and the lockfile of the application's closure; `wbuild workspace` lists it
    ");
    let built = context.build(&["--secret", "id=NPM_TOKEN,env=NPM_TOKEN"]);
    built.digest();
    assert_eq!(built.warnings(), [""; 0]);
    assert_eq!(context.traces("MARKOFTHENPMTOKEN"), [""; 0]);
}

#[test]
fn a_secret_that_the_framework_bakes_is_the_one_exception() {
    let Some(_) = bases() else { return };
    let context = TestContext::small().env("KEY", "MARKOFTHEKEY");
    context.edit(
        "apps/web/build.sh",
        "echo \"body {}\"",
        "echo \"key $NEXT_SERVER_ACTIONS_ENCRYPTION_KEY\" > $server/key.json\necho \"body {}\"",
    );
    let given = ["--secret", "id=next-server-actions-key,env=KEY"];
    context.build(&given).digest();
    let image = Layout::open(&context.path(".wbuild/image/web"));
    assert_eq!(image.text("app/apps/web/key.json"), "key MARKOFTHEKEY\n");
    let traces = context.traces("MARKOFTHEKEY");
    // The output itself: as a blob, as a file of the delta, and in a layer. No record, log or cache mount.
    let elsewhere: Vec<_> = traces
        .iter()
        .filter(|path| {
            ["records/", "logs/", "mounts/", "latest/"]
                .iter()
                .any(|area| path.starts_with(&format!("state/{area}")))
        })
        .collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    // A new value counts when its version says so.
    let other = context.env("KEY", "ANOTHER");
    assert_eq!(other.build(&given).steps("built"), [""; 0]);
    other.edit(
        "wbuild.toml",
        "env = \"NEXT_SERVER_ACTIONS_ENCRYPTION_KEY\"",
        "env = \"NEXT_SERVER_ACTIONS_ENCRYPTION_KEY\"\nversion = \"2\"",
    );
    assert_eq!(other.build(&given).steps("built"), ["[builder] web#build"]);
    assert_eq!(Layout::open(&other.path(".wbuild/image/web")).text("app/apps/web/key.json"), "key ANOTHER\n");
}

#[test]
fn a_secret_that_nobody_asks_for() {
    let Some(_) = bases() else { return };
    let context = TestContext::small().env("PASSWORD", "x");
    let built = context.build(&["--target", "base", "--secret", "id=tokn,env=PASSWORD"]);
    built.digest();
    assert_snapshot!(built.warnings().join("\n"), @"the secret `tokn` was given, but no step asks for it");
}
