//! OutputStore: where outputs live.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where outputs and uploads live.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "asynctask.dev",
    version = "v1alpha1",
    kind = "OutputStore",
    plural = "outputstores",
    shortname = "ostore",
    category = "async",
    status = "OutputStoreStatus",
    derive = "PartialEq",
    doc = "Where outputs and uploads live. Cluster-wide, written by the cluster's administrators; its Secret lives in the operator's namespace only.",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type=='Ready')].reason"}"#,
    printcolumn = r#"{"name":"Transfer","type":"string","jsonPath":".status.transfer"}"#,
    printcolumn = r#"{"name":"Default","type":"boolean","jsonPath":".spec.default"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "[has(self.s3), has(self.gcs), has(self.azure), has(self.filesystem)].exists_one(kind, kind)", "message": "name exactly one kind of store: s3, gcs, azure or filesystem"},
    {"rule": "!has(self.transfer) || self.transfer == 'Proxied' || has(self.s3)", "message": "transfer: only an s3 store signs URLs; leave it out, or say Proxied"},
    {"rule": "has(self.s3) == has(oldSelf.s3) && has(self.gcs) == has(oldSelf.gcs) && has(self.azure) == has(oldSelf.azure) && has(self.filesystem) == has(oldSelf.filesystem)", "message": "the kind of a store is immutable: make a second OutputStore and turn `default` over to it"},
    {"rule": "has(self.prefix) == has(oldSelf.prefix) && (!has(self.prefix) || self.prefix == oldSelf.prefix)", "message": "prefix is immutable: outputs would be lost from sight. Make a second OutputStore"}
]))]
pub struct OutputStoreSpec {
    /// An S3-compatible service: AWS, MinIO, SeaweedFS, Ceph, R2. URLs are signed; bytes never pass the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Spec>,
    /// A bucket of Google Cloud Storage. Bytes stream through the gateway; to have URLs signed instead, use `s3` with an
    /// HMAC key and the endpoint `https://storage.googleapis.com`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<GcsSpec>,
    /// A container of Azure Blob Storage. Bytes stream through the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<AzureSpec>,
    /// A folder on the volume of gateway and operator. For a first try only: one node, no replication, and every byte
    /// streams through the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemSpec>,
    /// Whether definitions that name no store use this one. Of several, the oldest wins.
    #[serde(default)]
    pub default: bool,
    /// Namespaces whose tasks may use it, by their labels; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// Prefix of every key, without slashes at its ends; absent: `asynctask`. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 200), regex(pattern = r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$"))]
    pub prefix: Option<String>,
    /// How bytes travel between the store and those outside; absent: `Signed` for an s3 store, `Proxied` for others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transfer: Option<Transfer>,
    /// How URLs are signed; of no effect where bytes pass the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed_urls: Option<SignedUrlsSpec>,
}

impl OutputStoreSpec {
    /// The Secret that holds its credentials, and the keys that are looked for in it.
    #[must_use]
    pub fn secret(&self) -> Option<(&str, &'static str)> {
        let keys = "accessKeyId and secretAccessKey";
        let s3 = self.s3.iter().filter_map(|s3| Some((s3.credentials_secret.as_ref()?, keys)));
        let gcs = self.gcs.iter().filter_map(|gcs| Some((gcs.credentials_secret.as_ref()?, "serviceAccountKey")));
        let azure =
            self.azure.iter().filter_map(|azure| Some((azure.credentials_secret.as_ref()?, "accountKey or sasToken")));
        s3.chain(gcs).chain(azure).map(|(secret, keys)| (secret.name.as_str(), keys)).next()
    }
}

/// How bytes travel between a store and those outside the operator and gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Transfer {
    /// Straight to and from the store, by URLs that are signed for one request.
    Signed,
    /// Through the gateway: nobody but operator and gateway need reach the store.
    Proxied,
}

/// An S3-compatible service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.bucket == oldSelf.bucket && has(self.endpoint) == has(oldSelf.endpoint) && (!has(self.endpoint) || self.endpoint == oldSelf.endpoint)", "message": "bucket and endpoint are immutable: outputs would be lost from sight. Make a second OutputStore"}
]))]
pub struct S3Spec {
    /// Bucket; it must exist.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9][a-z0-9.-]+[a-z0-9]$"))]
    pub bucket: String,
    /// URL of the service as operator, gateway and task pods reach it; absent: AWS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^/?#@\s]+$"))]
    pub endpoint: Option<String>,
    /// Region; absent: `us-east-1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 64))]
    pub region: Option<String>,
    /// Whether the bucket goes into the path instead of the host name, as most services outside AWS want it.
    #[serde(default)]
    pub path_style: bool,
    /// Secret in the operator's namespace with the keys `accessKeyId`, `secretAccessKey` and, optionally, `sessionToken`;
    /// absent: the identity of the pods of operator and gateway (a web identity as of IAM roles for service accounts, EKS
    /// Pod Identity), or of their node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<SecretRef>,
    /// PEM certificates that sign the service's certificate, when the public roots do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub ca_bundle: Option<String>,
    /// Encryption that is asked for with each object; absent: as the bucket is set up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<EncryptionSpec>,
}

