//! Engine profiles: names of an engine's metrics, and the requests that check it.

use std::{fs, io, path::Path};

use serde::{Deserialize, Deserializer};

use super::selector::Selector;

/// A known engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
pub enum Engine {
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// Hugging Face's Text Generation Inference.
    Tgi,
    /// NVIDIA Triton with the TensorRT-LLM backend.
    Triton,
    /// TensorRT-LLM's own server.
    TrtllmServe,
    /// llama.cpp's server.
    #[cfg_attr(feature = "cli", value(name = "llama.cpp"))]
    LlamaCpp,
    /// LMDeploy.
    Lmdeploy,
    /// The frontend of NVIDIA Dynamo.
    Dynamo,
    /// Ollama.
    Ollama,
    /// Hugging Face's Text Embeddings Inference.
    Tei,
    /// Infinity, a server for embeddings.
    Infinity,
    /// OpenVINO Model Server.
    Openvino,
    /// Ray Serve, with vLLM or anything else behind it.
    RayServe,
    /// KServe's server for Hugging Face models, with vLLM.
    Kserve,
    /// NVIDIA NIM for language models.
    Nim,
}

impl Engine {
    /// Returns its profile as text, which can be copied to start a custom one.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Vllm => include_str!("profiles/vllm.toml"),
            Self::Sglang => include_str!("profiles/sglang.toml"),
            Self::Tgi => include_str!("profiles/tgi.toml"),
            Self::Triton => include_str!("profiles/triton.toml"),
            Self::TrtllmServe => include_str!("profiles/trtllm-serve.toml"),
            Self::LlamaCpp => include_str!("profiles/llama.cpp.toml"),
            Self::Lmdeploy => include_str!("profiles/lmdeploy.toml"),
            Self::Dynamo => include_str!("profiles/dynamo.toml"),
            Self::Ollama => include_str!("profiles/ollama.toml"),
            Self::Tei => include_str!("profiles/tei.toml"),
            Self::Infinity => include_str!("profiles/infinity.toml"),
            Self::Openvino => include_str!("profiles/openvino.toml"),
            Self::RayServe => include_str!("profiles/ray-serve.toml"),
            Self::Kserve => include_str!("profiles/kserve.toml"),
            Self::Nim => include_str!("profiles/nim.toml"),
        }
    }
}

/// A profile. Of the names of each signal, the first one on the page is used; newer names come
/// first.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Name in logs.
    pub name: String,
    /// Path of the page of metrics.
    #[serde(default = "metrics")]
    pub metrics: String,
    /// Format of that page.
    #[serde(default)]
    pub format: Format,
    /// Requests being processed.
    #[serde(default)]
    pub running: Vec<Selector>,
    /// Requests in the queue.
    #[serde(default)]
    pub waiting: Vec<Selector>,
    /// Requests in the engine, running or waiting, if it does not count the running ones.
    #[serde(default)]
    pub in_flight: Vec<Selector>,
    /// Maximum number of concurrent requests.
    #[serde(default)]
    pub capacity: Vec<Selector>,
    /// Utilization of the KV cache, from 0 to 1.
    #[serde(default)]
    pub kv_use: Vec<Selector>,
    /// Histograms of the time to the first token in seconds.
    #[serde(default)]
    pub first_token: Vec<Selector>,
    /// Histograms of the time between tokens in seconds.
    #[serde(default)]
    pub inter_token: Vec<Selector>,
    /// Counters of generated tokens.
    #[serde(default)]
    pub tokens: Vec<Selector>,
    /// Counters of prompt tokens.
    #[serde(default)]
    pub prompt_tokens: Vec<Selector>,
    /// Counters of preempted requests.
    #[serde(default)]
    pub preemptions: Vec<Selector>,
    /// Series that change while the engine works; all of those on the page are used.
    #[serde(default)]
    pub progress: Vec<Selector>,
    /// Document with the number of concurrent requests, if no metric has it.
    pub limits: Option<Limits>,
    /// Path of the readiness check.
    pub health: Option<Health>,
    /// Sign that the engine sleeps.
    pub sleep: Option<Sleep>,
    /// Request for a tiny completion.
    pub completion: Option<Completion>,
}

