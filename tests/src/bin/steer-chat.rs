//! A chat completion server as a process, for tests that kill it. SIGUSR1 makes it hang while
//! healthy, SIGUSR2 makes it slow, and SIGHUP activates the fault of `--fault`; a second signal
//! ends the effect.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use steer_tests::chat::{Chat, Engine};
use steer_tests::fault::Fault;
use steer_tests::tls;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

#[derive(Parser)]
struct Arguments {
    /// Address for plain HTTP; may be repeated.
    #[arg(long)]
    listen: Vec<SocketAddr>,
    /// Address for HTTP over TLS; may be repeated.
    #[arg(long)]
    tls_listen: Vec<SocketAddr>,
    /// Name of the server, in the x-backend header of every answer.
    #[arg(long)]
    name: String,
    /// Milliseconds to the first token.
    #[arg(long, default_value_t = 10)]
    ttft: u64,
    /// Milliseconds between tokens.
    #[arg(long, default_value_t = 5)]
    gap: u64,
    /// Tokens in an answer.
    #[arg(long, default_value_t = 8)]
    tokens: u32,
    /// Fault to activate by SIGHUP.
    #[arg(long, value_enum)]
    fault: Option<Fault>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let chat = Arc::new(Chat {
        name: arguments.name,
        first_token: Duration::from_millis(arguments.ttft),
        gap: Duration::from_millis(arguments.gap),
        tokens: arguments.tokens,
        engine: Engine::default(),
        fault: arguments.fault,
    });
    let engine = chat.engine.clone();
    let mut hang = signal(SignalKind::user_defined1())?;
    let mut slow = signal(SignalKind::user_defined2())?;
    let mut fault = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = hang.recv() => engine.toggle_hung(),
                _ = slow.recv() => engine.toggle_slow(),
                _ = fault.recv() => engine.toggle_fault(),
            }
        }
    });
    let secure = tls::server()?;
    let plain = arguments.listen.iter().map(|address| (address, None));
    let secure = arguments
        .tls_listen
        .iter()
        .map(|address| (address, Some(secure.clone())));
    let mut servers = JoinSet::new();
    for (address, tls) in plain.chain(secure) {
        let listener = TcpListener::bind(address).await;
        let listener = listener.with_context(|| format!("listen on {address}"))?;
        servers.spawn(chat.clone().serve(listener, tls));
    }
    ensure!(
        !servers.is_empty(),
        "nothing to listen on: give --listen or --tls-listen"
    );
    println!("ready");
    while let Some(result) = servers.join_next().await {
        result??;
    }
    Ok(())
}
