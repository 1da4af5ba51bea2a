use wbuild_oci::{Platform, PlatformParseError};

const SYSTEMS: [&str; 6] = ["linux", "windows", "darwin", "freebsd", "wasip1", "js"];

/// A platform as `--platform` has it. A single word is a processor or a system; the rest of it is that of `host`.
pub(crate) fn platform(text: &str, host: &Platform) -> Result<Platform, PlatformParseError> {
    if text.contains('/') || text.is_empty() {
        return text.parse();
    }
    if SYSTEMS.iter().any(|system| system.eq_ignore_ascii_case(text)) {
        return format!("{text}/{}", host.architecture).parse();
    }
    let parsed: Platform = format!("{}/{text}", host.os).parse()?;
    match parsed.architecture.as_str() {
        "386" | "amd64" | "arm" | "arm64" | "loong64" | "mips64" | "mips64le" | "ppc64le" | "riscv64"
        | "s390x" | "wasm" => Ok(parsed),
        _ => Err(PlatformParseError { text: text.chars().take(100).collect() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_words_are_completed() {
        let host = Platform::linux("amd64");
        for (text, printed) in [
            ("linux", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("aarch64", "linux/arm64"),
            ("linux/arm/v7", "linux/arm/v7"),
        ] {
            assert_eq!(platform(text, &host).unwrap().to_string(), printed);
        }
        for text in ["", "x", "linux/", "a b"] {
            assert!(platform(text, &host).is_err(), "{text}");
        }
    }
}
