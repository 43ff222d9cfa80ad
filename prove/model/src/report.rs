//! What a layer of the proof has to say.

use std::fmt;

use comfy_table::{CellAlignment, Table, presets};

/// Figures, and what was found to be wrong.
#[derive(Clone, Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
    violations: Vec<String>,
}

#[derive(Clone, Debug)]
struct Figure {
    layer: &'static str,
    what: String,
    value: String,
}

impl Report {
    /// Adds a figure.
    pub fn figure(&mut self, layer: &'static str, what: impl Into<String>, value: impl fmt::Display) {
        self.figures.push(Figure { layer, what: what.into(), value: value.to_string() });
    }

    /// Adds a violation of a guarantee, told so that a reader can follow it.
    pub fn violation(&mut self, told: impl Into<String>) {
        self.violations.push(told.into());
    }

    /// The value of a figure, where it is there.
    #[must_use]
    pub fn get(&self, what: &str) -> Option<&str> {
        self.figures.iter().find(|figure| figure.what == what).map(|figure| figure.value.as_str())
    }

    /// What was found to be wrong.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Takes in what another layer has to say.
    pub fn absorb(&mut self, other: Self) {
        self.figures.extend(other.figures);
        self.violations.extend(other.violations);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["layer", "what", "figure"]);
        for figure in &self.figures {
            table.add_row([figure.layer, &figure.what, &figure.value]);
        }
        table.add_row(["all", "violations", &self.violations.len().to_string()]);
        if let Some(column) = table.column_mut(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(f, "{table}")?;
        for violation in &self.violations {
            writeln!(f, "\nVIOLATION {violation}")?;
        }
        Ok(())
    }
}
