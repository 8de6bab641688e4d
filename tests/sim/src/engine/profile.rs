//! Parameters of an engine.

/// Coefficients of the duration of a step, in microseconds.
///
/// A step reads all weights once, computes the prompt tokens of its chunk, and reads the KV cache of each decoding
/// sequence. Sarathi-Serve (OSDI 2024, section 3) shows that prefill is bound by computation and so linear in tokens,
/// and that decode is bound by memory, so that a step hardly depends on its number of sequences.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTime {
    /// Fixed part: reading the weights, and launching kernels.
    pub base_us: f64,
    /// Part of each prompt token.
    pub prefill_token_us: f64,
    /// Part of each sequence: sampling and bookkeeping.
    pub sequence_us: f64,
    /// Part of each token of KV cache that decoding sequences read.
    pub kv_token_us: f64,
}

impl StepTime {
    /// Returns the duration of a step in microseconds.
    #[must_use]
    pub fn micros(&self, prefill_tokens: u32, sequences: u32, kv_tokens: u64) -> f64 {
        self.base_us
            + self.prefill_token_us * f64::from(prefill_tokens)
            + self.sequence_us * f64::from(sequences)
            + self.kv_token_us * kv_tokens as f64
    }
}

/// Parameters of an engine with continuous batching.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Profile {
    /// Maximum number of running sequences (vLLM: `max_num_seqs`).
    pub max_running: u32,
    /// Maximum number of tokens in a step, of prompts and of decoding sequences together (vLLM:
    /// `max_num_batched_tokens` with chunked prefill).
    pub token_budget: u32,
    /// Capacity of the KV cache in tokens.
    pub kv_tokens: u32,
    /// Duration of a step.
    pub step: StepTime,
}

impl Profile {
    /// An 8-billion-parameter model in 16 bits on one accelerator of 80 GB with 2 TB/s and 312 TFLOP/s.
    ///
    /// Reading 16 GB of weights takes 8 ms. A token costs 16 GFLOP; at half of the peak that is 0.1 ms. With grouped
    /// queries a token has 128 KiB of KV cache: 0.08 µs at 80 % of the bandwidth, and 40 GiB hold 320,000 tokens.
    pub const ACCELERATOR: Self = Self {
        max_running: 64,
        token_budget: 512,
        kv_tokens: 320_000,
        step: StepTime {
            base_us: 8_000.0,
            prefill_token_us: 100.0,
            sequence_us: 40.0,
            kv_token_us: 0.08,
        },
    };

    /// The same model on a quarter of the accelerator: a quarter of its bandwidth, computation and memory for KV cache.
    pub const QUARTER: Self = Self {
        max_running: 16,
        token_budget: 512,
        kv_tokens: 80_000,
        step: StepTime {
            base_us: 32_000.0,
            prefill_token_us: 400.0,
            sequence_us: 160.0,
            kv_token_us: 0.32,
        },
    };

    /// A small server with four slots, as llama.cpp with `--parallel 4`.
    pub const FEW_SLOTS: Self = Self {
        max_running: 4,
        kv_tokens: 32_768,
        ..Self::ACCELERATOR
    };

    /// An engine whose KV cache is the scarce resource: 24 GB of memory, of which 16 GB are weights.
    pub const LITTLE_MEMORY: Self = Self {
        kv_tokens: 24_000,
        ..Self::ACCELERATOR
    };
}
