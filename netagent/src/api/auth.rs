//! Who asks: the process behind the unix socket, or the token of a request on TCP.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::serve::IncomingStream;
use tokio::net::UnixListener;

use crate::access::{Caller, authenticate};
use crate::agent::AgentHandle;
use crate::api::error::ApiError;
use crate::api::tcp::TcpEntrance;
use crate::config::Config;
use crate::spec::Grant;

/// What every handler shares.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Speaks to the agent.
    pub agent: AgentHandle,
    /// What the operator grants to accounts.
    pub config: Arc<Config>,
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub enum Peer {
    /// A process of this host, as the kernel names it.
    Local(String),
    /// Somebody who must show a token.
    Remote(SocketAddr),
}

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred();
        Self::Local(match credentials {
            Ok(peer) => format!("uid {} pid {}", peer.uid(), peer.pid().unwrap_or(0)),
            Err(error) => format!("uid unknown ({error})"),
        })
    }
}

impl Connected<IncomingStream<'_, TcpEntrance>> for Peer {
    fn connect_info(stream: IncomingStream<'_, TcpEntrance>) -> Self {
        Self::Remote(*stream.remote_addr())
    }
}

impl FromRequestParts<Shared> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        shared: &Shared,
    ) -> Result<Self, Self::Rejection> {
        let peer = ConnectInfo::<Peer>::from_request_parts(parts, shared).await;
        // A connection of which nothing is known is treated as one from afar.
        if let Ok(ConnectInfo(Peer::Local(actor))) = peer {
            return Ok(Self::local(actor));
        }
        let header = parts.headers.get(AUTHORIZATION);
        let text = header.and_then(|value| value.to_str().ok());
        let secret = text.and_then(|text| {
            let (scheme, secret) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| secret.trim())
        });
        let caller = secret.and_then(|secret| authenticate(&shared.agent.tokens(), secret));
        caller.ok_or_else(ApiError::unauthorized)
    }
}

/// A caller on the unix socket: for what concerns the host as a whole.
#[derive(Clone, Debug)]
pub(crate) struct LocalCaller(pub(crate) Caller);

impl FromRequestParts<Shared> for LocalCaller {
    type Rejection = ApiError;

    async fn from_request_parts(
        parts: &mut Parts,
        shared: &Shared,
    ) -> Result<Self, Self::Rejection> {
        let caller = Caller::from_request_parts(parts, shared).await?;
        if caller.rights.local {
            return Ok(Self(caller));
        }
        Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "This concerns the whole host and is answered on its unix socket alone",
        ))
    }
}

/// What the caller's account may ask for.
pub(crate) fn grant(caller: &Caller, State(shared): &State<Shared>) -> Grant {
    Grant {
        net_manager: caller.rights.net_manager,
        custom_network: shared.config.account(&caller.account).custom_network,
    }
}