/// Format of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The text format of Prometheus.
    #[default]
    Prometheus,
    /// JSON. A number at `/a/b` becomes the series `a_b`; the length of an array at `/a` becomes
    /// `a_length`.
    Json,
}

/// A number in a JSON document of the engine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Paths of the document; the first one that the engine has is used.
    #[serde(deserialize_with = "one_or_many")]
    pub path: Vec<String>,
    /// JSON pointers (RFC 6901) to the number of concurrent requests; the first one that exists is
    /// used. `*` stands for all elements of an array, which are summed.
    #[serde(deserialize_with = "one_or_many")]
    pub capacity: Vec<String>,
}

/// Path of the engine's readiness check.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Path.
    pub path: String,
    /// Statuses that mean not ready.
    #[serde(default = "unready")]
    pub unready: Vec<u16>,
    /// Whether an answer needs work of the model. Then it is requested only until the engine was
    /// ready once.
    #[serde(default)]
    pub generates: bool,
}

/// Sign that the engine sleeps. A sleeping engine gets no requests.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sleep {
    /// Series on its page.
    pub metric: Option<Selector>,
    /// Value of that series while it sleeps.
    #[serde(default)]
    pub value: f64,
    /// Alternatively, path of a JSON document, which is read before the page and does not wake the
    /// engine.
    pub path: Option<String>,
    /// JSON pointer to a boolean in it.
    #[serde(default)]
    pub pointer: String,
    /// Whether a request wakes it. Otherwise it gets no requests.
    pub wakes: bool,
}

/// A tiny completion.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Completion {
    /// Path to post to.
    pub path: String,
    /// JSON body; `$MODEL` stands for the model name.
    pub body: String,
    /// Path of a list of models; the first one is used.
    pub models: Option<String>,
    /// JSON pointer to the name of a model in that list.
    #[serde(default = "model")]
    pub model: String,
    /// Whether it is also requested now and then without a sign of trouble.
    #[serde(default = "yes")]
    pub idle: bool,
}

fn metrics() -> String {
    "/metrics".to_owned()
}

fn unready() -> Vec<u16> {
    vec![503]
}

fn model() -> String {
    "/data/0/id".to_owned()
}

fn yes() -> bool {
    true
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Some {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Some::deserialize(deserializer)? {
        Some::One(text) => vec![text],
        Some::Many(texts) => texts,
    })
}

/// Error of reading a profile.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("engine profile {file}: {cause}")]
    Read {
        /// Path of the file.
        file: String,
        /// Error of the system.
        cause: io::Error,
    },
    /// The file is not a valid profile.
    #[error("engine profile {file}: {what}")]
    Invalid {
        /// Path of the file.
        file: String,
        /// Description of the error, with its position.
        what: String,
    },
}

impl Profile {
    /// Returns the profile of a known engine.
    ///
    /// # Errors
    ///
    /// Never fails; tests check all of them.
    pub fn built_in(engine: Engine) -> Result<Self, ProfileError> {
        Self::parse(engine.text(), &format!("{engine:?}"))
    }