/// Encryption by the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "!has(self.kmsKeyId) || self.mode == 'KMS'", "message": "kmsKeyId belongs to mode KMS"}
]))]
pub struct EncryptionSpec {
    /// Whose keys.
    pub mode: EncryptionMode,
    /// Id or ARN of the key, for `KMS`; absent: the account's default key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 2048), regex(pattern = r"^[A-Za-z0-9:/_-]+$"))]
    pub kms_key_id: Option<String>,
}

/// Whose keys a service encrypts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EncryptionMode {
    /// SSE-S3: keys of the service.
    S3,
    /// SSE-KMS: a key of its key management.
    #[serde(rename = "KMS")]
    Kms,
}

/// A bucket of Google Cloud Storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.bucket == oldSelf.bucket && has(self.endpoint) == has(oldSelf.endpoint) && (!has(self.endpoint) || self.endpoint == oldSelf.endpoint)", "message": "bucket and endpoint are immutable: outputs would be lost from sight. Make a second OutputStore"}
]))]
pub struct GcsSpec {
    /// Bucket; it must exist.
    #[schemars(length(min = 3, max = 222), regex(pattern = r"^[a-z0-9][a-z0-9._-]+[a-z0-9]$"))]
    pub bucket: String,
    /// URL of the service as operator and gateway reach it; absent: Google's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^/?#@\s]+$"))]
    pub endpoint: Option<String>,
    /// Secret in the operator's namespace with the key `serviceAccountKey`, the JSON key of a service account; absent:
    /// the identity of the pods of operator and gateway (Workload Identity), or of their node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<SecretRef>,
    /// PEM certificates that sign the service's certificate, when the public roots do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub ca_bundle: Option<String>,
}

/// A container of Azure Blob Storage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [
    {"rule": "self.account == oldSelf.account && self.container == oldSelf.container && has(self.endpoint) == has(oldSelf.endpoint) && (!has(self.endpoint) || self.endpoint == oldSelf.endpoint)", "message": "account, container and endpoint are immutable: outputs would be lost from sight. Make a second OutputStore"}
]))]
pub struct AzureSpec {
    /// Storage account.
    #[schemars(length(min = 3, max = 24), regex(pattern = r"^[a-z0-9]+$"))]
    pub account: String,
    /// Container; it must exist.
    #[schemars(length(min = 3, max = 63), regex(pattern = r"^[a-z0-9]+(-[a-z0-9]+)*$"))]
    pub container: String,
    /// URL of the account's blob service as operator and gateway reach it; absent: Azure's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^/?#@\s]+(/[a-z0-9]+)?$"))]
    pub endpoint: Option<String>,
    /// Secret in the operator's namespace with the key `accountKey` or `sasToken`; absent: the identity of the pods of
    /// operator and gateway (Workload Identity), or of their node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret: Option<SecretRef>,
    /// PEM certificates that sign the service's certificate, when the public roots do not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 65536))]
    pub ca_bundle: Option<String>,
}

/// A Secret in the operator's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// A folder on the shared volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FilesystemSpec {
    /// Name of the folder below the volume's root. Immutable.
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), extend("x-kubernetes-validations" = [{"rule": "self == oldSelf", "message": "folder is immutable: outputs would be lost from sight. Make a second OutputStore"}]))]
    pub folder: String,
}

/// How URLs are signed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SignedUrlsSpec {
    /// Seconds or minutes a download URL for people is good for: from `1s` to `60s`, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub ttl: Option<String>,
    /// URL of the service as people reach it, when it differs from `s3.endpoint`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512), regex(pattern = r"^https?://[^/?#@\s]+$"))]
    pub public_endpoint: Option<String>,
}

/// What the operator found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputStoreStatus {
    /// Generation the status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Signed`: bytes go straight to the store. `Proxied`: they stream through the gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub transfer: Option<String>,
    /// What the store keeps of the requests that are signed for it; absent where none are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<StoreLimits>,
    /// `Ready`: probed by writing, reading, listing and deleting. `LimitsKept`: whether a signed request is good for nothing
    /// but what it was signed for, and if not, what to do about it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// What a store keeps of the requests that are signed for it, as found by sending others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoreLimits {
    /// An upload of another length is refused.
    pub length: bool,
    /// An upload of other bytes is refused.
    pub checksum: bool,
    /// An upload cannot be sent again.
    pub once: bool,
    /// A download is given as an attachment.
    pub attachment: bool,
    /// Uploads in parts work.
    pub parts: bool,
    /// Pages of any site may send to it (CORS).
    pub any_origin: bool,
}
