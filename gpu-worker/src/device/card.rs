//! Graphics cards out of sysfs.
//!
//! Files and their units are those of the kernel's own documentation
//! (Documentation/ABI/testing/sysfs-driver-intel-{i915,xe}-hwmon and amdgpu's).
//! Symbolic links below a device form loops, so nothing here walks a tree.

use std::path::{Path, PathBuf};

use super::{
    Device, DeviceId, PciSlot, Power, fdinfo::Held, hwmons, millidegrees, noted, read_number,
    read_text, watts,
};

/// A BAR of this size or less is the window of a card without Resizable BAR and
/// says nothing about its memory.
const WINDOW_BYTES_MAX: u64 = 256 << 20;

/// The memory BAR of Intel's discrete cards.
const MEMORY_BAR: usize = 2;

/// Intel cards that this worker is made for, by PCI device id.
const INTEL_CARDS: [(u16, &str); 5] = [
    (0x56a0, "Intel Arc A770"),
    (0x56a1, "Intel Arc A750"),
    (0x56a2, "Intel Arc A580"),
    (0x56a5, "Intel Arc A380"),
    (0x56a6, "Intel Arc A310"),
];

pub(super) fn list(sys: &Path, held: &Held) -> Vec<Device> {
    let Ok(entries) = std::fs::read_dir(sys.join("class/drm")) else { return Vec::new() };
    let mut cards: Vec<Device> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            is_card(entry.file_name().to_str()?)
                .then(|| read(&entry.path().join("device"), held))?
        })
        .collect();
    cards.sort_by(|left, right| left.id.cmp(&right.id));
    cards
}

/// The power of one card alone, which is asked for often.
pub(super) fn power(sys: &Path, slot: &PciSlot) -> Option<Power> {
    let device = sys.join("bus/pci/devices").join(slot.as_str());
    let uevent = read_text(&device.join("uevent")).ok()?;
    let driver = uevent.lines().find_map(|line| line.strip_prefix("DRIVER="));
    Sensors::of(&device, driver).power().ok()
}

