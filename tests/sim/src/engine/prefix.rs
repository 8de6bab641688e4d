//! The prefix cache: KV cache of ended turns, kept while there is room.

use std::collections::HashMap;

/// Cached tokens by session, evicted in the order of last use.
///
/// vLLM keeps blocks of ended sequences until their memory is needed, least recently used first. Blocks of one session
/// are one entry here.
#[derive(Clone, Debug, Default)]
pub struct PrefixCache {
    entries: HashMap<u64, Entry>,
    tokens: u64,
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    tokens: u32,
    used: u64,
}

impl PrefixCache {
    /// Returns the total number of cached tokens.
    #[must_use]
    pub const fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Returns the number of cached tokens of a session.
    #[must_use]
    pub fn of_session(&self, session: u64) -> u32 {
        self.entries.get(&session).map_or(0, |entry| entry.tokens)
    }

    /// Removes and returns the cached tokens of a session: its next turn occupies them.
    pub fn remove(&mut self, session: u64) -> u32 {
        let tokens = self.entries.remove(&session).map_or(0, |e| e.tokens);
        self.tokens -= u64::from(tokens);
        tokens
    }

    /// Inserts the tokens of a session whose turn ended.
    pub fn insert(&mut self, session: u64, tokens: u32) {
        self.remove(session);
        self.clock += 1;
        self.tokens += u64::from(tokens);
        let used = self.clock;
        self.entries.insert(session, Entry { tokens, used });
    }

    /// Evicts sessions until at most `room` tokens are cached.
    pub fn shrink_to(&mut self, room: u64) {
        while self.tokens > room {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            let Some((&session, _)) = oldest else { return };
            self.remove(session);
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
