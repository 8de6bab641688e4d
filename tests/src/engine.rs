//! The real engine: llama.cpp's server with a tiny model of random weights.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Incoming, client::conn::http1::handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::process::Process;

/// Returns the Python that `cargo xtask test` installed for it.
///
/// # Errors
///
/// Returns an error if it is missing.
pub fn python() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name(".toolchain");
    let python = root.join("llama/bin/python");
    ensure!(
        python.exists(),
        "no {}: `cargo xtask test` or `cargo xtask demo --engine llama` installs llama.cpp's server",
        python.display()
    );
    Ok(python)
}

/// Returns an unused loopback port.
///
/// # Errors
///
/// Returns an error if there is none.
pub fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Starts the engine on loopback and waits until it serves `slots` concurrent requests, each of at
/// most `context` tokens. Its files are in `folder`.
///
/// # Errors
///
/// Returns an error if it does not start; `folder` has its log.
pub fn start(address: SocketAddr, folder: &Path, slots: usize, context: usize) -> Result<Process> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("engine/llama.py");
    let mut llama = Command::new(python()?);
    llama
        .arg(script)
        .arg("--model")
        .arg(folder.join("tiny.gguf"))
        .args(["--name", "tiny", "--host", &address.ip().to_string()])
        .args(["--port", &address.port().to_string()])
        .args(["--slots", &slots.to_string()])
        .args(["--context", &context.to_string()])
        .stderr(File::create(folder.join("llama.log"))?);
    let mut engine = Process::spawn(&mut llama)?;
    engine.wait_for("ready")?;
    Ok(engine)
}

/// Requests `tokens` tokens, and returns the answer once it starts.
///
/// # Errors
///
/// Returns an error if there is no answer.
pub async fn complete(address: SocketAddr, tokens: usize) -> Result<hyper::Response<Incoming>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move { drop(connection.await) });
    let body =
        format!(r#"{{"prompt": "a", "max_tokens": {tokens}, "ignore_eos": true, "stream": true}}"#);
    let request = Request::post("/v1/completions")
        .header("host", address.to_string())
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    ensure!(
        response.status().is_success(),
        "status {}",
        response.status()
    );
    Ok(response)
}

/// Reads an answer to its end.
///
/// # Errors
///
/// Returns an error if it is incomplete.
pub async fn drain(response: hyper::Response<Incoming>) -> Result<usize> {
    Ok(response.into_body().collect().await?.to_bytes().len())
}
