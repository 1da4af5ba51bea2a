use wbuild_graph::{Account, AccountId, Owner};

use crate::users::{UserError, check_id, find_group, find_user};

/// The names in it that have to be looked up, each with the file that knows them.
pub(crate) fn files(account: &Account) -> Vec<&'static str> {
    let named = |id: &AccountId| matches!(id, AccountId::Name(name) if name != ROOT);
    let passwd = named(&account.user).then_some(PASSWD);
    let group = account.group.as_ref().is_some_and(named).then_some(GROUP);
    passwd.into_iter().chain(group).collect()
}

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";

/// Is 0 even where there are no files, as in BuildKit.
const ROOT: &str = "root";

/// What a person wrote as `user[:group]`, for files of input `input`.
pub(super) fn parse(text: &str, input: usize) -> Result<Account, UserError> {
    let id = |text: &str| -> Result<AccountId, UserError> {
        Ok(match crate::users::parse_id(text)? {
            Some(id) => AccountId::Number(id),
            None => AccountId::Name(text.to_owned()),
        })
    };
    let malformed = || UserError::Malformed { text: text.to_owned() };
    let (user, group) = match text.split_once(':') {
        Some((user, group)) if !user.is_empty() && !group.is_empty() && !group.contains(':') => {
            (user, Some(group))
        }
        Some(_) => return Err(malformed()),
        None if text.is_empty() => (ROOT, None),
        None => (text, None),
    };
    Ok(Account { user: id(user)?, group: group.map(id).transpose()?, input })
}

/// The owner that an account is; `read` gives the text of a file of its root, or `None` when there is no such file.
pub(super) fn owner<E>(
    account: &Account,
    read: impl Fn(&str) -> Result<Option<String>, E>,
) -> Result<Result<Owner, UserError>, E> {
    let text = |path: &'static str, kind: &'static str, name: &str| {
        let missing = || UserError::NoFile { kind, name: name.to_owned(), file: path };
        Ok::<_, E>(read(path)?.ok_or_else(missing))
    };
    let resolve = |id: &AccountId, group: bool| -> Result<Result<Owner, UserError>, E> {
        Ok(match id {
            AccountId::Number(id) => check_id(*id).map(|id| Owner { uid: id, gid: id }),
            AccountId::Name(name) if name == ROOT => Ok(Owner::default()),
            AccountId::Name(name) if group => text(GROUP, "group", name)?
                .and_then(|text| find_group(&text, name))
                .map(|gid| Owner { uid: gid, gid }),
            AccountId::Name(name) => text(PASSWD, "user", name)?
                .and_then(|text| find_user(&text, name))
                .map(|(uid, gid)| Owner { uid, gid }),
        })
    };
    let user = resolve(&account.user, false)?;
    let group = account.group.as_ref().map(|group| resolve(group, true)).transpose()?;
    Ok(user.and_then(|user| match group {
        Some(group) => Ok(Owner { uid: user.uid, gid: group?.gid }),
        None => Ok(user),
    }))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// I22, and `USER` before WORKDIR (I45).
    #[test]
    fn names_come_from_the_files_and_numbers_from_nowhere() {
        let files = |path: &str| -> Result<_, Infallible> {
            Ok(Some(match path {
                PASSWD => "root:x:0:0::/:\nalice:x:1234:2345::/:\nbob:x:1300:1301::/:\nbroken\nhuge:x:4294967295:1::/:\n",
                _ => "root:x:0:\nalice:x:2345:\ndevs:x:3456:alice\n",
            }
            .to_owned()))
        };
        let ids = |text: &str| {
            let owner = parse(text, 0).and_then(|account| owner(&account, files).unwrap());
            owner.map(|owner| (owner.uid, owner.gid)).map_err(|error| error.to_string())
        };
        assert_eq!(ids("alice"), Ok((1234, 2345)));
        assert_eq!(ids("alice:devs"), Ok((1234, 3456)));
        assert_eq!(ids("bob:18"), Ok((1300, 18)));
        assert_eq!(ids("1000:devs"), Ok((1000, 3456)));
        assert_eq!(ids("77"), Ok((77, 77)));
        assert_eq!(ids("1234"), Ok((1234, 1234)), "a number has its own group, whoever it is in passwd");
        assert_eq!(ids(""), Ok((0, 0)));
        assert_eq!(ids("nobody").unwrap_err(), "there is no user `nobody` in /etc/passwd of the image");
        assert_eq!(
            ids("alice:nogroup").unwrap_err(),
            "there is no group `nogroup` in /etc/group of the image"
        );
        for wrong in [":", "a:", ":b", "a:b:c", "2147483648", "4294967296", "huge"] {
            assert!(ids(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_image_without_files_knows_root_and_numbers() {
        let none = |_: &str| -> Result<_, Infallible> { Ok(None) };
        let ids = |text: &str| owner(&parse(text, 0).unwrap(), none).unwrap();
        assert_eq!(ids("root:root"), Ok(Owner::default()));
        assert_eq!(ids("5:6"), Ok(Owner { uid: 5, gid: 6 }));
        let error = ids("app").unwrap_err();
        assert_eq!(error.to_string(), "the user `app` cannot be looked up: the image has no /etc/passwd");
    }

    #[test]
    fn only_names_need_files() {
        let files = |text: &str| files(&parse(text, 0).unwrap());
        assert_eq!(files("1:2"), <[&str; 0]>::default());
        assert_eq!(files("root:0"), <[&str; 0]>::default());
        assert_eq!(files("a"), [PASSWD]);
        assert_eq!(files("1:b"), [GROUP]);
        assert_eq!(files("a:b"), [PASSWD, GROUP]);
    }
}
