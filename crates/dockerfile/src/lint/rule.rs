/// A rule: what `# check=skip=` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name. Those of this project, which `docker build` does not know, begin with `wbuild/`.
    pub name: &'static str,
    /// What it is about.
    pub description: &'static str,
    /// Only checked where it is asked for.
    pub experimental: bool,
}

impl Rule {
    /// Checked by whoever knows the files of the context: the pattern stands in the ignore file, not in the Dockerfile.
    pub const ROOT_ONLY_IGNORE: Self = ROOT_ONLY_IGNORE;

    /// Also said when a later step of a build fails.
    pub const MISSING_MANIFEST: Self = MISSING_MANIFEST;

    /// The page that explains it. Of BuildKit's rules; one has none.
    pub fn url(&self) -> Option<String> {
        if self.is_own() || self.name == INVALID_BASE_IMAGE_PLATFORM.name {
            return None;
        }
        let mut page = String::new();
        let bytes = self.name.as_bytes();
        for (at, byte) in bytes.iter().enumerate() {
            let word_begins = byte.is_ascii_uppercase()
                && at > 0
                && (bytes[at - 1].is_ascii_lowercase()
                    || bytes.get(at + 1).is_some_and(u8::is_ascii_lowercase));
            if word_begins {
                page.push('-');
            }
            page.push(char::from(byte.to_ascii_lowercase()));
        }
        Some(format!("https://docs.docker.com/go/dockerfile/rule/{page}/"))
    }

    /// Whether it is one of this project.
    pub fn is_own(&self) -> bool {
        self.name.starts_with("wbuild/")
    }
}

macro_rules! rules {
    ($list:ident: $($constant:ident $name:literal $description:literal $experimental:literal,)*) => {
        $(pub(crate) const $constant: Rule =
            Rule { name: $name, description: $description, experimental: $experimental };)*
        /// The rules in the order of their documentation.
        pub const $list: &[Rule] = &[$($constant),*];
    };
}

rules! { BUILDKIT_RULES:
    STAGE_NAME_CASING "StageNameCasing" "Stage names should be lowercase" false,
    FROM_AS_CASING "FromAsCasing" "The 'as' keyword should match the case of the 'from' keyword" false,
    NO_EMPTY_CONTINUATION "NoEmptyContinuation" "Empty continuation lines will become errors in a future release" false,
    CONSISTENT_INSTRUCTION_CASING "ConsistentInstructionCasing"
        "All commands within the Dockerfile should use the same casing (either upper or lower)" false,
    DUPLICATE_STAGE_NAME "DuplicateStageName" "Stage names should be unique" false,
    RESERVED_STAGE_NAME "ReservedStageName" "Reserved words should not be used as stage names" false,
    JSON_ARGS_RECOMMENDED "JSONArgsRecommended"
        "JSON arguments recommended for ENTRYPOINT/CMD to prevent unintended behavior related to OS signals" false,
    MAINTAINER_DEPRECATED "MaintainerDeprecated"
        "The MAINTAINER instruction is deprecated, use a label instead to define an image author" false,
    UNDEFINED_ARG_IN_FROM "UndefinedArgInFrom" "FROM command must use declared ARGs" false,
    WORKDIR_RELATIVE_PATH "WorkdirRelativePath"
        "Relative workdir without an absolute workdir declared within the build can have unexpected results if the base image changes" false,
    UNDEFINED_VAR "UndefinedVar" "Variables should be defined before their use" false,
    MULTIPLE_INSTRUCTIONS_DISALLOWED "MultipleInstructionsDisallowed"
        "Multiple instructions of the same type should not be used in the same stage" false,
    LEGACY_KEY_VALUE_FORMAT "LegacyKeyValueFormat"
        "Legacy key/value format with whitespace separator should not be used" false,
    INVALID_BASE_IMAGE_PLATFORM "InvalidBaseImagePlatform" "Base image platform does not match expected target platform" false,
    REDUNDANT_TARGET_PLATFORM "RedundantTargetPlatform"
        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior" false,
    SECRETS_USED_IN_ARG_OR_ENV "SecretsUsedInArgOrEnv" "Sensitive data should not be used in the ARG or ENV commands" false,
    INVALID_DEFAULT_ARG_IN_FROM "InvalidDefaultArgInFrom"
        "Default value for global ARG results in an empty or invalid base image name" false,
    FROM_PLATFORM_FLAG_CONST_DISALLOWED "FromPlatformFlagConstDisallowed"
        "FROM --platform flag should not use a constant value" false,
    COPY_IGNORED_FILE "CopyIgnoredFile" "Attempting to Copy file that is excluded by .dockerignore" false,
    INVALID_DEFINITION_DESCRIPTION "InvalidDefinitionDescription"
        "Comment for build stage or argument should follow the format: `# <arg/stage name> <description>`. If this is not intended to be a description comment, add an empty line or comment between the instruction and the comment." true,
    EXPOSE_PROTO_CASING "ExposeProtoCasing" "Protocol in EXPOSE instruction should be lowercase" false,
    EXPOSE_INVALID_FORMAT "ExposeInvalidFormat"
        "IP address and host-port mapping should not be used in EXPOSE instruction. This will become an error in a future release" false,
}

rules! { OWN_RULES:
    CHANGED_AGAIN "wbuild/ChangedAgain"
        "Changing owner or mode of files in a RUN stores them a second time" false,
    PACKAGE_CACHE "wbuild/PackageCache"
        "What a package manager keeps for later stays in the layer" false,
    LATEST_TAG "wbuild/LatestTag" "A base image without a version changes under the build" false,
    ROOT_USER "wbuild/RootUser" "The image runs as root" false,
    MISSING_HEALTHCHECK "wbuild/MissingHealthcheck" "Nothing tells whether the container works" false,
    SECRET_CONTENT "wbuild/SecretContent" "A secret is written in the Dockerfile, so it is in the image" false,
    SECRET_FILE "wbuild/SecretFile" "A file that usually holds secrets is copied into the image" false,
    LOCALHOST_HEALTHCHECK "wbuild/LocalhostHealthcheck"
        "Next.js listens on $HOSTNAME, which is the container's name and not localhost" false,
    ROOT_ONLY_IGNORE "wbuild/RootOnlyIgnore"
        "A pattern of the ignore file acts on the root only, and files like it elsewhere are part of the context" false,
    MISSING_MANIFEST "wbuild/MissingManifest"
        "pnpm installs a workspace without the manifests of packages that it needs" false,
    HIDDEN_TEXT "wbuild/HiddenText" "Characters that change the direction of text hide what a line does" false,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_named_after_the_rules() {
        assert_eq!(BUILDKIT_RULES.len(), 22);
        let page = |rule: Rule| rule.url().unwrap_or_default().rsplit('/').nth(1).map(str::to_owned).unwrap();
        assert_eq!(page(JSON_ARGS_RECOMMENDED), "json-args-recommended");
        assert_eq!(page(STAGE_NAME_CASING), "stage-name-casing");
        assert_eq!(page(SECRETS_USED_IN_ARG_OR_ENV), "secrets-used-in-arg-or-env");
        assert_eq!((INVALID_BASE_IMAGE_PLATFORM.url(), LATEST_TAG.url()), (None, None));
    }
}
