//! A client that speaks TLS, and certificates for servers that it trusts.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::http::{Answer, Ask, exchange};
use crate::netns::NetNs;

/// Time that one request may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A certificate that signed itself, in files.
#[derive(Debug)]
pub struct Certificate {
    /// The certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    der: CertificateDer<'static>,
}

impl Certificate {
    /// Writes a certificate for these names and addresses into a directory.
    ///
    /// # Panics
    /// Where it cannot be written.
    #[must_use]
    pub fn create(directory: &Path, names: &[&str]) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("names and addresses");
        let (certificate, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        std::fs::write(&certificate, made.cert.pem()).expect("a directory of our own");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("a directory of our own");
        Self {
            certificate,
            key,
            der: made.cert.der().clone(),
        }
    }

    /// Sends one request to a server that has this certificate, from inside a namespace.
    ///
    /// # Errors
    /// Where nobody listens, the handshake fails, or the answer is cut short.
    ///
    /// # Panics
    /// Where this certificate is no root of trust.
    pub fn request(&self, netns: &NetNs, address: SocketAddr, ask: &Ask<'_>) -> io::Result<Answer> {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).expect("made above");
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has all of them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::IpAddress(address.ip().into());
        let connection = ClientConnection::new(Arc::new(config), name).expect("a configuration");
        let stream = netns.run(|| TcpStream::connect_timeout(&address, LIMIT))?;
        stream.set_read_timeout(Some(LIMIT))?;
        exchange(StreamOwned::new(connection, stream), ask)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use tokio_rustls::rustls::pki_types::PrivateKeyDer;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::{ServerConfig, ServerConnection};

    use super::*;

    const ANSWER: &str = "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n";

    /// Answers one connection, and hangs up without a farewell.
    fn serve(listener: &TcpListener, certificate: &Certificate) -> io::Result<()> {
        let key = PrivateKeyDer::from_pem_file(&certificate.key).expect("written by the test");
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has all of them")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der.clone()], key)
            .expect("the key is the certificate's");
        let (stream, _) = listener.accept()?;
        let connection = ServerConnection::new(Arc::new(config)).expect("a configuration");
        let mut stream = StreamOwned::new(connection, stream);
        let length = stream.read(&mut [0; 1_024])?;
        assert!(length > 0, "the request arrives");
        stream.write_all(ANSWER.as_bytes())?;
        stream.flush()
    }

    #[test]
    fn only_a_server_with_the_certificate_is_asked() {
        let directory = tempfile::tempdir().unwrap();
        let own = Certificate::create(directory.path(), &["127.0.0.1"]);
        let other_directory = tempfile::tempdir().unwrap();
        let other = Certificate::create(other_directory.path(), &["127.0.0.1"]);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let ask = Ask {
            method: "GET",
            path: "/",
            body: "",
            authorization: None,
        };
        for (client, is_trusted) in [(&own, true), (&other, false)] {
            thread::scope(|scope| {
                let served = scope.spawn(|| serve(&listener, &own));
                let answer = client.request(&NetNs::current(), address, &ask);
                assert_eq!(
                    answer.map(|answer| answer.status).ok(),
                    is_trusted.then_some(204)
                );
                assert_eq!(served.join().unwrap().is_ok(), is_trusted);
            });
        }
    }
}
