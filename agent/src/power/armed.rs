//! Whether a network card is set to wake this host.

use std::fs;
use std::path::Path;

/// Whether any card wakes it. A driver that lets its card wake the host (`ethtool -s IF wol g`) says
/// so in `device/power/wakeup`, which everybody may read; the setting itself only root may.
pub(super) fn by_any_card(sys: &Path) -> Option<bool> {
    let cards = fs::read_dir(sys.join("class/net")).ok()?;
    let said = cards.flatten().filter_map(|card| {
        let text = fs::read_to_string(card.path().join("device/power/wakeup")).ok()?;
        match text.trim() {
            "enabled" => Some(true),
            "disabled" => Some(false),
            _ => None,
        }
    });
    said.reduce(|one, other| one || other)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sys(cards: &[(&str, &str)]) -> tempfile::TempDir {
        let sys = tempfile::tempdir().unwrap();
        fs::create_dir_all(sys.path().join("class/net/lo")).unwrap();
        for (card, wakeup) in cards {
            let folder = sys.path().join("class/net").join(card).join("device/power");
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("wakeup"), format!("{wakeup}\n")).unwrap();
        }
        sys
    }

    #[test]
    fn one_card_that_wakes_is_enough() {
        let one = |cards: &[(&str, &str)]| by_any_card(sys(cards).path());
        assert_eq!(one(&[("enp3s0", "enabled"), ("enp4s0", "disabled")]), Some(true));
        assert_eq!(one(&[("enp3s0", "disabled")]), Some(false));
    }

    #[test]
    fn without_a_card_that_says_so_nobody_knows() {
        assert_eq!(by_any_card(sys(&[]).path()), None);
        assert_eq!(by_any_card(sys(&[("enp3s0", "")]).path()), None);
        assert_eq!(by_any_card(Path::new("/nonexistent")), None);
    }
}
