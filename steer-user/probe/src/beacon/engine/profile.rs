//! What a beacon knows of an engine: the names of its metrics, and how to ask it.

use std::{collections::BTreeMap, fmt, fs, io, path::Path, str::FromStr};

use serde::{Deserialize, Deserializer};

/// An engine that steer knows.
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
    /// Infinity, a server of embeddings.
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
    /// Its profile as it is written: a copy of it is where a custom one begins.
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

/// A profile. Of each signal's names the first one that a page has counts: the newest comes first.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What it is called in logs.
    pub name: String,
    /// Path of the page of metrics.
    #[serde(default = "metrics")]
    pub metrics: String,
    /// Format of that page.
    #[serde(default)]
    pub format: Format,
    /// Requests that are worked on.
    #[serde(default)]
    pub running: Vec<Selector>,
    /// Requests that wait.
    #[serde(default)]
    pub waiting: Vec<Selector>,
    /// Requests that it has, running or waiting, where it does not count those that run.
    #[serde(default)]
    pub in_flight: Vec<Selector>,
    /// Requests that can be worked on at once.
    #[serde(default)]
    pub capacity: Vec<Selector>,
    /// Use of the KV cache, from 0 to 1.
    #[serde(default)]
    pub kv_use: Vec<Selector>,
    /// Histograms of seconds to the first token.
    #[serde(default)]
    pub first_token: Vec<Selector>,
    /// Histograms of seconds between tokens.
    #[serde(default)]
    pub inter_token: Vec<Selector>,
    /// Counters of generated tokens.
    #[serde(default)]
    pub tokens: Vec<Selector>,
    /// Counters of prompts' tokens.
    #[serde(default)]
    pub prompt_tokens: Vec<Selector>,
    /// Counters of requests that were set back.
    #[serde(default)]
    pub preemptions: Vec<Selector>,
    /// Whatever changes while the engine works; all of them that a page has count.
    #[serde(default)]
    pub progress: Vec<Selector>,
    /// Where the engine says how many requests it works on at once, if no metric does.
    pub limits: Option<Limits>,
    /// Path at which it says whether it serves.
    pub health: Option<Health>,
    /// Sign by which it says that it sleeps.
    pub sleep: Option<Sleep>,
    /// How it is asked for a tiny completion.
    pub completion: Option<Completion>,
}

/// Format of a page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// The text format of Prometheus.
    #[default]
    Prometheus,
    /// JSON. A number at `/a/b` is the series `a_b`; the length of an array at `/a` is `a_length`.
    Json,
}

/// A number in a JSON document of the engine.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// The document's path, or several; the first one that the engine has counts.
    #[serde(deserialize_with = "one_or_many")]
    pub path: Vec<String>,
    /// JSON pointer (RFC 6901) to the number of requests at once, or several; the first one that is there counts. `*`
    /// stands for all elements of an array, which are summed.
    #[serde(deserialize_with = "one_or_many")]
    pub capacity: Vec<String>,
}

/// Path at which the engine says whether it serves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// The path that is asked.
    pub path: String,
    /// Statuses by which it says that it does not serve yet.
    #[serde(default = "unready")]
    pub unready: Vec<u16>,
    /// True if an answer takes work of the model. Then it is asked only until the engine was ready once.
    #[serde(default)]
    pub generates: bool,
}

/// Sign by which the engine says that it sleeps. A sleeping engine is asked for nothing.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sleep {
    /// A series of its page.
    pub metric: Option<Selector>,
    /// The value of that series while it sleeps.
    #[serde(default)]
    pub value: f64,
    /// Path of a JSON document instead, which is read before the page and does not wake the engine.
    pub path: Option<String>,
    /// JSON pointer to a truth value there.
    #[serde(default)]
    pub pointer: String,
    /// True if a request wakes it. If not it gets none.
    pub wakes: bool,
}

/// A tiny completion.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Completion {
    /// The path that it is posted to.
    pub path: String,
    /// The JSON that is posted; `$MODEL` stands for the model's name.
    pub body: String,
    /// Path of a list of models; the first one is asked.
    pub models: Option<String>,
    /// JSON pointer to a model's name in that list.
    #[serde(default = "model")]
    pub model: String,
    /// True if it is asked now and then while nothing points to trouble, too.
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

