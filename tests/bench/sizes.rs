//! How much is measured. The defaults are the budgets' own sizes; a first look at a change asks for less.

use crate::support;

/// A number from the environment.
pub(crate) fn number(variable: &str, otherwise: usize) -> usize {
    list(variable, &[otherwise])[0]
}

/// Numbers from the environment, separated by spaces.
pub(crate) fn list(variable: &str, otherwise: &[usize]) -> Vec<usize> {
    let Ok(text) = std::env::var(variable) else { return otherwise.to_vec() };
    let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("{variable}: {word:?} is no number"));
    text.split_whitespace().map(number).collect()
}

/// Whether a part is to be measured: `BENCH_PARTS` names some, without it all are.
pub(crate) fn wanted(part: &str) -> bool {
    std::env::var("BENCH_PARTS").map_or(true, |parts| parts.split_whitespace().any(|one| one == part))
}

/// How often ours and raw take turns. Large ones take long and vary less.
pub(crate) fn rounds(size: usize) -> usize {
    number("BENCH_ROUNDS", if size >= 5_000 { 1 } else { 3 })
}

/// The folder of this run.
pub(crate) fn folder() -> std::path::PathBuf {
    let set =
        std::env::var_os("BENCH_FOLDER").expect("BENCH_FOLDER is not set: run tests/bench/run.sh, or `make bench`");
    set.into()
}

/// Where pods, and processes of this machine, reach a server on it.
pub(crate) fn host() -> std::net::IpAddr {
    support::host_ip().parse().unwrap()
}
