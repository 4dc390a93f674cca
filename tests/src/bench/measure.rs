//! What the kernel says that a process cost: `/proc/PID` as in proc(5).

use std::{fs, path::Path, time::Duration};

use anyhow::Context as _;

/// The unit of CPU time in `/proc/PID/stat`: hundredths of a second on every Linux that is in use
/// (`USER_HZ`).
const TICK: Duration = Duration::from_millis(10);

/// Memory of a process in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// What it has in memory.
    pub(super) rss: u64,
    /// The most that it had.
    pub(super) peak: u64,
    /// Its share of what several processes have in memory.
    pub(super) pss: u64,
}

/// CPU time of all threads that a process has now, to the nanosecond. Time of threads that have ended is
/// not in it: for what keeps its threads.
pub(super) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    let folder = format!("/proc/{pid}/task");
    let mut sum = Duration::ZERO;
    for task in fs::read_dir(&folder).with_context(|| format!("read {folder}"))? {
        // A thread may end while they are counted.
        let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
        sum += on_cpu(&text).unwrap_or_default();
    }
    Ok(sum)
}

/// CPU time of the calling thread, to the nanosecond.
pub(super) fn cpu_of_thread() -> anyhow::Result<Duration> {
    let text = read("/proc/thread-self/schedstat")?;
    on_cpu(&text).context("understand schedstat")
}

/// CPU time of a process with the threads and children that have ended, to 10 ms.
pub(super) fn cpu_of_family(pid: u32) -> anyhow::Result<Duration> {
    let text = read(&format!("/proc/{pid}/stat"))?;
    let (own, children) = ticks(&text).context("understand stat")?;
    Ok(TICK * (own + children))
}

/// CPU time of the children of a process that have ended, to 10 ms.
pub(super) fn cpu_of_programs(pid: u32) -> anyhow::Result<Duration> {
    let text = read(&format!("/proc/{pid}/stat"))?;
    Ok(TICK * ticks(&text).context("understand stat")?.1)
}

/// Memory of a process.
pub(super) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let status = read(&format!("/proc/{pid}/status"))?;
    let rollup = read(&format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let of = |text: &str, key| kilobytes(text, key).unwrap_or_default();
    Ok(Memory { rss: of(&status, "VmRSS:"), peak: of(&status, "VmHWM:"), pss: of(&rollup, "Pss:") })
}

/// Peak memory of a process that may have ended.
pub(super) fn peak_memory(pid: u32) -> Option<u64> {
    kilobytes(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmHWM:")
}

/// Lets the peak begin anew at what is used now.
pub(super) fn forget_peak(pid: u32) -> anyhow::Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("write {path}"))
}

/// Sum of the sizes of all files below a folder.
pub(super) fn size_of(folder: &Path) -> anyhow::Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let entry = entry?;
        let about = entry.metadata()?;
        sum += if about.is_dir() { size_of(&entry.path())? } else { about.len() };
    }
    Ok(sum)
}

/// CPU time between two moments.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pid: u32,
    cpu: Duration,
}

impl Span {
    /// Begins to watch a process.
    pub(super) fn begin(pid: u32) -> anyhow::Result<Self> {
        Ok(Self { pid, cpu: cpu(pid)? })
    }

    /// CPU time since it began.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        Ok(cpu(self.pid)?.saturating_sub(self.cpu))
    }

    /// Who is watched.
    pub(super) const fn pid(&self) -> u32 {
        self.pid
    }
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("read {path}"))
}

/// The first of three numbers: nanoseconds spent on a CPU.
fn on_cpu(schedstat: &str) -> Option<Duration> {
    schedstat.split_ascii_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// Ticks of the process itself, and of its children that it has waited for.
fn ticks(stat: &str) -> Option<(u32, u32)> {
    // The name in parentheses may hold spaces and parentheses itself.
    let (_, after) = stat.rsplit_once(')')?;
    // utime, stime, cutime, cstime are fields 14 to 17; the state after the name is field 3.
    let mut fields = after.split_ascii_whitespace().skip(11).map(|field| field.parse::<u32>().ok());
    let mut next = || fields.next().flatten();
    Some((next()? + next()?, next()? + next()?))
}

fn kilobytes(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 12 34 56 78 20 0 1 0 5 0 0";
        assert_eq!(ticks(stat), Some((46, 134)));
    }

    #[test]
    fn the_first_number_of_schedstat_is_time_on_a_cpu() {
        assert_eq!(on_cpu("1500000 20 3\n"), Some(Duration::from_micros(1500)));
    }

    #[test]
    fn work_is_seen_in_the_cpu_time_of_this_process() {
        let pid = std::process::id();
        let span = Span::begin(pid).expect("own process");
        let thread = cpu_of_thread().expect("own thread");
        let mut sum = 0_u64;
        while cpu_of_thread().expect("own thread") < thread + Duration::from_millis(5) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(span.cpu().expect("own process") >= Duration::from_millis(5));
        let memory = memory(pid).expect("own memory");
        assert!(memory.rss > 0 && memory.peak >= memory.rss && memory.pss > 0, "{memory:?}");
    }

    #[test]
    fn the_size_of_a_folder_is_that_of_all_files_below_it() {
        let folder = tempfile::tempdir().expect("folder");
        fs::create_dir(folder.path().join("below")).expect("folder");
        fs::write(folder.path().join("a"), [0; 10]).expect("file");
        fs::write(folder.path().join("below/b"), [0; 5]).expect("file");
        assert_eq!(size_of(folder.path()).expect("size"), 15);
    }
}
