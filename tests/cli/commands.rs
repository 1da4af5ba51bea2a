//! The commands beside `image` and `run`.

use insta::assert_snapshot;
use serde_json::Value;

use crate::context::{TestContext, bases};

#[test]
fn workspace_says_what_is_in_and_why() {
    let context = TestContext::example();
    assert_snapshot!(context.run(&["workspace", "--app", "web"]), @"
    exit 0
    -- stdout
    PACKAGE          FOLDER              WHY
    ai-whisperers    .                   the root
    web              apps/web            the app
    @repo/database   packages/database   dependencies of web (workspace:*)
    @repo/tsconfig   packages/tsconfig   devDependencies of web (workspace:*)
    @repo/ui         packages/ui         dependencies of web (workspace:*)

    left out
      admin (apps/admin)
      @repo/email (packages/email)
      @repo/legacy-api (packages/legacy-api)

    208 of 285 locked dependencies are needed
    not in the build context, besides what .dockerignore says
      undeclared .env files (1): `.env.example`
    ");
    let json = context.run(&["workspace", "--app", "web", "--json"]);
    serde_json::from_str::<Value>(&json.stdout).unwrap();
}

#[test]
fn workspace_of_an_unknown_app() {
    let context = TestContext::example();
    assert_snapshot!(context.refused(&["workspace", "--app", "wbe"]), @"
    exit 2
    -- stderr
    error: no package of the workspace is called `wbe`
    hint 1: did you mean `web`?
    hint 2: the workspace has `ai-whisperers`, `admin`, `web`, `@repo/database`, `@repo/email`, `@repo/legacy-api`, `@repo/tsconfig`, `@repo/ui`
    ");
}

#[test]
fn workspace_prune_writes_what_an_install_reads() {
    let context = TestContext::example();
    let said = context.run(&["workspace", "--app", "web", "prune", "../pruned"]);
    assert_eq!(said.code, 0, "{said}");
    let said = context.run(&["workspace", "prune", "../again", "--app", "web"]);
    assert_eq!(said.code, 0, "{said}");
    let pruned = context.folder().join("pruned");
    for there in [
        "pnpm-lock.yaml",
        "pnpm-workspace.yaml",
        "package.json",
        "apps/web/package.json",
        "packages/ui/package.json",
    ] {
        assert!(pruned.join(there).exists(), "{there}");
    }
    for not_there in ["apps/admin", "packages/email", "apps/web/src", "README.md"] {
        assert!(!pruned.join(not_there).exists(), "{not_there}");
    }
    assert_snapshot!(context.refused(&["workspace", "--app", "web", "prune", "../pruned"]), @"
    exit 1
    -- stderr
    error: cannot write `../pruned`
      caused by: File exists (os error 17)
    ");
}

#[test]
fn doctor_says_something() {
    let context = TestContext::empty();
    let said = context.run(&["doctor"]);
    assert!(said.stdout.contains("overlay") && said.stderr.is_empty(), "{said}");
}

#[test]
fn a_pruned_cache_builds_the_same_again() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let digest = context.build(&[]).digest().to_owned();
    assert_eq!(context.run(&["cache", "du"]).code, 0);
    let freed = context.run(&["cache", "prune"]);
    assert_eq!(freed.code, 0, "{freed}");
    let again = context.build(&[]);
    assert_eq!((again.digest(), again.steps("built").len()), (&*digest, 4));
    let verified = context.run(&["cache", "verify"]);
    assert!(verified.code == 0 && verified.stdout.contains(" 0 damaged"), "{verified}");
}

#[test]
fn a_damaged_cache_is_noticed_and_mended() {
    let Some(_) = bases() else { return };
    let context = TestContext::small();
    let digest = context.build(&[]).digest().to_owned();
    context.build(&["--target", "builder", "--output", "../builder"]).digest();
    let verified = context.run(&["cache", "verify"]);
    assert!(verified.code == 0 && verified.stdout.contains(" 0 damaged"), "{verified}");
    context.damage_blobs();
    let verified = context.run(&["cache", "verify"]);
    assert!(verified.stdout.contains("damaged and dropped"), "{verified}");
    std::fs::remove_dir_all(context.path(".wbuild")).unwrap();
    assert_eq!(context.build(&[]).digest(), digest);
}
