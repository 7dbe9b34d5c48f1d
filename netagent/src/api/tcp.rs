//! The entrance by TCP: TLS where certificate and key are named; off loopback they must be.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::server::TlsStream;

use crate::config::Api;

/// What connections may take, so that nobody on TCP uses up the agent's descriptors or its patience.
const BOUNDS: Bounds = Bounds {
    connections: 512,
    handshake: Duration::from_secs(10),
    idle: Duration::from_secs(60),
};
/// Pause where the kernel has no connection to give, for want of descriptors.
const RETRY: Duration = Duration::from_millis(100);

/// A listener that hands out connections on which TLS, where it is wanted, stands already.
#[derive(Debug)]
pub struct TcpEntrance {
    ready: mpsc::Receiver<(Connection, SocketAddr)>,
    address: SocketAddr,
}

/// One connection; it ends where nothing moves on it for too long.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    limit: Duration,
    idle: Pin<Box<Sleep>>,
    /// Its place among [`Bounds::connections`].
    _place: OwnedSemaphorePermit,
}

#[derive(Debug)]
enum Stream {
    /// On loopback.
    Plain(TcpStream),
    /// Anywhere.
    Tls(Box<TlsStream<TcpStream>>),
}

/// What connections may take.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// Connections at once, with those that shake hands. More wait in the kernel's queue.
    connections: usize,
    /// Time for one handshake.
    handshake: Duration,
    /// Time without a byte either way.
    idle: Duration,
}

/// Why there is no entrance by TCP.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the text says it")]
pub enum EntranceError {
    #[error("cannot listen on api.listen = {address}: {source}: name another address or port")]
    Bind {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("{key} = {path}: {reason}: name a PEM file", path = path.display())]
    Pem {
        key: &'static str,
        path: PathBuf,
        reason: String,
    },
    #[error("api.tls_cert and api.tls_key do not fit together: {0}")]
    Mismatch(String),
}

impl TcpEntrance {
    /// Listens as the configuration says; `None` where it does not say so.
    ///
    /// # Errors
    /// Where the address cannot be had, or certificate or key cannot be used.
    pub async fn open(config: &Api) -> Result<Option<Self>, EntranceError> {
        Self::open_with(config, BOUNDS).await
    }

    async fn open_with(config: &Api, bounds: Bounds) -> Result<Option<Self>, EntranceError> {
        let Some(address) = config.listen else {
            return Ok(None);
        };
        let tls = match (&config.tls_cert, &config.tls_key) {
            (Some(certificate), Some(key)) => Some(acceptor(certificate, key)?),
            _ => None,
        };
        let bound = TcpListener::bind(address).await;
        let listener = bound.map_err(|source| EntranceError::Bind { address, source })?;
        let address = listener.local_addr().unwrap_or(address);
        tracing::info!(%address, tls = tls.is_some(), "listening");
        let (sender, ready) = mpsc::channel(bounds.connections);
        tokio::spawn(accept(listener, tls, sender, bounds));
        Ok(Some(Self { ready, address }))
    }
}

/// Each handshake has a task of its own, so that a slow one keeps nobody waiting.
async fn accept(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    sender: mpsc::Sender<(Connection, SocketAddr)>,
    bounds: Bounds,
) {
    let places = Arc::new(Semaphore::new(bounds.connections));
    while !sender.is_closed() {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        let (tls, sender) = (tls.clone(), sender.clone());
        tokio::spawn(async move {
            if let Some(stream) = shake_hands(stream, tls, peer, bounds.handshake).await {
                let connection = Connection::new(stream, place, bounds.idle);
                // The other end is gone only where the agent stops.
                sender.send((connection, peer)).await.ok();
            }
        });
    }
}

async fn shake_hands(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    peer: SocketAddr,
    limit: Duration,
) -> Option<Stream> {
    let Some(tls) = tls else {
        return Some(Stream::Plain(stream));
    };
    match tokio::time::timeout(limit, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(Stream::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            tracing::debug!(%peer, %error, "no TLS");
            None
        }
        Err(_) => {
            tracing::debug!(%peer, "no TLS in time");
            None
        }
    }
}

fn acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor, EntranceError> {
    let bad = |key: &'static str, path: &Path, reason: String| EntranceError::Pem {
        key,
        path: path.to_owned(),
        reason,
    };
    let read = |name: &'static str, path: &Path| {
        fs::read(path).map_err(|error| bad(name, path, error.to_string()))
    };
    let chain = CertificateDer::pem_slice_iter(&read("api.tls_cert", certificate)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| bad("api.tls_cert", certificate, error.to_string()))?;
    if chain.is_empty() {
        let reason = "it holds no certificate".to_owned();
        return Err(bad("api.tls_cert", certificate, reason));
    }
    let secret = PrivateKeyDer::from_pem_slice(&read("api.tls_key", key)?)
        .map_err(|error| bad("api.tls_key", key, error.to_string()))?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| EntranceError::Mismatch(error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl axum::serve::Listener for TcpEntrance {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.ready.recv().await {
            Some(connection) => connection,
            // The accepting task never ends before this listener does.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}

impl Connection {
    fn new(stream: Stream, place: OwnedSemaphorePermit, limit: Duration) -> Self {
        Self {
            stream,
            limit,
            idle: Box::pin(tokio::time::sleep(limit)),
            _place: place,
        }
    }

    /// What moved starts the time anew; where nothing moves, the time may be over.
    fn timed<T>(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.idle.as_mut().reset(Instant::now() + self.limit);
            return polled;
        }
        match self.idle.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        };
        this.timed(context, polled)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        };
        this.timed(context, polled)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A flush with nothing to write is done at once and is no sign of life.
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests;
