use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Operating systems that there are images for (containerd's `isKnownOS`, and WASI).
const OPERATING_SYSTEMS: [&str; 18] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "wasi",
    "windows",
    "zos",
];

/// Processors that there are images for (containerd's `isKnownArch`, and WASM's other spelling).
const ARCHITECTURES: [&str; 25] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "arm64",
    "arm64be",
    "armbe",
    "loong64",
    "mips",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "mipsle",
    "ppc",
    "ppc64",
    "ppc64le",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
    "wasm32",
];

/// Operating system and processor of an image (OCI image-spec, image-index.md, "platform").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// As in Go's GOARCH: `amd64`, `arm64`.
    pub architecture: String,
    /// As in Go's GOOS: `linux`.
    pub os: String,
    /// `v7` and the like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Everything else, kept.
    #[serde(flatten)]
    pub rest: BTreeMap<String, Value>,
}

impl Platform {
    /// `linux` on `architecture`.
    pub fn linux(architecture: &str) -> Self {
        Self {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant: None,
            rest: BTreeMap::new(),
        }
    }

    /// The platform this binary was compiled for, in OCI's names.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self::linux(architecture)
    }

    /// A word of it that is no operating system or processor that anybody knows, and those that are known.
    pub fn unknown_word(&self) -> Option<(&str, &'static [&'static str])> {
        let systems = (self.os.as_str(), &OPERATING_SYSTEMS[..]);
        let architectures = (self.architecture.as_str(), &ARCHITECTURES[..]);
        [systems, architectures].into_iter().find(|(word, known)| !known.contains(word))
    }

    /// Whether an image made for `self` is what somebody who asked for `wanted` should get. A missing variant of
    /// arm64 means `v8` and of arm `v7`, as in containerd's normalisation.
    pub fn satisfies(&self, wanted: &Self) -> bool {
        let variant = |platform: &Self| normal_variant(&platform.architecture, platform.variant.as_deref());
        self.os == wanted.os && self.architecture == wanted.architecture && variant(self) == variant(wanted)
    }

    /// What runs where somebody asks for this, the best first: this itself, the lower levels of its processor, and its older
    /// instruction sets. As containerd's `platforms.Only` has it, which docker and BuildKit choose by.
    pub fn with_lower_levels(&self) -> Vec<Self> {
        let variant = normal_variant(&self.architecture, self.variant.as_deref());
        let number = |text: &str| text.parse::<u8>().ok().filter(|number| *number < 64);
        let level = variant.as_deref().and_then(|variant| variant.strip_prefix('v'));
        let of = |architecture: &str, variant: String| Self {
            architecture: architecture.to_owned(),
            variant: normal_variant(architecture, Some(&variant)),
            ..self.clone()
        };
        let numbered = |architecture: &str, levels: std::ops::Range<u8>| -> Vec<Self> {
            levels.rev().map(|level| of(architecture, format!("v{level}"))).collect()
        };
        let mut platforms = vec![Self { variant: variant.clone(), ..self.clone() }];
        match self.architecture.as_str() {
            "amd64" => {
                platforms.extend(numbered("amd64", 1..level.and_then(number).unwrap_or(1)));
                platforms.push(of("386", String::new()));
            }
            "arm" => platforms.extend(numbered("arm", 5..level.and_then(number).unwrap_or(5))),
            "arm64" => {
                let (major, minor) =
                    level.map_or(("8", "0"), |level| level.split_once('.').unwrap_or((level, "0")));
                let (major, mut minor) = (number(major).unwrap_or(0), number(minor).unwrap_or(0));
                let minors = |major: u8, minors: std::ops::Range<u8>| {
                    let text = move |minor| {
                        if minor == 0 { format!("v{major}") } else { format!("v{major}.{minor}") }
                    };
                    minors.rev().map(move |minor| of("arm64", text(minor)))
                };
                if major == 9 {
                    platforms.extend(minors(9, 0..minor));
                    // v9.0 has what v8.5 has.
                    minor += 6;
                }
                if matches!(major, 8 | 9) {
                    platforms.extend(minors(8, 0..minor));
                    platforms.extend(numbered("arm", 5..9));
                }
            }
            _ => {}
        }
        platforms
    }
}

