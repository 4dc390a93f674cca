//! From PCI slots to the build's own devices.

use super::{Backend, Listed};
use crate::device::{Device, PciSlot};

/// Makes Level Zero count its devices in the order of their slots.
const LEVEL_ZERO_ORDER: (&str, &str) = ("ZE_ENABLE_PCI_ID_DEVICE_ORDER", "1");

/// Lets SYCL tell how much memory is free, without which layers are split badly.
const LEVEL_ZERO_SYSMAN: (&str, &str) = ("ZES_ENABLE_SYSMAN", "1");

const SYCL_SELECTOR: &str = "ONEAPI_DEVICE_SELECTOR";

/// Mesa's way to name a card by its slot; with `!` Vulkan sees no other.
const MESA_SELECTOR: &str = "DRI_PRIME";

/// A driver keeps some of a card's memory for itself, so that a listing shows less
/// than there is, down to this many percent; rounding may show a little more.
const LISTED_PERCENT: std::ops::RangeInclusive<u64> = 60..=105;

/// How a build is told to use the cards that were asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Placement {
    /// Environment that shows it those cards.
    pub environment: Vec<(String, String)>,
    /// Its names for them, as it sees them under that environment.
    pub names: Vec<String>,
    /// Whether the environment hides every other card; where it does not, the names
    /// have to be given as an argument.
    pub hides_others: bool,
    /// What the cards have by the build's account.
    pub memory_bytes: Option<u64>,
}

/// Why the build's device cannot be told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmapped {
    /// The kernel knows no such card.
    #[error(
        "there is no card in slot {slot}; InferenceService.ListDevices shows those that there are"
    )]
    NoCard {
        /// The slot.
        slot: PciSlot,
    },
    /// The build sees nothing.
    #[error(
        "the {backend} build sees no device; check its driver, and that the worker's user is in the groups `render` and `video`"
    )]
    NothingSeen {
        /// The backend.
        backend: Backend,
    },
    /// The build sees other cards than the kernel.
    #[error("the {backend} build sees no {name} for slot {slot}, only {seen}")]
    Unlike {
        /// The backend.
        backend: Backend,
        /// The slot.
        slot: PciSlot,
        /// What is in it.
        name: String,
        /// What the build sees.
        seen: String,
    },
    /// More than one device could be it.
    #[error(
        "which of {candidates} is in slot {slot} cannot be told, and it is not guessed: set the device by hand in `environment` (such as GGML_VK_VISIBLE_DEVICES), or use a driver that can show one card alone"
    )]
    Ambiguous {
        /// The slot.
        slot: PciSlot,
        /// The build's names.
        candidates: String,
    },
}

/// The environment under which the build is asked for its devices.
pub fn question(backend: Backend, wanted: &[PciSlot]) -> Vec<(String, String)> {
    match (backend, wanted) {
        (Backend::Cpu, _) => Vec::new(),
        (Backend::Sycl, _) => level_zero("level_zero:*"),
        (Backend::Vulkan, [slot]) => vec![mesa(slot)],
        // Mesa shows one card or all of them.
        (Backend::Vulkan, _) => Vec::new(),
    }
}

/// Finds the build's devices for the cards in `wanted`, among all of the host's `cards`,
/// by what it `listed` when it was asked the [`question`].
///
/// # Errors
/// [`Unmapped`]; nothing is guessed.
pub fn place(
    backend: Backend,
    wanted: &[PciSlot],
    cards: &[Device],
    listed: &[Listed],
) -> Result<Placement, Unmapped> {
    if backend == Backend::Cpu {
        return Ok(Placement { hides_others: true, ..Placement::default() });
    }
    let wanted = wanted.iter().map(|slot| card_in(cards, slot)).collect::<Result<Vec<_>, _>>()?;
    if listed.is_empty() {
        return Err(Unmapped::NothingSeen { backend });
    }
    let placement = match backend {
        Backend::Cpu => None,
        Backend::Sycl => by_order(&wanted, cards, listed),
        Backend::Vulkan => alone(&wanted, listed),
    };
    match placement {
        Some(placement) => Ok(placement),
        None => by_kind(backend, &wanted, cards, listed),
    }
}

fn card_in<'a>(cards: &'a [Device], slot: &PciSlot) -> Result<(&'a Device, PciSlot), Unmapped> {
    let found = cards.iter().find(|card| card.id.slot() == Some(slot));
    let card = found.ok_or_else(|| Unmapped::NoCard { slot: slot.clone() })?;
    Ok((card, slot.clone()))
}

