//! From a URL to a connection whose reads are stamped.
//!
//! Owns name resolution, TCP, TLS and the stamp. Knows nothing of HTTP.
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use minisgl_config::loadgen::ServerUrl;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

use super::Clock;

/// An address that does not take a connection within this is not the server's.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// A server that was found: everything a connection needs, decided once.
#[derive(Clone)]
pub(crate) struct Target {
    url: ServerUrl,
    address: SocketAddr,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

/// Anything that bytes come and go through.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection, and the time of its last read.
pub(crate) struct Link {
    pub(crate) stream: Box<dyn Stream>,
    pub(crate) last_read: LastRead,
}

/// When a connection's socket was last read successfully; shared with the reader of its messages.
#[derive(Clone, Default)]
pub(crate) struct LastRead(Arc<AtomicU64>);

impl LastRead {
    /// Nanoseconds by the run's clock. Reader and writer are polled by one task, so that relaxed order is enough.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Target {
    /// Finds which of the name's addresses answers.
    pub(crate) async fn find(url: &ServerUrl) -> io::Result<Self> {
        let tls = url.https.then(|| tls(&url.host)).transpose()?;
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in tokio::net::lookup_host((url.host.as_str(), url.port)).await? {
            match tokio::time::timeout(ANSWER_WITHIN, TcpStream::connect(address)).await {
                Ok(Ok(_)) => return Ok(Self { url: url.clone(), address, tls }),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer")),
            }
        }
        Err(failure)
    }

    /// The server's URL.
    pub(crate) fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// A new connection.
    pub(crate) async fn connect(&self, clock: Clock) -> io::Result<Link> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let last_read = LastRead::default();
        let stamped = Stamped { tcp, clock, last_read: last_read.clone() };
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(stamped),
            Some((connector, name)) => Box::new(connector.connect(name.clone(), stamped).await?),
        };
        Ok(Link { stream, last_read })
    }
}

/// A system's error in its words, without its number.
pub(crate) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let end = text.find(" (os error").unwrap_or(text.len());
    let (first, rest) = text[..end].split_at(text.chars().next().map_or(0, char::len_utf8));
    first.to_lowercase() + rest
}

fn tls(host: &str) -> io::Result<(TlsConnector, ServerName<'static>)> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let roots = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// A socket that notes when it was read.
struct Stamped {
    tcp: TcpStream,
    clock: Clock,
    last_read: LastRead,
}

impl AsyncRead for Stamped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.tcp).poll_read(cx, buffer));
        self.last_read.0.store(self.clock.now(), Ordering::Relaxed);
        Poll::Ready(result)
    }
}

impl AsyncWrite for Stamped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
