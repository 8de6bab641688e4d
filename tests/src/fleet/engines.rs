//! Servers of the backends.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
};

use anyhow::Result;

use super::{Fleet, HTTP, HTTPS, binary};

impl Fleet {
    pub(super) fn chat(&self, name: &str, address: SocketAddr) -> Result<Command> {
        let mut chat = Command::new(binary("steer-chat")?);
        chat.args(["--name", name, "--listen"])
            .arg(address.to_string())
            .arg("--tls-listen")
            .arg(SocketAddr::new(address.ip(), HTTPS).to_string())
            .args(["--tokens", &self.plan.tokens.to_string()])
            .args(["--ttft", &self.plan.thinking[0].as_millis().to_string()])
            .args(["--gap", &self.plan.thinking[1].as_millis().to_string()]);
        if let Some(fault) = self.plan.fault {
            chat.args(["--fault", fault]);
        }
        Ok(chat)
    }

    pub(super) fn llama(&self, python: &Path, name: &str, address: IpAddr) -> Result<Command> {
        let [cert, key] = ["tls.pem", "tls.key"].map(|file| self.path(file));
        if !cert.exists() {
            let made = rcgen::generate_simple_self_signed(vec![self.vip().to_string()])?;
            fs::write(&key, made.signing_key.serialize_pem())?;
            fs::write(&cert, made.cert.pem())?;
        }
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/llama.py");
        let mut llama = Command::new(python);
        llama
            .arg(script)
            .arg("--model")
            .arg(self.path(&format!("{name}.gguf")))
            .args(["--name", name, "--host", &address.to_string()])
            .args(["--port", &HTTP.to_string()])
            .args(["--tls-port", &HTTPS.to_string()])
            .arg("--cert")
            .arg(cert)
            .arg("--key")
            .arg(key)
            .stderr(fs::File::create(self.path(&format!("{name}.log")))?);
        Ok(llama)
    }
}
