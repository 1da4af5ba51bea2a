use wbuild_report::{Hint, nearest};

use super::Workspace;
use crate::{Manifest, RelPath};

/// No package could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppError {
    /// Nothing has this name or directory.
    #[error("no package of the workspace is called `{given}`")]
    Unknown {
        /// What was asked for.
        given: String,
        /// The nearest names.
        near: Vec<String>,
        /// All names.
        all: Vec<String>,
    },
    /// Several packages have this name in different scopes.
    #[error("`{given}` could be {}", list(.candidates))]
    Ambiguous {
        /// What was asked for.
        given: String,
        /// Their names.
        candidates: Vec<String>,
    },
    /// None was named, and no package is a Next.js application.
    #[error("no package of the workspace builds with `next`, so there is no application to infer")]
    NoApp {
        /// All names.
        all: Vec<String>,
        /// Those that depend on `next`, with their script `build`.
        near: Vec<(String, Option<String>)>,
    },
    /// None was named, and several packages are Next.js applications.
    #[error("the workspace has several Next.js applications: {}", list(.candidates))]
    SeveralApps {
        /// Their names.
        candidates: Vec<String>,
    },
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

impl Hint for AppError {
    fn hints(&self) -> Vec<String> {
        match self {
            Self::Unknown { near, all, .. } => {
                let mut hints = Vec::new();
                if !near.is_empty() {
                    hints.push(format!("did you mean {}?", list(near)));
                }
                hints.push(format!("the workspace has {}", list(all)));
                hints
            }
            Self::Ambiguous { .. } => vec!["write the whole name, or the directory".to_owned()],
            Self::NoApp { all, near } => {
                let mut hints: Vec<String> =
                    near.iter().map(|(name, script)| depends_only(name, script.as_deref())).collect();
                hints.push(format!("name one with `--app`: {}", list(all)));
                if near.is_empty() {
                    hints.push("these are all that `packages` of pnpm-workspace.yaml finds".to_owned());
                }
                hints
            }
            Self::SeveralApps { .. } => vec!["name one with `--app`".to_owned()],
        }
    }
}

fn depends_only(name: &str, script: Option<&str>) -> String {
    match script {
        Some(script) => {
            format!("`{name}` depends on `next`, but its script `build` does not run it: `{script}`")
        }
        None => format!("`{name}` depends on `next`, but has no script `build`"),
    }
}

