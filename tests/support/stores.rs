//! Stores of other makers for tests: MinIO (S3), fake-gcs-server behind our front (Google), Azurite (Azure). Each is
//! installed on its first use, listens on a free port, and is gone on drop.

#![allow(dead_code, reason = "each test that includes this file uses its own part of it")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::seaweedfs::ports::{self, Port};
use super::seaweedfs::{cache, run, status_of};

/// Bucket or container of each; it exists and is empty.
pub(crate) const BUCKET: &str = "tasks";
/// Version of the npm package.
const AZURITE: &str = "3.37.0";
/// The account that Azurite has unless told otherwise, and its published key.
pub(crate) const AZURITE_ACCOUNT: &str = "devstoreaccount1";
pub(crate) const AZURITE_KEY: &str =
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
/// Where a server listens that no pod talks to.
pub(crate) const LOOPBACK: &str = "127.0.0.1";
/// A key of a service account that asks nobody for a token.
pub(crate) const GOOGLE_KEY: &str =
    r#"{"disable_oauth": true, "client_email": "", "private_key": "", "private_key_id": ""}"#;
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A server and what it wrote.
#[derive(Debug)]
pub(crate) struct Server {
    /// `http://ip:port`
    pub(crate) endpoint: String,
    child: Child,
    folder: tempfile::TempDir,
    _ports: Vec<Port>,
}

impl Server {
    fn spawn(command: &mut Command, folder: tempfile::TempDir, endpoint: String, ports: Vec<Port>) -> Self {
        let log = fs::File::create(folder.path().join("log")).expect("create the log");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("share the log")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Self { endpoint, child, folder, _ports: ports }
    }

    /// Waits until a request of a path is answered at all.
    fn answering(mut self, path: &str) -> Self {
        let address = self.endpoint.trim_start_matches("http://").parse().expect("an address");
        let request = format!("GET {path} HTTP/1.0\r\nHost: store\r\n\r\n");
        let deadline = Instant::now() + START_TIMEOUT;
        while status_of(address, &request).is_none() {
            let ended = self.child.try_wait().expect("ask for the server's state");
            let log = || fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "the server does not answer ({ended:?}):\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        self
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("asynctask-store-").tempdir().expect("a temporary folder")
}

/// A port and its address, on which nobody listens as long as the port is held.
pub(crate) fn free(ip: &str) -> (Port, String) {
    let port = ports::free(ip.parse().expect("an address"));
    let address = format!("{ip}:{}", port.number);
    (port, address)
}

/// MinIO with a key for encryption, and one bucket. User and password are `minio-admin`.
pub(crate) fn minio() -> Server {
    minio_with(&[])
}

/// The same with more variables in its environment.
pub(crate) fn minio_with(variables: &[(&str, &str)]) -> Server {
    let folder = folder();
    // A bucket is a folder of its drive.
    fs::create_dir_all(folder.path().join("drive").join(BUCKET)).expect("make the bucket");
    let ((port, address), (console_port, console)) = (free(LOOPBACK), free(LOOPBACK));
    let mut command = Command::new(built("minio"));
    command
        .args(["server", "--quiet", "--address", &address, "--console-address", &console])
        .arg(folder.path().join("drive"))
        .env("MINIO_ROOT_USER", "minio-admin")
        .env("MINIO_ROOT_PASSWORD", "minio-admin")
        .env("MINIO_KMS_SECRET_KEY", "tests:bXlmaXJzdGtleW15Zmlyc3RrZXlteWZpcnN0a2V5MTI=")
        .env("HOME", folder.path())
        .envs(variables.iter().copied());
    let ports = vec![port, console_port];
    Server::spawn(&mut command, folder, format!("http://{address}"), ports).answering("/minio/health/ready")
}

/// Google's API, nobody asked who they are.
pub(crate) fn google(ip: &str) -> Server {
    let folder = folder();
    let mut command = Command::new(built("gcs"));
    let (port, address) = free(ip);
    command.args(["--listen", &address, "--bucket", BUCKET]);
    Server::spawn(&mut command, folder, format!("http://{address}"), vec![port]).answering("/tasks")
}

/// Azure's API with one container. The endpoint to configure is [`Server::endpoint`] and the account.
pub(crate) fn azure(ip: &str) -> Server {
    let folder = folder();
    let (port, address) = free(ip);
    let mut command = Command::new("node");
    command
        .arg(azurite().join("node_modules/azurite/dist/src/blob/main.js"))
        .args([
            "--blobHost",
            ip,
            "--blobPort",
            &port.number.to_string(),
            "--skipApiVersionCheck",
            "--disableTelemetry",
            "--silent",
        ])
        .arg("--location")
        .arg(folder.path());
    let server = Server::spawn(&mut command, folder, format!("http://{address}"), vec![port]).answering("/");
    let mut make = Command::new("node");
    make.args(["-e", MAKE_CONTAINER]).args([address.as_str(), AZURITE_ACCOUNT, AZURITE_KEY, BUCKET]);
    run(&mut make, "make the container");
    server
}

/// Azure lets nobody in without a signature, not even to make a container.
const MAKE_CONTAINER: &str = r"
const [address, account, key, container] = process.argv.slice(1);
const date = new Date().toUTCString(), version = '2021-12-02';
const toSign = ['PUT', '', '', '', '', '', '', '', '', '', '', '', 'x-ms-date:' + date, 'x-ms-version:' + version,
  `/${account}/${account}/${container}`, 'restype:container'].join('\n');
const signature = require('crypto').createHmac('sha256', Buffer.from(key, 'base64')).update(toSign).digest('base64');
fetch(`http://${address}/${account}/${container}?restype=container`, { method: 'PUT', headers: {
  'x-ms-date': date, 'x-ms-version': version, authorization: `SharedKey ${account}:${signature}` } })
  .then(async answer => { if (answer.status !== 201) { console.error(answer.status, await answer.text()); process.exit(1); } });
";

/// Folder with the installed package.
fn azurite() -> PathBuf {
    let home = cache().join("azurite").join(AZURITE);
    if !home.exists() {
        // Two test runs may install at once: each in a folder of its own, the first one to finish wins.
        let own = cache().join("azurite").join(format!("{AZURITE}.{}", std::process::id()));
        fs::create_dir_all(&own).expect("make a folder in the cache");
        let mut install = Command::new("npm");
        install.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"]).arg(&own);
        run(install.arg(format!("azurite@{AZURITE}")), "install Azurite");
        if fs::rename(&own, &home).is_err() {
            let _ = fs::remove_dir_all(&own);
        }
    }
    home
}

/// A program that the cluster tool builds from Go modules.
fn built(name: &str) -> PathBuf {
    let mut tool = Command::new("tests/cluster/cluster");
    let mut child = tool
        .args(["which", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{tool:?}: {error}"));
    let said = BufReader::new(child.stdout.take().expect("piped"));
    let last = said.lines().map_while(Result::ok).last();
    assert!(child.wait().expect("waited for").success(), "{tool:?} failed, see above");
    let path = PathBuf::from(last.expect("the tool prints a path"));
    assert!(Path::new(&path).is_file(), "{tool:?} printed {}", path.display());
    path
}
