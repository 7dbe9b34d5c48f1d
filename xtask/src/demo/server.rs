//! The world's web server: it says whether a request brought the credential, and writes down who asked.

use std::fs;
use std::io::{BufReader, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

use anyhow::{Context, Result};
use clap::Args;

use crate::demo::http::{Head, PATIENCE, answer};
use crate::shell::say;

/// What the server is told.
#[derive(Args)]
pub(crate) struct ServerOptions {
    /// Where it listens; may be repeated.
    #[arg(long, required = true)]
    port: Vec<u16>,
    /// The file that holds the credential.
    #[arg(long)]
    credential: PathBuf,
}

/// Serves until it is ended.
pub(crate) fn server(options: &ServerOptions) -> Result<()> {
    let credential = fs::read_to_string(&options.credential)?;
    let credential = credential.trim();
    // Bound to the IPv6 wildcard, each answers IPv4 too.
    let listen = |port: &u16| TcpListener::bind(("::", *port)).context("cannot listen");
    let listeners: Vec<TcpListener> = options.port.iter().map(listen).collect::<Result<_>>()?;
    thread::scope(|scope| {
        for listener in &listeners {
            scope.spawn(move || {
                for client in listener.incoming().flatten() {
                    scope.spawn(move || {
                        if let Err(error) = serve(client, credential) {
                            say(&format!("server: {error:#}"));
                        }
                    });
                }
            });
        }
    });
    Ok(())
}

/// One line for each request on standard output: `<who> <request> credential: <what>`.
fn serve(client: TcpStream, credential: &str) -> Result<()> {
    client.set_read_timeout(Some(PATIENCE))?;
    let peer = match client.peer_addr()?.ip() {
        IpAddr::V6(address) => address.to_canonical(),
        peer @ IpAddr::V4(_) => peer,
    };
    let mut answers = client.try_clone()?;
    let Some(head) = Head::read(&mut BufReader::new(client))? else {
        return Ok(());
    };
    let right = format!("Bearer {credential}");
    let found = match head.header("Authorization") {
        None => "none",
        Some(value) if value == right => "right",
        Some(_) => "wrong",
    };
    let mut shown = std::io::stdout();
    writeln!(shown, "{peer} {} credential: {found}", head.request)?;
    shown.flush()?;
    let text = format!("hello from the world; you come as {peer}; credential: {found}\n");
    answers.write_all(answer("200 OK", &text).as_bytes())?;
    Ok(())
}