/// Series of a page: `name`, `name{label="value"}`, and a factor if the unit is another one:
/// `name * 0.001`.
#[derive(Clone, Debug, PartialEq)]
pub struct Selector {
    /// The name.
    pub name: String,
    /// Labels that have to be so.
    pub labels: BTreeMap<String, String>,
    /// What values are multiplied by.
    pub factor: f64,
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || {
            format!(
                "{text:?} selects nothing: write a name, `name{{label=\"value\"}}`, or `name * 0.001`"
            )
        };
        let (series, factor) = match text.rsplit_once(" * ") {
            Some((series, factor)) => (series, factor.parse().map_err(|_| bad())?),
            None => (text, 1.0),
        };
        // A selector reads like a line of a page, less its value.
        let page = format!("{} 0\n", series.trim());
        let parsed = super::page::parse(&page, |_| true).map_err(|_| bad())?;
        if !parsed.broken.is_empty() {
            return Err(bad());
        }
        let [series] = parsed.series.try_into().map_err(|_| bad())?;
        if !f64::is_finite(factor) || factor <= 0.0 {
            return Err(bad());
        }
        Ok(Self {
            name: series.name,
            labels: series.labels,
            factor,
        })
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        let labels: Vec<String> = self
            .labels
            .iter()
            .map(|(k, v)| format!("{k}={v:?}"))
            .collect();
        if !labels.is_empty() {
            write!(f, "{{{}}}", labels.join(","))?;
        }
        Ok(())
    }
}

/// Why a profile can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file can't be read.
    #[error("engine profile {file}: {source}")]
    Read {
        /// The file.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// It isn't a profile.
    #[error("engine profile {file}: {what}")]
    Invalid {
        /// The file.
        file: String,
        /// What is wrong, and where.
        what: String,
    },
}

impl Profile {
    /// The profile of a known engine.
    ///
    /// # Errors
    /// Never, as tests check them all.
    pub fn of(engine: Engine) -> Result<Self, ProfileError> {
        Self::parse(engine.text(), &format!("{engine:?}"))
    }

    /// Reads one from a file.
    ///
    /// # Errors
    /// If it is no profile, with the line.
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let file = path.display().to_string();
        let text = fs::read_to_string(path).map_err(|source| ProfileError::Read {
            file: file.clone(),
            source,
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
            let what =
                "it names no load; give `running`, `waiting`, `in_flight`, `kv_use` or `[sleep]`";
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
                    "the completion's body is no JSON: {error}"
                )));
            }
        }
        if let Some(path) = paths
            .iter()
            .find(|p| p.parse::<hyper::Uri>().is_err() || !p.starts_with('/'))
        {
            return Err(invalid(format!(
                "{path:?} is no path; write one like /metrics"
            )));
        }
        Ok(profile)
    }

    /// Returns whether it has names for the load at all.
    #[must_use]
    pub fn names_load(&self) -> bool {
        let names = [&self.running, &self.waiting, &self.in_flight, &self.kv_use];
        names.iter().any(|list| !list.is_empty())
    }

    /// Whether a page's series of that name is of any use.
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
            let profile = Profile::of(*engine).unwrap();
            let has_sleep = profile.sleep.is_some();
            assert!(profile.names_load() || has_sleep, "{engine:?}");
            let has_page = profile.format == Format::Prometheus;
            assert_eq!(!profile.progress.is_empty(), has_page, "{engine:?}");
            assert!(profile.completion.is_some(), "{engine:?}");
        }
    }

    #[test]
    fn selectors_are_read() {
        let got: Selector = "a:b_ms{x=\"1\"} * 0.001".parse().unwrap();
        assert_eq!((got.name.as_str(), got.factor), ("a:b_ms", 0.001));
        assert_eq!(got.to_string(), "a:b_ms{x=\"1\"}");
        for bad in ["", "a b", "a{x}", "a * b", "a * -1", "1", "a\nb"] {
            assert!(bad.parse::<Selector>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_no_profile_is_refused_with_a_reason() {
        for (text, want) in [
            ("name = \"x\"", "names no load"),
            ("name = \"x\"\nrunnin = []", "runnin"),
            ("name = \"x\"\nrunning = [\"a b\"]", "selects nothing"),
            (
                "name = \"x\"\nkv_use = [\"a\"]\nprogress = [\"b\"]",
                "while there is work",
            ),
            ("name = \"x\"\nkv_use = [\"a\"]\nmetrics = \"m\"", "no path"),
            (
                "name = \"x\"\nkv_use = [\"a\"]\n[sleep]\nwakes = true",
                "either a `metric` or a `path`",
            ),
            (
                "name = \"x\"\nkv_use = [\"a\"]\n[health]\npath = \"health\"",
                "no path",
            ),
            (
                "name = \"x\"\nkv_use = [\"a\"]\n[completion]\npath = \"/c\"\nbody = \"{\"",
                "no JSON",
            ),
        ] {
            let error = Profile::parse(text, "f.toml").unwrap_err().to_string();
            assert!(error.contains(want) && error.contains("f.toml"), "{error}");
        }
    }
}
