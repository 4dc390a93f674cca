//! How much memory a model needs, before anything is loaded.

use std::fmt;

use homelab_common::config::parse::show_bytes;

use super::gguf::Header;

/// Tokens that llama.cpp computes at once unless told otherwise (`-ub`).
const BATCH_TOKENS: u64 = 512;

/// Widths of the model's state that are held at once for each of those tokens.
/// Measured with llama.cpp of 2026 on several models, and rounded up.
const STATES_HELD: u64 = 12;

/// What an engine needs whatever it computes.
const ENGINE_BYTES: u64 = 128 << 20;

/// Contexts are made of pieces of so many tokens.
const CONTEXT_PIECE: u64 = 256;

/// How keys or values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheType {
    /// Bytes of a block of 32 numbers.
    block_bytes: u64,
}

/// Numbers in a block of every type.
const BLOCK: u64 = 32;

impl CacheType {
    /// Two bytes a number: the default.
    pub const F16: Self = Self { block_bytes: 64 };

    /// The type by llama.cpp's name; an unknown one counts as the largest in use.
    pub fn named(name: &str) -> Self {
        let block_bytes = match name {
            "f32" => 128,
            "q8_0" => 34,
            "q5_1" => 24,
            "q5_0" => 22,
            "q4_1" => 20,
            "q4_0" | "iq4_nl" => 18,
            _ => 64,
        };
        Self { block_bytes }
    }
}

/// What a model is to be loaded with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Tokens of one conversation.
    pub context_tokens: u32,
    /// Conversations at once.
    pub slots: u32,
    /// How keys are kept.
    pub keys: CacheType,
    /// How values are kept.
    pub values: CacheType,
    /// Cards that share it; 1 for the processor.
    pub devices: u32,
}

/// What a model needs, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Its weights.
    pub weights: u64,
    /// Keys and values of all its slots, when they are full.
    pub cache: u64,
    /// Room to compute in, on every device.
    pub compute: u64,
    load: Load,
}

impl Need {
    /// What a model of `weights` bytes needs. At most that much: layers that look back
    /// only a little (sliding windows) keep less than is counted here.
    pub fn of(header: &Header, weights: u64, load: Load) -> Self {
        let tokens = u64::from(load.context_tokens)
            .next_multiple_of(CONTEXT_PIECE)
            .saturating_mul(u64::from(load.slots));
        let heads: u64 = header.kept_heads.iter().copied().fold(0, u64::saturating_add);
        let bytes = |length: u64, kept: CacheType| {
            let numbers = heads.saturating_mul(length).saturating_mul(tokens);
            numbers.div_ceil(BLOCK).saturating_mul(kept.block_bytes)
        };
        let cache = bytes(header.key_length, load.keys)
            .saturating_add(bytes(header.value_length, load.values));
        let each_token = header
            .vocabulary
            .saturating_add(header.embedding.saturating_mul(STATES_HELD))
            .saturating_mul(4);
        let compute = each_token
            .saturating_mul(BATCH_TOKENS)
            .saturating_add(ENGINE_BYTES)
            .saturating_mul(u64::from(load.devices));
        Self { weights, cache, compute, load }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.weights.saturating_add(self.cache).saturating_add(self.compute)
    }
}

impl fmt::Display for Need {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Load { context_tokens, slots, .. } = self.load;
        write!(
            formatter,
            "{} (weights {}, {slots} x {context_tokens} tokens of context {}, to compute {})",
            rounded(self.total()),
            rounded(self.weights),
            rounded(self.cache),
            rounded(self.compute),
        )
    }
}

/// Whole MiB: nobody compares bytes by eye.
pub fn rounded(bytes: u64) -> String {
    show_bytes(bytes.div_ceil(1 << 20).saturating_mul(1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qwen() -> Header {
        Header {
            architecture: "qwen3".to_owned(),
            embedding: 4096,
            vocabulary: 151_936,
            kept_heads: vec![8; 36],
            key_length: 128,
            value_length: 128,
            parts: 1,
            ..Header::default()
        }
    }

    fn load(context_tokens: u32, slots: u32) -> Load {
        let (keys, values) = (CacheType::F16, CacheType::F16);
        Load { context_tokens, slots, keys, values, devices: 1 }
    }

    #[test]
    fn the_cache_is_counted_as_the_engine_allocates_it() {
        // llama.cpp says 1152 MiB for Qwen3 8B with 8192 tokens in f16.
        let need = Need::of(&qwen(), 0, load(8192, 1));
        assert_eq!(need.cache, 1152 << 20);
        assert_eq!(Need::of(&qwen(), 0, load(8192, 4)).cache, 4 * need.cache);
        let smaller = Load {
            keys: CacheType::named("q8_0"),
            values: CacheType::named("q8_0"),
            ..load(8192, 1)
        };
        assert_eq!(Need::of(&qwen(), 0, smaller).cache, 612 << 20);
    }

    #[test]
    fn a_model_without_attention_needs_no_cache() {
        let header = Header { kept_heads: Vec::new(), ..qwen() };
        assert_eq!(Need::of(&header, 7, load(8192, 8)).cache, 0);
    }

    #[test]
    fn every_card_needs_room_to_compute() {
        let one = Need::of(&qwen(), 0, load(4096, 1));
        let two = Need::of(&qwen(), 0, Load { devices: 2, ..load(4096, 1) });
        assert_eq!(two.compute, 2 * one.compute);
        assert!((256 << 20..1 << 30).contains(&one.compute), "{}", one.compute);
    }

    #[test]
    fn numbers_out_of_all_reason_do_not_overflow() {
        let header = Header { kept_heads: vec![u64::MAX; 9], vocabulary: u64::MAX, ..qwen() };
        let need = Need::of(&header, u64::MAX, load(u32::MAX, u32::MAX));
        assert_eq!(need.total(), u64::MAX);
    }

    #[test]
    fn a_need_is_shown_with_its_parts() {
        let shown = Need::of(&qwen(), 5 << 30, load(8192, 2)).to_string();
        assert_eq!(
            shown,
            "7945 MiB (weights 5 GiB, 2 x 8192 tokens of context 2304 MiB, to compute 521 MiB)"
        );
    }
}
