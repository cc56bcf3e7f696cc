//! Whose certificates are trusted over https: the public authorities', or those of a file.
//!
//! Owns reading the file, for the measuring client and for the few requests beside it (`/v1/models`, `/metrics`) alike.
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use minisgl_config::loadgen::settings::CaCert;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::error::LoadgenError;

/// Largest file that is read: all public authorities together have a quarter of a megabyte.
const LARGEST: u64 = 16 << 20;

/// Who is trusted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trust {
    /// In place of the public authorities.
    own: Option<Arc<Vec<CertificateDer<'static>>>>,
}

impl Trust {
    /// Reads the file, if there is one.
    pub(crate) fn open(file: Option<&CaCert>) -> Result<Self, LoadgenError> {
        let Some(CaCert { path, named_by }) = file else { return Ok(Self::default()) };
        let own =
            certificates(path).map_err(|problem| LoadgenError::CaCert { named_by, path: path.clone(), problem })?;
        Ok(Self { own: Some(Arc::new(own)) })
    }

    /// For rustls.
    pub(super) fn roots(&self) -> Result<RootCertStore, rustls::Error> {
        let Some(own) = &self.own else {
            return Ok(RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()));
        };
        let mut roots = RootCertStore::empty();
        own.iter().try_for_each(|certificate| roots.add(certificate.clone()))?;
        Ok(roots)
    }

    /// A client for what is asked beside the measured requests, whose answers may take so long.
    pub(crate) fn agent(&self, timeout: Duration) -> ureq::Agent {
        let roots = match &self.own {
            None => RootCerts::WebPki,
            Some(own) => own.iter().map(|certificate| Certificate::from_der(certificate).to_owned()).into(),
        };
        let tls = TlsConfig::builder().root_certs(roots).build();
        ureq::Agent::config_builder().tls_config(tls).timeout_global(Some(timeout)).build().new_agent()
    }
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let mut pem = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut pem));
    read.map_err(|error| format!("cannot read it: {error}"))?;
    if pem.len() as u64 > LARGEST {
        return Err(format!("larger than {LARGEST} bytes: it is no file of certificates"));
    }
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let all = all.map_err(|error| format!("not PEM: {error}"))?;
    if all.is_empty() {
        return Err(
            "no certificate is in it; one stands between -----BEGIN CERTIFICATE----- and its END line".to_owned()
        );
    }
    let mut roots = RootCertStore::empty();
    for (nth, certificate) in all.iter().enumerate() {
        roots.add(certificate.clone()).map_err(|error| format!("certificate {} of it: {error}", nth + 1))?;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(content: &[u8]) -> Result<Trust, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, content).unwrap();
        Trust::open(Some(&CaCert { path, named_by: "--ca-cert" })).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_no_certificate_is_named() {
        for (content, said) in [
            (&b"words"[..], "no certificate is in it"),
            (b"-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "not PEM"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate 1 of it"),
        ] {
            let problem = opened(content).unwrap_err();
            assert!(problem.starts_with("--ca-cert ") && problem.contains(said), "{problem}");
        }
        let nowhere = CaCert { path: "/nowhere/ca.pem".into(), named_by: "SSL_CERT_FILE" };
        let problem = Trust::open(Some(&nowhere)).unwrap_err().to_string();
        assert!(problem.starts_with("SSL_CERT_FILE /nowhere/ca.pem: cannot read it"), "{problem}");
    }
}
