//! A server that was found: its address, how TLS is spoken with it, and the head of every request to it.
//!
//! Owns name resolution and what is decided once for all connections. Knows nothing of bodies or answers.
use std::io;
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use minisgl_config::loadgen::ServerUrl;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, crypto};

use super::Trust;
use super::socket::Socket;

/// An address that does not take a connection within this is not the server's.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Everything that a connection and a request's head need.
#[derive(Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// The head of each POST up to the number of its content-length.
    head: Arc<[u8]>,
    keep_alive: bool,
}

/// What else a request's head says.
pub(crate) struct HeadOptions<'a> {
    /// Path of the endpoint.
    pub(crate) path: &'a str,
    /// `Authorization: Bearer …`
    pub(crate) api_key: Option<&'a str>,
    /// Further headers; they replace those of ours that have the same name.
    pub(crate) headers: &'a [(String, String)],
    /// Whether a connection may carry further requests.
    pub(crate) keep_alive: bool,
}

impl Target {
    /// Finds which of the name's addresses answers.
    pub(crate) fn find(url: &ServerUrl, head: HeadOptions<'_>, trust: &Trust) -> io::Result<Self> {
        let tls = url.https.then(|| tls(&url.host, trust)).transpose()?;
        let (keep_alive, head) = (head.keep_alive, Self::head(url, head).into());
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in (url.host.as_str(), url.port).to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, ANSWER_WITHIN) {
                Ok(_) => return Ok(Self { address, tls, head, keep_alive }),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    failure = io::Error::new(io::ErrorKind::TimedOut, format!("{address} does not answer"));
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn head(url: &ServerUrl, options: HeadOptions<'_>) -> Vec<u8> {
        let mut lines = vec![
            ("host".to_owned(), url.authority()),
            ("user-agent".to_owned(), concat!("minisgl-loadgen/", env!("CARGO_PKG_VERSION")).to_owned()),
            ("content-type".to_owned(), "application/json".to_owned()),
            ("accept".to_owned(), "text/event-stream".to_owned()),
        ];
        if !options.keep_alive {
            lines.push(("connection".to_owned(), "close".to_owned()));
        }
        lines.extend(options.api_key.map(|key| ("authorization".to_owned(), format!("Bearer {key}"))));
        for (name, value) in options.headers {
            lines.retain(|(ours, _)| !ours.eq_ignore_ascii_case(name));
            lines.push((name.clone(), value.clone()));
        }
        let mut head = format!("POST {} HTTP/1.1\r\n", options.path);
        for (name, value) in &lines {
            head += &format!("{name}: {value}\r\n");
        }
        (head + "content-length: ").into_bytes()
    }

    /// The head of a request whose body has so many bytes.
    pub(crate) fn request_head(&self, body_bytes: usize) -> Vec<u8> {
        let mut head = Vec::with_capacity(self.head.len() + 16);
        head.extend_from_slice(&self.head);
        head.extend_from_slice(body_bytes.to_string().as_bytes());
        head.extend_from_slice(b"\r\n\r\n");
        head
    }

    /// Whether a connection may carry another request when its answer is over.
    pub(crate) fn keeps_alive(&self) -> bool {
        self.keep_alive
    }

    /// A new connection, begun: it may not stand yet.
    pub(crate) fn connect(&self) -> io::Result<Socket> {
        let tcp = mio::net::TcpStream::connect(self.address)?;
        tcp.set_nodelay(true)?;
        Ok(match &self.tls {
            None => Socket::plain(tcp),
            Some((config, name)) => {
                let session = ClientConnection::new(config.clone(), name.clone()).map_err(io::Error::other)?;
                Socket::tls(tcp, session)
            }
        })
    }
}

fn tls(host: &str, trust: &Trust) -> io::Result<(Arc<ClientConfig>, ServerName<'static>)> {
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let roots = trust.roots().map_err(io::Error::other)?;
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((Arc::new(config), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_has_what_was_given_once() {
        let url: ServerUrl = "http://example.org:81/api".parse().unwrap();
        let headers = [("User-Agent".to_owned(), "me".to_owned()), ("x-a".to_owned(), "b".to_owned())];
        let head = |keep_alive| {
            let path = "/api/v1/chat/completions";
            let options = HeadOptions { path, api_key: Some("k"), headers: &headers, keep_alive };
            String::from_utf8(Target::head(&url, options)).unwrap()
        };
        let expected = "POST /api/v1/chat/completions HTTP/1.1\r\nhost: example.org:81\r\n\
                        content-type: application/json\r\naccept: text/event-stream\r\nauthorization: Bearer k\r\n\
                        User-Agent: me\r\nx-a: b\r\ncontent-length: ";
        assert_eq!(head(true), expected);
        let accept = "accept: text/event-stream\r\n";
        assert_eq!(head(false), expected.replace(accept, &format!("{accept}connection: close\r\n")));
    }
}
