//! What an engine says about its devices.

use crate::device::PciSlot;

/// More devices than any build lists.
const LISTED_MAX: usize = 64;

/// One line of `--list-devices`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The build's own name, such as `Vulkan0`.
    pub name: String,
    /// What it is, in the driver's words.
    pub description: String,
    /// Memory in bytes, where the line tells it.
    pub memory_bytes: Option<u64>,
    /// How much of that is free.
    pub free_bytes: Option<u64>,
}

/// Reads the answer to `--list-devices`: lines of `  NAME: DESCRIPTION (N MiB, M MiB
/// free)`. Whatever else a build or its driver prints around them is passed over.
pub fn parse_listing(text: &str) -> Vec<Listed> {
    let lines = text.lines().skip_while(|line| !line.starts_with("Available devices"));
    lines.skip(1).filter_map(listed).take(LISTED_MAX).collect()
}

fn listed(line: &str) -> Option<Listed> {
    let (name, rest) = line.strip_prefix("  ")?.split_once(": ")?;
    // A letter first and a number last: not the warning of a driver.
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.ends_with(|c: char| c.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name {
        return None;
    }
    // Descriptions hold parentheses too; the sizes are in the last pair.
    let sizes = rest.rsplit_once(" (").and_then(|(before, sizes)| {
        let (total, free) = sizes.strip_suffix(')')?.split_once(", ")?;
        Some((before, mebibytes(total)?, mebibytes(free.strip_suffix(" free")?)?))
    });
    let (description, memory_bytes, free_bytes) = match sizes {
        Some((description, total, free)) => (description, Some(total), Some(free)),
        None => (rest, None, None),
    };
    Some(Listed {
        name: name.to_owned(),
        description: description.trim().to_owned(),
        memory_bytes,
        free_bytes,
    })
}

fn mebibytes(text: &str) -> Option<u64> {
    text.strip_suffix(" MiB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 20)
}

/// The slots that an engine says it uses, from lines of its log such as
/// `using device Vulkan0 (Intel(R) Arc(tm) A770) (0000:03:00.0) - 14655 MiB free`.
/// Empty when the build does not tell.
pub fn slots_in_log(lines: &[String]) -> Vec<PciSlot> {
    let used = lines.iter().filter_map(|line| line.split_once("using device "));
    let slots = used.filter_map(|(_, rest)| {
        rest.split(['(', ')']).find_map(|word| word.trim().parse::<PciSlot>().ok())
    });
    let mut slots: Vec<PciSlot> = slots.collect();
    slots.sort();
    slots.dedup();
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_builds_list_their_cards_in_one_form() {
        let text = "ggml_vulkan: Found 2 Vulkan devices:\nAvailable devices:\n  \
            Vulkan0: Intel(R) Arc(tm) A770 Graphics (DG2) (16288 MiB, 14655 MiB free)\n  \
            Vulkan1: AMD Radeon 780M (RADV PHOENIX) (4096 MiB, 4000 MiB free)\n";
        let listed = parse_listing(text);
        assert_eq!(listed[0].name, "Vulkan0");
        assert_eq!(listed[0].description, "Intel(R) Arc(tm) A770 Graphics (DG2)");
        assert_eq!(listed[0].memory_bytes, Some(16_288 << 20));
        assert_eq!(listed[0].free_bytes, Some(14_655 << 20));
        assert_eq!(listed[1].description, "AMD Radeon 780M (RADV PHOENIX)");
        let sycl = "Available devices:\n  SYCL0: Intel(R) Arc(TM) A770 Graphics (15473 MiB, 15473 \
            MiB free)\n";
        assert_eq!(parse_listing(sycl)[0].name, "SYCL0");
    }

    #[test]
    fn what_is_no_device_is_passed_over() {
        for text in [
            "",
            "Available devices:\n  (none)\n",
            "  Vulkan0: before the heading (1 MiB, 1 MiB free)\n",
            "Available devices:\n  WARNING: radv is not a conformant Vulkan implementation\n",
            "Available devices:\nVulkan0: not indented (1 MiB, 1 MiB free)\n",
        ] {
            assert_eq!(parse_listing(text), [], "{text}");
        }
    }

    #[test]
    fn a_device_without_sizes_is_still_one() {
        let listed = parse_listing("Available devices:\n  CUDA0: Some card (rev 2)\n");
        assert_eq!(listed[0].description, "Some card (rev 2)");
        assert_eq!((listed[0].memory_bytes, listed[0].free_bytes), (None, None));
    }

    #[test]
    fn the_log_tells_the_slot_where_the_build_knows_it() {
        let line = |text: &str| text.to_owned();
        let lines = [
            line("loading model"),
            line("llama: using device Vulkan1 (Intel(R) Arc(tm) A770) (0000:83:00.0) - 9 MiB free"),
            line("llama: using device SYCL0 (Intel(R) Arc(TM) A770) (unknown id) - 9 MiB free"),
            line("llama: using device Vulkan0 (Intel(R) Arc(tm) A770) (0000:03:00.0) - 9 MiB free"),
        ];
        let slots: Vec<String> = slots_in_log(&lines).iter().map(ToString::to_string).collect();
        assert_eq!(slots, ["0000:03:00.0", "0000:83:00.0"]);
        assert_eq!(slots_in_log(&lines[2..3]), []);
    }
}
