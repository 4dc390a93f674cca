//! Where a stream is cut into chunks.
//!
//! The cuts depend on the content (a gear hash over the last 64 bytes), so that a row
//! more or less moves only the cuts around it. Readers of the format do not care how
//! they were found. Two measures of "FastCDC" (USENIX ATC 2016) make sizes even: no
//! cut before the least size, and a cut is made harder before the usual size and
//! easier after it. The table is derived from the repository's key: from the sizes of
//! chunks nobody without it can tell whether a known file is among them.

use super::vault::Vault;

/// Average size for dumps: scattered row updates then grow the repository by a sixth
/// of what restic's own 1 MiB would, for 4.5 % more on the first run.
pub(super) const CHUNK_BYTES: usize = 32 * 1024;
pub(super) const CHUNK_BYTES_MIN: usize = CHUNK_BYTES / 4;
pub(super) const CHUNK_BYTES_MAX: usize = CHUNK_BYTES * 8;

/// So many of the topmost bits must be 0 before the usual size, and behind it: a cut
/// every 64 KiB, and every 8 KiB. Together they make an average of 34 KiB.
const BITS_BEFORE: u32 = 16;
const BITS_BEHIND: u32 = 13;

const MASK_BEFORE: u64 = !(u64::MAX >> BITS_BEFORE);
const MASK_BEHIND: u64 = !(u64::MAX >> BITS_BEHIND);

/// Finds the cuts.
#[derive(Clone)]
pub(super) struct Cutter(Box<[u64; 256]>);

impl Cutter {
    /// The cuts of this repository.
    pub(super) fn new(vault: &Vault) -> Self {
        let mut table = Box::new([0; 256]);
        for (byte, entry) in table.iter_mut().enumerate() {
            let derived = vault.derived(&format!("chunk {byte}"));
            let mut number = [0; 8];
            number.copy_from_slice(&derived[..8]);
            *entry = u64::from_le_bytes(number);
        }
        Self(table)
    }

    /// The length of the first chunk of `data`, which holds [`CHUNK_BYTES_MAX`] bytes
    /// or all that is left.
    pub(super) fn cut(&self, data: &[u8]) -> usize {
        let end = data.len().min(CHUNK_BYTES_MAX);
        let usual = end.min(CHUNK_BYTES);
        // 64 bytes of run-up: the hash knows no more than that.
        let start = CHUNK_BYTES_MIN.saturating_sub(64).min(end);
        let mut hash = 0_u64;
        let mut at = start;
        for &byte in &data[start..CHUNK_BYTES_MIN.min(end)] {
            hash = self.roll(hash, byte);
            at += 1;
        }
        for (limit, mask) in [(usual, MASK_BEFORE), (end, MASK_BEHIND)] {
            let Some(stretch) = data.get(at..limit) else { continue };
            for &byte in stretch {
                hash = self.roll(hash, byte);
                at += 1;
                if hash & mask == 0 {
                    return at;
                }
            }
        }
        end
    }

    fn roll(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.0[usize::from(byte)])
    }
}

#[cfg(test)]
mod tests {
    use super::{super::vault::tests::vault, *};

    fn noise(bytes: usize) -> Vec<u8> {
        let vault = vault();
        (0..bytes / 32).flat_map(|i| vault.derived(&i.to_string())).collect()
    }

    fn cuts(cutter: &Cutter, mut data: &[u8]) -> Vec<usize> {
        let mut at = 0;
        let mut cuts = Vec::new();
        while !data.is_empty() {
            let length = cutter.cut(data);
            at += length;
            cuts.push(at);
            data = &data[length..];
        }
        cuts
    }

    #[test]
    fn chunks_keep_their_bounds_and_their_average() {
        let (cutter, data) = (Cutter::new(&vault()), noise(8 << 20));
        let cuts = cuts(&cutter, &data);
        let sizes: Vec<usize> =
            std::iter::once(&0).chain(&cuts).zip(&cuts).map(|(a, b)| b - a).collect();
        let (last, rest) = sizes.split_last().expect("chunks");
        assert!(
            *last > 0 && rest.iter().all(|size| (CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(size))
        );
        let average = data.len() / sizes.len();
        assert!((CHUNK_BYTES * 3 / 4..CHUNK_BYTES * 5 / 4).contains(&average), "{average}");
    }

    #[test]
    fn pitfall_14_a_changed_byte_moves_only_the_cuts_around_it() {
        let (cutter, data) = (Cutter::new(&vault()), noise(4 << 20));
        let before = cuts(&cutter, &data);
        let mut longer = data[..1 << 20].to_vec();
        longer.extend_from_slice(b"one more row\n");
        longer.extend_from_slice(&data[1 << 20..]);
        let after = cuts(&cutter, &longer);
        let kept =
            before.iter().filter(|cut| after.contains(cut) || after.contains(&(*cut + 13))).count();
        assert!(before.len() - kept <= 4, "{} of {} cuts moved", before.len() - kept, before.len());
    }

    #[test]
    fn a_stream_without_any_cut_is_cut_at_the_most() {
        let cutter = Cutter(Box::new([1 << 60; 256]));
        assert_eq!(cutter.cut(&vec![0; CHUNK_BYTES_MAX + 5]), CHUNK_BYTES_MAX);
        assert_eq!(cutter.cut(&[1, 2, 3]), 3);
    }

    #[test]
    fn another_key_cuts_elsewhere() {
        let data = noise(1 << 20);
        assert_ne!(cuts(&Cutter::new(&vault()), &data), cuts(&Cutter::new(&vault()), &data));
    }
}
