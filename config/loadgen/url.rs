//! A server's address as a flag gives it.
//!
//! Owns its spelling and what of it is refused. Makes no connection.
use std::fmt;
use std::str::FromStr;

/// A server's address: scheme, host, port, and what stands before `/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    /// Whether TLS is spoken.
    pub https: bool,
    /// Name or address; an IPv6 address without its brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// What stands before `/v1/…`: empty, or a path with a leading and without a trailing slash.
    pub prefix: String,
}

impl ServerUrl {
    /// Where `minisgl serve` listens by default.
    pub const DEFAULT: &str = "http://127.0.0.1:1919";

    /// Host and port as the `Host` header and TCP want them; IPv6 in brackets.
    pub fn authority(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]:{}", self.host, self.port),
            false => format!("{}:{}", self.host, self.port),
        }
    }

    /// Whether it is this machine itself.
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// The path of an endpoint, e.g. `/v1/models` of `models`.
    pub fn path(&self, endpoint: &str) -> String {
        format!("{}/v1/{endpoint}", self.prefix)
    }
}

impl Default for ServerUrl {
    fn default() -> Self {
        Self::DEFAULT.parse().expect("a URL")
    }
}

impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.prefix)
    }
}

impl FromStr for ServerUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (https, rest) = if let Some(rest) = text.strip_prefix("http://") {
            (false, rest)
        } else if let Some(rest) = text.strip_prefix("https://") {
            (true, rest)
        } else {
            return Err("must begin with http:// or https://, e.g. http://127.0.0.1:1919".to_owned());
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let (host, port) = host_and_port(authority)?;
        let port = match port {
            None => {
                if https {
                    443
                } else {
                    80
                }
            }
            Some(port) => match port.parse::<u16>() {
                Ok(port) if port > 0 => port,
                _ => return Err(format!("has the port `{port}`: it must be 1 to 65535")),
            },
        };
        if let Some(odd) = path.chars().find(|c| !c.is_ascii_graphic() || "?#\"<>\\^`{|}".contains(*c)) {
            return Err(format!("has {odd:?} in its path: give scheme, host, port and path only"));
        }
        let path = path.trim_end_matches('/');
        let prefix = path.strip_suffix("/v1").unwrap_or(path).trim_end_matches('/');
        Ok(Self { https, host, port, prefix: prefix.to_owned() })
    }
}

/// The host without brackets, and the port's text.
fn host_and_port(authority: &str) -> Result<(String, Option<&str>), String> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("has `[` without `]`")?;
        if host.parse::<std::net::Ipv6Addr>().is_err() {
            return Err(format!("has `[{host}]`, which is no IPv6 address"));
        }
        return match (after.is_empty(), after.strip_prefix(':')) {
            (true, _) => Ok((host.to_owned(), None)),
            (false, Some(port)) => Ok((host.to_owned(), Some(port))),
            (false, None) => Err(format!("has `{after}` after its host")),
        };
    }
    let (host, port) = authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port)));
    if host.is_empty() {
        return Err("has no host".to_owned());
    }
    if !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err(format!(
            "has the host `{host}`: letters, digits, `-`, `.` and `_` only (no user name or password)"
        ));
    }
    Ok((host.to_owned(), port))
}