    /// Reads a profile from a file.
    ///
    /// # Errors
    ///
    /// Returns an error with the line if the profile is invalid.
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let file = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|cause| ProfileError::Read {
            file: file.clone(),
            cause,
        })?;
        Self::parse(&text, &file)
    }

    fn parse(text: &str, file: &str) -> Result<Self, ProfileError> {
        let invalid = |what: String| ProfileError::Invalid {
            file: file.to_owned(),
            what,
        };
        let profile: Self = toml::from_str(text).map_err(|e| invalid(e.to_string()))?;
        let has_work = !(profile.running.is_empty()
            && profile.waiting.is_empty()
            && profile.in_flight.is_empty());
        if !has_work && profile.kv_use.is_empty() && profile.sleep.is_none() {
            let what = "it has no metric for the load; give `running`, `waiting`, `in_flight`, `kv_use` \
                 or `[sleep]`";
            return Err(invalid(what.to_owned()));
        }
        if let Some(sleep) = &profile.sleep
            && sleep.metric.is_some() == sleep.path.is_some()
        {
            let what = "`[sleep]` needs either a `metric` or a `path` with a `pointer`";
            return Err(invalid(what.to_owned()));
        }
        if !profile.progress.is_empty() && !has_work {
            let what = "`progress` is watched while there is work; give `running` or `waiting`";
            return Err(invalid(what.to_owned()));
        }
        let mut paths = vec![&profile.metrics];
        paths.extend(profile.limits.iter().flat_map(|l| &l.path));
        paths.extend(profile.health.as_ref().map(|h| &h.path));
        paths.extend(profile.sleep.as_ref().and_then(|s| s.path.as_ref()));
        if let Some(completion) = &profile.completion {
            paths.push(&completion.path);
            paths.extend(&completion.models);
            let body = completion.body.replace("$MODEL", "model");
            if let Err(error) = serde_json::from_str::<serde_json::Value>(&body) {
                return Err(invalid(format!(
                    "the completion's body is not JSON: {error}"
                )));
            }
        }
        if let Some(path) = paths
            .iter()
            .find(|p| p.parse::<hyper::Uri>().is_err() || !p.starts_with('/'))
        {
            return Err(invalid(format!(
                "{path:?} is not a path; write one like /metrics"
            )));
        }
        Ok(profile)
    }

    /// Returns whether it has any names for the load.
    #[must_use]
    pub fn names_load(&self) -> bool {
        let names = [&self.running, &self.waiting, &self.in_flight, &self.kv_use];
        names.iter().any(|list| !list.is_empty())
    }

    /// Returns whether series of that name are used.
    #[must_use]
    pub fn wants(&self, name: &str) -> bool {
        let plain = self.plain();
        let sleep = self.sleep.as_ref().and_then(|sleep| sleep.metric.as_ref());
        if sleep.is_some_and(|metric| metric.name == name) {
            return true;
        }
        let histograms = [&self.first_token, &self.inter_token];
        plain.iter().any(|list| list.iter().any(|s| s.name == name))
            || histograms.iter().any(|list| {
                list.iter().any(|s| {
                    let suffix = name.strip_prefix(s.name.as_str());
                    matches!(suffix, Some("_bucket" | "_sum" | "_count"))
                })
            })
    }

    fn plain(&self) -> [&Vec<Selector>; 9] {
        [
            &self.running,
            &self.waiting,
            &self.in_flight,
            &self.capacity,
            &self.kv_use,
            &self.tokens,
            &self.prompt_tokens,
            &self.preemptions,
            &self.progress,
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "cli")]
    #[test]
    fn every_engine_has_a_profile() {
        for engine in <Engine as clap::ValueEnum>::value_variants() {
            let profile = Profile::built_in(*engine).unwrap();
            let has_sleep = profile.sleep.is_some();
            assert!(profile.names_load() || has_sleep, "{engine:?}");
            let has_page = profile.format == Format::Prometheus;
            assert_eq!(!profile.progress.is_empty(), has_page, "{engine:?}");
            assert!(profile.completion.is_some(), "{engine:?}");
        }
    }

    #[test]
    fn what_is_no_profile_is_refused_with_a_reason() {
        for (text, want) in [
            ("name = \"x\"", "no metric for the load"),
            ("name = \"x\"\nrunnin = []", "runnin"),
            ("name = \"x\"\nrunning = [\"a b\"]", "is not a selector"),
            (
                "name = \"x\"\nkv_use = [\"a\"]\nprogress = [\"b\"]",
                "while there is work",
            ),
            (
                "name = \"x\"\nkv_use = [\"a\"]\nmetrics = \"m\"",
                "is not a path",
            ),
            (
                "name = \"x\"\nkv_use = [\"a\"]\n[sleep]\nwakes = true",
                "either a `metric` or a `path`",
            ),
            (
                "name = \"x\"\nkv_use = [\"a\"]\n[health]\npath = \"health\"",
                "is not a path",
            ),
            (
                "name = \"x\"\nkv_use = [\"a\"]\n[completion]\npath = \"/c\"\nbody = \"{\"",
                "is not JSON",
            ),
        ] {
            let error = Profile::parse(text, "f.toml").unwrap_err().to_string();
            assert!(error.contains(want) && error.contains("f.toml"), "{error}");
        }
    }
}
