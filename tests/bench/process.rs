//! What a process of this machine has used, as the kernel tells.

use std::fs;

/// What the kernel counts in.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of both cores that a process has used so far.
pub(crate) fn cpu(pid: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name before it may hold spaces.
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// Seconds of its cores that the whole machine has used so far.
pub(crate) fn cpu_of_all() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    let fields: Vec<f64> =
        text.lines().next().unwrap().split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
    // user, nice, system, irq and softirq; what lies between is idle.
    [0, 1, 2, 5, 6].iter().map(|at| fields[*at]).sum::<f64>() / TICKS_PER_SECOND
}

/// MiB that are in memory now.
pub(crate) fn resident(pid: u32) -> f64 {
    status(pid, "VmRSS:")
}

/// Most MiB that were in memory since [`forget_peak`].
pub(crate) fn peak(pid: u32) -> f64 {
    status(pid, "VmHWM:")
}

/// Lets the peak begin anew.
pub(crate) fn forget_peak(pid: u32) {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap();
}

fn status(pid: u32, field: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
}

#[test]
fn a_process_is_told_its_own_use() {
    let me = std::process::id();
    let held = vec![1_u8; 64 << 20];
    assert!(resident(me) > 64.0 && peak(me) >= resident(me) - 1.0, "{} {}", resident(me), held.len());
    drop(held);
    forget_peak(me);
    assert!(peak(me) < 64.0, "{}", peak(me));
    assert!(cpu(me) >= 0.0 && cpu_of_all() >= cpu(me), "{} {}", cpu(me), cpu_of_all());
}
