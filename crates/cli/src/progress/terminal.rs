use std::fmt;
use std::sync::Arc;

use anstream::{AutoStream, ColorChoice};

use crate::render::Theme;

/// The size of a window in cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Cells in a row.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

impl WindowSize {
    /// What a terminal has that does not tell.
    const FALLBACK: Self = Self { columns: 80, rows: 24 };
}

/// What can be done with an output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// It is no terminal, or one that cannot move its cursor.
    Lines,
    /// It is a terminal, but of a CI runner that records it: live only on demand.
    Unattended,
    /// A person looks at a terminal that can move its cursor.
    Live,
}

/// What a view must know of the output it writes to.
#[derive(Clone)]
pub struct Terminal {
    reach: Reach,
    color: bool,
    size: Arc<dyn Fn() -> WindowSize + Send + Sync>,
}

impl Terminal {
    /// Standard error as it is now: `NO_COLOR`, `CLICOLOR`, `CLICOLOR_FORCE`, `TERM` and `CI` count; the window
    /// size is asked for again whenever it matters.
    pub fn stderr() -> Self {
        let stderr = std::io::stderr();
        let color = !matches!(AutoStream::choice(&stderr), ColorChoice::Never);
        let named = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let reach = if !rustix::termios::isatty(&stderr) || named("TERM").is_none_or(|term| term == "dumb") {
            Reach::Lines
        } else if named("CI").is_some_and(|ci| ci != "false" && ci != "0") {
            Reach::Unattended
        } else {
            Reach::Live
        };
        Self::new(reach, color, stderr_size)
    }

    /// An output with these properties.
    pub fn new(reach: Reach, color: bool, size: impl Fn() -> WindowSize + Send + Sync + 'static) -> Self {
        Self { reach, color, size: Arc::new(size) }
    }

    /// A file or a pipe.
    pub fn pipe() -> Self {
        Self::new(Reach::Lines, false, || WindowSize::FALLBACK)
    }

    /// What can be done with it.
    pub fn reach(&self) -> Reach {
        self.reach
    }

    /// Its size now.
    pub fn size(&self) -> WindowSize {
        (self.size)()
    }

    /// How text for it may look now.
    pub fn theme(&self) -> Theme {
        let theme = if self.color { Theme::colored() } else { Theme::plain() };
        if self.reach == Reach::Lines { theme } else { theme.wide(self.size().columns) }
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal")
            .field("reach", &self.reach)
            .field("color", &self.color)
            .finish_non_exhaustive()
    }
}

fn stderr_size() -> WindowSize {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            WindowSize { columns: size.ws_col.into(), rows: size.ws_row.into() }
        }
        _ => WindowSize::FALLBACK,
    }
}
