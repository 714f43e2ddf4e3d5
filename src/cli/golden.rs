//! Pages as they are meant to be: `UPDATE_GOLDEN=1 cargo test` writes them anew, for a person to read before a commit.

use std::path::PathBuf;

/// Compares a page with the file that holds it.
pub(super) fn check(file: &str, page: &str) {
    let path = root().join("src/cli/golden").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, page).expect("written");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(page == expected, "{file} is not this page any more (UPDATE_GOLDEN=1 writes it anew):\n{page}");
}

/// What a text tells to type, between backticks: it has to be a command as it stands.
pub(super) fn typed(text: &str) -> Vec<&str> {
    use clap::Parser as _;
    let commands = || text.split('`').skip(1).step_by(2).filter(|word| word.starts_with("kubectl "));
    for command in commands().filter(|command| command.starts_with("kubectl asynctask")) {
        let read = super::Cli::try_parse_from(command.split_whitespace().skip(1));
        assert!(read.is_ok(), "{text}\n{command}: {}", read.err().map(|error| error.to_string()).unwrap_or_default());
    }
    commands().collect()
}

/// A file of the project.
pub(super) fn project(file: &str) -> String {
    std::fs::read_to_string(root().join(file)).unwrap_or_default()
}

/// Of the checkout that cargo runs us in: checkouts share a target folder, and with it compiled tests.
pub(super) fn root() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo runs the tests")).join("../..")
}
