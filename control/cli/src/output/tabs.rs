//! Elastic tabstops, as Go's `text/tabwriter` sets what kubectl describes: a cell ends with a tab, and cells of one
//! column in adjacent lines are as wide as the widest of them and two spaces.

const PADDING: usize = 2;

/// Text with its tabs replaced by as many spaces as line the columns up.
pub(crate) fn expand(text: &str) -> String {
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
    let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len() - 1]).collect();
    align(&lines, &mut widths, 0, lines.len(), 0);
    let mut out = String::new();
    for (cells, widths) in lines.iter().zip(&widths) {
        let mut line = String::new();
        for (index, cell) in cells.iter().enumerate() {
            line.push_str(cell);
            if let Some(width) = widths.get(index) {
                line.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.chars().count())));
            }
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Sets the widths of a column in the lines from `begin` to `end`, each run of lines that have it by itself, and of the
/// columns after it.
fn align(lines: &[Vec<&str>], widths: &mut [Vec<usize>], begin: usize, end: usize, column: usize) {
    let has = |line: usize| lines[line].len() > column + 1;
    let mut line = begin;
    while line < end {
        if !has(line) {
            line += 1;
            continue;
        }
        let last = (line..end).find(|line| !has(*line)).unwrap_or(end);
        let widest = (line..last).map(|line| lines[line][column].chars().count()).max().unwrap_or_default();
        // A column of nothing but empty cells takes no room.
        let width = if widest == 0 { 0 } else { widest + PADDING };
        widths[line..last].iter_mut().for_each(|of_line| of_line[column] = width);
        align(lines, widths, line, last, column + 1);
        line = last;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_reach_as_far_as_their_lines_are_adjacent() {
        let text = "Name:\tx\nNamespace:\tdefault\nPorts\n  A:\t1\t2\n  Long:\t33\t4\n";
        let want = "Name:       x\nNamespace:  default\nPorts\n  A:     1   2\n  Long:  33  4\n";
        assert_eq!(expand(text), want);
    }

    proptest::proptest! {
        #[test]
        fn nothing_but_tabs_is_changed(text in "[ab\t\n]{0,40}") {
            let bare = |text: &str| text.replace(['\t', ' ', '\n'], "");
            proptest::prop_assert_eq!(bare(&expand(&text)), bare(&text));
        }
    }
}
