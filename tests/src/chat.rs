//! A chat completion endpoint in OpenAI's style that streams fake tokens at a set pace.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use crate::fault::{Fault, FirstTokens};

/// Behaviour of a chat server.
#[derive(Clone, Debug)]
pub struct Chat {
    /// Name of the server, in the header `x-backend` of every answer.
    pub name: String,
    /// Time to the first token.
    pub first_token: Duration,
    /// Time between tokens.
    pub gap: Duration,
    /// Tokens in an answer, unless a request sets `max_completion_tokens`.
    pub tokens: u32,
    /// Engine of the server.
    pub engine: Engine,
    /// Fault to activate with the engine's switch.
    pub fault: Option<Fault>,
}

/// State of a chat server's engine.
#[derive(Clone, Debug, Default)]
pub struct Engine(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// Whether it hangs: it accepts requests and serves pages of health and metrics, but does no
    /// work.
    hung: AtomicBool,
    /// Whether it is slower by a factor of ten.
    slow: AtomicBool,
    /// Whether the server's fault is active.
    faulty: AtomicBool,
    running: AtomicU64,
    tokens: AtomicU64,
    done: AtomicU64,
    /// Times to the first token.
    first: FirstTokens,
}

impl Engine {
    /// Hangs, or recovers.
    pub fn toggle_hung(&self) {
        self.0.hung.fetch_xor(true, Relaxed);
    }

    /// Becomes slow, or as fast as before.
    pub fn toggle_slow(&self) {
        self.0.slow.fetch_xor(true, Relaxed);
    }

    /// Activates the fault, or ends it.
    pub fn toggle_fault(&self) {
        self.0.faulty.fetch_xor(true, Relaxed);
    }

