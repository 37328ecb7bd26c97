//! Connections over HTTP and, with the feature `tls`, HTTPS.

use ureq::Agent;
use ureq::config::ConfigBuilder;
use ureq::typestate::AgentScope;

use crate::error::{Error, Result};

/// Settings of all connections; an answer of any status is an answer.
pub(crate) fn settings() -> ConfigBuilder<AgentScope> {
    let config = Agent::config_builder().http_status_as_error(false);
    #[cfg(feature = "tls")]
    let config = config.tls_config(tls());
    config
}

/// Refuses addresses that this build cannot speak to.
pub(crate) fn check_address(field: &'static str, url: &str) -> Result<()> {
    let secure = url.starts_with("https://");
    if !secure && !url.starts_with("http://") {
        let expected = "an address that begins with http:// or https://";
        return Err(Error::config(field, expected, url));
    }
    if secure && !cfg!(feature = "tls") {
        let expected = "an http:// address: this build has no TLS (cargo feature `tls`)";
        return Err(Error::config(field, expected, url));
    }
    Ok(())
}

/// The system's certificates, so that an institution's own are known.
#[cfg(feature = "tls")]
fn tls() -> ureq::tls::TlsConfig {
    use ureq::tls::{RootCerts, TlsConfig};
    TlsConfig::builder()
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(std::sync::Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .build()
}
