//! Opened OutputStores: from the object and its Secret to something that reads and writes. Operator and gateway both
//! come through here, so that a rotated credential or a store made anew is noticed by both within [`FRESH`].
//!
//! The Secret is read by name in the component's own namespace. It is not watched: least RBAC grants `get` alone.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, ResourceExt};

use super::backends::{Credentials, azure_options, google_options, s3_options};
use super::client::{explain, is_status};
use asynctask_api::OutputStore;
use asynctask_api::quantity;
use asynctask_api::store::FilesystemSpec;
use asynctask_api::task::StoreRef;
use asynctask_storage::cloud::CloudStore;
use asynctask_storage::filesystem::FilesystemStore;
use asynctask_storage::layout::InvalidPart;
use asynctask_storage::s3::S3Store;
use asynctask_storage::{Layout, ObjectStore, RetryClass, StoreError};

/// How long an answer of the API server about a store or its Secret is believed.
pub const FRESH: Duration = Duration::from_secs(10);
/// Prefix of keys when the store names none.
const DEFAULT_PREFIX: &str = "asynctask";
/// How long a download URL is good for when the store does not say; also the longest it may say.
const MAX_TTL: Duration = Duration::from_secs(60);

/// An OutputStore ready for use.
#[derive(Clone, Debug)]
pub struct OpenStore {
    /// Reads and writes.
    pub store: Arc<dyn ObjectStore>,
    /// Makes its keys.
    pub layout: Layout,
    /// How long a download URL for people is good for.
    pub ttl: Duration,
    /// PEM certificates that sign the service's certificate, for those who follow its URLs.
    pub ca: Option<String>,
}

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// The API server did not give the OutputStore.
    #[error("OutputStore {name} cannot be read: {}", explain(.source))]
    ReadStore {
        /// The store.
        name: String,
        /// What the client said.
        source: kube::Error,
    },
    /// It is not there.
    #[error("OutputStore {name} does not exist: create it, or name another store in the TaskDefinition")]
    NotFound {
        /// The store.
        name: String,
    },
    /// The name is there, but it is another object.
    #[error(
        "OutputStore {name} was deleted and made again since this run was pinned to it (UID {pinned}): the run's \
         files are looked for in the old one only"
    )]
    Replaced {
        /// The store.
        name: String,
        /// UID the run knows.
        pinned: String,
    },
    /// The API server did not give the Secret.
    #[error("Secret {secret} in namespace {namespace} cannot be read: {}", explain(.source))]
    ReadSecret {
        /// The Secret.
        secret: String,
        /// The operator's namespace.
        namespace: String,
        /// What the client said.
        source: kube::Error,
    },
    /// There is no such Secret.
    #[error("Secret {secret} does not exist in namespace {namespace}: create it with the keys {keys}")]
    SecretMissing {
        /// The Secret.
        secret: String,
        /// The operator's namespace.
        namespace: String,
        /// What it should hold.
        keys: &'static str,
    },
    /// The Secret lacks a key, or what it holds is no text.
    #[error("Secret {secret} in namespace {namespace} has no usable key {key}: add it as plain text")]
    KeyMissing {
        /// The Secret.
        secret: String,
        /// The operator's namespace.
        namespace: String,
        /// The key.
        key: &'static str,
    },
    /// A filesystem store, and no volume.
    #[error(
        "this installation has no volume for filesystem stores: set one up with the chart (filesystem volume), or use a \
         store of another kind"
    )]
    NoVolume,
    /// The folder of the store cannot be made on the volume.
    #[error("folder {} cannot be made on the volume: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// No kind is set, or several.
    #[error("the store must name exactly one of s3, gcs, azure and filesystem")]
    Kind,
    /// A prefix that cannot be part of a key.
    #[error("spec.prefix: {0}")]
    Prefix(#[from] InvalidPart),
    /// No duration from one second to a minute.
    #[error("spec.signedUrls.ttl: {0:?} is not a duration from 1s to 60s")]
    Ttl(String),
    /// A folder name that leaves the volume.
    #[error("spec.filesystem.folder: {0:?} is not the name of a folder")]
    FolderName(String),
    /// The backend refused its options.
    #[error(transparent)]
    Backend(#[from] StoreError),
}

impl OpenStoreError {
    /// A CamelCase word for conditions, Events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ReadStore { .. } | Self::ReadSecret { .. } => "ApiUnavailable",
            Self::NotFound { .. } => "StoreNotFound",
            Self::Replaced { .. } => "StoreReplaced",
            Self::SecretMissing { .. } | Self::KeyMissing { .. } => "CredentialsMissing",
            Self::NoVolume => "NoVolume",
            Self::Folder { .. } => "VolumeNotWritable",
            Self::Kind | Self::Prefix(_) | Self::Ttl(_) | Self::FolderName(_) => "InvalidStore",
            Self::Backend(error) => error.reason(),
        }
    }

    /// Whether trying again can help, and who must act first.
    #[must_use]
    pub fn retry_class(&self) -> RetryClass {
        match self {
            Self::ReadStore { .. } | Self::ReadSecret { .. } => RetryClass::Transient,
            Self::NotFound { .. }
            | Self::SecretMissing { .. }
            | Self::KeyMissing { .. }
            | Self::NoVolume
            | Self::Folder { .. }
            | Self::Kind
            | Self::Prefix(_)
            | Self::Ttl(_)
            | Self::FolderName(_) => RetryClass::Configuration,
            Self::Replaced { .. } => RetryClass::Final,
            Self::Backend(error) => error.retry_class(),
        }
    }
}

