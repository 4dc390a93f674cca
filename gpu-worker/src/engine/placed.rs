//! The build's own devices for an engine's cards, found before each start.

use std::time::Duration;

use homelab_common::exec::Program;
use tokio::time;
use tracing::info;

use crate::{
    device::{self, Device, DeviceId, PciSlot},
    engine::{
        EngineConfig, Supervisor,
        backend::{self, Placement, parse_listing, slots_in_log},
        build::Variant,
        process::Cause,
    },
};

/// A build that compiles for its card first may take some seconds to list it.
const LISTING_DEADLINE: Duration = Duration::from_secs(60);

const LISTING_BYTES_MAX: u64 = 256 * 1024;

/// A card that hangs can block whoever reads its files.
const DEVICES_DEADLINE: Duration = Duration::from_secs(5);

/// The build's devices.
#[derive(Debug, Default)]
pub(super) struct Placed {
    pub(super) placement: Placement,
    pub(super) tensor_split: Vec<u32>,
}

/// As configured, or else by the memory of the cards in GiB.
fn tensor_split(config: &EngineConfig, devices: &[Device]) -> Vec<u32> {
    if !config.tensor_split.is_empty() {
        return config.tensor_split.clone();
    }
    let gibibytes = |id: &DeviceId| {
        let memory = devices.iter().find(|device| device.id == *id)?.memory_bytes?;
        u32::try_from(memory.div_ceil(1 << 30)).ok()
    };
    let shares: Option<Vec<u32>> = config.devices.iter().map(gibibytes).collect();
    match shares {
        // Like cards are shown in the plainest way.
        Some(shares) if shares.iter().any(|share| Some(share) != shares.first()) => shares,
        _ => vec![1; config.devices.len()],
    }
}

impl Supervisor {
    /// Finds the build's own devices for the engine's cards.
    pub(super) async fn placed(&self, variant: &Variant) -> Result<Placed, Cause> {
        let config = &self.engine.config;
        let slots = config.slots();
        let backend = match variant.backend {
            Some(backend) if !slots.is_empty() && !variant.is_placed_by_hand() => backend,
            _ => return Ok(Placed::default()),
        };
        let roots = self.world.roots.clone();
        let reading = self.world.tasks.blocking(move || device::list(&roots, &[]));
        let Ok(Ok(devices)) = time::timeout(DEVICES_DEADLINE, reading).await else {
            return Err(Cause::Devices { after: DEVICES_DEADLINE });
        };
        let question = backend::question(backend, &slots);
        let environment = variant.environment.iter().chain(&question);
        let program = Program::new(variant.command.program())
            .arg("--list-devices")
            .deadline(LISTING_DEADLINE)
            .output_bytes_max(LISTING_BYTES_MAX);
        let program = environment.fold(program, |program, (name, value)| program.env(name, value));
        let output = self.world.exec.run(program).await.map_err(Cause::Listing)?;
        let listed = parse_listing(&String::from_utf8_lossy(&output.stdout));
        let placement = backend::place(backend, &slots, &devices, &listed)?;
        let names = placement.names.join(", ");
        if !placement.hides_others && !variant.command.takes_devices() {
            return Err(Cause::NeedsDevice { names });
        }
        info!(engine = %config.name, %backend, devices = %names, "found an engine's devices");
        Ok(Placed { tensor_split: tensor_split(config, &devices), placement })
    }
}

/// Compares the cards that the engine says it uses with those that it was given.
pub(super) fn check_card(wanted: &[PciSlot], lines: &[String]) -> Result<(), Cause> {
    let used = slots_in_log(lines);
    let mut wanted = wanted.to_vec();
    wanted.sort();
    if wanted.is_empty() || used.is_empty() || used == wanted {
        return Ok(());
    }
    let shown =
        |slots: &[PciSlot]| slots.iter().map(PciSlot::as_str).collect::<Vec<_>>().join(" and ");
    Err(Cause::WrongCard { used: shown(&used), wanted: shown(&wanted) })
}