    /// Simulates work for a while.
    async fn work(&self, time: Duration) {
        let slow = self.0.slow.load(Relaxed);
        sleep(if slow { time * 10 } else { time }).await;
        while self.0.hung.load(Relaxed) {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Returns a page of metrics like vLLM's and SGLang's, as modified by a fault.
    fn page(&self, fault: Option<Fault>) -> String {
        let read = |count: &AtomicU64| count.load(Relaxed);
        let running = fault.map_or(read(&self.0.running), |f| f.running(read(&self.0.running)));
        let tokens = read(&self.0.tokens);
        format!(
            "vllm:num_requests_running {running}\nvllm:num_requests_waiting 0\n\
             vllm:kv_cache_usage_perc 0.1\nvllm:generation_tokens_total {tokens}\n\
             vllm:request_success_total {}\n\
             sglang:num_running_reqs {running}\nsglang:num_queue_reqs 0\n\
             sglang:token_usage 0.1\nsglang:generation_tokens_total {tokens}\n",
            read(&self.0.done),
        )
    }
}

/// A request that the engine processes.
struct Running(Engine);

impl Running {
    fn begin(engine: &Engine) -> Self {
        engine.0.running.fetch_add(1, Relaxed);
        Self(engine.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.running.fetch_sub(1, Relaxed);
        self.0.0.done.fetch_add(1, Relaxed);
    }
}

impl Chat {
    /// Serves connections of a listener, over TLS with a configuration for it, forever.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Option<Arc<ServerConfig>>,
    ) -> Result<Infallible> {
        let tls = tls.map(TlsAcceptor::from);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let (chat, tls) = (self.clone(), tls.clone());
            tokio::spawn(async move {
                if let Some(fault) = chat.fault()
                    && fault.breaks(&stream).await
                {
                    return fault.serve(stream, &chat.name, chat.gap).await;
                }
                match tls {
                    None => chat.connection(stream).await,
                    Some(tls) => {
                        // A client's errors and aborted requests are ignored.
                        let Ok(stream) = tls.accept(stream).await else {
                            return;
                        };
                        chat.connection(stream).await;
                    }
                }
            });
        }
    }

    async fn connection(self: Arc<Self>, io: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(|request| {
            let chat = self.clone();
            async move { chat.answer(request).await }
        });
        drop(
            http1::Builder::new()
                .serve_connection(TokioIo::new(io), service)
                .await,
        );
    }

    /// Returns the active fault.
    fn fault(&self) -> Option<Fault> {
        let faulty = self.engine.0.faulty.load(Relaxed);
        self.fault.filter(|_| faulty)
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Chunks>> {
        let name = self.name.clone();
        let (status, kind, body) = match (request.method(), request.uri().path()) {
            (&Method::GET, "/health") => (StatusCode::OK, "text/plain", Chunks::one("ok\n")),
            (&Method::GET, "/metrics") => {
                let fault = self.fault();
                sleep(fault.map_or(Duration::ZERO, Fault::page_delay)).await;
                let mut page = self.engine.page(fault);
                if self.fault == Some(Fault::Lie) {
                    let lies = fault.is_some();
                    page += &self.engine.0.first.page(lies);
                }
                (
                    StatusCode::OK,
                    "text/plain; version=0.0.4",
                    Chunks::one(page),
                )
            }
            (&Method::GET, "/v1/models") => {
                let models = json!({"object": "list", "data": [{"id": self.name}]});
                (
                    StatusCode::OK,
                    "application/json",
                    Chunks::one(models.to_string()),
                )
            }
            (&Method::POST, "/v1/chat/completions" | "/v1/completions")
                if self.fault() == Some(Fault::TooMany) =>
            {
                let text = Chunks::one("too many requests\n");
                (StatusCode::TOO_MANY_REQUESTS, "text/plain", text)
            }
            (&Method::POST, "/v1/chat/completions" | "/v1/completions") => {
                let body = request.into_body().collect().await?.to_bytes();
                match serde_json::from_slice::<Value>(&body) {
                    Ok(body) if body["stream"] == true => {
                        let asked = body["max_completion_tokens"].as_u64();
                        let tokens = asked.unwrap_or_else(|| self.tokens.into());
                        (StatusCode::OK, "text/event-stream", self.stream(tokens))
                    }
                    Ok(_) => (StatusCode::OK, "application/json", self.whole().await),
                    Err(_) => (
                        StatusCode::BAD_REQUEST,
                        "text/plain",
                        Chunks::one("not JSON\n"),
                    ),
                }
            }
            _ => (
                StatusCode::NOT_FOUND,
                "text/plain",
                Chunks::one("no such thing\n"),
            ),
        };
        let response = Response::builder()
            .status(status)
            .header(CONTENT_TYPE, kind);
        Ok(response.header("x-backend", name).body(body)?)
    }

    /// Streams an answer of a number of tokens.
    fn stream(self: Arc<Self>, tokens: u64) -> Chunks {
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(async move {
            let _running = Running::begin(&self.engine);
            let begin = Instant::now();
            for token in 0..tokens {
                let takes = if token == 0 {
                    self.first_token
                } else {
                    self.gap
                };
                self.engine.work(takes).await;
                if token == 0 {
                    self.engine.0.first.record(begin.elapsed());
                }
                self.engine.0.tokens.fetch_add(1, Relaxed);
                let choice = json!({"index": 0, "delta": {"content": format!("t{token} ")}});
                let chunk = self.object("chat.completion.chunk", &choice);
                if sender
                    .send(format!("data: {chunk}\n\n").into())
                    .await
                    .is_err()
                {
                    return;
                }
            }
            // Fails only if the client is gone.
            drop(sender.send("data: [DONE]\n\n".into()).await);
        });
        Chunks(receiver)
    }

    async fn whole(&self) -> Chunks {
        let _running = Running::begin(&self.engine);
        let takes = self.first_token + self.gap * self.tokens.saturating_sub(1);
        self.engine.work(takes).await;
        self.engine.0.tokens.fetch_add(self.tokens.into(), Relaxed);
        let content: String = (0..self.tokens).map(|token| format!("t{token} ")).collect();
        let message = json!({"role": "assistant", "content": content});
        let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
        Chunks::one(self.object("chat.completion", &choice).to_string())
    }

    fn object(&self, kind: &str, choice: &Value) -> Value {
        json!({"id": "chatcmpl-0", "object": kind, "model": self.name, "choices": [choice]})
    }
}

/// A body sent in chunks as they become available.
struct Chunks(mpsc::Receiver<Bytes>);

impl Chunks {
    fn one(chunk: impl Into<Bytes>) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        // There is room for one.
        drop(sender.try_send(chunk.into()));
        Self(receiver)
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0
            .poll_recv(context)
            .map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}
