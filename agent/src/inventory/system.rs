//! System and hardware, as the `sysinfo` crate finds them, and what virtualises them.

use std::sync::Arc;
use std::time::Duration;

use homelab_common::error_chain::Chain;
use homelab_common::exec::{Exec, ExecError, Program};
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind};

use crate::health::label;
use crate::reading::{Missing, Reading};

const PATIENCE: Duration = Duration::from_secs(5);

/// System and hardware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    /// Host name of the system.
    pub hostname: Option<String>,
    /// Kernel release.
    pub kernel: Option<String>,
    /// Name and version of the distribution.
    pub os: Option<String>,
    /// CPU model.
    pub cpu_model: Option<String>,
    /// Logical CPUs.
    pub cpu_count: usize,
    /// Physical cores.
    pub core_count: Option<usize>,
    /// Installed memory, in bytes.
    pub memory_bytes: u64,
}

/// Reads system and hardware. Blocks.
pub(super) fn read() -> Reading<System> {
    let memory = MemoryRefreshKind::nothing().with_ram();
    let wanted = RefreshKind::nothing().with_memory(memory).with_cpu(CpuRefreshKind::nothing());
    let system = sysinfo::System::new_with_specifics(wanted).map_err(|error| Missing::Program {
        program: "sysinfo",
        why: Arc::from(Chain(&error).to_string()),
    })?;
    let os = match (sysinfo::System::name().ok(), sysinfo::System::os_version().ok()) {
        (Some(name), Some(version)) => Some(format!("{name} {version}")),
        (name, _) => name,
    };
    let brand = system.cpus().first().map(|cpu| label(cpu.brand().as_bytes(), 100));
    Ok(System {
        hostname: sysinfo::System::host_name().ok(),
        kernel: sysinfo::System::kernel_version().ok(),
        os,
        cpu_model: brand.filter(|brand| !brand.is_empty()),
        cpu_count: system.cpus().len(),
        core_count: sysinfo::System::physical_core_count().ok(),
        memory_bytes: system.total_memory(),
    })
}

/// What virtualises this system.
///
/// # Errors
/// [`Missing::Absent`] without systemd.
pub(super) async fn virtualization(exec: &dyn Exec) -> Reading<String> {
    // Exit code 1 goes with `none`.
    let program = Program::new("systemd-detect-virt").deadline(PATIENCE).accept([0, 1]);
    match exec.run(program).await {
        Ok(output) => match output.text().trim() {
            "" => Err(Missing::Malformed("systemd-detect-virt")),
            name => Ok(label(name.as_bytes(), 64)),
        },
        Err(ExecError::NotFound { .. }) => Err(Missing::Absent(Arc::from("systemd-detect-virt"))),
        Err(error) => {
            let why = Arc::from(Chain(&error).to_string());
            Err(Missing::Program { program: "systemd-detect-virt", why })
        }
    }
}

#[cfg(test)]
mod tests {
    use homelab_common::exec::fake::{Answer, FakeExec};

    use super::*;

    #[tokio::test]
    async fn hardware_says_none_with_exit_code_one() {
        let answer = Answer::stdout("none\n").with_code(1);
        let exec = FakeExec::default().on("systemd-detect-virt", answer);
        assert_eq!(virtualization(&exec).await.as_deref(), Ok("none"));
    }

    #[tokio::test]
    async fn without_systemd_nobody_can_say() {
        let missing = virtualization(&FakeExec::default()).await;
        assert!(matches!(missing, Err(Missing::Absent(_))), "{missing:?}");
    }
}
