/// Linux' signals that have a name, without `SIG`. Those for real time are matched by their form.
const NAMES: [&str; 33] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL", "PIPE",
    "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU",
    "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU",
];

/// Whether STOPSIGNAL accepts `text`: a number other than zero, or a name with or without `SIG`.
pub(crate) fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i64>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let real_time = |prefix: &str, last: u8| match name.strip_prefix(prefix) {
        Some("") => true,
        Some(number) => {
            !number.starts_with(['0', '+'])
                && number.parse().is_ok_and(|number: u8| (1..=last).contains(&number))
        }
        None => false,
    };
    NAMES.contains(&name)
        || name == "XFSZ"
        || name == "RTMIN"
        || name == "RTMAX"
        || real_time("RTMIN+", 15)
        || real_time("RTMAX-", 14)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for text in ["SIGTERM", "term", "9", "SIGRTMIN+3", "RTMAX-14", "RTMIN", "SIGXFSZ", "-1"] {
            assert!(is_signal(text), "{text}");
        }
        for text in ["", "0", "SIG", "SIGFOO", "RTMIN+16", "RTMIN+01", "RTMAX-15", "SIGSIGTERM", "RTMIN++1"] {
            assert!(!is_signal(text), "{text}");
        }
    }
}
