//! Without root, and without a range of subordinate ids.

use crate::context::{TestContext, bases, skip};
use crate::layout::Layout;

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

/// What a `USER` makes is that user's, and what a step changes stays whose it was, whichever instruction gave it away.
#[test]
fn files_have_the_owners_that_root_gives_them() {
    if bases().is_none() {
        return;
    }
    let privileged = TestContext::empty();
    let Some(plain) = TestContext::empty().by_plain_user() else { return };
    let contexts = [privileged, plain];
    let built = contexts.each_ref().map(|context| {
        context.write("a/b", "B");
        context.write("a/c", "C");
        context.write("a/d", "D");
        context.write(
            "Dockerfile",
            "FROM alpine:3.23\n\
             RUN adduser -D -u 1000 -g '' node && addgroup -g 2000 more\n\
             WORKDIR /app\n\
             COPY --chown=node:2000 a /app/a\n\
             COPY a/b /app/shared\n\
             RUN chmod +x a/b && echo more >> a/c && chmod 750 a && touch new && chown -h 5:6 /app && ln -s a link\n\
             RUN chown node:node /app && chown 7 shared && chgrp 8 shared && mkdir -p x/y && chown -R 3:4 x\n\
             USER node\n\
             RUN touch mine /tmp/shared && mkdir dir && echo 1 > dir/file && ln -s mine mylink && mkfifo dir/pipe && ln mine again\n\
             RUN rm a/d && echo D > a/d && mv mine moved && echo 2 >> dir/file\n\
             USER 0:0\n\
             RUN echo 3 >> dir/file && chmod 700 dir && echo s >> shared && touch x/y/z && chmod 777 x && rm a/c && touch a/c\n\
             USER 1234\n\
             RUN touch /tmp/number\n",
        );
        let mut args: Vec<String> = ["build", "--progress", "plain"].map(str::to_owned).to_vec();
        args.extend(context.base_images());
        args.extend(["-o", "type=oci,dest=../out,tar=false", "."].map(str::to_owned));
        context.run(&args)
    });
    if built[1].stderr.contains("cannot run the step") {
        skip("a plain user can run no steps here");
        return;
    }
    let layouts = [0, 1].map(|index| {
        assert_eq!(built[index].code, 0, "{}", built[index]);
        Layout::open(&contexts[index].folder().join("out"))
    });
    let [root, plain] = layouts.each_ref().map(Layout::files);
    assert_eq!(root, plain);
    for (path, owner) in [
        ("app/dir/file", (1000, 1000)),
        ("app/a/b", (1000, 2000)),
        ("app/a/c", (0, 0)),
        ("app/a/d", (1000, 1000)),
        ("app/mylink", (1000, 1000)),
        ("app/shared", (7, 8)),
        ("app/x", (3, 4)),
        ("tmp", (0, 0)),
        ("tmp/number", (1234, 0)),
    ] {
        let (uid, gid) = owner;
        assert!(plain[path].contains(&format!(" {uid}:{gid} ")), "{path}: {}", plain[path]);
    }
    assert_eq!(built[0].stdout, built[1].stdout);
}
