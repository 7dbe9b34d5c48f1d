//! A client for one request, without the agent's own code.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::netns::NetNs;

/// What the agent answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body; null where there is none, a string where it is not JSON.
    pub body: Value,
}

impl Answer {
    /// The text of an error.
    ///
    /// # Panics
    /// Where it is none.
    #[must_use]
    pub fn message(&self) -> &str {
        assert_eq!(self.body["status"], "error", "{self:?}");
        self.body["message"]
            .as_str()
            .unwrap_or_else(|| panic!("an error says why: {self:?}"))
    }
}

/// Time that one request may take.
const LIMIT: Duration = Duration::from_secs(20);

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// `GET` and others.
    pub method: &'a str,
    /// Path with query.
    pub path: &'a str,
    /// The body, JSON or not.
    pub body: &'a str,
    /// Whole value of the header `Authorization`.
    pub authorization: Option<&'a str>,
}

/// Sends one request to a unix socket and reads the answer.
///
/// # Errors
/// Where nobody listens or the answer is cut short.
pub fn request(socket: &Path, method: &str, path: &str, body: &str) -> io::Result<Answer> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(LIMIT))?;
    let ask = Ask {
        method,
        path,
        body,
        authorization: None,
    };
    exchange(stream, &ask)
}

/// Sends one request over TCP from inside a namespace and reads the answer.
///
/// # Errors
/// Where nobody listens or the answer is cut short.
pub fn request_tcp(netns: &NetNs, address: SocketAddr, ask: &Ask<'_>) -> io::Result<Answer> {
    let stream = netns.run(|| TcpStream::connect_timeout(&address, LIMIT))?;
    stream.set_read_timeout(Some(LIMIT))?;
    exchange(stream, ask)
}

/// Sends one request on an open connection and reads the answer.
///
/// # Errors
/// Where the answer is cut short.
pub fn exchange(mut stream: impl Read + Write, ask: &Ask<'_>) -> io::Result<Answer> {
    let Ask {
        method, path, body, ..
    } = ask;
    let authorization = ask
        .authorization
        .map(|value| format!("Authorization: {value}\r\n"))
        .unwrap_or_default();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: netagent\r\nConnection: close\r\nContent-Type: application/json\r\n\
         {authorization}Content-Length: {length}\r\n\r\n"
    );
    let sent = stream
        .write_all(head.as_bytes())
        .and_then(|()| stream.write_all(body.as_bytes()))
        .and_then(|()| stream.flush());
    match sent {
        // A server may refuse a body without reading it; its answer is there all the same.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            ) => {}
        sent => sent?,
    }
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // Closed without the farewell of TLS, or with part of the body unread.
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset
            ) && !answer.is_empty() => {}
        read => {
            read?;
        }
    }
    parse(&String::from_utf8_lossy(&answer))
        .ok_or_else(|| io::Error::other("the answer is cut short"))
}

fn parse(answer: &str) -> Option<Answer> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let is_chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    let body = if is_chunked {
        join_chunks(body)?
    } else {
        body.to_owned()
    };
    let body = match body.as_str() {
        "" => Value::Null,
        text => {
            serde_json::from_str(text).unwrap_or_else(|_not_json| Value::String(text.to_owned()))
        }
    };
    Some(Answer { status, body })
}

fn join_chunks(mut rest: &str) -> Option<String> {
    let mut body = String::new();
    loop {
        let (size, tail) = rest.split_once("\r\n")?;
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.push_str(tail.get(..size)?);
        rest = tail.get(size + 2..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_send_a_body_are_understood() {
        let expected = Some(Answer {
            status: 404,
            body: serde_json::json!({"a": 1}),
        });
        let chunked = "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n3\r\n:1}\r\n0\r\n\r\n";
        assert_eq!(
            parse("HTTP/1.1 404 Not Found\r\nContent-Length: 7\r\n\r\n{\"a\":1}"),
            expected
        );
        assert_eq!(parse(chunked), expected);
    }
}
