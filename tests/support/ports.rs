//! Ports for servers that have to be told theirs. One that the kernel gave out and took back is anybody's until the server
//! has it: each connection of another test may get it. So they come from where the kernel takes none, and are held by a lock
//! of a file against other tests.

use std::fs::{self, File};
use std::net::{IpAddr, TcpListener};

use super::cache;

/// Below those that connections get (from 32,768 on) and a cluster's node ports.
const FIRST: u16 = 20_000;
const COUNT: u16 = 9_000;

/// A port that is nobody else's as long as this lives.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) number: u16,
    _lock: File,
}

/// A port of an address on which nobody listens.
pub(crate) fn free(ip: IpAddr) -> Port {
    let folder = cache().join("ports");
    fs::create_dir_all(&folder).expect("make a folder in the cache");
    // Where to begin does not matter, but that not all begin at one place.
    let begin = std::process::id().wrapping_mul(64);
    let numbers = (0..u32::from(COUNT)).map(|next| FIRST + (begin.wrapping_add(next) % u32::from(COUNT)) as u16);
    let mut held = numbers.filter_map(|number| {
        let lock = File::create(folder.join(number.to_string())).expect("make a file in the cache");
        (lock.try_lock().is_ok() && TcpListener::bind((ip, number)).is_ok()).then_some(Port { number, _lock: lock })
    });
    held.next().unwrap_or_else(|| panic!("no port of {ip} is free"))
}
