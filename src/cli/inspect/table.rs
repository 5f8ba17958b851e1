//! Text in columns.

use std::fmt::Write as _;

/// Rows of text, laid out in columns as wide as their widest cell.
#[derive(Debug, Default)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
    /// Columns whose cells end at the same place: numbers.
    right: &'static [usize],
}

impl Table {
    /// A table with these headings; the columns `right` are aligned to their
    /// right.
    pub(super) fn new<const N: usize>(headings: [&str; N], right: &'static [usize]) -> Self {
        let rows = vec![headings.iter().map(|&h| h.to_owned()).collect()];
        Self { rows, right }
    }

    /// Adds a row.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Writes it, each line indented by two.
    pub(super) fn write(&self, out: &mut String) {
        let columns = self.rows.first().map_or(0, Vec::len);
        let widths: Vec<usize> = (0..columns).map(|column| self.width(column)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let pad = width - length(cell);
                // Writing to a string cannot fail.
                let _ = match self.right.contains(&column) {
                    true => write!(line, "  {:pad$}{cell}", ""),
                    false => write!(line, "  {cell}{:pad$}", ""),
                };
            }
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }

    fn width(&self, column: usize) -> usize {
        let cells = self.rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| length(cell)).max().unwrap_or(0)
    }
}

fn length(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::Table;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(["fd", "what"], &[0]);
        table.row(["3".into(), "a file".into()]);
        table.row(["1000".into(), "é".into()]);
        let mut out = String::new();
        table.write(&mut out);
        assert_eq!(out, "    fd  what\n     3  a file\n  1000  é\n");
    }
}