/// The variant in the one spelling that it has everywhere (containerd's `normalizeArch`).
fn normal_variant(architecture: &str, variant: Option<&str>) -> Option<String> {
    match (architecture, variant) {
        ("arm64", Some("8" | "v8")) | ("amd64", Some("v1")) | ("386", _) | (_, Some("")) => None,
        ("arm", None | Some("7")) => Some("v7".to_owned()),
        ("arm", Some(number @ ("5" | "6" | "8"))) => Some(format!("v{number}")),
        (_, variant) => variant.map(str::to_owned),
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if let Some(variant) = &self.variant {
            write!(f, "/{variant}")?;
        }
        Ok(())
    }
}

/// What was given is not `os/architecture[/variant]`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not a platform of the form `os/architecture[/variant]`, such as `linux/arm64`", text.escape_debug())]
pub struct PlatformParseError {
    /// What was given.
    pub text: String,
}

impl FromStr for Platform {
    type Err = PlatformParseError;

    /// Accepts containerd's spellings (`x86_64`, `aarch64`) and normalises them.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || PlatformParseError { text: text.chars().take(100).collect() };
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        };
        if !(1..=3).contains(&parts.len()) || !parts.iter().all(|part| word(part)) {
            return Err(error());
        }
        // As containerd has it, one word is the operating system, or else the processor.
        if let [only] = parts[..] {
            let host = Self::host();
            let system = format!("{only}/{}", host.architecture).parse::<Self>()?;
            let processor = format!("{}/{only}", host.os).parse::<Self>()?;
            let known = [system, processor].into_iter().find(|found| found.unknown_word().is_none());
            return known.ok_or_else(error);
        }
        let mut variant = parts.get(2).map(|variant| variant.to_ascii_lowercase());
        let architecture = match parts[1].to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            "i386" => "386".to_owned(),
            "armhf" => {
                variant = Some("v7".to_owned());
                "arm".to_owned()
            }
            "armel" => {
                variant = Some("v6".to_owned());
                "arm".to_owned()
            }
            other => other.to_owned(),
        };
        let variant = normal_variant(&architecture, variant.as_deref());
        Ok(Self { architecture, os: parts[0].to_ascii_lowercase(), variant, rest: BTreeMap::new() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parse_normalises_and_prints() {
        for (text, printed) in [
            ("linux/x86_64", "linux/amd64"),
            ("Linux/ARM64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/arm/v7", "linux/arm/v7"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), printed);
        }
        for (text, printed) in [("arm", "linux/arm/v7"), ("x86_64", "linux/amd64"), ("s390x", "linux/s390x")]
        {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), printed);
        }
        let windows: Platform = "windows".parse().unwrap();
        assert_eq!((windows.os.as_str(), windows.architecture), ("windows", Platform::host().architecture));
        assert_eq!("linux/amd46".parse::<Platform>().unwrap().unknown_word().unwrap().0, "amd46");
        assert_eq!("foo/bar".parse::<Platform>().unwrap().unknown_word().unwrap().0, "foo");
        for text in ["amd46", "linux/", "linux/a/b/c", "linux/a b", ""] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn lower_levels_do_where_there_is_nothing_better() {
        for (text, platforms) in [
            ("linux/amd64", "linux/amd64 linux/386"),
            ("linux/amd64/v3", "linux/amd64/v3 linux/amd64/v2 linux/amd64 linux/386"),
            ("linux/arm", "linux/arm/v7 linux/arm/v6 linux/arm/v5"),
            ("linux/arm/v5", "linux/arm/v5"),
            ("linux/arm64", "linux/arm64 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5"),
            (
                "linux/arm64/v8.2",
                "linux/arm64/v8.2 linux/arm64/v8.1 linux/arm64 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5",
            ),
            ("linux/riscv64", "linux/riscv64"),
            ("linux/amd64/v255", "linux/amd64/v255 linux/386"),
        ] {
            let found: Vec<String> = text
                .parse::<Platform>()
                .unwrap()
                .with_lower_levels()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(found.join(" "), platforms);
        }
        let nine: Vec<String> = "linux/arm64/v9.1"
            .parse::<Platform>()
            .unwrap()
            .with_lower_levels()
            .iter()
            .filter(|found| found.architecture == "arm64")
            .filter_map(|found| found.variant.clone())
            .collect();
        assert_eq!(nine, ["v9.1", "v9", "v8.6", "v8.5", "v8.4", "v8.3", "v8.2", "v8.1"]);
    }

    #[test]
    fn arm64_without_variant_is_v8() {
        let plain: Platform = "linux/arm64".parse().unwrap();
        let v8: Platform = "linux/arm64/v8".parse().unwrap();
        assert!(plain.satisfies(&v8) && v8.satisfies(&plain));
        assert!(!plain.satisfies(&"linux/amd64".parse().unwrap()));
    }
}
