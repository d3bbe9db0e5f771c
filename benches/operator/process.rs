//! What the system knows of a process.

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    /// Resident, shared pages counted whole.
    pub resident: u64,
    /// Resident, each shared page divided among those that share it.
    pub proportional: u64,
    /// The most that was ever resident.
    pub peak: u64,
}

/// The memory of a running process.
pub fn memory(pid: u32) -> Memory {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let kibibytes = |text: &str, name: &str| -> u64 {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {text}"));
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    };
    let (rollup, status) = (read("smaps_rollup"), read("status"));
    Memory { resident: kibibytes(&rollup, "Rss:"), proportional: kibibytes(&rollup, "Pss:"), peak: kibibytes(&status, "VmHWM:") }
}

/// Ticks a second of the processor times below: Linux has the same for every machine in what it tells programs.
const TICKS: f64 = 100.0;

/// Time of the processor that a process has used, in seconds, in steps of a hundredth.
pub fn processor_seconds(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name of the program stands in brackets and may hold spaces; user and system time are fields 14 and 15.
    let (_, fields) = text.rsplit_once(')').unwrap();
    let ticks: f64 = fields.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().unwrap()).sum();
    ticks / TICKS
}
