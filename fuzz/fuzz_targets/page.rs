//! Pages of engine metrics, with the profile of each engine.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use steer_probe::beacon::{Engine, Profile, missing};

fuzz_target!(|page: &str| {
    static PROFILES: OnceLock<Vec<Profile>> = OnceLock::new();
    let profiles = PROFILES.get_or_init(|| {
        let engines = [
            Engine::Vllm,
            Engine::Sglang,
            Engine::Tgi,
            Engine::Triton,
            Engine::TrtllmServe,
            Engine::LlamaCpp,
            Engine::Dynamo,
            Engine::Ollama,
            Engine::RayServe,
            Engine::Nim,
        ];
        let profile = |engine| Profile::built_in(engine).expect("it is tested");
        engines.map(profile).into()
    });
    for profile in profiles {
        let _ = missing(page, profile);
    }
});
