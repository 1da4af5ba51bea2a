use serde::Serialize;
use serde::ser::SerializeMap;
use wbuild_oci::media;
use wbuild_tree::Time;

/// Version of the tar that is written: which headers, in which order, with which fields. Enters every cache key that
/// leads to a layer; bump it with any change that alters bytes.
const TAR_VERSION: u32 = 1;

/// Version of the rules by which members are cut (see the `member` module).
const MEMBERS_VERSION: u32 = 1;

/// Version of how an eStargz layer is laid out (see the `stargz` module): order of its parts, size of chunks, what the TOC
/// says.
const STARGZ_VERSION: u32 = 1;

/// The gzip encoder. Its output differs between releases; a golden test fails when it does, and then this changes too.
const GZIP_ENCODER: &str = "libdeflate 1.26";

/// The zstd encoder, likewise.
const ZSTD_ENCODER: &str = "zstd 1.5.7";

/// How the bytes of a layer's tar become the bytes of its blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip in independent members.
    Gzip {
        /// 0 to 12, as libdeflate counts; 6 is about `gzip -6`.
        level: u8,
    },
    /// zstd in independent frames.
    Zstd {
        /// 1 to 22.
        level: u8,
    },
    /// gzip in members that a lazy snapshotter can find and read one by one (eStargz). The tar has two files more.
    Estargz {
        /// As for gzip.
        level: u8,
    },
}

impl Compression {
    /// What images get unless asked otherwise: read by everything since Docker 1.10.
    pub const DEFAULT: Self = Self::Gzip { level: 6 };

    /// zstd as BuildKit has it by default.
    pub const ZSTD: Self = Self::Zstd { level: 3 };

    /// The media type of a layer compressed like this.
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::None => media::LAYER,
            Self::Gzip { .. } | Self::Estargz { .. } => media::LAYER_GZIP,
            Self::Zstd { .. } => media::LAYER_ZSTD,
        }
    }
}

/// Which modification times the entries of a layer get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Times {
    /// Every entry this one, in seconds since the epoch: `SOURCE_DATE_EPOCH`, or one.
    Fixed(i64),
    /// What the tree says, to the nanosecond; whiteouts get [`Time::NORMAL`].
    Keep,
}

impl Times {
    pub(crate) const fn of(self, time: Time) -> Time {
        match self {
            Self::Fixed(seconds) => Time { seconds, nanos: 0 },
            Self::Keep => time,
        }
    }
}

/// Everything that decides a layer's bytes besides its delta. Equal recipes and equal deltas give equal layers, on every
/// machine and with any number of threads, so the recipe is a part of the key of a stored layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Recipe {
    /// How the tar is compressed.
    pub compression: Compression,
    /// Which times its entries get.
    pub times: Times,
}

impl Default for Recipe {
    /// gzip, level 6, and [`Time::NORMAL`] everywhere.
    fn default() -> Self {
        Self { compression: Compression::DEFAULT, times: Times::Fixed(Time::NORMAL.seconds) }
    }
}

impl Recipe {
    /// Its named fields, in order of names: what a cache key holds and what a missed key is explained with.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let mut fields = self.member_fields();
        let times = match self.times {
            Times::Fixed(seconds) => format!("fixed {seconds}"),
            Times::Keep => "keep".to_owned(),
        };
        fields.push(("layer.tar", TAR_VERSION.to_string()));
        fields.push(("layer.times", times));
        fields.sort();
        fields
    }

    /// The part that decides how one member is compressed.
    pub(crate) fn member_fields(&self) -> Vec<(&'static str, String)> {
        let (name, level, encoder) = match self.compression {
            Compression::None => return vec![("layer.compression", "none".to_owned())],
            Compression::Gzip { level } => ("gzip", level, GZIP_ENCODER),
            Compression::Zstd { level } => ("zstd", level, ZSTD_ENCODER),
            Compression::Estargz { level } => ("estargz", level, GZIP_ENCODER),
        };
        let mut fields = vec![
            ("layer.compression", name.to_owned()),
            ("layer.encoder", encoder.to_owned()),
            ("layer.level", level.to_string()),
            ("layer.members", MEMBERS_VERSION.to_string()),
        ];
        if name == "estargz" {
            fields.push(("layer.stargz", STARGZ_VERSION.to_string()));
        }
        fields
    }
}

/// As a map of [`Recipe::fields`].
impl Serialize for Recipe {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let fields = self.fields();
        let mut map = serializer.serialize_map(Some(fields.len()))?;
        for (name, value) in fields {
            map.serialize_entry(name, &value)?;
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_is_in_the_fields() {
        let text = serde_json::to_string(&Recipe::default()).unwrap();
        assert_eq!(
            text,
            r#"{"layer.compression":"gzip","layer.encoder":"libdeflate 1.26","layer.level":"6","layer.members":"1","layer.tar":"1","layer.times":"fixed 1"}"#
        );
        let mut seen = Vec::new();
        for compression in [
            Compression::None,
            Compression::Gzip { level: 6 },
            Compression::Gzip { level: 9 },
            Compression::Zstd { level: 6 },
            Compression::Estargz { level: 6 },
        ] {
            for times in [Times::Keep, Times::Fixed(1), Times::Fixed(2)] {
                seen.push(Recipe { compression, times }.fields());
            }
        }
        let count = seen.len();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }
}
