//! Processor time and resident memory of a process, from the kernel.

use std::fs;

use anyhow::Context as _;

/// Kernel clock ticks per second in `/proc`; fixed at 100 by the Linux ABI on every architecture Rust runs on.
const TICKS_PER_SECOND: u64 = 100;

/// Processor time (user and system) that the process has used so far, in microseconds; resolution 10 ms.
pub fn process_cpu_micros(pid: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    parse_cpu_micros(&text).with_context(|| format!("/proc/{pid}/stat has an unknown form"))
}

/// Resident memory of the process in bytes.
pub fn process_rss_bytes(pid: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    parse_bytes(&text, "VmRSS:").with_context(|| format!("/proc/{pid}/status has no VmRSS"))
}

/// Most resident memory of the process in bytes since it started, or since [`forget_peak_rss`].
pub fn process_peak_rss_bytes(pid: u32) -> anyhow::Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    parse_bytes(&text, "VmHWM:").with_context(|| format!("/proc/{pid}/status has no VmHWM"))
}

/// From now on, the peak of the process is what it has now, or later.
pub fn forget_peak_rss(pid: u32) -> anyhow::Result<()> {
    const PEAK_RSS: &str = "5";
    fs::write(format!("/proc/{pid}/clear_refs"), PEAK_RSS)
        .with_context(|| format!("the peak of process {pid} cannot be reset"))
}

/// Model name of the first processor, for the report.
pub fn processor_model() -> String {
    fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_else(|| "unknown processor".to_owned())
}

fn parse_cpu_micros(stat: &str) -> Option<u64> {
    // The command name is in parentheses and may contain spaces. The fields after it are counted from 3.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) * (1_000_000 / TICKS_PER_SECOND))
}

fn parse_bytes(status: &str, field: &str) -> Option<u64> {
    let line = status.lines().find(|line| line.starts_with(field))?;
    let kilobytes: u64 = line.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 0 0 0 250 50 0 0 20 0 1 0 5 6 7";
        assert_eq!(parse_cpu_micros(stat), Some(3_000_000));
    }

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(
            parse_bytes("Name:\tx\nVmHWM:\t 1 kB\nVmRSS:\t    2048 kB\n", "VmRSS:"),
            Some(2_097_152)
        );
        assert_eq!(parse_bytes("Name:\tx\n", "VmRSS:"), None);
    }

    #[test]
    fn this_process_can_be_read() {
        let pid = std::process::id();
        assert!(process_cpu_micros(pid).is_ok());
        assert!(process_rss_bytes(pid).unwrap() > 0);
        forget_peak_rss(pid).unwrap();
        assert!(process_peak_rss_bytes(pid).unwrap() > 0);
    }
}