impl Workspace {
    /// Chooses the application to build: by name, by directory, by the name without its scope, or, when nothing is
    /// asked for, the single Next.js application.
    pub fn app(&self, given: Option<&str>) -> Result<&Manifest, AppError> {
        let names = || self.packages.values().map(|package| package.label().to_owned()).collect::<Vec<_>>();
        let Some(given) = given else {
            let apps: Vec<&Manifest> =
                self.packages.values().filter(|package| self.is_next_app(package)).collect();
            return match apps.as_slice() {
                [] => {
                    let near = self.packages.values().filter(|package| package.depends_on_next());
                    let near = near.map(|package| {
                        let script = package.scripts.get("build").map(|script| script.value.clone());
                        (package.label().to_owned(), script)
                    });
                    Err(AppError::NoApp { all: names(), near: near.collect() })
                }
                [app] => Ok(app),
                several => Err(AppError::SeveralApps {
                    candidates: several.iter().map(|package| package.label().to_owned()).collect(),
                }),
            };
        };
        if let Some(package) = self.by_name(given) {
            return Ok(package);
        }
        if let Some(package) = RelPath::new(given).ok().and_then(|dir| self.packages.get(&dir)) {
            return Ok(package);
        }
        let bare = |package: &&Manifest| {
            let name = package.name.as_ref().map_or("", |name| name.value.as_str());
            name.rsplit('/').next() == Some(given)
        };
        let candidates: Vec<&Manifest> = self.packages.values().filter(bare).collect();
        match candidates.as_slice() {
            [package] => Ok(package),
            [] => {
                let all = names();
                let bare_names = all.iter().map(|name| (name.rsplit('/').next().unwrap_or(name), name));
                let mut near: Vec<String> =
                    nearest(given, all.iter().map(String::as_str)).into_iter().map(str::to_owned).collect();
                for hit in nearest(given, bare_names.clone().map(|(bare, _)| bare)) {
                    near.extend(
                        bare_names.clone().filter(|(bare, _)| *bare == hit).map(|(_, name)| name.clone()),
                    );
                }
                near.sort();
                near.dedup();
                Err(AppError::Unknown { given: given.to_owned(), near, all })
            }
            several => Err(AppError::Ambiguous {
                given: given.to_owned(),
                candidates: several.iter().map(|package| package.label().to_owned()).collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{path, workspace_files};

    fn workspace(packages: &[(&str, &str)]) -> Workspace {
        let mut files = workspace_files("packages: ['*/*']\n");
        for (dir, text) in packages {
            files.insert(path(&format!("{dir}/package.json")), *text);
        }
        Workspace::read(&files).unwrap()
    }

    const NEXT: &str =
        r#"{"name": "NAME", "scripts": {"build": "next build"}, "dependencies": {"next": "1"}}"#;

    fn said(error: &AppError) -> String {
        format!("{error}\n{}", error.hints().join("\n"))
    }

    #[test]
    fn apps_are_chosen_by_name_directory_or_alone() {
        let web = NEXT.replace("NAME", "@repo/web");
        let workspace = workspace(&[("apps/web", &web), ("packages/ui", r#"{"name": "@repo/ui"}"#)]);
        for given in [None, Some("@repo/web"), Some("web"), Some("apps/web"), Some("./apps/web/")] {
            assert_eq!(workspace.app(given).unwrap().dir, path("apps/web"), "{given:?}");
        }
        assert_eq!(workspace.app(Some(".")).unwrap().dir, RelPath::root());
        insta::assert_snapshot!(said(&workspace.app(Some("wbe")).unwrap_err()), @"
        no package of the workspace is called `wbe`
        did you mean `@repo/web`?
        the workspace has `root`, `@repo/web`, `@repo/ui`
        ");
        insta::assert_snapshot!(said(&workspace.app(Some("nothing-like-it")).unwrap_err()), @"
        no package of the workspace is called `nothing-like-it`
        the workspace has `root`, `@repo/web`, `@repo/ui`
        ");
    }

    #[test]
    fn doubt_is_an_error() {
        let (a, b) = (NEXT.replace("NAME", "@a/web"), NEXT.replace("NAME", "@b/web"));
        let several = workspace(&[("apps/a", &a), ("apps/b", &b)]);
        insta::assert_snapshot!(said(&several.app(None).unwrap_err()), @"
        the workspace has several Next.js applications: `@a/web`, `@b/web`
        name one with `--app`
        ");
        insta::assert_snapshot!(said(&several.app(Some("web")).unwrap_err()), @"
        `web` could be `@a/web`, `@b/web`
        write the whole name, or the directory
        ");
        let none = workspace(&[("packages/ui", r#"{"name": "ui"}"#)]);
        insta::assert_snapshot!(said(&none.app(None).unwrap_err()), @"
        no package of the workspace builds with `next`, so there is no application to infer
        name one with `--app`: `root`, `ui`
        these are all that `packages` of pnpm-workspace.yaml finds
        ");
        let other = NEXT.replace("NAME", "web").replace("next build", "vite build");
        insta::assert_snapshot!(said(&workspace(&[("apps/web", &other)]).app(None).unwrap_err()), @"
        no package of the workspace builds with `next`, so there is no application to infer
        `web` depends on `next`, but its script `build` does not run it: `vite build`
        name one with `--app`: `root`, `web`
        ");
    }

    #[test]
    fn the_build_may_lead_to_next_over_other_scripts() {
        let indirect = r#"{"name": "web", "dependencies": {"next": "1"}, "scripts": {
            "build": "run-s gen build:*", "build:app": "pnpm with-env next build", "with-env": "dotenv --"}}"#;
        assert_eq!(workspace(&[("apps/web", indirect)]).app(None).unwrap().dir, path("apps/web"));
        let circle =
            r#"{"name": "web", "dependencies": {"next": "1"}, "scripts": {"build": "pnpm run build"}}"#;
        assert!(workspace(&[("apps/web", circle)]).app(None).is_err());
    }
}
