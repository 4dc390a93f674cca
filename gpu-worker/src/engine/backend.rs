//! What an engine computes with, and how its build is told to use one card.
//!
//! A build counts devices by itself: a SYCL build sees Intel's only, a Vulkan build
//! those of every vendor, in whatever order the driver has. Running on the wrong card
//! looks like success, so an index is never guessed: it is derived from a rule that
//! the driver documents, checked against what `--list-devices` shows, and once more
//! against the slot that the engine names in its log.

mod listing;
mod mapping;

use std::{fmt, str::FromStr};

pub use listing::{Listed, parse_listing, slots_in_log};
pub use mapping::{Placement, Unmapped, place, question};

/// What a build of an engine computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Backend {
    /// The processor.
    Cpu,
    /// Intel's cards through SYCL and Level Zero.
    Sycl,
    /// Any card through Vulkan.
    Vulkan,
}

/// The text names no backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`sycl`, `vulkan` or `cpu`")]
pub struct InvalidBackend;

/// Environment by which a person chooses a device for some build by hand.
const SELECTORS: [&str; 8] = [
    "ONEAPI_DEVICE_SELECTOR",
    "ZE_AFFINITY_MASK",
    "GGML_VK_VISIBLE_DEVICES",
    "DRI_PRIME",
    "MESA_VK_DEVICE_SELECT",
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
];

/// Arguments that do the same.
const SELECTING_ARGUMENTS: [&str; 4] = ["-dev", "--device", "-mg", "--main-gpu"];

impl Backend {
    const ALL: [(&'static str, Self); 3] =
        [("cpu", Self::Cpu), ("sycl", Self::Sycl), ("vulkan", Self::Vulkan)];
}

impl fmt::Display for Backend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word =
            Self::ALL.iter().find(|(_, backend)| backend == self).map_or("", |(word, _)| word);
        formatter.write_str(word)
    }
}

impl FromStr for Backend {
    type Err = InvalidBackend;

    fn from_str(text: &str) -> Result<Self, InvalidBackend> {
        let found = Self::ALL.iter().find(|(word, _)| *word == text);
        found.map(|(_, backend)| *backend).ok_or(InvalidBackend)
    }
}

/// Whether a person has chosen the device by hand, which wins over everything that
/// could be derived. A placeholder in place of the value is no choice.
pub fn is_chosen_by_hand(environment: &[(String, String)], words: &[String]) -> bool {
    let by_environment =
        environment.iter().any(|(name, _)| SELECTORS.iter().any(|selector| selector == name));
    let by_argument = words.iter().zip(words.iter().skip(1)).any(|(word, value)| {
        SELECTING_ARGUMENTS.iter().any(|argument| argument == word) && !value.starts_with('{')
    });
    by_environment || by_argument
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_words() {
        for (word, backend) in Backend::ALL {
            assert_eq!(word.parse(), Ok(backend));
            assert_eq!(backend.to_string(), word);
        }
        assert_eq!("Vulkan".parse::<Backend>(), Err(InvalidBackend));
    }

    #[test]
    fn a_choice_by_hand_is_seen_in_environment_and_arguments() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<String>>();
        let environment = [("GGML_VK_VISIBLE_DEVICES".to_owned(), "0".to_owned())];
        assert!(is_chosen_by_hand(&environment, &words("/e")));
        assert!(is_chosen_by_hand(&[], &words("/e --port {port} -dev Vulkan1")));
        assert!(!is_chosen_by_hand(&[], &words("/e --port {port} -dev {device}")));
        let harmless = [("GGML_SYCL_ENABLE_FLASH_ATTN".to_owned(), "1".to_owned())];
        assert!(!is_chosen_by_hand(&harmless, &words("/e")));
    }
}
