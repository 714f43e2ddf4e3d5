//! Asks a store whether it can be used, and leaves our name in it.
//!
//! A probe tries what tasks will need (write, read, list, delete) before any task depends on it, and it is where two
//! clusters that were given the same prefix find out: the second one is refused.

use bytes::Bytes;

use super::error::{RetryClass, StoreError};
use super::layout::{InvalidPart, Layout};
use super::records::{OwnerRecord, RECORD_MAX, RecordError, decode, encode};
use super::{ObjectStore, PutMode};

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It could not be written.
    #[error("writing a test object failed: {0}")]
    Write(#[source] StoreError),
    /// It could not be read.
    #[error("reading the test object back failed: {0}")]
    Read(#[source] StoreError),
    /// Other bytes came back.
    #[error("the test object came back changed: what stands between us and the store must not alter bodies")]
    Changed,
    /// It could not be listed.
    #[error("listing failed: {0}")]
    List(#[source] StoreError),
    /// A listing does not show what was just written.
    #[error("a listing does not show the object just written: the store must list consistently")]
    Unlisted,
    /// It could not be deleted from.
    #[error("deleting the test object failed: {0}")]
    Delete(#[source] StoreError),
    /// The owner record could not be written or read.
    #[error("claiming the prefix failed: {0}")]
    Claim(#[source] StoreError),
    /// The owner record is not ours to understand.
    #[error("the owner record at {key} cannot be read: {source}")]
    OwnerRecord {
        /// Its key.
        key: String,
        /// Why.
        source: RecordError,
    },
    /// Another cluster keeps its outputs here.
    #[error(
        "another cluster ({cluster_uid}) keeps its outputs below this prefix: give this OutputStore a prefix of its \
         own, or delete {key} if that cluster is gone for good"
    )]
    OwnedByOther {
        /// The other cluster.
        cluster_uid: String,
        /// Key of the owner record.
        key: String,
    },
    /// A signed request was not honoured.
    #[error("signing failed: {0}")]
    Signed(#[source] StoreError),
    /// The cluster's UID is no UID.
    #[error("the cluster's UID cannot be used: {0}")]
    ClusterUid(#[from] InvalidPart),
}

impl ProbeError {
    /// A CamelCase word for the condition.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Write(source)
            | Self::Read(source)
            | Self::List(source)
            | Self::Delete(source)
            | Self::Claim(source)
            | Self::Signed(source) => source.reason(),
            Self::Changed | Self::Unlisted => "StoreMisbehaves",
            Self::OwnerRecord { .. } => "OwnerRecordUnreadable",
            Self::OwnedByOther { .. } => "StoreOwnedByOther",
            Self::ClusterUid(_) => "InvalidClusterUid",
        }
    }

    /// Who must act before the same probe can succeed.
    #[must_use]
    pub fn retry_class(&self) -> RetryClass {
        match self {
            Self::Write(source)
            | Self::Read(source)
            | Self::List(source)
            | Self::Delete(source)
            | Self::Claim(source)
            | Self::Signed(source) => source.retry_class(),
            Self::Changed
            | Self::Unlisted
            | Self::OwnerRecord { .. }
            | Self::OwnedByOther { .. }
            | Self::ClusterUid(_) => RetryClass::Configuration,
        }
    }
}

/// Tries the store and claims the prefix for the cluster.
///
/// Two clusters that claim at the same moment on a store without conditional requests may both write; each reads the
/// record back, here and on every later probe, and the one whose name is not in it stops.
///
/// # Errors
/// The first act that fails; the test object is removed whenever that is possible.
pub async fn probe(store: &dyn ObjectStore, layout: &Layout, cluster_uid: &str) -> Result<(), ProbeError> {
    let (prefix, key) = layout.probe(cluster_uid)?;
    let content = Bytes::from_static(b"written by the AsyncTask operator to see whether this store can be used\n");

    store.put(&key, content.clone(), PutMode::Overwrite).await.map_err(ProbeError::Write)?;
    let back = store.get_bytes(&key, RECORD_MAX).await.map_err(ProbeError::Read)?;
    if back != content {
        return Err(ProbeError::Changed);
    }
    let listed = store.list(&prefix, None, 1).await.map_err(ProbeError::List)?;
    if !listed.objects.iter().any(|object| object.key == key) {
        return Err(ProbeError::Unlisted);
    }
    let honours_create = match store.put(&key, content, PutMode::Create).await {
        Ok(()) => false,
        Err(StoreError::AlreadyExists { .. }) => true,
        // Some servers answer a condition they do not know with 501; that is no reason to refuse them.
        Err(StoreError::Other { .. } | StoreError::Unavailable { .. }) => false,
        Err(error) => return Err(ProbeError::Write(error)),
    };
    store.delete(std::slice::from_ref(&key)).await.map_err(ProbeError::Delete)?;
    claim(store, layout, cluster_uid, honours_create).await
}

async fn claim(
    store: &dyn ObjectStore,
    layout: &Layout,
    cluster_uid: &str,
    honours_create: bool,
) -> Result<(), ProbeError> {
    let key = layout.owner();
    let found = match owner(store, &key).await? {
        Some(found) => found,
        None => {
            let record = encode(&OwnerRecord { cluster_uid: cluster_uid.to_owned() });
            let mode = if honours_create { PutMode::Create } else { PutMode::Overwrite };
            match store.put(&key, record, mode).await {
                Ok(()) | Err(StoreError::AlreadyExists { .. }) => {}
                Err(error) => return Err(ProbeError::Claim(error)),
            }
            let gone = || ProbeError::Claim(StoreError::NotFound { key: key.clone() });
            owner(store, &key).await?.ok_or_else(gone)?
        }
    };
    if found.cluster_uid == cluster_uid {
        Ok(())
    } else {
        Err(ProbeError::OwnedByOther { cluster_uid: found.cluster_uid, key })
    }
}

async fn owner(store: &dyn ObjectStore, key: &str) -> Result<Option<OwnerRecord>, ProbeError> {
    match store.get_bytes(key, RECORD_MAX).await {
        Ok(bytes) => {
            let record = decode(&bytes).map_err(|source| ProbeError::OwnerRecord { key: key.to_owned(), source })?;
            Ok(Some(record))
        }
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(ProbeError::Claim(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStore;
    use super::*;

    fn layout(prefix: &str) -> Layout {
        Layout::new(prefix).expect("valid prefix")
    }

    #[tokio::test]
    async fn a_good_store_is_claimed_once_and_stays_ours() {
        let store = MemoryStore::new();
        for _ in 0..2 {
            probe(&store, &layout("p"), "cluster-a").await.expect("usable");
        }
        let left = store.list(layout("p").root(), None, 10).await.expect("listed");
        let keys: Vec<_> = left.objects.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(keys, ["p/_owner"], "only the claim stays");
    }

    #[tokio::test]
    async fn a_second_cluster_is_refused_and_its_neighbours_are_not() {
        let store = MemoryStore::new();
        probe(&store, &layout("p"), "cluster-a").await.expect("usable");
        let error = probe(&store, &layout("p"), "cluster-b").await.expect_err("owned");
        assert_eq!(error.reason(), "StoreOwnedByOther");
        assert_eq!(error.retry_class(), RetryClass::Configuration);
        let said = error.to_string();
        assert!(said.contains("cluster-a") && said.contains("p/_owner"), "{said}");
        probe(&store, &layout("pq"), "cluster-b").await.expect("another prefix");
        probe(&store, &layout("p"), "cluster-a").await.expect("still ours");
    }

    #[tokio::test]
    async fn a_foreign_owner_record_is_never_overwritten() {
        let store = MemoryStore::new();
        store.put("p/_owner", Bytes::from_static(b"not ours"), PutMode::Overwrite).await.expect("put");
        let error = probe(&store, &layout("p"), "cluster-a").await.expect_err("unreadable");
        assert_eq!(error.reason(), "OwnerRecordUnreadable");
        assert_eq!(&store.get_bytes("p/_owner", 100).await.expect("still there")[..], b"not ours");
    }
}
