//! `--chown=user[:group]`.

/// Who shall own copied files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub user: Identity,
    /// The group. Without one it is the user's primary group, or the user's number where the user is a number.
    pub group: Option<Identity>,
}

/// A user or a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// By number.
    Number(u32),
    /// By name, to be looked up in the root file system that is written to.
    Name(String),
}

/// A text that names no owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnerError {
    /// Numbers beyond this would become others in programs that use signed numbers; some would become root.
    #[error("the id {text} in `--chown` is larger than {}", Owner::MAX)]
    TooLarge {
        /// The number.
        text: String,
    },
    /// More than `user:group`.
    #[error("invalid --chown value: '{text}'")]
    Form {
        /// The text.
        text: String,
    },
}

impl Owner {
    /// The largest id.
    pub const MAX: u32 = i32::MAX as u32;
}

impl std::str::FromStr for Owner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        let form = || OwnerError::Form { text: text.chars().take(100).collect() };
        let (user, group) = text.split_once(':').map_or((text, None), |(user, group)| (user, Some(group)));
        let identity = |name: &str| {
            if name.contains(':') || name.contains(|c: char| c.is_control() || c.is_whitespace()) {
                return Err(form());
            }
            if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_digit()) {
                return Ok(Identity::Name(name.to_owned()));
            }
            match name.parse() {
                Ok(number) if number <= Self::MAX => Ok(Identity::Number(number)),
                _ => Err(OwnerError::TooLarge { text: name.chars().take(100).collect() }),
            }
        };
        let user = match user {
            // `:group` leaves the user to root.
            "" if group.is_some_and(|group| !group.is_empty()) => Identity::Number(0),
            "" => return Err(form()),
            user => identity(user)?,
        };
        // `user:` leaves the group to root, too.
        let group = match group {
            Some("") => Some(Identity::Number(0)),
            group => group.map(identity).transpose()?,
        };
        Ok(Self { user, group })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        let owner: Owner = "nextjs:1001".parse().unwrap();
        assert_eq!(
            owner,
            Owner { user: Identity::Name("nextjs".into()), group: Some(Identity::Number(1001)) }
        );
        assert_eq!("5".parse::<Owner>().unwrap(), Owner { user: Identity::Number(5), group: None });
        assert_eq!("a:".parse::<Owner>().unwrap().group, Some(Identity::Number(0)));
        for text in ["", ":", "4294967296", "2147483648:1", ":::", "a b", "a:b:c"] {
            assert!(text.parse::<Owner>().is_err(), "{text}");
        }
    }
}