/// Opens OutputStores and keeps them open. Clones share what is open.
#[derive(Clone)]
pub struct Stores {
    client: Client,
    namespace: String,
    filesystem_root: Option<PathBuf>,
    wrap: Option<Wrap>,
    open: Arc<Mutex<HashMap<String, Opened>>>,
    objects: Arc<Mutex<HashMap<String, Read>>>,
}

/// What every store passes through when it is opened.
type Wrap = fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore>;

/// An OutputStore, and when it was read.
type Read = (Instant, Arc<OutputStore>);

/// What an open store was made of.
struct Opened {
    generation: Option<i64>,
    secret_version: Option<String>,
    checked: Instant,
    store: OpenStore,
}

impl Stores {
    /// `namespace` is where the Secrets are; `filesystem_root` where the volume for filesystem stores is mounted.
    #[must_use]
    pub fn new(client: Client, namespace: impl Into<String>, filesystem_root: Option<PathBuf>) -> Self {
        let (namespace, open, objects) = (namespace.into(), Arc::default(), Arc::default());
        Self { client, namespace, filesystem_root, wrap: None, open, objects }
    }

    /// Passes every store through `wrap` when it is opened. For tests: some stores behave worse than those at hand.
    #[must_use]
    pub fn wrapped(mut self, wrap: Wrap) -> Self {
        self.wrap = Some(wrap);
        self
    }

    /// Opens a store, or gives the open one if neither it nor its Secret changed.
    ///
    /// # Errors
    /// The first thing that is missing or refused.
    pub async fn open(&self, store: &OutputStore) -> Result<OpenStore, OpenStoreError> {
        let uid = store.uid().unwrap_or_default();
        if let Some(open) = self.recall(&uid, store, |opened| opened.checked.elapsed() < FRESH) {
            return Ok(open);
        }
        let secret = match store.spec.secret() {
            Some((name, keys)) => Some(self.secret(name, keys).await?),
            None => None,
        };
        let version = secret.as_ref().and_then(ResourceExt::resource_version);
        if let Some(open) = self.recall(&uid, store, |opened| opened.secret_version == version) {
            return Ok(open);
        }
        let made = self.make(store, secret.as_ref())?;
        let opened = Opened {
            generation: store.metadata.generation,
            secret_version: version,
            checked: Instant::now(),
            store: made.clone(),
        };
        lock(&self.open).insert(uid, opened);
        Ok(made)
    }

