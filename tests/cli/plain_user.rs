//! Without root, and without a range of subordinate ids.

use crate::context::{TestContext, bases, skip};

#[test]
fn the_digests_are_those_of_root() {
    let Some(_) = bases() else { return };
    let privileged = TestContext::small();
    let Some(plain) = TestContext::small().by_plain_user() else { return };
    let context = [privileged, plain];
    let own = "mkdir -p .next/standalone/apps/web\ntouch .next/standalone/apps/web/of-another\nchown 33:44 .next/standalone/apps/web/of-another\nchmod 2750 .next/standalone/apps/web/of-another\n";
    let built = context.each_ref().map(|context| {
        context.write("apps/web/extra.sh", own);
        context.edit(
            "wbuild.toml",
            "chmod 755",
            "mkdir -p /srv/data && chown 1000:1000 /srv/data\nchmod 755",
        );
        context.build(&["--target", "builder", "--output", "type=oci,dest=../builder,tar=false"])
    });
    if built[1].output.stderr.contains("cannot run the step") {
        skip(&format!("a plain user can run no steps here: {}", built[1].error()));
        return;
    }
    assert_eq!(built[0].digest(), built[1].digest());
    let runner = context.each_ref().map(|context| context.build(&[]).digest().to_owned());
    assert_eq!(runner[0], runner[1]);
    let said = context[1].run(&["run", ".wbuild/image/web", "--network", "none"]);
    assert_eq!(said.stdout, "hello: the first page, apple, 1001\n", "{said}");
}

#[test]
fn an_interrupted_build_of_a_plain_user_can_be_gone_on_with() {
    let Some(_) = bases() else { return };
    let Some(context) = TestContext::small().by_plain_user() else { return };
    context.write("apps/web/extra.sh", "false\n");
    let failed = context.build(&[]);
    assert_eq!(failed.output.code, 1);
    context.write("apps/web/extra.sh", ":\n");
    let mended = context.build(&[]);
    if mended.output.stderr.contains("cannot run the step") {
        skip("a plain user can run no steps here");
        return;
    }
    assert_eq!(mended.steps("built"), ["[builder] web#build"]);
    let freed = context.run(&["cache", "prune"]);
    assert_eq!(freed.code, 0, "{freed}");
}
