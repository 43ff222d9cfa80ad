//! Growth, for people.

use comfy_table::presets::ASCII_MARKDOWN;
use comfy_table::{CellAlignment, Table};

use super::{Idle, Row};

/// From which factor on an operation counts as slower than beside the fewest.
const SLOWER: f64 = 1.5;
/// The same for requests and events, which are counted and not timed.
const MORE: f64 = 0.5;

fn table(header: &[&str], left: usize) -> Table {
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN).set_header(header.iter().copied());
    for column in left..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// What each operation costs beside so many, and in what it is worse than beside the fewest.
pub(super) fn operations(rows: &[Row]) -> Table {
    let header = ["beside", "n", "operation", "ms", "× PUTs", "writes", "reads", "events", "grows"];
    let mut table = table(&header, 3);
    for row in rows {
        let first = rows.iter().find(|first| first.what == row.what && first.operation == row.operation);
        table.add_row([
            row.what.to_owned(),
            row.size.to_string(),
            row.operation.to_owned(),
            format!("{:.2}", row.ms),
            format!("{:.2}", row.floors),
            format!("{:.2}", row.writes),
            format!("{:.2}", row.reads),
            format!("{:.2}", row.events),
            first.map(|first| grows(first, row)).unwrap_or_default(),
        ]);
    }
    table
}

fn grows(first: &Row, row: &Row) -> String {
    let mut what = Vec::new();
    if row.floors > first.floors * SLOWER {
        what.push(format!("time × {:.1}", row.floors / first.floors));
    }
    if row.writes > first.writes + MORE {
        what.push(format!("writes + {:.1}", row.writes - first.writes));
    }
    if row.reads > first.reads + MORE + row.background {
        what.push(format!("reads + {:.1}", row.reads - first.reads));
    }
    if row.events > first.events + MORE {
        what.push(format!("events + {:.1}", row.events - first.events));
    }
    what.join(", ")
}

/// What those cost who do nothing.
pub(super) fn idles(idles: &[Idle]) -> Table {
    let header = [
        "idle",
        "n",
        "heartbeats/s",
        "expected",
        "writes/s",
        "reads/s",
        "events/s",
        "annotations, B",
        "clients, MB",
        "API server, MB",
        "etcd, MB",
    ];
    let mut table = table(&header, 1);
    let megabytes = |value: Option<f64>| value.map(|value| format!("{value:.1}")).unwrap_or_default();
    for idle in idles {
        table.add_row([
            idle.what.to_owned(),
            idle.size.to_string(),
            format!("{:.2}", idle.heartbeats),
            format!("{:.2}", idle.heartbeats_expected),
            format!("{:.2}", idle.writes),
            format!("{:.2}", idle.reads),
            format!("{:.2}", idle.events),
            idle.annotation_bytes.map(|bytes| bytes.to_string()).unwrap_or_default(),
            format!("{:.1}", idle.clients_mb),
            megabytes(idle.apiserver_mb),
            megabytes(idle.etcd_mb),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(floors: f64, reads: f64, events: f64) -> Row {
        Row { what: "held", size: 1, operation: "cycle", ms: 1.0, floors, writes: 2.0, reads, events, background: 0.0 }
    }

    #[test]
    fn what_grows_is_said() {
        let first = row(1.0, 0.0, 0.0);
        assert_eq!(grows(&first, &row(1.4, 0.4, 0.4)), "");
        assert_eq!(grows(&first, &row(3.0, 0.0, 0.0)), "time × 3.0");
        assert_eq!(grows(&first, &row(1.0, 2.0, 9.0)), "reads + 2.0, events + 9.0");
        assert_eq!(grows(&first, &Row { background: 2.0, ..row(1.0, 2.0, 0.0) }), "");
    }
}
