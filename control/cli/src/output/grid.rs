//! Columns as wide as their widest cell, three spaces apart, as kubectl sets them.

use std::fmt;

/// Columns of shorter cells, which only tables without a header have, are as wide as this.
const NARROWEST: usize = 3;

#[derive(Debug)]
pub(crate) struct Grid {
    /// The header, where there is one, and then the rows.
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// An empty header is not shown.
    pub(crate) fn new(header: Vec<String>) -> Self {
        Self { rows: if header.is_empty() { Vec::new() } else { vec![header] } }
    }

    pub(crate) fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }
}

impl fmt::Display for Grid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or_default();
        let width = |column: usize| {
            self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
        };
        let widths: Vec<usize> =
            (0..columns).map(|column| width(column).unwrap_or_default().max(NARROWEST)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:<width$}   "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let mut grid = Grid::new(vec!["NAME".into(), "AGE".into()]);
        grid.push(vec!["a-long-name".into(), "5m".into()]);
        assert_eq!(grid.to_string(), "NAME          AGE\na-long-name   5m\n");
    }
}
