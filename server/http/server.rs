//! Listening, connections and the drain.
//!
//! ```text
//!   listen ── load ── serve ── signal ──▶ 503 for new requests ── none in flight, or too late ──▶ close ── join the Llm
//! ```
//! The listener stays open through the drain, so that a load balancer hears 503 and not a refused connection.
//! Does not know routes or what loading means.
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::app::App;
use super::router;
use super::socket::WriteDeadline;
use crate::health::{Health, Phase};
use crate::llm::Llm;
use crate::metrics::Metrics;

/// A connection whose request head does not come within this time is closed, an idle one too.
const HEAD_TIMEOUT: Duration = Duration::from_secs(120);
/// After the drain, responses that are made get this long to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after an `accept` that failed (no file descriptors left): it will not work better at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What [`serve`] needs besides the model.
pub struct ServeOptions {
    /// Bound already: requests get 503 until the model is loaded.
    pub listener: TcpListener,
    /// Shared with the model's scheduler.
    pub health: Health,
    /// Shared with the model.
    pub metrics: Metrics,
    /// How long a drain waits for what is in flight.
    pub drain_timeout: Duration,
    /// How long a socket may take no bytes before it is closed.
    pub write_timeout: Duration,
    /// The first message starts the drain, the second ends it at once. See [`signals`].
    pub stop: mpsc::Receiver<()>,
}

/// Serves until told to stop: loads the model on a thread of its own, calls `ready` with it, and returns when nothing
/// is left running. An error is that of loading.
pub async fn serve<E: Send + 'static>(
    options: ServeOptions,
    load: impl FnOnce() -> Result<Llm, E> + Send + 'static,
    ready: impl FnOnce(&Llm, SocketAddr),
) -> Result<(), E> {
    let ServeOptions { listener, health, metrics, drain_timeout, write_timeout, mut stop } = options;
    let address = listener.local_addr().expect("a bound listener has an address");
    let app = App::new(health.clone(), metrics);
    let (life, alive) = watch::channel(Life::Run);
    let connections = tokio::spawn(accept(listener, router(app.clone()), write_timeout, alive));

    let (loaded, loading) = oneshot::channel();
    // Not the runtime's blocking pool: a runtime waits for that when it ends, and a signal must end a load.
    std::thread::spawn(move || {
        // Nobody waits for it any more where a signal came first.
        let _ = loaded.send(load());
    });
    let outcome = tokio::select! {
        loaded = loading => match loaded.expect("loading panicked; its message is above") {
            Ok(llm) => {
                let llm = Arc::new(llm);
                app.set_llm(llm.clone());
                ready(&llm, address);
                drop(llm);
                heard(&mut stop).await;
                Ok(())
            }
            Err(error) => Err(error),
        },
        () = heard(&mut stop) => Ok(()),
    };

    health.advance(Phase::Draining);
    if outcome.is_ok() {
        tracing::info!(?drain_timeout, "draining: new requests get 503");
    }
    let in_time = tokio::select! {
        () = app.idle() => true,
        () = tokio::time::sleep(drain_timeout) => false,
        () = heard(&mut stop) => false,
    };
    if !in_time {
        tracing::warn!("the drain ends before its requests: the rest is cancelled");
    }
    let _ = life.send(if in_time { Life::Finish } else { Life::Cut });
    connections.await.expect("the accept loop does not panic");
    if let Some(llm) = app.into_llm() {
        tokio::task::spawn_blocking(move || llm.shutdown()).await.expect("joining threads does not panic");
    }
    outcome
}

/// SIGTERM and SIGINT, as [`ServeOptions::stop`] takes them. Call it inside the runtime, before loading.
pub fn signals() -> std::io::Result<mpsc::Receiver<()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (told, stop) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if told.send(()).await.is_err() {
                return;
            }
        }
    });
    Ok(stop)
}

/// The next message; never, where nobody can send one any more.
async fn heard(stop: &mut mpsc::Receiver<()>) {
    if stop.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// What connections are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Run,
    /// Finish the response that is being sent, then close.
    Finish,
    /// Close.
    Cut,
}

/// Accepts until told otherwise; returns when every connection has ended.
async fn accept(listener: TcpListener, router: Router, write_timeout: Duration, mut alive: watch::Receiver<Life>) {
    let mut connections = JoinSet::new();
    let cut = loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    connections.spawn(connection(socket, router.clone(), write_timeout, alive.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => report(ended),
            changed = alive.changed() => {
                let life = changed.map_or(Life::Cut, |()| *alive.borrow());
                if life != Life::Run {
                    break life == Life::Cut;
                }
            }
        }
    };
    drop(listener);
    if !cut {
        let flushed = async {
            while let Some(ended) = connections.join_next().await {
                report(ended);
            }
        };
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, flushed).await;
    }
    connections.shutdown().await;
}

/// One connection's panic is not the server's.
fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task panicked");
    }
}

async fn connection(socket: TcpStream, router: Router, write_timeout: Duration, mut alive: watch::Receiver<Life>) {
    // Without it a small chunk waits up to 40 ms for a delayed ACK.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY cannot be set: the peer has gone");
        return;
    }
    let io = TokioIo::new(WriteDeadline::new(socket, write_timeout));
    let service = TowerToHyperService::new(router);
    let mut connection = std::pin::pin!(
        http1::Builder::new().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).serve_connection(io, service)
    );
    let told = async {
        let _ = alive.wait_for(|life| *life != Life::Run).await;
    };
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