/// Level Zero lists Intel's cards by slot: the place in that order is the index. Only
/// if it shows as many as the kernel, each of them alike.
fn by_order(
    wanted: &[(&Device, PciSlot)],
    cards: &[Device],
    listed: &[Listed],
) -> Option<Placement> {
    let intel: Vec<&Device> =
        cards.iter().filter(|card| matches!(card.driver.as_deref(), Some("i915" | "xe"))).collect();
    let is_same = intel.len() == listed.len()
        && intel.iter().zip(listed).all(|(card, listed)| looks_like(card, listed));
    if !is_same {
        return None;
    }
    let mut indices: Vec<usize> = wanted
        .iter()
        .map(|(card, _)| intel.iter().position(|other| other.id == card.id))
        .collect::<Option<_>>()?;
    indices.sort_unstable();
    let selector: Vec<String> = indices.iter().map(|index| format!("level_zero:{index}")).collect();
    Some(Placement {
        environment: level_zero(&selector.join(";")),
        // Those that are hidden are not counted.
        names: (0..indices.len()).map(|place| format!("SYCL{place}")).collect(),
        hides_others: true,
        memory_bytes: sum(indices.iter().filter_map(|index| listed.get(*index))),
    })
}

/// Mesa was asked to show one card alone, and did.
fn alone(wanted: &[(&Device, PciSlot)], listed: &[Listed]) -> Option<Placement> {
    let ([(card, slot)], [only]) = (wanted, listed) else { return None };
    looks_like(card, only).then(|| Placement {
        environment: vec![mesa(slot)],
        names: vec![only.name.clone()],
        hides_others: true,
        memory_bytes: only.memory_bytes,
    })
}

/// A card that is the only one of its kind cannot be confused with another, nor can
/// cards of which all are wanted.
fn by_kind(
    backend: Backend,
    wanted: &[(&Device, PciSlot)],
    cards: &[Device],
    listed: &[Listed],
) -> Result<Placement, Unmapped> {
    let mut chosen: Vec<&Listed> = Vec::new();
    for (card, slot) in wanted {
        let candidates: Vec<&Listed> =
            listed.iter().filter(|listed| looks_like(card, listed)).collect();
        if candidates.is_empty() {
            let (slot, name) = (slot.clone(), card.name.clone());
            let seen = listed.iter().map(|listed| listed.description.as_str());
            let seen = seen.collect::<Vec<_>>().join(", ");
            return Err(Unmapped::Unlike { backend, slot, name, seen });
        }
        let alike: Vec<&Device> = cards
            .iter()
            .filter(|other| candidates.iter().any(|candidate| looks_like(other, candidate)))
            .collect();
        let all_wanted =
            alike.iter().all(|other| wanted.iter().any(|(wanted, _)| wanted.id == other.id));
        if !all_wanted || candidates.len() != alike.len() {
            let names: Vec<&str> = candidates.iter().map(|listed| listed.name.as_str()).collect();
            return Err(Unmapped::Ambiguous { slot: slot.clone(), candidates: names.join(", ") });
        }
        for candidate in candidates {
            if !chosen.contains(&candidate) {
                chosen.push(candidate);
            }
        }
    }
    let environment = match backend {
        Backend::Sycl => level_zero("level_zero:*"),
        Backend::Vulkan | Backend::Cpu => Vec::new(),
    };
    Ok(Placement {
        environment,
        names: chosen.iter().map(|listed| listed.name.clone()).collect(),
        hides_others: chosen.len() == listed.len(),
        memory_bytes: sum(chosen.into_iter()),
    })
}

/// Whether a listed device may be this card, by its model and its memory.
fn looks_like(card: &Device, listed: &Listed) -> bool {
    let says = |word: &str| listed.description.contains(word);
    let has_name = match card.name.strip_prefix("Intel Arc ") {
        _ if card.id.slot().is_none() => false,
        Some(model) => says(model),
        None if card.name.starts_with("Intel") => says("Intel"),
        None if card.name.starts_with("graphics card 1002") => says("AMD"),
        None if card.name.starts_with("graphics card 10de") => says("NVIDIA"),
        // Such as the small chip for the console of a server board.
        None => !["Intel", "AMD", "NVIDIA"].iter().any(|vendor| says(vendor)),
    };
    let has_memory = match (card.memory_bytes, listed.memory_bytes) {
        (Some(card), Some(listed)) if card > 0 => {
            LISTED_PERCENT.contains(&(listed.saturating_mul(100) / card))
        }
        _ => true,
    };
    has_name && has_memory
}

