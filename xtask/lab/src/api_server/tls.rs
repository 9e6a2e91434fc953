//! A certificate authority made on the spot, and what the server shows of it.

use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use std::net::Ipv4Addr;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;

/// A certificate of the server and the authority it can be checked with.
pub(super) struct Identity {
    /// The authority, as PEM: what a kubeconfig names.
    pub(super) authority: String,
    /// The server's certificate and its key, as PEM: for a server that is another program.
    pub(super) certificate: String,
    pub(super) key: String,
    /// Speaks TLS with a certificate for the address.
    pub(super) acceptor: TlsAcceptor,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").finish_non_exhaustive()
    }
}

impl Identity {
    /// A new authority, and a certificate of it for that address.
    pub(super) fn new(address: Ipv4Addr) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new()).context("describe an authority")?;
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("make the authority's key")?;
        let authority = params.self_signed(&key).context("sign the authority")?.pem();
        let issuer = Issuer::new(params, key);

        let params = CertificateParams::new(vec![address.to_string()]).context("describe the server's certificate")?;
        let key = KeyPair::generate().context("make the server's key")?;
        let certificate = params.signed_by(&key, &issuer).context("sign the server's certificate")?;
        let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)?;
        let (certificate, key) = (certificate.pem(), key.serialize_pem());
        Ok(Self { authority, certificate, key, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }
}
