use std::fmt;
use std::str::FromStr;

/// How a build is shown: the values of `--progress`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressMode {
    /// Live where a person looks at a capable terminal, plain elsewhere.
    #[default]
    Auto,
    /// Live.
    Tty,
    /// Every line as it comes.
    Plain,
    /// JSON lines, for programs.
    ///
    /// Every line is one object. `event` says which kind, `at` when, in seconds since the build began. The first line
    /// is `begin` with the version of the format, the last one is `end`. Version 1 only ever gains fields and events:
    /// readers must skip what they do not know.
    ///
    /// | event | fields |
    /// |---|---|
    /// | `begin` | `version`: 1 |
    /// | `declared` | `vertex` (a number), `name`, `minor` |
    /// | `started` | `vertex` |
    /// | `log` | `vertex`, `stream` (`stdout`, `stderr`), and the chunk as `text`, or as `base64` when it is not UTF-8 by itself |
    /// | `log-file` | `vertex`, `path` |
    /// | `moved` | of a transfer to or from a registry, which is declared as a vertex behind those of the graph: `vertex`, `part` (a digest), `bytes` of `total`, `state` (`under-way`, `done`, `present`, `lent`) |
    /// | `finished` | `vertex`, `outcome` (`reused`, `built`, `failed`, `cancelled`; of transfers `done`, `failed`), `seconds`; with `reused` also `from` (`local`, `awaited`); with `built` also `why`, a miss reason with its fields, and `because`, the same as a sentence |
    /// | `warned` | `vertex` (or null), `message`, `hints` |
    /// | `note` | `text` |
    /// | `error` | why the command failed: `message` in one sentence, `text` with places, causes and hints |
    /// | `end` | `total`, `built`, `reused`, `failed`, `cancelled`, `seconds` |
    ///
    /// Chunks of a log are as the step wrote them: not whole lines, every byte kept. Controls and bidi characters are
    /// always written as `\u` escapes, so that the stream can be looked at on a terminal. Nothing else is written to the
    /// same stream, but for mistakes in the arguments themselves.
    Json,
    /// Only warnings, and the last lines of what failed.
    Quiet,
}

impl ProgressMode {
    /// All of them, in the order of the help.
    pub const ALL: [Self; 5] = [Self::Auto, Self::Tty, Self::Plain, Self::Json, Self::Quiet];

    /// The word on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Tty => "tty",
            Self::Plain => "plain",
            Self::Json => "json",
            Self::Quiet => "quiet",
        }
    }
}

impl fmt::Display for ProgressMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A word that names no [`ProgressMode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown progress mode `{given}`; there are auto, tty, plain, json and quiet")]
pub struct UnknownProgressMode {
    given: String,
}

impl FromStr for ProgressMode {
    type Err = UnknownProgressMode;

    /// `rawjson`, docker's word, is taken for `json`.
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        let word = if word == "rawjson" { "json" } else { word };
        Self::ALL
            .into_iter()
            .find(|mode| mode.name() == word)
            .ok_or_else(|| UnknownProgressMode { given: word.to_owned() })
    }
}
