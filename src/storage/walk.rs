//! Lists a folder in the order of its keys. What comes before the page is not walked, so a long listing costs as much
//! as it is long. Of a folder no more is kept than fills the page.

use std::collections::BTreeSet;
use std::fs::{self, DirEntry};
use std::io::{self, ErrorKind};
use std::path::Path;

/// Keys and their bytes, and whether there are more.
pub(super) type Found = (Vec<(String, u64)>, bool);

/// At most `limit` files below `prefix` (empty, or ending in `/`), the ones that follow `after`. `root` is the folder
/// of all keys. What is deleted meanwhile is passed over.
pub(super) fn page(root: &Path, prefix: &str, after: Option<&str>, limit: usize) -> io::Result<Found> {
    let mut walk = Walk { after, limit, found: Vec::new(), more: false };
    walk.folder(&root.join(prefix), prefix)?;
    Ok((walk.found, walk.more))
}

struct Walk<'a> {
    after: Option<&'a str>,
    limit: usize,
    found: Vec<(String, u64)>,
    more: bool,
}

impl Walk<'_> {
    fn folder(&mut self, folder: &Path, prefix: &str) -> io::Result<()> {
        let mut last = None::<String>;
        loop {
            let room = self.limit - self.found.len() + 1;
            let keys = self.next_keys(folder, prefix, last.as_deref(), room)?;
            let all = keys.len() < room;
            for key in &keys {
                let path = folder.join(&key[prefix.len()..]);
                if key.ends_with('/') {
                    self.folder(&path, key)?;
                } else if let Some(meta) = there(fs::metadata(&path))? {
                    self.more = self.found.len() == self.limit;
                    if !self.more {
                        self.found.push((key.clone(), meta.len()));
                    }
                }
                if self.more {
                    return Ok(());
                }
            }
            if all {
                return Ok(());
            }
            // Folders may be empty, and files be gone: then what was seen does not fill the page.
            last = keys.into_iter().next_back();
        }
    }

    /// What comes after `last` in a folder: at most `room` keys, however much is in it.
    fn next_keys(&self, folder: &Path, prefix: &str, last: Option<&str>, room: usize) -> io::Result<BTreeSet<String>> {
        let mut keys = BTreeSet::new();
        let Some(entries) = there(fs::read_dir(folder))? else { return Ok(keys) };
        for entry in entries {
            // A folder sorts as its keys do: with its slash.
            let ahead = |key: &String| self.is_ahead(key) && last.is_none_or(|last| key.as_str() > last);
            let Some(key) = key(&entry?, prefix)?.filter(ahead) else { continue };
            if keys.len() < room {
                keys.insert(key);
            } else if keys.last().is_some_and(|last| key < *last) {
                keys.pop_last();
                keys.insert(key);
            }
        }
        Ok(keys)
    }

    /// Whether a file, or anything in a folder, comes after the page before.
    fn is_ahead(&self, key: &str) -> bool {
        self.after.is_none_or(|after| key > after || key.ends_with('/') && after.starts_with(key))
    }
}

/// The key of a file, or of a folder with a slash behind it. `None`: no name of ours. A `#` marks what is being written.
fn key(entry: &DirEntry, prefix: &str) -> io::Result<Option<String>> {
    let Some(name) = entry.file_name().to_str().filter(|name| !name.contains('#')).map(str::to_owned) else {
        return Ok(None);
    };
    let Some(meta) = there(entry.file_type())? else { return Ok(None) };
    Ok(match meta {
        folder if folder.is_dir() => Some(format!("{prefix}{name}/")),
        file if file.is_file() => Some(format!("{prefix}{name}")),
        _ => None,
    })
}

fn there<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;

    use super::{Walk, page};

    fn names() -> impl Strategy<Value = Vec<String>> {
        // Names that sort one way as files and another way as folders.
        let part = prop::sample::select(vec!["a", "a-b", "a.b", "ab", "b", "0", "000001"]);
        let key = prop::collection::vec(part, 1..4).prop_map(|parts| format!("{}/f", parts.join("/")));
        prop::collection::vec(key, 0..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pages_of_any_size_are_all_keys_in_their_order(keys in names(), limit in 1..8usize) {
            let root = tempfile::tempdir().expect("a folder");
            let mut wanted = keys.clone();
            wanted.sort();
            wanted.dedup();
            for key in &wanted {
                let path = root.path().join(key);
                fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
                fs::write(path, key).expect("a file");
            }
            fs::write(root.path().join("a#1"), "being written").expect("a file");
            for empty in ["", "a/0", "aa", "b/0"].map(|folder| root.path().join(folder)) {
                (0..4).for_each(|n| fs::create_dir_all(empty.join(format!("0-{n}"))).expect("a folder"));
            }
            let (mut seen, mut after) = (Vec::new(), None::<String>);
            loop {
                let (found, more) = page(root.path(), "", after.as_deref(), limit).expect("a page");
                prop_assert!(found.len() <= limit);
                prop_assert!(found.iter().all(|(key, size)| key.len() as u64 == *size));
                seen.extend(found.into_iter().map(|(key, _)| key));
                after = seen.last().cloned();
                if !more {
                    break;
                }
            }
            prop_assert_eq!(seen, wanted.clone());
            let (below, _) = page(root.path(), "a/", None, 100).expect("a page");
            let below: Vec<String> = below.into_iter().map(|(key, _)| key).collect();
            prop_assert_eq!(below, wanted.into_iter().filter(|key| key.starts_with("a/")).collect::<Vec<_>>());
        }
    }

    #[test]
    fn of_a_large_folder_no_more_is_kept_than_fills_the_page() {
        let root = tempfile::tempdir().expect("a folder");
        (0..50).for_each(|n| fs::write(root.path().join(format!("{n:02}")), "").expect("a file"));
        let walk = Walk { after: Some("09"), limit: 2, found: Vec::new(), more: false };
        let kept = walk.next_keys(root.path(), "", Some("20"), 3).expect("names");
        assert_eq!(kept.into_iter().collect::<Vec<_>>(), ["21", "22", "23"]);
    }

    #[test]
    fn what_is_not_there_is_empty() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(page(root.path(), "a/b/", None, 10).expect("a page"), (Vec::new(), false));
    }
}
