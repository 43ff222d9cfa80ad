//! What was measured: for machines and for people.

use std::path::Path;

use anyhow::{Context, Result};
use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

/// All figures of one run.
#[derive(Debug, Default)]
pub(crate) struct Report(Vec<Figure>);

#[derive(Debug, Serialize)]
struct Figure {
    name: String,
    value: f64,
    unit: &'static str,
    /// What it is held against, measured in the same run.
    floor: Option<f64>,
    /// The value as a multiple of the floor.
    ratio: Option<f64>,
    /// Of how many samples.
    n: u64,
}

impl Report {
    pub(crate) fn add(&mut self, name: &str, value: f64, unit: &'static str, floor: Option<f64>, n: u64) {
        let ratio = floor.filter(|floor| *floor > 0.0).map(|floor| value / floor);
        println!(
            "{name}: {value:.3} {unit}{}",
            ratio.map(|ratio| format!(" ({ratio:.2} × floor)")).unwrap_or_default()
        );
        self.0.push(Figure { name: name.to_owned(), value, unit, floor, ratio, n });
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let json = serde_json::to_string_pretty(&self.0)?;
        std::fs::write(path, json + "\n").with_context(|| format!("writing {}", path.display()))
    }

    pub(crate) fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(ASCII_MARKDOWN).set_header(["", "value", "unit", "floor", "ratio", "n"]);
        let number = |value: Option<f64>| value.map(|value| format!("{value:.3}")).unwrap_or_default();
        for Figure { name, value, unit, floor, ratio, n } in &self.0 {
            table.add_row([
                name.clone(),
                number(Some(*value)),
                (*unit).to_owned(),
                number(*floor),
                number(*ratio),
                n.to_string(),
            ]);
        }
        for column in [1, 3, 4, 5] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }
}