/// `card0`, but not its connectors such as `card0-DP-1`.
fn is_card(name: &str) -> bool {
    name.strip_prefix("card")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A card without a PCI slot (a virtual display) is no device for us.
fn read(device: &Path, held: &Held) -> Option<Device> {
    let uevent = read_text(&device.join("uevent")).ok()?;
    let value =
        |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let slot: PciSlot = value("PCI_SLOT_NAME")?.parse().ok()?;
    let driver = value("DRIVER").map(str::to_owned);
    let sensors = Sensors::of(device, driver.as_deref());

    let mut missing = Vec::new();
    let memory_bytes = noted(&mut missing, "memory_bytes", memory(device));
    let memory_used_bytes = noted(
        &mut missing,
        "memory_used_bytes",
        memory_used(device, driver.as_deref(), held, &slot),
    );
    let temperature_celsius = noted(&mut missing, "temperature_celsius", sensors.temperature());
    let power = noted(&mut missing, "power_watts", sensors.power());
    let power_limit_watts = noted(&mut missing, "power_limit_watts", sensors.power_limit());
    Some(Device {
        id: DeviceId::Pci(slot),
        name: name(device),
        driver,
        memory_bytes,
        memory_used_bytes,
        temperature_celsius,
        power,
        power_limit_watts,
        missing,
    })
}

fn name(device: &Path) -> String {
    let vendor = hexadecimal(&device.join("vendor"));
    let model = hexadecimal(&device.join("device"));
    match (vendor, model) {
        (Some(0x8086), Some(model)) => INTEL_CARDS.iter().find(|(id, _)| *id == model).map_or_else(
            || format!("Intel graphics 8086:{model:04x}"),
            |(_, name)| (*name).to_owned(),
        ),
        (Some(vendor), Some(model)) => format!("graphics card {vendor:04x}:{model:04x}"),
        _ => "graphics card".to_owned(),
    }
}

fn hexadecimal(path: &Path) -> Option<u16> {
    let text = read_text(path).ok()?;
    u16::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

/// The drivers tell the size in files of their own; where there is none, the BAR
/// through which the processor reaches the memory is as large as the memory, if
/// the board maps it whole.
fn memory(device: &Path) -> Result<u64, String> {
    let files = ["lmem_total_bytes", "tile0/physical_vram_size_bytes", "mem_info_vram_total"];
    if let Some(bytes) = files.iter().find_map(|file| read_number(&device.join(file)).ok()) {
        return Ok(bytes);
    }
    match bar_bytes(&read_text(&device.join("resource"))?, MEMORY_BAR) {
        Some(bytes) if bytes > WINDOW_BYTES_MAX => Ok(bytes),
        Some(bytes) => Err(format!(
            "the card's memory is seen through a window of {} MiB only (no Resizable BAR), and the \
             driver does not tell its size",
            bytes >> 20
        )),
        None => Err("neither the driver nor the PCI resources tell the size".to_owned()),
    }
}

/// Size of one BAR in a `resource` file, whose lines are first, last and flags.
fn bar_bytes(resource: &str, bar: usize) -> Option<u64> {
    let line = resource.lines().nth(bar)?;
    let mut numbers = line.split_whitespace().map(|number| {
        number.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok())
    });
    let (first, last) = (numbers.next()??, numbers.next()??);
    (last > first).then(|| last - first + 1)
}

fn memory_used(
    device: &Path,
    driver: Option<&str>,
    held: &Held,
    slot: &PciSlot,
) -> Result<u64, String> {
    match driver {
        // What others hold could be read by root only.
        Some("i915" | "xe") => held.on(slot),
        _ => read_number(&device.join("mem_info_vram_used")),
    }
}

/// The hwmon folder of a card.
struct Sensors {
    folder: Option<PathBuf>,
    is_xe: bool,
}

impl Sensors {
    fn of(device: &Path, driver: Option<&str>) -> Self {
        let folder = hwmons(&device.join("hwmon"))
            .into_iter()
            .find(|(name, _)| Some(name.as_str()) == driver)
            .map(|(_, folder)| folder);
        Self { folder, is_xe: driver == Some("xe") }
    }

    fn folder(&self) -> Result<&Path, String> {
        self.folder.as_deref().ok_or_else(|| "the driver offers no hwmon".to_owned())
    }

    fn temperature(&self) -> Result<f32, String> {
        // xe counts from 2 because its first channel is the card as a whole.
        let file = if self.is_xe { "temp2_input" } else { "temp1_input" };
        millidegrees(&self.folder()?.join(file))
    }

    fn power(&self) -> Result<Power, String> {
        let folder = self.folder()?;
        if let Ok(watts) = watts(&folder.join("power1_average")) {
            return Ok(Power::Watts(watts));
        }
        let card = read_number(&folder.join("energy1_input"));
        // The whole card where xe counts it, else the chip alone.
        card.or_else(|error| read_number(&folder.join("energy2_input")).map_err(|_| error))
            .map(Power::MeterMicrojoules)
    }

    fn power_limit(&self) -> Result<f32, String> {
        let folder = self.folder()?;
        let limit = watts(&folder.join("power1_max"))
            .or_else(|error| watts(&folder.join("power1_cap")).map_err(|_| error))?;
        if limit > 0.0 { Ok(limit) } else { Err("no limit is set (power1_max is 0)".to_owned()) }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    /// A sysfs with links as the kernel makes them.
    struct Sys(tempfile::TempDir);

    impl Sys {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::create_dir_all(folder.path().join("class/drm")).unwrap();
            Self(folder)
        }

        fn card(&self, number: u8, slot: &str, files: &[(&str, &str)]) {
            let device = self.0.path().join("devices/pci0000:00").join(slot);
            let node = device.join(format!("drm/card{number}"));
            fs::create_dir_all(&node).unwrap();
            symlink(&device, node.join("device")).unwrap();
            symlink(&node, self.0.path().join(format!("class/drm/card{number}"))).unwrap();
            for (path, text) in files {
                let path = device.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
        }

        fn list(&self) -> Vec<Device> {
            list(self.0.path(), &Held::default())
        }
    }

    fn is_missing(device: &Device, field: &str) -> bool {
        device.missing.iter().any(|missing| missing.field == field)
    }

    const RESOURCE_16_GIB: &str = "0x00000000f6000000 0x00000000f6ffffff 0x0000000000140204\n\
         0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
         0x0000383800000000 0x0000383bffffffff 0x000000000014220c\n";
    const RESOURCE_WINDOW: &str =
        "0x0 0x0 0x0\n0x0 0x0 0x0\n0x00000000e0000000 0x00000000efffffff 0x14220c\n";

    #[test]
    fn an_a770_under_i915_is_read() {
        let sys = Sys::new();
        sys.card(
            0,
            "0000:03:00.0",
            &[
                ("uevent", "DRIVER=i915\nPCI_ID=8086:56A0\nPCI_SLOT_NAME=0000:03:00.0\n"),
                ("vendor", "0x8086\n"),
                ("device", "0x56a0\n"),
                ("resource", RESOURCE_16_GIB),
                ("hwmon/hwmon4/name", "i915\n"),
                ("hwmon/hwmon4/temp1_input", "47000\n"),
                ("hwmon/hwmon4/energy1_input", "123456789012\n"),
                ("hwmon/hwmon4/power1_max", "190000000\n"),
            ],
        );
        let card = sys.list().remove(0);
        assert_eq!(card.id.to_string(), "0000:03:00.0");
        assert_eq!(card.name, "Intel Arc A770");
        assert_eq!(card.driver.as_deref(), Some("i915"));
        assert_eq!(card.memory_bytes, Some(16 << 30));
        assert_eq!(card.temperature_celsius, Some(47.0));
        assert_eq!(card.power, Some(Power::MeterMicrojoules(123_456_789_012)));
        assert_eq!((card.memory_used_bytes, card.power_limit_watts), (Some(0), Some(190.0)));
        assert_eq!(card.missing, []);
    }

    #[test]
    fn the_size_that_i915_tells_goes_before_the_window() {
        let sys = Sys::new();
        let uevent = ("uevent", "DRIVER=i915\nPCI_SLOT_NAME=0000:03:00.0\n");
        let size = ("lmem_total_bytes", "17095983104\n");
        let limit = ("hwmon/hwmon1/power1_max", "0\n");
        let name = ("hwmon/hwmon1/name", "i915\n");
        sys.card(0, "0000:03:00.0", &[uevent, ("resource", RESOURCE_WINDOW), size, limit, name]);
        let card = sys.list().remove(0);
        assert_eq!(card.memory_bytes, Some(17_095_983_104));
        let fields: Vec<&str> = card.missing.iter().map(|missing| missing.field).collect();
        assert_eq!(fields, ["temperature_celsius", "power_watts", "power_limit_watts"]);
        assert_eq!(card.missing[2].reason, "no limit is set (power1_max is 0)");
    }

    #[test]
    fn an_a770_under_xe_is_read_from_other_files() {
        let sys = Sys::new();
        sys.card(
            1,
            "0000:83:00.0",
            &[
                ("uevent", "DRIVER=xe\nPCI_SLOT_NAME=0000:83:00.0\n"),
                ("tile0/physical_vram_size_bytes", "17095983104\n"),
                ("hwmon/hwmon5/name", "xe\n"),
                ("hwmon/hwmon5/temp1_input", "1000\n"),
                ("hwmon/hwmon5/temp2_input", "51000\n"),
            ],
        );
        let card = sys.list().remove(0);
        assert_eq!(card.memory_bytes, Some(17_095_983_104));
        assert_eq!(card.temperature_celsius, Some(51.0));
        assert!(is_missing(&card, "power_watts") && is_missing(&card, "power_limit_watts"));
    }

    #[test]
    fn xe_counts_the_energy_of_the_card_or_else_of_its_chip() {
        let sys = Sys::new();
        let uevent = |slot| format!("DRIVER=xe\nPCI_SLOT_NAME={slot}\n");
        let name = ("hwmon/hwmon5/name", "xe\n");
        let chip = ("hwmon/hwmon5/energy2_input", "5\n");
        let (first, second) = (uevent("0000:03:00.0"), uevent("0000:83:00.0"));
        sys.card(0, "0000:03:00.0", &[("uevent", first.as_str()), name, chip]);
        let card = ("hwmon/hwmon5/energy1_input", "9\n");
        sys.card(1, "0000:83:00.0", &[("uevent", second.as_str()), name, chip, card]);
        let meters: Vec<Option<Power>> = sys.list().iter().map(|card| card.power).collect();
        assert_eq!(meters, [5, 9].map(|meter| Some(Power::MeterMicrojoules(meter))));
    }

    #[test]
    fn an_amd_card_tells_its_memory_and_power() {
        let sys = Sys::new();
        sys.card(
            0,
            "0000:c5:00.0",
            &[
                ("uevent", "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:c5:00.0\n"),
                ("vendor", "0x1002\n"),
                ("device", "0x1900\n"),
                ("mem_info_vram_total", "4294967296\n"),
                ("mem_info_vram_used", "98304\n"),
                ("hwmon/hwmon2/name", "amdgpu\n"),
                ("hwmon/hwmon2/temp1_input", "40000\n"),
                ("hwmon/hwmon2/power1_average", "11500000\n"),
                ("hwmon/hwmon2/power1_cap", "54000000\n"),
            ],
        );
        let card = sys.list().remove(0);
        assert_eq!(card.name, "graphics card 1002:1900");
        assert_eq!((card.memory_bytes, card.memory_used_bytes), (Some(1 << 32), Some(98_304)));
        assert_eq!(card.power, Some(Power::Watts(11.5)));
        assert_eq!(card.missing, []);
    }

    #[test]
    fn a_small_window_is_not_taken_for_the_memory() {
        let sys = Sys::new();
        let uevent = ("uevent", "DRIVER=i915\nPCI_SLOT_NAME=0000:03:00.0\n");
        sys.card(0, "0000:03:00.0", &[uevent, ("resource", RESOURCE_WINDOW)]);
        let card = sys.list().remove(0);
        assert_eq!(card.memory_bytes, None);
        assert!(card.missing[0].reason.contains("256 MiB only (no Resizable BAR)"), "{card:?}");
    }

    #[test]
    fn cards_are_sorted_by_slot_whatever_their_numbers() {
        let sys = Sys::new();
        sys.card(0, "0000:83:00.0", &[("uevent", "PCI_SLOT_NAME=0000:83:00.0\n")]);
        sys.card(1, "0000:03:00.0", &[("uevent", "PCI_SLOT_NAME=0000:03:00.0\n")]);
        fs::create_dir(sys.0.path().join("class/drm/card0-DP-1")).unwrap();
        fs::create_dir(sys.0.path().join("class/drm/renderD128")).unwrap();
        sys.card(2, "virtual", &[("uevent", "DRIVER=vkms\n")]);
        let ids: Vec<String> = sys.list().iter().map(|card| card.id.to_string()).collect();
        assert_eq!(ids, ["0000:03:00.0", "0000:83:00.0"]);
    }

    #[test]
    fn a_host_without_cards_has_none() {
        assert_eq!(list(Path::new("/nonexistent"), &Held::default()), []);
    }
}