    /// Opens a store by its name.
    ///
    /// # Errors
    /// [`OpenStoreError::NotFound`] without it; else as [`Stores::open`].
    pub async fn by_name(&self, name: &str) -> Result<OpenStore, OpenStoreError> {
        self.open(&*self.object(name).await?).await
    }

    /// Opens the very store that a run is pinned to.
    ///
    /// # Errors
    /// [`OpenStoreError::Replaced`] when another one took its name; else as [`Stores::by_name`].
    pub async fn by_ref(&self, pinned: &StoreRef) -> Result<OpenStore, OpenStoreError> {
        let store = self.object(&pinned.name).await?;
        if store.uid().as_deref() != Some(&pinned.uid) {
            return Err(OpenStoreError::Replaced { name: pinned.name.clone(), pinned: pinned.uid.clone() });
        }
        self.open(&store).await
    }

    fn recall(&self, uid: &str, store: &OutputStore, same: impl Fn(&Opened) -> bool) -> Option<OpenStore> {
        let mut open = lock(&self.open);
        let opened = open.get_mut(uid).filter(|o| o.generation == store.metadata.generation && same(o))?;
        if opened.checked.elapsed() >= FRESH {
            // Then it was its Secret that was found unchanged just now.
            opened.checked = Instant::now();
        }
        Some(opened.store.clone())
    }

    /// The OutputStore of a name, as it was in the last [`FRESH`].
    ///
    /// # Errors
    /// [`OpenStoreError::NotFound`] without it.
    pub async fn object(&self, name: &str) -> Result<Arc<OutputStore>, OpenStoreError> {
        if let Some((read, store)) = lock(&self.objects).get(name)
            && read.elapsed() < FRESH
        {
            return Ok(Arc::clone(store));
        }
        let read = Api::<OutputStore>::all(self.client.clone()).get_opt(name).await;
        let read = read.map_err(|source| OpenStoreError::ReadStore { name: name.to_owned(), source })?;
        let mut objects = lock(&self.objects);
        let Some(store) = read.map(Arc::new) else {
            objects.remove(name);
            return Err(OpenStoreError::NotFound { name: name.to_owned() });
        };
        objects.insert(name.to_owned(), (Instant::now(), Arc::clone(&store)));
        Ok(store)
    }

    async fn secret(&self, name: &str, keys: &'static str) -> Result<Secret, OpenStoreError> {
        let secrets = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        secrets.get(name).await.map_err(|source| {
            let (secret, namespace) = (name.to_owned(), self.namespace.clone());
            if is_status(&source, 404) {
                OpenStoreError::SecretMissing { secret, namespace, keys }
            } else {
                OpenStoreError::ReadSecret { secret, namespace, source }
            }
        })
    }

    fn make(&self, store: &OutputStore, secret: Option<&Secret>) -> Result<OpenStore, OpenStoreError> {
        let spec = &store.spec;
        let layout = Layout::new(spec.prefix.as_deref().unwrap_or(DEFAULT_PREFIX))?;
        let ttl = ttl(spec.signed_urls.as_ref().and_then(|urls| urls.ttl.as_deref()))?;
        let credentials = secret.map(|secret| Credentials { secret, namespace: &self.namespace });
        let (backend, ca): (Arc<dyn ObjectStore>, _) = match (&spec.s3, &spec.gcs, &spec.azure, &spec.filesystem) {
            (Some(s3), None, None, None) => {
                let options = s3_options(spec, s3, credentials.as_ref())?;
                (Arc::new(S3Store::new(options)?), s3.ca_bundle.clone())
            }
            (None, Some(gcs), None, None) => {
                (Arc::new(CloudStore::google(&google_options(gcs, credentials.as_ref())?)?), None)
            }
            (None, None, Some(azure), None) => {
                (Arc::new(CloudStore::azure(&azure_options(azure, credentials.as_ref())?)?), None)
            }
            (None, None, None, Some(filesystem)) => (Arc::new(self.folder(filesystem)?), None),
            _ => return Err(OpenStoreError::Kind),
        };
        let store = match self.wrap {
            Some(wrap) => wrap(backend),
            None => backend,
        };
        Ok(OpenStore { store, layout, ttl, ca })
    }

