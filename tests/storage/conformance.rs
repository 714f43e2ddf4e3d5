//! What every store promises. Each case works below a prefix of its own and removes it.

use asynctask_operator::storage::{
    Digest, Layout, Meta, ObjectStore, Prefix, PutMode, RetryClass, StoreError, delete_prefix,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::content::digest_of;

/// A folder of the suite: its prefix and the keys in it.
pub(crate) struct Room {
    pub(crate) prefix: Prefix,
}

impl Room {
    pub(crate) fn new(base: &str, name: &str) -> Self {
        Self { prefix: Layout::new(&format!("{base}/{name}")).expect("valid").root().clone() }
    }

    /// A folder in it.
    fn within(&self, name: &str) -> Self {
        Self::new(self.prefix.as_str().trim_end_matches('/'), name)
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(crate) async fn is_empty(&self, store: &dyn ObjectStore) -> bool {
        store.list(&self.prefix, None, 1).await.expect("listed").objects.is_empty()
    }
}

pub(crate) async fn what_is_put_is_got(store: &dyn ObjectStore, room: &Room) {
    for (name, content) in [("empty", &b""[..]), ("text", b"hello"), ("binary", &[0, 255, 13, 10])] {
        let key = room.key(name);
        store.put(&key, Bytes::from_static(b"an older content"), PutMode::Overwrite).await.expect("put");
        let old = store.head(&key).await.expect("head");
        store.put(&key, Bytes::copy_from_slice(content), PutMode::Overwrite).await.expect("put");

        let meta = store.head(&key).await.expect("head");
        assert_eq!((meta.key.as_str(), meta.size), (key.as_str(), content.len() as u64));
        assert_eq!(meta.sha256, Some(Digest::of(content)), "the store vouches for a small object");
        assert!(meta.etag.is_some());
        assert_ne!(meta.etag, old.etag, "another content, another etag");

        let object = store.get(&key, None).await.expect("get");
        assert_eq!(object.meta.size, content.len() as u64);
        assert_eq!(object.range, 0..content.len() as u64);
        assert_eq!(digest_of(object).await, Digest::of(content));
        assert_eq!(&store.get_bytes(&key, 100).await.expect("get")[..], content);
    }
    assert_eq!(delete_prefix(store, &room.prefix).await.expect("deleted"), 3);
}

pub(crate) async fn a_taken_key_is_not_created_again(store: &dyn ObjectStore, room: &Room) {
    let key = room.key("object");
    store.put(&key, Bytes::from_static(b"first"), PutMode::Create).await.expect("free");
    let again = store.put(&key, Bytes::from_static(b"second"), PutMode::Create).await.expect_err("taken");
    assert!(matches!(&again, StoreError::AlreadyExists { key: found } if *found == key), "{again:?}");
    assert_eq!(again.retry_class(), RetryClass::Final);
    assert_eq!(&store.get_bytes(&key, 100).await.expect("get")[..], b"first");
    store.delete(std::slice::from_ref(&key)).await.expect("deleted");
    store.put(&key, Bytes::from_static(b"third"), PutMode::Create).await.expect("free again");
    store.delete(&[key]).await.expect("deleted");
}

pub(crate) async fn one_of_many_creators_wins(store: &dyn ObjectStore, room: &Room) {
    let key = room.key("object");
    let create = |n: u8| store.put(&key, Bytes::from(vec![n; 100]), PutMode::Create);
    let results = futures::future::join_all((0..16).map(create)).await;
    let winners: Vec<u8> = (0..16).zip(&results).filter(|(_, result)| result.is_ok()).map(|(n, _)| n).collect();
    let [winner] = winners[..] else { panic!("{} creators won", winners.len()) };
    for error in results.into_iter().filter_map(Result::err) {
        assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error:?}");
    }
    assert_eq!(store.get_bytes(&key, 100).await.expect("get"), vec![winner; 100]);
    store.delete(&[key]).await.expect("deleted");
}

pub(crate) async fn what_is_missing_is_not_found(store: &dyn ObjectStore, room: &Room) {
    let key = room.key("nothing");
    let errors = [
        store.head(&key).await.expect_err("head"),
        store.get(&key, None).await.expect_err("get"),
        store.get(&key, Some(0..1)).await.expect_err("get a range"),
        store.get_bytes(&key, 10).await.expect_err("get bytes"),
    ];
    for error in errors {
        assert!(matches!(&error, StoreError::NotFound { key: found } if *found == key), "{error:?}");
        assert_eq!(error.reason(), "ObjectNotFound");
    }
    store.delete(&[]).await.expect("nothing to delete");
    store.delete(&[key.clone(), room.key("nothing/else")]).await.expect("missing is deleted");
    store.put(&key, Bytes::from_static(b"x"), PutMode::Create).await.expect("put");
    for _ in 0..2 {
        store.delete(&[room.key("a"), key.clone(), key.clone()]).await.expect("deleted, and deleted again");
        assert!(matches!(store.head(&key).await, Err(StoreError::NotFound { .. })));
    }
    assert_eq!(delete_prefix(store, &room.prefix).await.expect("nothing left"), 0);
}

pub(crate) async fn ranges_are_cut_at_the_end(store: &dyn ObjectStore, room: &Room) {
    let key = room.key("digits");
    store.put(&key, Bytes::from_static(b"0123456789"), PutMode::Create).await.expect("put");
    for (asked, given) in [(0..4, 0..4), (3..7, 3..7), (9..10, 9..10), (8..100, 8..10), (0..u64::MAX, 0..10)] {
        let object = store.get(&key, Some(asked.clone())).await.unwrap_or_else(|error| panic!("{asked:?}: {error}"));
        assert_eq!(object.meta.size, 10, "the size is the whole object's");
        assert_eq!(object.range, given);
        let bytes: Vec<Bytes> = object.stream.try_collect().await.expect("read");
        let wanted: Vec<u8> = given.map(|digit| b'0' + u8::try_from(digit).expect("a digit")).collect();
        assert_eq!(bytes.concat(), wanted);
    }
    for beyond in [10..11, 50..60, 4..4] {
        let error = store.get(&key, Some(beyond.clone())).await.expect_err("nothing to give");
        assert!(matches!(error, StoreError::RangeNotSatisfiable { size: 10, .. }), "{beyond:?}: {error:?}");
    }
    store.delete(&[key]).await.expect("deleted");
}

pub(crate) async fn bounded_reads_refuse_larger_objects(store: &dyn ObjectStore, room: &Room) {
    let key = room.key("record");
    store.put(&key, Bytes::from_static(b"0123456789"), PutMode::Create).await.expect("put");
    assert_eq!(store.get_bytes(&key, 10).await.expect("fits").len(), 10);
    let error = store.get_bytes(&key, 9).await.expect_err("does not fit");
    assert!(matches!(error, StoreError::TooLarge { max: 9, .. }), "{error:?}");
    store.delete(&[key]).await.expect("deleted");
}

pub(crate) async fn pages_follow_each_other_and_cover_everything(store: &dyn ObjectStore, room: &Room) {
    // `-` < `.` < `/` < `0`: a folder's order is not the keys' order.
    let mut keys = ["a-b", "a.b", "a/x", "a0", "b/c/d", "b/c0", "b-", "z"].map(|name| room.key(name));
    keys.sort();
    for key in &keys {
        store.put(key, Bytes::from(key.clone()), PutMode::Create).await.expect("put");
    }
    for limit in [1, 3, keys.len(), 1000] {
        let mut found: Vec<Meta> = Vec::new();
        loop {
            let after = found.last().map(|meta| meta.key.clone());
            let page = store.list(&room.prefix, after.as_deref(), limit).await.expect("listed");
            assert!(page.objects.len() <= limit);
            found.extend(page.objects);
            if !page.more {
                break;
            }
        }
        let last = found.last().map(|meta| meta.key.as_str());
        let beyond = store.list(&room.prefix, last, 10).await.expect("listed");
        assert!(beyond.objects.is_empty() && !beyond.more, "nothing follows the last one");
        // SeaweedFS walks folders: the order is the store's affair, that nothing is left out or repeated is not.
        let mut found: Vec<_> = found.iter().map(|meta| (meta.key.as_str(), meta.size)).collect();
        found.sort_unstable();
        let wanted: Vec<_> = keys.iter().map(|key| (key.as_str(), key.len() as u64)).collect();
        assert_eq!(found, wanted, "in pages of {limit}");
    }
    assert_eq!(delete_prefix(store, &room.prefix).await.expect("deleted"), keys.len() as u64);
    assert!(room.is_empty(store).await);
}

pub(crate) async fn neighbours_are_never_touched(store: &dyn ObjectStore, room: &Room) {
    let rooms = ["a", "ab", "a.b", "b"].map(|name| room.within(name));
    for room in &rooms {
        for name in ["x", "b/x", "deep/er/x"] {
            store.put(&room.key(name), Bytes::from_static(b"x"), PutMode::Create).await.expect("put");
        }
    }
    let inner = room.within("a/b");
    assert_eq!(store.list(&inner.prefix, None, 10).await.expect("listed").objects.len(), 1);
    assert_eq!(delete_prefix(store, &inner.prefix).await.expect("deleted"), 1);
    assert_eq!(delete_prefix(store, &rooms[0].prefix).await.expect("deleted"), 2);
    assert!(rooms[0].is_empty(store).await);
    for room in &rooms[1..] {
        let left = store.list(&room.prefix, None, 10).await.expect("listed");
        assert_eq!(left.objects.len(), 3, "{}", room.prefix);
        assert_eq!(delete_prefix(store, &room.prefix).await.expect("deleted"), 3);
    }
}

pub(crate) async fn many_objects_are_deleted_in_batches(store: &dyn ObjectStore, room: &Room) {
    const MANY: usize = 1005;
    let put = |n: usize| {
        let key = room.key(&format!("{n}"));
        async move { store.put(&key, Bytes::from_static(b"x"), PutMode::Overwrite).await }
    };
    futures::stream::iter((0..MANY).map(put)).buffer_unordered(32).try_collect::<()>().await.expect("put");
    let first = store.list(&room.prefix, None, 1000).await.expect("listed");
    assert_eq!((first.objects.len(), first.more), (1000, true));
    assert_eq!(delete_prefix(store, &room.prefix).await.expect("deleted"), MANY as u64);
    assert!(room.is_empty(store).await);
}

pub(crate) async fn folders_are_named_once_each(store: &dyn ObjectStore, room: &Room) {
    assert!(store.folders(&room.prefix).await.expect("listed").is_empty(), "nothing is no error");
    for name in ["a/x", "a/y/z", "ab/x", "file"] {
        store.put(&room.key(name), Bytes::from_static(b"x"), PutMode::Create).await.expect("put");
    }
    let mut names = store.folders(&room.prefix).await.expect("listed");
    names.sort();
    assert_eq!(names, ["a", "ab"], "what is no folder, and what lies deeper, is not among them");
    assert_eq!(delete_prefix(store, &room.prefix).await.expect("deleted"), 4);
}
