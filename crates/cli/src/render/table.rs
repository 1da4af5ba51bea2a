use super::escape::escape_line;
use super::theme::Theme;
use super::width::width;

/// Spaces between two columns.
const GAP: &str = "   ";

/// On which side of a column its cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under headings, columns aligned by what they take on a terminal. Nothing is cut: tables are results, and
/// may be piped into something that reads them.
#[derive(Clone, Debug)]
pub struct Table {
    headings: Vec<String>,
    alignment: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table with these columns.
    pub fn new<const N: usize>(columns: [(&str, Align); N]) -> Self {
        Self {
            headings: columns.iter().map(|(heading, _)| (*heading).to_owned()).collect(),
            alignment: columns.iter().map(|(_, align)| *align).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row. Missing cells are empty, surplus ones are left out; controls in them become visible.
    pub fn row<S: AsRef<str>>(&mut self, cells: impl IntoIterator<Item = S>) -> &mut Self {
        let mut row: Vec<String> =
            cells.into_iter().map(|cell| escape_line(cell.as_ref()).into_owned()).collect();
        row.resize(self.headings.len(), String::new());
        self.rows.push(row);
        self
    }

    /// Whether it has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The table as lines, without blanks at their ends.
    pub fn render(&self, theme: &Theme) -> String {
        let widths: Vec<usize> = (0..self.headings.len())
            .map(|column| {
                let cells = self.rows.iter().map(|row| width(&row[column]));
                cells.chain([width(&self.headings[column])]).max().unwrap_or(0)
            })
            .collect();
        let strong = theme.strong();
        let mut text = format!("{strong}{}{strong:#}\n", self.line(&self.headings, &widths));
        for row in &self.rows {
            text.push_str(&self.line(row, &widths));
            text.push('\n');
        }
        text
    }

    fn line(&self, cells: &[String], widths: &[usize]) -> String {
        let mut line = String::new();
        for (column, cell) in cells.iter().enumerate() {
            if column > 0 {
                line.push_str(GAP);
            }
            let blanks = " ".repeat(widths[column] - width(cell));
            match self.alignment[column] {
                Align::Left => line.extend([cell, blanks.as_str()]),
                Align::Right => line.extend([blanks.as_str(), cell]),
            }
        }
        line.truncate(line.trim_end().len());
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::size;

    #[test]
    fn columns_line_up_by_what_they_take_on_a_terminal() {
        let mut table = Table::new([("LAYER", Align::Left), ("SIZE", Align::Right), ("FROM", Align::Left)]);
        table.row(["sha256:0123456789ab", &size(41_800_000), "[deps] pnpm install"]);
        table.row(["漢字", &size(312), ""]);
        table.row(["evil\x1b[2J\nname", "–", "[app] COPY"]);
        insta::assert_snapshot!(table.render(&Theme::plain()), @r"
            LAYER                    SIZE   FROM
            sha256:0123456789ab   41.8 MB   [deps] pnpm install
            漢字                    312 B
            evil\x1b[2J\nname           –   [app] COPY
            ");
    }

    #[test]
    fn headings_are_bold_where_there_is_colour() {
        let mut table = Table::new([("A", Align::Left)]);
        assert!(table.is_empty());
        table.row(["b", "surplus"]);
        assert_eq!(table.render(&Theme::colored()), "\x1b[1mA\x1b[0m\nb\n");
    }
}