    fn folder(&self, spec: &FilesystemSpec) -> Result<FilesystemStore, OpenStoreError> {
        let root = self.filesystem_root.as_deref().ok_or(OpenStoreError::NoVolume)?;
        let path = folder_path(root, &spec.folder)?;
        // Only the last part is made: a volume that is not mounted must not turn into a folder of the container.
        match std::fs::create_dir(&path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(OpenStoreError::Folder { path, source }),
        }
        Ok(FilesystemStore::open(&path)?)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The schema allows nothing else; a path is too dangerous to lean on that alone.
fn folder_path(root: &Path, folder: &str) -> Result<PathBuf, OpenStoreError> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if folder.is_empty() || !folder.bytes().all(plain) {
        return Err(OpenStoreError::FolderName(folder.to_owned()));
    }
    Ok(root.join(folder))
}

fn ttl(text: Option<&str>) -> Result<Duration, OpenStoreError> {
    let Some(text) = text else { return Ok(MAX_TTL) };
    match quantity::duration(text) {
        Ok(ttl) if (Duration::from_secs(1)..=MAX_TTL).contains(&ttl) => Ok(ttl),
        _ => Err(OpenStoreError::Ttl(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;
    use serde_json::{Value, json};

    use super::{OpenStoreError, Stores};
    use asynctask_api::OutputStore;
    use asynctask_api::task::StoreRef;

    /// An API server that knows these paths and counts what it is asked.
    #[derive(Clone, Default)]
    struct Server {
        objects: Arc<Mutex<BTreeMap<String, Value>>>,
        asked: Arc<Mutex<Vec<String>>>,
    }

    const STORE: &str = "/apis/asynctask.dev/v1alpha1/outputstores/team";
    const SECRET: &str = "/api/v1/namespaces/system/secrets/keys";

    impl Server {
        fn serve(&self, path: &str, object: &Value) -> &Self {
            self.objects.lock().expect("no panic").insert(path.to_owned(), object.clone());
            self
        }

        fn stores(&self) -> Stores {
            let server = self.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let path = request.uri().path().to_owned();
                server.asked.lock().expect("no panic").push(path.clone());
                let found = server.objects.lock().expect("no panic").get(&path).cloned();
                let (status, body) = match found {
                    Some(object) => (200, object),
                    None => (404, json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"})),
                };
                let answer = Response::builder().status(status).body(Body::from(body.to_string().into_bytes()));
                async move { Ok::<_, Infallible>(answer.expect("answer")) }
            });
            Stores::new(Client::new(service, "system"), "system", None)
        }

        fn asked(&self) -> usize {
            self.asked.lock().expect("no panic").len()
        }
    }

    fn s3() -> Value {
        json!({"s3": {"bucket": "outputs", "endpoint": "http://store:9000", "credentialsSecret": {"name": "keys"}}})
    }

    fn object(spec: &Value) -> Value {
        json!({
            "apiVersion": "asynctask.dev/v1alpha1", "kind": "OutputStore", "spec": spec,
            "metadata": {"name": "team", "uid": "u-1", "generation": 1},
        })
    }

    fn store(spec: &Value) -> OutputStore {
        serde_json::from_value(object(spec)).expect("store")
    }

    fn secret(data: &Value) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "resourceVersion": "1"}, "data": data,
        })
    }

    fn keys() -> Value {
        json!({"accessKeyId": "QUtJQQ==", "secretAccessKey": "Y2FuYXJ5Cg=="})
    }

    async fn refusal(server: &Server, spec: &Value) -> (String, String) {
        let error = server.stores().open(&store(spec)).await.expect_err("refused");
        (error.reason().to_owned(), error.to_string())
    }

    #[tokio::test]
    async fn what_is_missing_is_named_with_its_place() {
        let server = Server::default();
        let (reason, words) = refusal(&server, &s3()).await;
        assert_eq!(reason, "CredentialsMissing");
        assert_eq!(
            words,
            "Secret keys does not exist in namespace system: create it with the keys accessKeyId and secretAccessKey"
        );
        for broken in
            [json!({"accessKeyId": "QUtJQQ=="}), json!({"accessKeyId": "QUtJQQ==", "secretAccessKey": "/w=="})]
        {
            let (reason, words) = refusal(server.serve(SECRET, &secret(&broken)), &s3()).await;
            assert_eq!(reason, "CredentialsMissing");
            assert!(words.starts_with("Secret keys in namespace system has no usable key secretAccessKey"), "{words}");
        }
        let (reason, words) = refusal(&server, &json!({"filesystem": {"folder": "first"}})).await;
        assert_eq!(reason, "NoVolume");
        assert!(words.contains("use a store of another kind"), "{words}");
    }

    #[tokio::test]
    async fn a_store_that_says_nonsense_is_told_so_by_its_field() {
        let server = Server::default();
        server.serve(SECRET, &secret(&keys()));
        for ttl in ["0s", "2m", "soon"] {
            let mut spec = s3();
            spec["signedUrls"] = json!({"ttl": ttl});
            let (reason, words) = refusal(&server, &spec).await;
            assert_eq!(reason, "InvalidStore");
            assert!(words.starts_with("spec.signedUrls.ttl: "), "{words}");
        }
        let (reason, words) = refusal(&server, &json!({})).await;
        assert_eq!((reason.as_str(), words.contains("exactly one")), ("InvalidStore", true), "{words}");
    }

    #[tokio::test]
    async fn an_open_store_is_recalled_and_shows_no_secret() {
        let server = Server::default();
        server.serve(SECRET, &secret(&keys()));
        let stores = server.stores();
        let mut spec = s3();
        spec["signedUrls"] = json!({"ttl": "30s"});
        let open = stores.open(&store(&spec)).await.expect("open");
        assert_eq!(open.ttl, Duration::from_secs(30));
        assert!(open.store.signer().is_some());
        assert!(!format!("{open:?}").contains("canary"), "{open:?}");
        stores.open(&store(&spec)).await.expect("open");
        assert_eq!(server.asked(), 1, "the Secret is not read for every use");

        let mut changed = store(&spec);
        changed.metadata.generation = Some(2);
        stores.open(&changed).await.expect("open");
        assert_eq!(server.asked(), 2, "but again when the store changes");
    }

    #[tokio::test]
    async fn a_run_gets_the_store_it_is_pinned_to_or_none() {
        let server = Server::default();
        server.serve(SECRET, &secret(&keys())).serve(STORE, &object(&s3()));
        let stores = server.stores();
        let pinned = |name: &str, uid: &str| StoreRef { name: name.to_owned(), uid: uid.to_owned() };
        stores.by_ref(&pinned("team", "u-1")).await.expect("the same");
        let other = stores.by_ref(&pinned("team", "u-0")).await.expect_err("another");
        assert!(matches!(other, OpenStoreError::Replaced { .. }), "{other}");
        let gone = stores.by_name("nowhere").await.expect_err("none");
        assert!(matches!(gone, OpenStoreError::NotFound { .. }), "{gone}");
    }

    #[tokio::test]
    async fn a_folder_is_made_below_the_volume_and_nowhere_else() {
        let volume = tempfile::tempdir().expect("folder");
        let mut stores = Server::default().stores();
        stores.filesystem_root = Some(volume.path().to_owned());
        let open = stores.open(&store(&json!({"filesystem": {"folder": "first"}}))).await.expect("open");
        assert!(open.store.signer().is_none() && volume.path().join("first").is_dir());
        for folder in ["../out", "", "/tmp", "a/b", "."] {
            let error = stores.make(&store(&json!({"filesystem": {"folder": folder}})), None).expect_err("refused");
            assert!(matches!(error, OpenStoreError::FolderName(_)), "{folder}: {error}");
        }
        stores.filesystem_root = Some(volume.path().join("not-mounted"));
        let error = stores.make(&store(&json!({"filesystem": {"folder": "first"}})), None).expect_err("refused");
        assert_eq!(error.reason(), "VolumeNotWritable");
    }
}
