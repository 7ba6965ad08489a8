//! Which crates a crate depends on, as `cargo tree` tells it.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::process;
use crate::workspace::Workspace;

/// Crates that `package` needs, without those for its tests and build scripts; `package` itself is left out.
///
/// `direct`: only those that it names itself.
pub(crate) fn dependencies(workspace: &Workspace, package: &str, direct: bool) -> Result<BTreeSet<String>> {
    let arguments = ["tree", "--package", package, "--edges", "normal", "--prefix", "none", "--target", "all"];
    let mut cargo = workspace.cargo(&arguments);
    if direct {
        cargo.args(["--depth", "1"]);
    }
    Ok(names(&process::output(cargo)?, package))
}

/// The first word of each line, but for `package`.
fn names(tree: &str, package: &str) -> BTreeSet<String> {
    tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| *name != package).map(String::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_once_each_and_without_the_root() {
        let tree = "swarmloom-protocol v0.1.0 (/home/x/protocol)\nserde v1.0.0\nring v0.17.0\nserde v1.0.0 (*)\n";
        let expected: Vec<&str> = vec!["ring", "serde"];
        assert_eq!(names(tree, "swarmloom-protocol").into_iter().collect::<Vec<_>>(), expected);
    }
}
