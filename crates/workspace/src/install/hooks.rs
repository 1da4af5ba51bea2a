use crate::command_words;

/// Programs that install git's hooks, or look whether pnpm was meant.
const PROGRAMS: [&str; 7] =
    ["husky", "lefthook", "simple-git-hooks", "pre-commit", "only-allow", "is-ci", "check-package-manager"];

/// Words that say nothing by themselves.
const RUNNERS: [&str; 8] = ["npx", "pnpx", "pnpm", "exec", "dlx", "-y", "--yes", "--silent"];

/// Whether a lifecycle script does nothing that an image could show.
pub(super) fn only_hooks(command: &str) -> bool {
    // What the shell computes could be anything.
    if command.contains(['$', '`', '>', '<', '\n']) {
        return false;
    }
    let mut installs = false;
    for part in command.split([';', '&', '|']).filter(|part| !part.trim().is_empty()) {
        let mut words = command_words(part).filter(|word| !RUNNERS.contains(word));
        let hook = match words.next() {
            Some("true" | ":" | "echo" | "exit") => continue,
            Some("git") => words.next() == Some("config"),
            Some("node") => {
                words.next().is_some_and(|script| script.trim_start_matches("./").starts_with(".husky/"))
            }
            Some(program) => {
                let name = program.split_once('@').map_or(program, |(name, _)| name);
                PROGRAMS.contains(&name)
            }
            None => false,
        };
        if !hook {
            return false;
        }
        installs = true;
    }
    installs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hooks_are_told_from_work() {
        for command in [
            "husky",
            "husky install",
            "husky || true",
            "is-ci || husky install",
            "npx only-allow pnpm",
            "npx -y only-allow@1.2.1 pnpm",
            "pnpm exec lefthook install",
            "simple-git-hooks",
            "node .husky/install.mjs",
            "git config core.hooksPath .githooks || exit 0",
        ] {
            assert!(only_hooks(command), "{command}");
        }
        for command in [
            "",
            "echo hi",
            "prisma generate",
            "husky && prisma generate",
            "husky; node scripts/setup.js",
            "pnpm run build",
            "pnpm build",
            "echo $(make)",
            "echo x > generated.ts",
            "node scripts/.husky/x.js",
            "turbo run generate",
        ] {
            assert!(!only_hooks(command), "{command}");
        }
    }
}
