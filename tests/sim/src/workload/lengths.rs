//! Lengths of prompts and answers.

use rand::rngs::StdRng;

use super::random::normal;

/// A log-normal distribution of lengths in tokens, cut at a maximum.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tokens {
    /// Median.
    pub median: f64,
    /// Standard deviation of the logarithm.
    pub sigma: f64,
    /// Maximum.
    pub most: u32,
}

impl Tokens {
    /// Creates a distribution. Its mean is median · exp(sigma² / 2), if the maximum is far away.
    const fn new(median: f64, sigma: f64, most: u32) -> Self {
        Self {
            median,
            sigma,
            most,
        }
    }

    /// Draws a length.
    #[must_use]
    pub fn draw(&self, random: &mut StdRng) -> u32 {
        let tokens = self.median * (self.sigma * normal(random)).exp();
        (tokens as u32).clamp(1, self.most)
    }
}

/// Lengths of a kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lengths {
    /// Prompts; in a session that has history, the new part of each.
    pub prompt: Tokens,
    /// Answers.
    pub output: Tokens,
}

impl Lengths {
    /// The conversation trace of Azure, 2023. Splitwise (ISCA 2024, section III) gives medians of 1,020 and 129
    /// tokens. The trace's means are 1,155 and 211, from which the deviations follow. A mean of answers at 1.6 times
    /// the median is a heavy tail.
    pub const CONVERSATION: Self = Self {
        prompt: Tokens::new(1020.0, 0.5, 8192),
        output: Tokens::new(129.0, 0.99, 1500),
    };

    /// The code trace of Azure, 2023. Splitwise gives medians of 1,500 and 13 tokens; the trace's means are 2,048 and
    /// 28.
    pub const CODE: Self = Self {
        prompt: Tokens::new(1500.0, 0.79, 8192),
        output: Tokens::new(13.0, 1.24, 1500),
    };

    /// ShareGPT, as used by vLLM (SOSP 2023, figure 11): means of 161 and 338 tokens. The deviation of about one is
    /// our reading of the histogram.
    pub const SHARE_GPT: Self = Self {
        prompt: Tokens::new(98.0, 1.0, 2048),
        output: Tokens::new(205.0, 1.0, 2048),
    };

    /// Prompts and answers with tails far heavier than those of the traces: a stress test.
    pub const HEAVY: Self = Self {
        prompt: Tokens::new(500.0, 1.4, 16_384),
        output: Tokens::new(80.0, 1.5, 4096),
    };
}
