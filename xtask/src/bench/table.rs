//! Measured values against their bars.

use std::fmt;

/// What a value is held to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bar {
    AtLeast(f64),
    AtMost(f64),
    /// For information.
    None,
}

impl Bar {
    /// How many times the bar is reached; above 1 is better, whichever way the bar lies.
    fn ratio(self, value: f64) -> Option<f64> {
        match self {
            Bar::AtLeast(bar) => Some(value / bar),
            Bar::AtMost(bar) => Some(bar / value),
            Bar::None => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    bar: Bar,
}

impl Row {
    pub(super) fn new(what: &str, value: f64, unit: &'static str, bar: Bar) -> Self {
        Self { what: what.to_owned(), value, unit, bar }
    }
}

#[derive(Debug)]
pub(super) struct Table {
    title: String,
    rows: Vec<Row>,
}

impl Table {
    pub(super) fn new(title: String) -> Self {
        Self { title, rows: Vec::new() }
    }

    pub(super) fn push(&mut self, row: Row) {
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for Row { what, value, unit, bar } in &self.rows {
            write!(f, "  {what:<42} {:>9} {unit:<6}", shown(*value))?;
            if let (Some(ratio), Bar::AtLeast(limit) | Bar::AtMost(limit)) = (bar.ratio(*value), bar) {
                let sign = if matches!(bar, Bar::AtLeast(_)) { '≥' } else { '≤' };
                // Not a number is no pass.
                let verdict = if ratio >= 1.0 { "pass" } else { "MISS" };
                write!(f, "  {sign} {:<7} {verdict}  {ratio:.2}×", shown(*limit))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

fn shown(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

/// Of an even number, the mean of the two in the middle; of none, not a number.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_of_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[test]
    fn bars_are_passed_from_their_side() {
        let mut table = Table::new("title".to_owned());
        table.push(Row::new("fast", 1600.0, "pods/s", Bar::AtLeast(1500.0)));
        table.push(Row::new("fat", 330.0, "MB", Bar::AtMost(300.0)));
        table.push(Row::new("slow", f64::NAN, "pods/s", Bar::AtLeast(1.0)));
        table.push(Row::new("said", 1.25, "s", Bar::None));
        let text = table.to_string();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[1], ["fast", "1600", "pods/s", "≥", "1500", "pass", "1.07×"]);
        assert_eq!(lines[2], ["fat", "330", "MB", "≤", "300", "MISS", "0.91×"]);
        assert!(lines[3].contains(&"MISS"));
        assert_eq!(lines[4], ["said", "1.2", "s"]);
    }
}
