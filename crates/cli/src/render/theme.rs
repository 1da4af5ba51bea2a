use anstyle::{AnsiColor, Style};

/// Width assumed where nobody can say: a pipe, a file, a terminal that does not answer.
const DEFAULT_WIDTH: usize = 100;

/// How text may look: whether it may carry colour, and how wide it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Theme {
    colors: Colors,
    width: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Colors {
    Off,
    On,
}

impl Theme {
    /// Without colour: for pipes, files, `NO_COLOR`.
    pub const fn plain() -> Self {
        Self { colors: Colors::Off, width: DEFAULT_WIDTH }
    }

    /// With the sixteen colours that every terminal has and every person's palette adjusts.
    pub const fn colored() -> Self {
        Self { colors: Colors::On, width: DEFAULT_WIDTH }
    }

    /// The same for a terminal of `width` columns.
    #[must_use]
    pub const fn wide(mut self, width: usize) -> Self {
        self.width = width;
        self
    }

    /// The columns there are.
    pub const fn width(&self) -> usize {
        self.width
    }

    /// Whether escape sequences may be written at all.
    pub const fn has_colors(&self) -> bool {
        matches!(self.colors, Colors::On)
    }

    /// For what failed.
    pub const fn error(&self) -> Style {
        self.when_on(AnsiColor::Red.on_default().bold())
    }

    /// For what may be wrong.
    pub const fn warning(&self) -> Style {
        self.when_on(AnsiColor::Yellow.on_default().bold())
    }

    /// For what to do next.
    pub const fn hint(&self) -> Style {
        self.when_on(AnsiColor::Cyan.on_default().bold())
    }

    /// For what went well.
    pub const fn good(&self) -> Style {
        self.when_on(AnsiColor::Green.on_default())
    }

    /// For what matters least.
    pub const fn faint(&self) -> Style {
        self.when_on(Style::new().dimmed())
    }

    /// For headings.
    pub const fn strong(&self) -> Style {
        self.when_on(Style::new().bold())
    }

    const fn when_on(&self, style: Style) -> Style {
        if self.has_colors() { style } else { Style::new() }
    }
}
