//! What runs in the shield: a transparent HTTP proxy. Rules of nft hand it the connections of sandboxes to port 80; it
//! asks the kernel where each was going to, and adds the credential on the way to the one service that it is for.

use std::fs;
use std::io::{BufReader, Write, copy};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result};
use clap::Args;
use nix::sys::socket::{getsockopt, sockopt};

use crate::demo::http::{Head, PATIENCE, answer};
use crate::shell::say;

/// What the shield's script waits for.
const LISTENS: &str = "the proxy listens";

/// What the proxy is told.
#[derive(Args)]
pub(crate) struct ProxyOptions {
    /// Where it listens, on every address.
    #[arg(long)]
    port: u16,
    /// The service that gets the credential; may be repeated. Every other is refused.
    #[arg(long, required = true)]
    service: Vec<IpAddr>,
    /// The file that holds the credential.
    #[arg(long)]
    credential: PathBuf,
}

/// Serves until it is ended.
pub(crate) fn proxy(options: &ProxyOptions) -> Result<()> {
    let credential = fs::read_to_string(&options.credential)
        .with_context(|| format!("cannot read {}", options.credential.display()))?;
    let credential = credential.trim();
    // Bound to the IPv6 wildcard, it takes IPv4 too.
    let listener = TcpListener::bind(("::", options.port)).context("cannot listen")?;
    say(LISTENS);
    thread::scope(|scope| {
        for client in listener.incoming().flatten() {
            scope.spawn(move || {
                if let Err(error) = serve(client, &options.service, credential) {
                    say(&format!("proxy: {error:#}"));
                }
            });
        }
    });
    Ok(())
}

/// Serves one connection.
fn serve(client: TcpStream, services: &[IpAddr], credential: &str) -> Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let server = asked(&client)?;
    let mut answers = client.try_clone()?;
    let mut client = BufReader::new(client);
    let Some(mut head) = Head::read(&mut client)? else {
        return Ok(());
    };
    // Where the packets go decides, not what the request says of its host: that the sandbox could forge.
    if !services.contains(&server.ip()) {
        answers.write_all(answer("403 Forbidden", "the shield: no\n").as_bytes())?;
        return Ok(());
    }
    head.set_header("Authorization", &format!("Bearer {credential}"));
    head.set_header("Connection", "close");
    let mut upstream = TcpStream::connect_timeout(&server, PATIENCE)?;
    upstream.set_read_timeout(Some(PATIENCE))?;
    upstream.write_all(head.text().as_bytes())?;
    let mut replies = upstream.try_clone()?;
    thread::scope(|scope| {
        scope.spawn(|| {
            // The request's body, if any; a client that says no more than its head ends by itself.
            if let Err(error) = copy(&mut client, &mut upstream) {
                say(&format!("proxy: {error}"));
            }
        });
        let copied = copy(&mut replies, &mut answers);
        // Also what the other direction waits for.
        let ended = answers.shutdown(Shutdown::Both);
        copied.map(drop).and(ended)
    })?;
    Ok(())
}

/// Where the client thinks that it is connected to.
fn asked(client: &TcpStream) -> Result<SocketAddr> {
    let missing = "the kernel knows no original destination: was it redirected?";
    Ok(if client.local_addr()?.ip().to_canonical().is_ipv4() {
        let found = getsockopt(client, sockopt::OriginalDst).context(missing)?;
        let address = Ipv4Addr::from(u32::from_be(found.sin_addr.s_addr));
        (address, u16::from_be(found.sin_port)).into()
    } else {
        let found = getsockopt(client, sockopt::Ip6tOriginalDst).context(missing)?;
        let address = Ipv6Addr::from(found.sin6_addr.s6_addr);
        (address, u16::from_be(found.sin6_port)).into()
    })
}