fn sum<'a>(listed: impl Iterator<Item = &'a Listed>) -> Option<u64> {
    listed.map(|listed| listed.memory_bytes).sum()
}

fn level_zero(selector: &str) -> Vec<(String, String)> {
    let pairs = [LEVEL_ZERO_ORDER, LEVEL_ZERO_SYSMAN, (SYCL_SELECTOR, selector)];
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn mesa(slot: &PciSlot) -> (String, String) {
    let slot = slot.as_str().replace([':', '.'], "_");
    (MESA_SELECTOR.to_owned(), format!("pci-{slot}!"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{device::DeviceId, engine::backend::parse_listing};

    const LEFT: &str = "0000:03:00.0";
    const RIGHT: &str = "0000:83:00.0";
    const BUILT_IN: &str = "0000:00:02.0";

    const SYCL: &str = "Available devices:\n  SYCL0: Intel(R) Arc(TM) A770 Graphics (15473 MiB, \
        15473 MiB free)\n  SYCL1: Intel(R) Arc(TM) A770 Graphics (15473 MiB, 15473 MiB free)\n";
    const VULKAN: &str = "Available devices:\n  Vulkan0: Intel(R) Arc(tm) A770 Graphics (DG2) \
        (16288 MiB, 14655 MiB free)\n  Vulkan1: Intel(R) Arc(tm) A770 Graphics (DG2) (16288 MiB, \
        14655 MiB free)\n";

    fn slots(texts: &[&str]) -> Vec<PciSlot> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn card(slot: &str, name: &str, driver: &str, mebibytes: u64) -> Device {
        Device {
            id: slot.parse().unwrap(),
            name: name.to_owned(),
            driver: Some(driver.to_owned()),
            memory_bytes: (mebibytes > 0).then_some(mebibytes << 20),
            memory_used_bytes: None,
            temperature_celsius: None,
            power: None,
            power_limit_watts: None,
            missing: Vec::new(),
        }
    }

    fn two_a770() -> Vec<Device> {
        [LEFT, RIGHT].map(|slot| card(slot, "Intel Arc A770", "i915", 16_304)).into()
    }

    fn only(listing: &str) -> String {
        listing.lines().take(2).map(|line| format!("{line}\n")).collect()
    }

    fn value<'a>(placement: &'a Placement, name: &str) -> Option<&'a str> {
        let found = placement.environment.iter().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn sycl_counts_by_slot_and_each_engine_sees_one_card() {
        let listed = parse_listing(SYCL);
        let asked = question(Backend::Sycl, &slots(&[RIGHT]));
        assert!(asked.contains(&("ZE_ENABLE_PCI_ID_DEVICE_ORDER".into(), "1".into())));
        for (slot, selector) in [(LEFT, "level_zero:0"), (RIGHT, "level_zero:1")] {
            let placement = place(Backend::Sycl, &slots(&[slot]), &two_a770(), &listed).unwrap();
            assert_eq!(value(&placement, "ONEAPI_DEVICE_SELECTOR"), Some(selector));
            assert_eq!(value(&placement, "ZE_ENABLE_PCI_ID_DEVICE_ORDER"), Some("1"));
            assert_eq!(
                (placement.names.as_slice(), placement.hides_others),
                (&["SYCL0".to_owned()][..], true)
            );
            assert_eq!(placement.memory_bytes, Some(15_473 << 20));
        }
    }

    #[test]
    fn a_built_in_gpu_of_intel_is_counted_by_sycl_too() {
        let mut cards = two_a770();
        cards.insert(0, card(BUILT_IN, "Intel graphics 8086:3e92", "i915", 0));
        let listing = SYCL.replace("SYCL1", "SYCL2").replace("SYCL0", "SYCL1").replace(
            "devices:\n",
            "devices:\n  SYCL0: Intel(R) UHD Graphics 630 (25000 MiB, 25000 MiB free)\n",
        );
        let placement =
            place(Backend::Sycl, &slots(&[LEFT]), &cards, &parse_listing(&listing)).unwrap();
        assert_eq!(value(&placement, "ONEAPI_DEVICE_SELECTOR"), Some("level_zero:1"));
    }

    #[test]
    fn sycl_with_fewer_cards_than_the_kernel_is_not_guessed_at() {
        let listed = parse_listing(&only(SYCL));
        let error = place(Backend::Sycl, &slots(&[RIGHT]), &two_a770(), &listed).unwrap_err();
        assert!(matches!(error, Unmapped::Ambiguous { .. }), "{error}");
        assert!(error.to_string().contains("which of SYCL0 is in slot 0000:83:00.0"), "{error}");
    }

    #[test]
    fn vulkan_is_asked_for_one_card_by_its_slot() {
        let wanted = slots(&[RIGHT]);
        let selector = ("DRI_PRIME".to_owned(), "pci-0000_83_00_0!".to_owned());
        assert_eq!(question(Backend::Vulkan, &wanted), std::slice::from_ref(&selector));
        let listed = parse_listing(&only(VULKAN));
        let placement = place(Backend::Vulkan, &wanted, &two_a770(), &listed).unwrap();
        assert_eq!(
            (placement.environment.as_slice(), placement.names.as_slice()),
            (&[selector][..], &["Vulkan0".to_owned()][..])
        );
    }

    #[test]
    fn two_like_cards_under_a_vulkan_that_hides_none_are_not_guessed_at() {
        let listed = parse_listing(VULKAN);
        let error = place(Backend::Vulkan, &slots(&[LEFT]), &two_a770(), &listed).unwrap_err();
        let words = error.to_string();
        assert!(words.starts_with("which of Vulkan0, Vulkan1 is in slot 0000:03:00.0"), "{words}");
    }

    #[test]
    fn unlike_cards_are_told_apart_by_model_or_memory() {
        let cards = [
            card(LEFT, "Intel Arc A770", "i915", 16_304),
            card(RIGHT, "Intel Arc A380", "i915", 6_144),
        ];
        let listing = VULKAN.replacen("A770 Graphics (DG2) (16288", "A380 Graphics (DG2) (6064", 1);
        let listed = parse_listing(&listing);
        let placement = place(Backend::Vulkan, &slots(&[LEFT]), &cards, &listed).unwrap();
        assert_eq!(
            (placement.names.as_slice(), placement.hides_others),
            (&["Vulkan1".to_owned()][..], false)
        );
        let small = [
            card(LEFT, "Intel Arc A770", "i915", 16_304),
            card(RIGHT, "Intel Arc A770", "i915", 8_192),
        ];
        let listing = VULKAN.replacen("16288", "8100", 1);
        let placement =
            place(Backend::Vulkan, &slots(&[RIGHT]), &small, &parse_listing(&listing)).unwrap();
        assert_eq!(placement.names, ["Vulkan0"]);
    }

    #[test]
    fn all_cards_of_a_kind_need_not_be_told_apart() {
        let wanted = slots(&[RIGHT, LEFT]);
        let placement =
            place(Backend::Vulkan, &wanted, &two_a770(), &parse_listing(VULKAN)).unwrap();
        assert_eq!(placement.names, ["Vulkan0", "Vulkan1"]);
        assert_eq!(placement.memory_bytes, Some(2 * (16_288 << 20)));
        let placement = place(Backend::Sycl, &wanted, &two_a770(), &parse_listing(SYCL)).unwrap();
        let selector = value(&placement, "ONEAPI_DEVICE_SELECTOR");
        assert_eq!(selector, Some("level_zero:0;level_zero:1"));
        assert_eq!(placement.names, ["SYCL0", "SYCL1"]);
    }

    #[test]
    fn what_else_the_kernel_lists_is_not_mistaken_for_a_card() {
        let mut cards = two_a770();
        cards.insert(0, card("0000:0a:00.0", "graphics card 1a03:2000", "ast", 0));
        let mut processor = card(LEFT, "CPU", "", 16_304);
        processor.id = DeviceId::Cpu;
        cards.insert(0, processor);
        let wanted = slots(&[LEFT, RIGHT]);
        let placement = place(Backend::Vulkan, &wanted, &cards, &parse_listing(VULKAN)).unwrap();
        assert_eq!(placement.names, ["Vulkan0", "Vulkan1"]);
    }

    #[test]
    fn what_is_not_there_is_said() {
        let listed = parse_listing(VULKAN);
        let table = [
            (
                place(Backend::Vulkan, &slots(&["0000:44:00.0"]), &two_a770(), &listed),
                "there is no card in slot 0000:44:00.0",
            ),
            (
                place(Backend::Sycl, &slots(&[LEFT]), &two_a770(), &[]),
                "the sycl build sees no device; check its driver",
            ),
            (
                place(
                    Backend::Vulkan,
                    &slots(&[LEFT]),
                    &[card(LEFT, "graphics card 1002:1900", "amdgpu", 4096)],
                    &listed,
                ),
                "the vulkan build sees no graphics card 1002:1900 for slot 0000:03:00.0",
            ),
        ];
        for (placed, expected) in table {
            let error = placed.unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
