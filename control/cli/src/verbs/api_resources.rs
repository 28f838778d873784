//! `weir api-resources`: the table of kinds, as the `.proto` files declare it.

use anyhow::Result;

use crate::output::Grid;

pub(crate) fn run() -> Result<()> {
    let header = ["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"];
    let mut grid = Grid::new(header.map(str::to_owned).to_vec());
    for kind in weir_proto::kinds() {
        grid.push(vec![
            kind.plural.to_owned(),
            kind.short_names.join(","),
            kind.api_version(),
            kind.namespaced.to_string(),
            kind.kind.to_owned(),
        ]);
    }
    print!("{grid}");
    Ok(())
}
