//! One record of comma-separated values, as Go's `encoding/csv` reads it: buildx's flags are written so.

/// Why a text is no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CsvError {
    #[error("a quoted field is not closed")]
    Unclosed,
    #[error("a quote stands inside a field that does not begin with one")]
    BareQuote,
    #[error("something follows the quote that closes a field")]
    AfterQuote,
}

/// The fields of a record. A field in quotes may hold commas, and quotes that are doubled.
pub(crate) fn fields(text: &str) -> Result<Vec<String>, CsvError> {
    let mut found = Vec::new();
    let mut rest = text;
    loop {
        let (field, behind) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let end = rest.find(',').unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        if !rest.starts_with('"') && field.contains('"') {
            return Err(CsvError::BareQuote);
        }
        found.push(field);
        match behind.strip_prefix(',') {
            Some(next) => rest = next,
            None => return Ok(found),
        }
    }
}

/// The field behind an opening quote, and what follows the closing one: a comma or nothing.
fn quoted_field(mut rest: &str) -> Result<(String, &str), CsvError> {
    let mut field = String::new();
    loop {
        let (part, behind) = rest.split_once('"').ok_or(CsvError::Unclosed)?;
        field.push_str(part);
        match behind.strip_prefix('"') {
            Some(next) => {
                field.push('"');
                rest = next;
            }
            None if behind.is_empty() || behind.starts_with(',') => return Ok((field, behind)),
            None => return Err(CsvError::AfterQuote),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_as_go_reads_them() {
        let table: [(&str, &[&str]); 7] = [
            ("type=oci,dest=a", &["type=oci", "dest=a"]),
            ("", &[""]),
            ("a,,b,", &["a", "", "b", ""]),
            (r#"type=image,"name=a,b",push=true"#, &["type=image", "name=a,b", "push=true"]),
            (r#""annotation.a=say ""x""""#, &[r#"annotation.a=say "x""#]),
            (r#""""#, &[""]),
            (r#""a,b""#, &["a,b"]),
        ];
        for (text, expected) in table {
            assert_eq!(fields(text).unwrap(), expected, "{text}");
        }
        for (text, expected) in [
            (r#"a"b"#, CsvError::BareQuote),
            (r#"name="a,b""#, CsvError::BareQuote),
            (r#""a"#, CsvError::Unclosed),
            (r#""a"b"#, CsvError::AfterQuote),
        ] {
            assert_eq!(fields(text), Err(expected), "{text}");
        }
    }
}
