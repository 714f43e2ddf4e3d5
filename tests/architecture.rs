//! Keeps the rooms of `src/lib.rs` apart: who may import whom, and how large a file may grow.
//!
//! What a room's `Cargo.toml` does not name its code cannot import, and no circle between rooms compiles: Cargo sees to
//! both. Left to be checked is that the `Cargo.toml`s stay as the map says.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::path::{Path, PathBuf};

/// Room → the rooms it may depend on, its tests included.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("contract", &[]),
    ("api", &["contract"]),
    ("plan", &["api", "contract"]),
    ("storage", &["contract"]),
    ("runtime", &["api", "contract", "storage"]),
    ("controllers", &["api", "contract", "plan", "runtime", "storage"]),
    ("gateway", &["api", "contract", "plan", "runtime", "storage"]),
    ("agent", &["contract"]),
    ("cli", &["api", "contract", "plan"]),
];

/// What a room must not name, in its code or as a dependency, as it would tie it to a world it is free of.
const NEVER: &[(&str, &[&str])] = &[
    ("contract", &["kube::", "k8s_openapi", "tokio", "reqwest", "aws_"]),
    (
        "plan",
        &["kube::Client", "kube::Api", "tokio", "std::env", "Timestamp::now", "Instant::now", "SystemTime", "rand::"],
    ),
    ("agent", &["kube::", "k8s_openapi", "aws_"]),
    ("storage", &["kube::", "k8s_openapi"]),
];

/// Of the checkout that cargo runs us in: checkouts share a target folder, and with it compiled tests.
fn src() -> PathBuf {
    Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("src")
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn sources(room: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    files(&src().join(room), &mut found);
    found.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

/// A file's code, without comments (a doc comment may speak of any room) and without its unit tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// What a room depends on, its tests included.
fn dependencies(room: &str) -> Vec<String> {
    let manifest = std::fs::read_to_string(src().join(room).join("Cargo.toml")).unwrap();
    let (mut listed, mut found) = (false, Vec::new());
    for line in manifest.lines() {
        match line.strip_prefix('[') {
            Some(section) => listed = section.trim_end_matches(']').ends_with("dependencies"),
            None if listed => found.extend(line.split(['.', ' ', '=']).next().filter(|name| !name.is_empty())),
            None => {}
        }
    }
    found.into_iter().map(str::to_owned).collect()
}

#[test]
fn rooms_depend_only_on_what_the_map_allows() {
    let mut wrong = Vec::new();
    for (room, allowed) in MAY_IMPORT {
        let dependencies = dependencies(room);
        assert!(dependencies.iter().any(|name| name == "serde_json"), "{room}: the dependencies were not found");
        for other in dependencies.iter().filter_map(|name| name.strip_prefix("asynctask-")) {
            if !allowed.contains(&other) {
                wrong.push(format!("{room} depends on {other}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_room_is_on_the_map() {
    let rooms = std::fs::read_dir(src()).unwrap().flatten().filter(|entry| entry.path().join("Cargo.toml").is_file());
    let mut rooms: Vec<_> = rooms.map(|room| room.file_name().into_string().unwrap()).collect();
    let mut mapped: Vec<_> = MAY_IMPORT.iter().map(|(room, _)| (*room).to_owned()).collect();
    rooms.sort();
    mapped.sort();
    assert_eq!(rooms, mapped);
}

#[test]
fn rooms_stay_free_of_what_they_must_not_know() {
    let mut wrong = Vec::new();
    for (room, words) in NEVER {
        for (path, text) in sources(room) {
            for word in words.iter().filter(|word| code(&text).contains(**word)) {
                wrong.push(format!("{}: {room} names {word}", path.display()));
            }
        }
        let dependencies: Vec<_> = dependencies(room).iter().map(|name| name.replace('-', "_") + "::").collect();
        for word in words.iter().filter(|word| dependencies.iter().any(|name| name.starts_with(**word))) {
            wrong.push(format!("{room} depends on {word}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// A watch made otherwise would believe a connection that died for five minutes.
#[test]
fn operator_and_gateway_make_their_watches_in_one_place() {
    let files = ["runtime", "controllers", "gateway"].into_iter().flat_map(sources);
    let makes = files.filter(|(_, text)| code(text).contains("watcher::Config::default()")).map(|(path, _)| path);
    assert_eq!(makes.collect::<Vec<_>>(), [src().join("runtime/client.rs")]);
}

#[test]
fn no_file_outgrows_its_room() {
    let mut found = Vec::new();
    files(&src(), &mut found);
    assert!(found.len() > 50, "the sources were not found");
    let long: Vec<_> = found
        .into_iter()
        .map(|path| (std::fs::read_to_string(&path).unwrap().lines().count(), path))
        .filter(|(lines, _)| *lines > 600)
        .collect();
    assert!(long.is_empty(), "files of more than 600 lines: {long:#?}");
}
