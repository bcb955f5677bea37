//! The most memory that a run has used, for its progress line.

use std::fs;

use crate::Device;

/// The peak in bytes: what the pool of a GPU has handed out at one time, or what the system counts as resident of this
/// process. `None` where the system does not say.
pub(super) fn peak(device: &Device) -> Option<u64> {
    match device.as_cuda() {
        Some(cuda) => Some(cuda.peak_bytes() as u64),
        None => resident(&fs::read_to_string("/proc/self/status").ok()?),
    }
}

/// Linux's high-water mark, `VmHWM:   135168 kB`.
fn resident(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(value.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// `812 MiB`, `23.4 GiB`.
pub(in crate::train) fn format(bytes: u64) -> String {
    match bytes {
        0..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_found_and_written() {
        let status = "Name:\ttrainer\nVmPeak:\t  335488 kB\nVmHWM:\t  136740 kB\nVmRSS:\t     100 kB\n";
        assert_eq!(resident(status).map(format).as_deref(), Some("133 MiB"));
        assert_eq!(format(3 << 29), "1.5 GiB");
        for odd in ["", "VmHWM:", "VmHWM: x kB", "VmHWM: 12 MB"] {
            assert_eq!(resident(odd), None, "{odd:?}");
        }
    }
}
